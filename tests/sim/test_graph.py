"""Tasks on streams, layer steps, flows on shared links, and the data loader."""

import numpy as np
import pytest

from perfmodel.errors import ScenarioError
from perfmodel.network.groups import Group, concurrent_seconds
from perfmodel.network.topology import hierarchy, switch
from perfmodel.sim.flows import Flow, collective_flow, route_flow, solve_flows
from perfmodel.sim.graph import Stopped, TaskGraph, solve
from perfmodel.sim.layers import LayerCosts, layer_step
from perfmodel.sim.loader import DataLoader, run_loader
from perfmodel.sim.perturb import Perturbation


def test_streams_are_in_order_and_tasks_wait():
    graph = TaskGraph()
    a, b = graph.add_stream("a"), graph.add_stream("b")
    first = graph.add("first", a, 2.0)
    graph.add("second", a, 1.0)
    graph.add("other", b, 4.0, (first,))
    line = solve(graph)
    np.testing.assert_allclose(line.start[:, 0], [0, 2, 2])
    assert line.seconds == 6.0
    assert line.busy(a)[0] == 3.0


def test_a_collective_waits_for_the_last_replica_and_ends_for_all():
    graph = TaskGraph(replicas=3)
    stream = graph.add_stream("compute")
    graph.add("work", stream, [1.0, 5.0, 2.0])
    graph.add("reduce", stream, [1.0, 1.0, 2.0], sync=True)
    graph.add("after", stream, 0.5)
    np.testing.assert_allclose(solve(graph).end[-1], 7.5)


def test_circles_are_spelt_out():
    graph = TaskGraph("my graph")
    a, b = graph.add_stream("left"), graph.add_stream("right")
    graph.add("x", a, 1.0, (3,))
    graph.add("y", a, 1.0)
    graph.add("u", b, 1.0, (1,))
    graph.add("v", b, 1.0)
    with pytest.raises(ScenarioError) as caught:
        solve(graph)
    text = str(caught.value)
    assert "my graph" in text
    assert "x on left" in text
    assert "v on right" in text


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), [1.0, 2.0]])
def test_bad_times_are_refused_where_they_are_given(seconds):
    graph = TaskGraph()
    graph.add_stream("s")
    with pytest.raises(ScenarioError, match="task 'bad'"):
        graph.add("bad", 0, seconds)


def test_unknown_dependency_and_absurd_size():
    graph = TaskGraph()
    graph.add_stream("s")
    graph.add("t", 0, 1.0, (7,))
    with pytest.raises(ScenarioError, match="7"):
        solve(graph)
    huge = TaskGraph(replicas=1_000_000_000)
    huge.add_stream("s")
    huge.add("t", 0, 1.0)
    with pytest.raises(ScenarioError, match="size"):
        solve(huge)


def test_a_step_can_be_stopped():
    with pytest.raises(Stopped):
        layer_step(LayerCosts(1, 2, reduce=1), 8, ranks=4, stop=lambda: True)


# --- layers -------------------------------------------------------------------------------------


def test_replicated_step_hides_what_fits_behind_the_backward():
    # 4 layers, forward 1, backward 2, reduce 1: only the last bucket (layer 0) is exposed.
    step = layer_step(LayerCosts(1.0, 2.0, reduce=1.0), 4, ranks=16)
    assert step.seconds == pytest.approx(4 + 8 + 1)
    assert step.exposed_seconds.max() == pytest.approx(1.0)
    # Reduction-bound: 4 reductions of 5 after the first backward.
    step = layer_step(LayerCosts(1.0, 2.0, reduce=5.0), 4, ranks=16)
    assert step.seconds == pytest.approx(4 + 2 + 4 * 5)
    # One bucket of all layers: nothing overlaps.
    step = layer_step(LayerCosts(1.0, 2.0, reduce=1.0), 4, ranks=16, bucket_layers=4)
    assert step.seconds == pytest.approx(4 + 8 + 4)


def test_sharded_step_prefetches():
    costs = LayerCosts(1.0, 2.0, gather=0.5, reduce=0.0)
    in_line = layer_step(costs, 6, mode="sharded", prefetch=0)
    ahead = layer_step(costs, 6, mode="sharded", prefetch=1)
    assert in_line.seconds == pytest.approx(6 * 1.5 + 6 * 2.5)
    # With one layer of prefetch only the very first gather shows.
    assert ahead.seconds == pytest.approx(0.5 + 6 * 1 + 6 * 2)
    slow = LayerCosts(1.0, 1.0, gather=3.0)
    assert layer_step(slow, 6, mode="sharded", prefetch=1).seconds >= 12 * 3.0


def test_host_launch_can_be_the_bound():
    costs = LayerCosts(1.0, 1.0, launch=3.0)
    assert layer_step(costs, 5).seconds == pytest.approx(10 * 3 + 1)


def test_only_the_slow_rank_unfolds():
    slow = np.ones(1024)
    slow[17] = 1.5
    costs = LayerCosts(1.0, 2.0, reduce=0.1)
    step = layer_step(costs, 32, ranks=1024, perturbation=Perturbation(compute=slow[None]))
    assert step.timeline.start.shape[1] == 2
    assert step.seconds == pytest.approx(1.5 * 96 + 0.1)
    unfolded = layer_step(
        costs, 32, ranks=1024, perturbation=Perturbation(compute=slow[None], jitter=1e-12)
    )
    assert unfolded.timeline.start.shape[1] == 1024
    assert unfolded.seconds == pytest.approx(step.seconds, rel=1e-9)
    assert len(step.timeline.graph) == 32 * 3 + 1


def test_absurd_steps_are_refused_before_they_take_memory():
    with pytest.raises(ScenarioError, match="tasks"):
        layer_step(LayerCosts(1, 1), 20_000, micro_batches=100_000)
    with pytest.raises(ScenarioError, match="simulation size"):
        layer_step(LayerCosts(1, 1), 100, ranks=1_000_000, perturbation=Perturbation(jitter=0.1))


def test_same_seed_same_step():
    costs = LayerCosts(1.0, 2.0, reduce=0.1)

    def run(seed):
        return layer_step(costs, 8, ranks=64, perturbation=Perturbation(jitter=0.1, seed=seed))

    np.testing.assert_array_equal(run(3).timeline.end, run(3).timeline.end)
    assert run(3).seconds != run(4).seconds
    assert run(3).seconds > layer_step(costs, 8, ranks=64).seconds


def test_speed_of_a_1024_gpu_step(benchmark):
    # 32 layers, one all-reduce each, every rank jittered on its own: nothing folds.
    step = benchmark(
        layer_step,
        LayerCosts(1e-3, 2e-3, reduce=1e-3),
        32,
        ranks=1024,
        perturbation=Perturbation(jitter=0.05),
    )
    assert step.timeline.start.shape == (97, 1024)


# --- flows --------------------------------------------------------------------------------------


def flow_graph(*tasks):
    graph = TaskGraph("flows")
    for name, latency, after in tasks:
        graph.add(name, graph.add_stream(name), latency, after)
    return graph


def test_two_flows_share_then_one_speeds_up():
    graph = flow_graph(("a", 0.0, ()), ("b", 0.0, ()))
    flows = {0: route_flow(100.0, (0,)), 1: route_flow(300.0, (0,))}
    run = solve_flows(graph, flows, [10.0])
    np.testing.assert_allclose(run.timeline.end[:, 0], [20.0, 40.0])
    np.testing.assert_allclose(run.link_rates[:, 0], [10, 10, 0])
    assert run.events == 3


def test_alone_a_flow_takes_latency_plus_size_over_rate():
    graph = flow_graph(("a", 0.5, ()), ("b", 2.0, (0,)))
    run = solve_flows(graph, {0: route_flow(100.0, (0, 1))}, [10.0, 50.0])
    np.testing.assert_allclose(run.timeline.end[:, 0], [10.5, 12.5])


def test_without_shared_links_flows_equal_the_longest_path():
    rng = np.random.default_rng(0)
    graph, plain, flows = TaskGraph("g"), TaskGraph("p"), {}
    for _ in range(4):
        graph.add_stream("s")
        plain.add_stream("s")
    for task in range(200):
        after = tuple(int(x) for x in rng.integers(0, task, 2)) if task else ()
        stream = int(rng.integers(0, 4))
        size = float(rng.uniform(1, 5)) if task % 3 == 0 else 0.0
        graph.add(str(task), stream, 0.25, after)
        plain.add(str(task), stream, 0.25 + size / 2.0, after)
        if size:
            flows[task] = route_flow(size, (stream,))
    run = solve_flows(graph, flows, [2.0] * 4)
    np.testing.assert_allclose(run.timeline.end, solve(plain).end, rtol=1e-9)


def test_a_tiny_remainder_late_in_time_does_not_hang():
    graph = flow_graph(("late", 1e9, ()), ("a", 0.0, (0,)), ("b", 1e-8, (0,)))
    flows = {1: route_flow(1e-3, (0,)), 2: route_flow(1.0, (0,))}
    assert solve_flows(graph, flows, [1e6]).timeline.seconds >= 1e9


@pytest.mark.parametrize(
    ("flows", "capacity", "words"),
    [
        ({0: route_flow(1.0, (0,))}, [0.0], "link 0"),
        ({0: route_flow(1.0, (3,))}, [1.0], "links"),
        ({0: route_flow(1.0, ())}, [1.0], "links"),
        ({5: route_flow(1.0, (0,))}, [1.0], "task 5"),
        ({0: route_flow(float("nan"), (0,))}, [1.0], "size"),
        ({0: Flow(1.0, {0: 0.0})}, [1.0], "links"),
    ],
)
def test_bad_flows(flows, capacity, words):
    with pytest.raises(ScenarioError, match=words):
        solve_flows(flow_graph(("a", 0.0, ())), flows, capacity)


def test_a_share_that_starves_a_flow_is_an_error_not_a_hang():
    with pytest.raises(ScenarioError, match="rate above 0"):
        solve_flows(
            flow_graph(("a", 0.0, ())),
            {0: route_flow(1.0, (0,))},
            [1.0],
            share=lambda paths, room: np.zeros(len(paths)),
        )


def test_collectives_that_share_links_end_when_the_network_says():
    # Four nodes of four devices behind one NIC a node: four rings across the nodes, started one
    # after another, and an all-gather inside a node that disturbs nobody.
    topology = hierarchy(switch(4, 100e9), 4, switch(4, 25e9), [0, 0, 0, 0])
    groups = [Group("all_reduce", 1e9, tuple(range(k, 16, 4)), start=0.01 * k) for k in range(4)]
    groups.append(Group("all_gather", 1e9, (0, 1, 2, 3)))
    graph = TaskGraph("rings")
    flows = {}
    for k, group in enumerate(groups):
        task = graph.add(str(k), graph.add_stream(f"ring {k}"), group.start)
        flows[task] = collective_flow(topology, group)
    run = solve_flows(graph, flows, topology.capacity)
    took = run.timeline.end[:, 0] - [group.start for group in groups]
    np.testing.assert_allclose(took, concurrent_seconds(topology, groups), rtol=1e-9)
    alone = concurrent_seconds(topology, groups[:1])[0]
    assert took[0] > 3 * alone
    lone = solve_flows(
        flow_graph(("a", 0.0, ())), {0: collective_flow(topology, groups[0])}, topology.capacity
    )
    assert lone.timeline.seconds == pytest.approx(alone, rel=1e-9)


# --- data loader --------------------------------------------------------------------------------


def test_a_fast_loader_stalls_only_the_first_step():
    loader = DataLoader(batch_bytes=1e6, storage_bandwidth=1e9, decode_seconds=0.1, workers=4)
    result = run_loader(loader, 1.0, 50)
    assert result.stall[0] == pytest.approx(0.101)
    assert result.stall[1:].max() == 0.0
    assert result.stall_fraction == 0.0


@pytest.mark.parametrize(
    ("loader", "period"),
    [
        (DataLoader(2e9, 1e9, workers=8, prefetch=16), 2.0),  # storage-bound
        (DataLoader(1e6, 1e9, decode_seconds=4.0, workers=2, prefetch=4), 2.0005),  # decoding
        (DataLoader(1e9, 64e9, nodes=128, workers=4, prefetch=8), 2.0),  # 128 nodes share
    ],
)
def test_a_slow_loader_sets_the_pace(loader, period):
    result = run_loader(loader, 0.5, 400)
    gaps = np.diff(result.begin[100:301])
    assert gaps.mean() == pytest.approx(period, rel=1e-3)
    assert loader.batch_period == pytest.approx(period, rel=1e-2)


def test_prefetch_depth_absorbs_jitter():
    def stall(depth):
        loader = DataLoader(
            1e6, 1e9, decode_seconds=3.0, decode_jitter=0.8, workers=4, prefetch=depth, seed=1
        )
        return run_loader(loader, 1.0, 2000).stall_fraction

    assert stall(4) > stall(8) > stall(32)


@pytest.mark.parametrize("bad", [{"workers": 0}, {"prefetch": 0}, {"storage_bandwidth": 0.0}])
def test_bad_loaders(bad):
    values = {"batch_bytes": 1e6, "storage_bandwidth": 1e9} | bad
    with pytest.raises(ScenarioError, match=next(iter(bad))):
        DataLoader(**values)
