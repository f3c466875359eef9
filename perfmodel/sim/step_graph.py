"""From a schedule and its costs to the tasks of one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfmodel.errors import ScenarioError
from perfmodel.sim.graph import TaskGraph, topological_order
from perfmodel.sim.stage_costs import StageCosts
from perfmodel.sim.table import BACKWARD, FORWARD, INPUT, WEIGHT, WORK, Schedule, producers

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_COLUMNS: Final = (
    "forward",
    "backward_input",
    "backward_weight",
    "recompute",
    "inline_forward",
    "inline_backward",
    "send_forward",
    "send_backward",
    "launch",
)


@dataclass(frozen=True, slots=True)
class StepTasks:
    """Where the parts of a step stand on its graph.

    Parameters
    ----------
    first, last : int arrays
        First and last task of each row, shape ``[rows]``.
    carrier : int array
        The task whose end the receiver of a row's result waits for: its send, or the row itself.
    reduces : dict
        (stage, bucket) -> task.
    """

    first: Ints
    last: Ints
    carrier: Ints
    reduces: dict[tuple[int, int], int]


@dataclass(slots=True)
class _Streams:
    """The queues of every device; ``host`` is empty when launching never limits."""

    compute: list[int]
    send: dict[int, list[int]]
    reduce: list[int]
    host: list[int]


def row_order(schedule: Schedule) -> list[int]:
    """Rows in an order that respects every dependency.

    Raises
    ------
    ScenarioError
        If devices wait for each other in a circle: a schedule that would hang.
    """
    source = producers(schedule).tolist()
    device = schedule.device.tolist()
    needs: list[tuple[int, ...]] = []
    for row, (other, where) in enumerate(zip(source, device, strict=True)):
        before = row - 1 if row and device[row - 1] == where else -1
        needs.append(tuple(x for x in (other, before) if x >= 0))
    return topological_order(
        f"schedule {schedule.name!r}",
        needs,
        lambda row: f"{schedule.label(row)} on device {schedule.device[row]}",
    )


def fill_graph(
    graph: TaskGraph,
    schedule: Schedule,
    costs: StageCosts,
    compute: Floats,
    links: Floats,
    chance: Floats | None,
    blocking: bool,
    input_ready: ArrayLike,
    *,
    every_send: bool = False,
) -> StepTasks:
    """Put every task of a step on the graph.

    Parameters
    ----------
    compute, links : float arrays
        Factors, shape ``[devices, replicas]``.
    chance : float array or None
        Factors of each row, shape ``[rows, replicas]``.
    blocking : bool
        Whether a send holds up the sender's compute.
    input_ready : array
        When each micro-batch's data is there [s].
    every_send : bool
        Whether a send that takes no time is a task too.
    """
    column = {name: costs.column(name, schedule.stages) for name in _COLUMNS}
    into = column["recompute"] + column["backward_input"] + column["inline_backward"]
    length = {
        FORWARD: column["forward"] + column["inline_forward"],
        BACKWARD: into + column["backward_weight"],
        INPUT: into,
        WEIGHT: column["backward_weight"],
    }
    buckets = _buckets(costs, schedule.stages)
    source = producers(schedule)
    following = {before: stage for stage, before in enumerate(schedule.previous) if before >= 0}
    last_gradient = _last_rows(schedule)
    streams = _streams(graph, schedule, bool(column["launch"].any()))
    loads = _loads(graph, schedule, input_ready)
    row_first = np.zeros(schedule.rows, dtype=np.int64)
    row_task = np.zeros(schedule.rows, dtype=np.int64)
    carrier = np.zeros(schedule.rows, dtype=np.int64)
    stage_pieces: dict[int, list[int]] = {}
    works, stages_of = schedule.work.tolist(), schedule.stage.tolist()
    micros, devices = schedule.micro_batch.tolist(), schedule.device.tolist()
    for row in row_order(schedule):
        work, stage, device = works[row], stages_of[row], devices[row]
        name = f"{WORK[work]} s{stage} m{micros[row]}"
        after = [int(carrier[source[row]])] if source[row] >= 0 else []
        if streams.host:
            launch = graph.add(
                f"launch {name}", streams.host[device], column["launch"][stage], kind="launch"
            )
            after.append(launch)
        if work == FORWARD and schedule.previous[stage] < 0 and loads:
            after.append(loads[micros[row]])
        factor = compute[device] if chance is None else compute[device] * chance[row]
        seconds = length[work][stage] * factor
        other = following.get(stage, -1) if work == FORWARD else schedule.previous[stage]
        sends = work != WEIGHT and other >= 0 and schedule.stage_device[other] != device
        send = 0.0 * links[device]
        if sends:
            send = column["send_forward" if work == FORWARD else "send_backward"][stage]
            send = send * links[device]
        pieces = max(1, len(buckets[stage])) if last_gradient.get(stage) == row else 1
        tasks = []
        for piece in range(pieces):
            # Blocking senders are held until the transfer ends; only the last piece sends.
            held = send if blocking and piece == pieces - 1 else 0.0
            part = name if pieces == 1 else f"{name} part {piece + 1} of {pieces}"
            task = graph.add(
                part,
                streams.compute[device],
                _slim(seconds / pieces + held),
                after if piece == 0 else (),
                kind=WORK[work],
            )
            tasks.append(task)
        row_first[row], row_task[row] = tasks[0], tasks[-1]
        carrier[row] = tasks[-1]
        if last_gradient.get(stage) == row:
            stage_pieces[stage] = tasks
        if sends and not blocking and (every_send or np.any(send > 0)):
            way = FORWARD if work == FORWARD else BACKWARD
            carrier[row] = graph.add(
                f"send {name}",
                streams.send[way][device],
                _slim(send),
                (tasks[-1],),
                kind="send",
            )
    reduces = _finish(graph, schedule, costs, buckets, compute, links, streams, stage_pieces)
    return StepTasks(row_first, row_task, carrier, reduces)


def _finish(
    graph: TaskGraph,
    schedule: Schedule,
    costs: StageCosts,
    buckets: list[list[float]],
    compute: Floats,
    links: Floats,
    streams: _Streams,
    stage_pieces: dict[int, list[int]],
) -> dict[tuple[int, int], int]:
    """Gradient buckets as their parts of the last backward end, optimizer, parameter gather."""
    optimizer = costs.column("optimizer", schedule.stages)
    gather = costs.column("parameter_gather", schedule.stages)
    reduces: dict[tuple[int, int], int] = {}
    # A device's queue takes its stages in the order in which their last backward ends.
    for stage in sorted(stage_pieces, key=lambda s: stage_pieces[s][-1]):
        device = schedule.stage_device[stage]
        done = [stage_pieces[stage][-1]]
        for index, seconds in enumerate(buckets[stage]):
            task = graph.add(
                f"reduce s{stage} bucket {index}",
                streams.reduce[device],
                _slim(seconds * links[device]),
                (stage_pieces[stage][index],),
                kind="reduce",
                sync=True,
            )
            done.append(task)
            reduces[stage, index] = task
        if optimizer[stage] > 0 or gather[stage] > 0:
            update = graph.add(
                f"optimizer s{stage}",
                streams.compute[device],
                _slim(optimizer[stage] * compute[device]),
                done,
                kind="optimizer",
            )
            if gather[stage] > 0:
                graph.add(
                    f"gather s{stage}",
                    streams.reduce[device],
                    _slim(gather[stage] * links[device]),
                    (update,),
                    kind="gather",
                    sync=True,
                )
    return reduces


def _streams(graph: TaskGraph, schedule: Schedule, host: bool) -> _Streams:
    devices = range(schedule.devices)

    def queues(name: str) -> list[int]:
        return [graph.add_stream(f"device {d}: {name}") for d in devices]

    return _Streams(
        compute=queues("compute"),
        send={FORWARD: queues("send activations"), BACKWARD: queues("send gradients")},
        reduce=queues("collectives"),
        host=queues("host") if host else [],
    )


def _loads(graph: TaskGraph, schedule: Schedule, input_ready: ArrayLike) -> list[int]:
    """A task for the arrival of each micro-batch's data; empty when all is there at the start."""
    ready = np.asarray(input_ready, dtype=np.float64)
    fits = ready.shape in ((), (schedule.micro_batches,))
    if not fits or np.any(np.diff(np.atleast_1d(ready), prepend=0.0) < 0):
        raise ScenarioError(
            "replay: input_ready",
            input_ready,
            f"one time, or {schedule.micro_batches} times that never decrease",
            repair="give the arrival of each micro-batch in order",
        )
    if not ready.any():
        return []
    stream = graph.add_stream("data loader")
    arrival = np.broadcast_to(ready, (schedule.micro_batches,))
    waits = np.diff(arrival, prepend=0.0)
    return [graph.add(f"load m{m}", stream, float(w), kind="data") for m, w in enumerate(waits)]


def _last_rows(schedule: Schedule) -> dict[int, int]:
    """The row of each stage that completes its gradients."""
    gives = (schedule.work == BACKWARD) | (schedule.work == WEIGHT)
    return {int(schedule.stage[row]): int(row) for row in np.flatnonzero(gives)}


def _buckets(costs: StageCosts, stages: int) -> list[list[float]]:
    if not len(costs.gradient_buckets):
        return [[] for _ in range(stages)]
    if len(costs.gradient_buckets) != stages:
        raise ScenarioError(
            "stage costs: gradient_buckets",
            len(costs.gradient_buckets),
            f"{stages} lists, one for each stage",
            repair="give a list (it may be empty) for every stage of the schedule",
        )
    return [[float(x) for x in bucket] for bucket in costs.gradient_buckets]


def _slim(seconds: Floats | float) -> Floats | float:
    """A plain float where there is one replica."""
    if isinstance(seconds, np.ndarray) and seconds.shape == (1,):
        return float(seconds[0])
    return seconds
