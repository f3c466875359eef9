"""A step on shared links: equal to the plain replay where nothing is shared, slower where it is."""

import numpy as np
import pytest

from perfmodel.errors import ScenarioError
from perfmodel.network.groups import Group, concurrent_seconds
from perfmodel.network.topology import fully_connected, hierarchy, switch
from perfmodel.sim import Perturbation, StageCosts, build_schedule, replay, replay_on

SIZE = 1e8
BUCKET = 2e9


def costs(latency=0.0, buckets=0):
    return StageCosts(
        0.01, 0.01, 0.01, send_forward=latency, send_backward=latency,
        gradient_buckets=[[latency] * buckets] * 4 if buckets else (), optimizer=0.002,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["1f1b", "gpipe", "zb-h1"])
def test_with_links_of_their_own_sends_take_latency_plus_size_over_rate(name):
    schedule = build_schedule(name, 4, 8)
    topology = fully_connected(4, 30e9)
    rate = topology.capacity[list(topology.route(0, 1))].min()
    alone = replay(schedule, costs(1e-5 + SIZE / rate))
    run = replay_on(topology, schedule, costs(1e-5), np.arange(4)[:, None], send_bytes=SIZE)
    assert run.timeline.seconds == pytest.approx(alone.seconds, rel=1e-9)


def test_alone_a_reduction_takes_what_the_network_says():
    schedule = build_schedule("1f1b", 4, 8)
    # Two whole copies of the pipeline on a switch that keeps every pair of devices apart.
    topology = fully_connected(8, 70e9)
    place = np.arange(8).reshape(2, 4).T
    run = replay_on(
        topology, schedule, costs(0.0, 1), place, send_bytes=0.0, bucket_bytes=[[BUCKET]] * 4
    )
    wire = concurrent_seconds(topology, [Group("all_reduce", BUCKET, (0, 4))])[0]
    plain = StageCosts(0.01, 0.01, 0.01, gradient_buckets=[[wire]] * 4, optimizer=0.002)
    expected = replay(schedule, plain, replicas=2).seconds
    assert run.timeline.seconds == pytest.approx(expected, rel=1e-9)


def test_rings_and_sends_through_one_card_slow_each_other():
    schedule = build_schedule("1f1b", 4, 8)
    # Four nodes of four devices behind one card; a pipeline goes over the nodes, and so do rings.
    topology = hierarchy(switch(4, 400e9), 4, switch(4, 25e9), [0, 0, 0, 0])
    place = np.arange(16).reshape(4, 4)  # pipeline rank = node: sends cross, rings stay inside
    across = place.T  # pipeline inside a node, rings across the nodes
    buckets = [[BUCKET]] * 4
    inside = replay_on(
        topology, schedule, costs(0.0, 1), place, send_bytes=SIZE, bucket_bytes=buckets
    )
    rings = replay_on(
        topology, schedule, costs(0.0, 1), across, send_bytes=SIZE, bucket_bytes=buckets
    )
    for run in (inside, rings):
        assert np.all(run.link_rates <= topology.capacity * (1 + 1e-9))
    # Four replicas send through the same card: four times the time of one.
    alone = replay_on(topology, schedule, costs(), place[:, :1], send_bytes=SIZE)
    assert inside.timeline.seconds > alone.timeline.seconds + 3 * SIZE / 25e9
    # Rings across nodes share cards too, and carry far more than the activations.
    assert rings.timeline.seconds > inside.timeline.seconds
    slow = np.ones((4, 4))
    slow[1, 2] = 2.0
    held = replay_on(
        topology, schedule, costs(0.0, 1), place, send_bytes=SIZE, bucket_bytes=buckets,
        compute=slow,
    )  # fmt: skip
    # Out of step, the slow replica no longer meets the others on the card: it costs less than its
    # extra work, but never less than it would take with the links to itself.
    own = Perturbation(compute=slow[:, 2:3])
    assert held.timeline.seconds > inside.timeline.seconds
    assert held.timeline.seconds > replay(schedule, costs(SIZE / 25e9), perturbation=own).seconds


@pytest.mark.parametrize(
    ("place", "options", "words"),
    [
        (np.arange(3)[:, None], {}, "pipeline ranks"),
        (np.full((4, 1), 2), {}, "different devices"),
        (np.arange(4)[:, None] + 2, {}, "0 to 3"),
        (np.arange(4)[:, None], {"bucket_bytes": [[1.0]] * 4}, "as many buckets"),
    ],
)
def test_bad_placements(place, options, words):
    schedule = build_schedule("1f1b", 4, 8)
    with pytest.raises(ScenarioError, match=words):
        replay_on(fully_connected(4, 1e9), schedule, costs(), place, send_bytes=1.0, **options)
