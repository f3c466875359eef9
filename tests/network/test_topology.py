"""Routes, cuts and rates of topologies, and collectives that share their links."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.errors import NetworkError
from perfmodel.hardware import load
from perfmodel.network import (
    Group,
    collective_seconds,
    concurrent_seconds,
    crossed,
    link_bytes,
    of_cluster,
)
from perfmodel.network import topology as topo
from perfmodel.network.tori import placed

MADE = {
    "full": topo.fully_connected(8, 10.0),
    "switch": topo.switch(8, 10.0),
    "ring": topo.ring(8, 10.0),
    "torus": topo.torus((4, 2, 2), (True, False, False), 10.0, 1e-6),
    "mesh-line": topo.torus((8,), (False,), 10.0),
    "fat tree 2": topo.fat_tree(16, 4, 10.0, oversubscription=2.0),
    "fat tree 3": topo.fat_tree(32, 4, 10.0, per_pod=16),
    "rails": topo.rail_optimised(4, 4, 10.0, 90.0),
    "dragonfly": topo.dragonfly(4, 4, 10.0, global_bandwidth=20.0),
    "pcie": topo.tree(8, [(2, 10.0), (4, 10.0), (8, 0.0)], 10.0),
    "two nodes": topo.hierarchy(topo.switch(4, 90.0), 2, topo.switch(4, 10.0), owner=[0, 0, 1, 1]),
}


@pytest.mark.parametrize("name", MADE)
def test_every_route_exists_and_uses_each_link_once(name):
    made = MADE[name]
    for a in range(made.devices):
        for b in range(made.devices):
            route = made.route(a, b)
            assert (route == ()) == (a == b)
            assert len(set(route)) == len(route)
            assert all(0 <= link < len(made.capacity) for link in route)


@pytest.mark.parametrize(("a", "b", "hops"), [(0, 3, 1), (0, 8, 2), (0, 15, 3), (4, 12, 2)])
def test_torus_takes_the_shorter_way_round(a, b, hops):
    made = topo.torus((4, 4), (True, True), 1.0, 1e-6)
    assert len(made.route(a, b)) == (hops if (a, b) != (0, 15) else 2)
    assert made.delay(a, b) == pytest.approx(len(made.route(a, b)) * 1e-6)


def test_without_wrap_the_line_is_walked():
    assert len(MADE["mesh-line"].route(0, 7)) == 7
    assert len(MADE["ring"].route(0, 7)) == 1


@given(size=st.floats(1.0, 1e9), count=st.integers(2, 8))
@settings(deadline=None)
def test_uncontended_flow_equals_the_closed_form(size, count):
    made = topo.switch(8, 10.0)
    for op, turns in (("all_reduce", 2.0), ("all_gather", 1.0), ("reduce_scatter", 1.0)):
        (got,) = concurrent_seconds(made, [Group(op, size, tuple(range(count)))])
        assert got == pytest.approx(turns * (count - 1) / count * size / 10.0)


def test_bytes_on_links_are_conserved():
    made = MADE["switch"]
    load = link_bytes(made, Group("all_to_all", 800.0, tuple(range(8))))
    assert sum(load.values()) == pytest.approx(2 * 8 * 700.0)
    matrix = np.arange(64.0).reshape(8, 8)
    uneven = link_bytes(made, Group("all_to_all", matrix, tuple(range(8))))
    assert sum(uneven.values()) == pytest.approx(2 * (matrix.sum() - np.trace(matrix)))


def test_oversubscription_halves_what_crosses_the_leaves():
    made = MADE["fat tree 2"]
    inside = concurrent_seconds(made, [Group("all_to_all", 1e3, (0, 1, 2, 3))])
    pairs = [Group("p2p", 1e3, (i, 4 + i)) for i in range(4)]
    across = concurrent_seconds(made, pairs)
    assert inside == pytest.approx([75.0])
    assert across == pytest.approx([200.0] * 4)


def test_rails_are_separate_and_crossing_one_costs_the_node_link():
    made = MADE["rails"]
    together = [Group("all_gather", 1e3, tuple(4 * node + rail for node in range(4)))
                for rail in range(4)]  # fmt: skip
    assert concurrent_seconds(made, together) == pytest.approx([75.0] * 4)
    assert len(made.route(0, 4)) == 2
    assert len(made.route(0, 5)) == 4


def test_a_group_with_several_members_a_node_uses_all_its_cards():
    made = of_cluster(load("dgx-h100", nodes=2))
    group = Group("all_gather", 16e9, tuple(range(16)))
    cards = sum("leaf" in name for name in crossed(made, group.ranks))
    assert cards == 32
    (got,) = concurrent_seconds(made, [group])
    assert got == pytest.approx(15 / 16 * 16e9 / 400e9)


def test_eight_rings_share_four_cards_on_lumi():
    """Eight data-parallel rings over four nodes; published 4.67 to 4.85 GB/s a GCD."""
    made = of_cluster(load("lumi-g-node", nodes=4))
    rings = [Group("all_gather", 1e9, tuple(8 * node + i for node in range(4))) for i in range(8)]
    alone = concurrent_seconds(made, rings[:1])
    shared = concurrent_seconds(made, rings)
    assert shared == pytest.approx(np.full(8, 2.0 * alone[0]))
    assert 0.75e9 / shared[0] == pytest.approx(12.5e9)


@pytest.mark.parametrize(("nodes", "published"), [(2, 4.67), (4, 4.73), (8, 4.80), (16, 4.85)])
def test_lumi_rings_come_out_as_published(nodes, published):
    cluster = load("lumi-g-node", nodes=nodes)
    size = 1401946112.0
    seconds = collective_seconds("all_gather", size, nodes, cluster, ranks_per_node=1)
    assert size * (nodes - 1) / nodes / seconds == pytest.approx(published * 1e9, rel=0.15)


def test_tp_beside_ep_wait_for_each_other():
    made = topo.switch(8, 10.0)
    tensor, expert = Group("all_reduce", 1e3, (0, 1)), Group("all_to_all", 1e3, tuple(range(8)))
    alone = concurrent_seconds(made, [tensor])[0]
    both = concurrent_seconds(made, [tensor, expert])
    assert both[0] > alone
    later = concurrent_seconds(made, [tensor, Group("all_reduce", 1e3, (0, 1), start=1e6)])
    assert later == pytest.approx([alone, alone])


def test_slices_of_a_torus_close_only_whole_axes():
    assert placed(16, (4, 4, 4), (True, True, True)).wraps == (True, True)
    assert placed(8, (4, 4, 4), (True, True, True)).dims == (4, 2)
    assert placed(2, (4, 4, 4), (True, True, True)).links == 1
    line = placed(4, (4,), (False,))
    # 33.5 MB over four v5e chips in a line: 560 us at one way (jax-ml/scaling-book).
    assert 33554432 * 0.75 / (line.links * 45e9) == pytest.approx(560e-6, rel=0.01)


@pytest.mark.parametrize("name", ["dgx-1-v100", "l40s-x8", "mi300x-platform", "gb200-nvl72"])
def test_clusters_become_topologies(name):
    cluster = load(name, nodes=1 if name == "l40s-x8" else 2)
    made = of_cluster(cluster)
    assert made.devices == cluster.devices
    assert made.route(0, made.devices - 1)


def test_bad_groups_are_refused():
    with pytest.raises(NetworkError):
        MADE["switch"].route(0, 8)
    with pytest.raises(NetworkError):
        link_bytes(MADE["switch"], Group("all_reduce", 1.0, (0, 0)))
    with pytest.raises(NetworkError):
        link_bytes(MADE["switch"], Group("all_to_all", np.ones((2, 3)), (0, 1)))


def test_a_group_never_moves_faster_than_alone():
    wires = topo.switch(4, 10.0)
    lone = Group("p2p", 100.0, (0, 1), alone=20.0)
    assert concurrent_seconds(wires, [lone]) == pytest.approx([20.0])
    # two whose own pace is below the link's share do not meet; a quick one takes what is left
    ends = concurrent_seconds(wires, [lone, Group("p2p", 30.0, (0, 1))])
    assert ends == pytest.approx([20.0, 6.0])
    with pytest.raises(NetworkError):
        concurrent_seconds(wires, [Group("p2p", 1.0, (0, 1), alone=0.0)])


def test_uneven_all_to_all_waits_for_the_busiest_link():
    wires = topo.switch(3, 10.0)
    even = np.full((3, 3), 10.0)
    uneven = even.copy()
    uneven[:, 2] *= 3.0
    assert concurrent_seconds(wires, [Group("all_to_all", even, (0, 1, 2))]) == pytest.approx([2.0])
    ends = concurrent_seconds(wires, [Group("all_to_all", uneven, (0, 1, 2))])
    assert ends == pytest.approx([6.0])  # two senders of 30 B into the third device
