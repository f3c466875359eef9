"""A step whose sends and gradient reductions share the links of a topology.

Nothing is folded here: every pipeline replica has its own streams, a send is a flow from its device
to the next, and a gradient bucket one collective flow over the replicas. Rates are max-min fair, so
a data-parallel ring slows the activations that pass through the same NIC, and the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfmodel.errors import ScenarioError
from perfmodel.network.groups import Group
from perfmodel.network.topology import Topology
from perfmodel.sim.flows import Flow, FlowTimeline, collective_flow, route_flow, solve_flows
from perfmodel.sim.graph import Stop, TaskGraph
from perfmodel.sim.perturb import factors
from perfmodel.sim.stage_costs import StageCosts
from perfmodel.sim.step_graph import StepTasks, fill_graph
from perfmodel.sim.table import FORWARD, WEIGHT, Schedule

MOST_TASKS: Final = 1_000_000


def replay_on(
    topology: Topology,
    schedule: Schedule,
    costs: StageCosts,
    place: ArrayLike,
    *,
    send_bytes: float,
    bucket_bytes: Sequence[Sequence[float]] = (),
    compute: ArrayLike = 1.0,
    stop: Stop | None = None,
) -> FlowTimeline:
    """Run one step on shared links.

    Parameters
    ----------
    topology : Topology
        Links at the rate that the library reaches.
    costs : StageCosts
        Its ``send_forward`` and ``send_backward`` are latencies, and its ``gradient_buckets`` the
        latencies of the collectives; what the bytes take comes on top.
    place : int array
        Device of the topology that holds each pipeline rank of each replica, shape
        ``[devices, replicas]``.
    send_bytes : float
        Activations (and gradients) of a micro-batch between two stages [B].
    bucket_bytes : sequence of sequences
        Per stage: the size of each gradient bucket, as many as ``gradient_buckets`` [B].

    compute : array
        Factors on compute, shape ``[devices, replicas]`` or one for all.

    Raises
    ------
    ScenarioError
        For a placement that does not fit, or bytes that do not match the costs.
    """
    where = _placement(place, schedule, topology)
    _check_buckets(costs, bucket_bytes, schedule.stages)
    replicas = where.shape[1]
    slow = factors(compute, schedule.devices, replicas, "compute")
    ones = np.ones((schedule.devices, 1))
    whole = TaskGraph(f"schedule {schedule.name!r} on {len(topology.capacity)} links")
    flows: dict[int, Flow] = {}
    parts: list[tuple[TaskGraph, StepTasks]] = []
    if schedule.rows * replicas > MOST_TASKS:
        raise ScenarioError(
            whole.name,
            schedule.rows * replicas,
            f"at most {MOST_TASKS:,} tasks where links are shared",
            repair="use replay, which folds replicas, or fewer replicas",
        )
    for replica in range(replicas):
        graph, own = TaskGraph(whole.name), slow[:, replica, None]
        tasks = fill_graph(graph, schedule, costs, own, ones, None, False, 0.0, every_send=True)
        parts.append((graph, tasks))
    size = len(parts[0][0])
    shared = _shared_reduces(whole, parts, schedule, where, topology, bucket_bytes, flows)
    base = len(whole)
    for replica, (graph, tasks) in enumerate(parts):
        offset, streams = base + replica * size, len(whole.streams)
        for stream in graph.streams:
            whole.add_stream(f"replica {replica} {stream}")
        barrier = {task: shared[key] for key, task in tasks.reduces.items()}
        for task in range(size):
            after = [other + offset for other in graph.after[task]]
            seconds = graph.seconds[task]
            if task in barrier:  # the collective itself is the shared task
                after, seconds = [barrier[task]], 0.0
            queue = streams + graph.stream[task]
            whole.add(graph.names[task], queue, seconds, after, kind=graph.kind[task])
        for row in np.flatnonzero(tasks.carrier != tasks.last).tolist():
            flow = _send(schedule, row, where[:, replica], topology, send_bytes)
            if flow.size > 0:
                flows[int(tasks.carrier[row]) + offset] = flow
    return solve_flows(whole, flows, topology.capacity.tolist(), stop=stop)


def _shared_reduces(
    whole: TaskGraph,
    parts: list[tuple[TaskGraph, StepTasks]],
    schedule: Schedule,
    where: NDArray[np.int64],
    topology: Topology,
    bucket_bytes: Sequence[Sequence[float]],
    flows: dict[int, Flow],
) -> dict[tuple[int, int], int]:
    """One task for each bucket, after what completes it on every replica."""
    graph, tasks = parts[0]
    size, count = len(graph), len(tasks.reduces)
    queues: dict[int, int] = {}
    shared: dict[tuple[int, int], int] = {}
    for (stage, bucket), task in tasks.reduces.items():
        device = schedule.stage_device[stage]
        if device not in queues:
            queues[device] = whole.add_stream(f"device {device}: collectives of all replicas")
        # Replica r's tasks will follow these ``count`` ones, ``size`` a replica.
        after = [
            other + count + replica * size
            for replica in range(len(parts))
            for other in graph.after[task]
        ]
        index = whole.add(
            graph.names[task], queues[device], graph.seconds[task], after, kind="reduce"
        )
        group = Group("all_reduce", bucket_bytes[stage][bucket], tuple(where[device].tolist()))
        flow = collective_flow(topology, group)
        if flow.size > 0:
            flows[index] = flow
        shared[stage, bucket] = index
    return shared


def _send(
    schedule: Schedule, row: int, where: NDArray[np.int64], topology: Topology, size: float
) -> Flow:
    stage = int(schedule.stage[row])
    if schedule.work[row] == FORWARD:
        other = schedule.previous.index(stage)
    else:
        other = schedule.previous[stage]
    here, there = (int(where[schedule.stage_device[s]]) for s in (stage, other))
    links = topology.route(here, there) if schedule.work[row] != WEIGHT else ()
    return route_flow(size if links else 0.0, links)


def _placement(place: ArrayLike, schedule: Schedule, topology: Topology) -> NDArray[np.int64]:
    where = np.asarray(place)
    known = where.ndim == 2 and where.shape[0] == schedule.devices and where.dtype.kind in "iu"
    if not known or where.min() < 0 or where.max() >= topology.devices:
        raise ScenarioError(
            "replay_on: place",
            place,
            f"[{schedule.devices} pipeline ranks, replicas] of devices 0 to {topology.devices - 1}",
            repair="give the device of every pipeline rank of every replica",
        )
    if len(np.unique(where)) < where.size:
        raise ScenarioError(
            "replay_on: place", place, "different devices", repair="give each rank a device alone"
        )
    return where.astype(np.int64)


def _check_buckets(costs: StageCosts, bucket_bytes: Sequence[Sequence[float]], stages: int) -> None:
    times = costs.gradient_buckets or [[]] * stages
    sizes = bucket_bytes or [[]] * stages
    if [len(one) for one in times] != [len(one) for one in sizes]:
        raise ScenarioError(
            "replay_on: bucket_bytes",
            [len(one) for one in sizes],
            f"as many buckets a stage as the costs have: {[len(one) for one in times]}",
            repair="give a size for every bucket",
        )
