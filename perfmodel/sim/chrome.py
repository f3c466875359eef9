"""Timelines as Chrome trace events, for Perfetto and ``chrome://tracing``.

Devices become processes and streams their threads; a wait across streams is drawn as a flow arrow;
memory and link use are counters. Times are microseconds. Equal simulations give equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from perfmodel.sim.flows import FlowTimeline
from perfmodel.sim.graph import Timeline
from perfmodel.sim.layers import LayerStepResult
from perfmodel.sim.memory import MemoryTrace
from perfmodel.sim.run_result import TrainingRunResult
from perfmodel.sim.schedule_result import JobsResult
from perfmodel.sim.step import StepResult
from perfmodel.sim.trace_file import write_json

Event = dict[str, Any]
MOST_ARROWS: Final = 50_000
MOST_JOBS: Final = 20_000


def timeline_events(timeline: Timeline, replica: int = 0, *, arrows: bool = True) -> list[Event]:
    """The tasks of one replica: complete events, names of processes and threads, flow arrows."""
    graph = timeline.graph
    places: list[tuple[int, int]] = []
    processes: dict[str, int] = {}
    events: list[Event] = []
    for tid, stream in enumerate(graph.streams):
        process, _, thread = stream.rpartition(": ")
        process = process or graph.name
        if process not in processes:
            processes[process] = len(processes) + 1  # viewers take process 0 for the idle task
            events.append(_name("process_name", processes[process], 0, process))
            events.append(_order(processes[process]))
        places.append((processes[process], tid))
        events.append(_name("thread_name", processes[process], tid, thread or stream))
    start, end = timeline.start[:, replica], timeline.end[:, replica]
    for task, name in enumerate(graph.names):
        pid, tid = places[graph.stream[task]]
        events.append(_span(name, graph.kind[task], pid, tid, start[task], end[task]))
    if arrows:
        events += _arrows(timeline, places, replica)
    return events


def memory_events(memory: Sequence[MemoryTrace]) -> list[Event]:
    """A counter of held bytes for each device."""
    return [
        _counter("memory", pid, time, {"GiB": held / 2**30})
        for pid, trace in enumerate(memory, start=1)
        for time, held in zip(trace.times.tolist(), trace.held.tolist(), strict=True)
    ]


def step_trace(result: StepResult, replica: int = 0) -> Event:
    """A simulated pipeline step."""
    column = int(result.replica_class[replica])
    events = timeline_events(result.timeline, column)
    if any(trace.peak > 0 for trace in result.memory):
        events += memory_events(result.memory)
    return _document(events, result.to_dict())


def layer_trace(result: LayerStepResult, rank: int = 0) -> Event:
    """A simulated data-parallel step, as one rank sees it."""
    events = timeline_events(result.timeline, int(result.rank_class[rank]))
    return _document(events, result.to_dict())


def flow_trace(result: FlowTimeline, link_names: Sequence[str] = ()) -> Event:
    """A graph with flows; the rate on every link is a counter."""
    events = timeline_events(result.timeline)
    pid = 1 + max((event["pid"] for event in events), default=0)
    events.append(_name("process_name", pid, 0, "links"))
    for link in range(result.link_rates.shape[1]):
        name = link_names[link] if link < len(link_names) else f"link {link}"
        events += [
            _counter(name, pid, time, {"GB/s": rate / 1e9})
            for time, rate in zip(
                result.link_times.tolist(), result.link_rates[:, link].tolist(), strict=True
            )
        ]
    return _document(events, result.timeline.to_dict())


def run_trace(result: TrainingRunResult) -> Event:
    """A training run over weeks: its states, the nodes in it, its power."""
    events = [_name("process_name", 0, 0, "training run"), _name("thread_name", 0, 0, "state")]
    for segment in result.segments:
        events.append(_span(segment.state, segment.state, 0, 0, segment.start, segment.end))
        events.append(_counter("nodes", 0, segment.start, {"nodes": segment.nodes}))
    events += _power(result.power_history)
    return _document(events, result.to_dict())


def jobs_trace(result: JobsResult) -> Event:
    """A trace of jobs: devices in use, and the first jobs by user."""
    events = [_name("process_name", 0, 0, "cluster")]
    events += [
        _counter("busy devices", 0, time, {"devices": int(used)})
        for time, used in zip(result.usage_times.tolist(), result.usage.tolist(), strict=True)
    ]
    events += _power(result.power_history)
    for user, name in enumerate(result.trace.users):
        events.append(_name("process_name", 1 + user, 0, name))
    for job in range(min(len(result.trace), MOST_JOBS)):
        user = int(result.trace.user[job])
        name = f"{result.trace.name(job)} ({result.trace.devices[job]} devices)"
        # Jobs of a user overlap, so they are asynchronous events, not a stack.
        common: Event = {"name": name, "cat": "job", "id": job, "pid": 1 + user, "tid": 0}
        events.append({**common, "ph": "b", "ts": _us(result.start[job])})
        events.append({**common, "ph": "e", "ts": _us(result.end[job])})
    return _document(events, result.to_dict())


def write_trace(path: str | Path, document: Mapping[str, Any]) -> Path:
    """Write a trace document; nothing is left behind if that fails."""
    return write_json(path, document)


def _arrows(timeline: Timeline, places: list[tuple[int, int]], replica: int) -> list[Event]:
    graph = timeline.graph
    events: list[Event] = []
    for task, after in enumerate(graph.after):
        for other in after:
            if graph.stream[other] == graph.stream[task] or len(events) >= 2 * MOST_ARROWS:
                continue
            common: Event = {"name": "waits for", "cat": "dependency", "id": len(events) // 2}
            pid, tid = places[graph.stream[other]]
            # The arrow leaves just inside the slice, so that viewers bind it to that slice.
            begin, end = timeline.start[other, replica], timeline.end[other, replica]
            leaves = max(_us(begin), round(_us(end) - 0.001, 3))
            events.append({**common, "ph": "s", "pid": pid, "tid": tid, "ts": leaves})
            pid, tid = places[graph.stream[task]]
            enters = _us(timeline.start[task, replica])
            events.append({**common, "ph": "f", "bp": "e", "pid": pid, "tid": tid, "ts": enters})
    return events


def _power(history: Sequence[tuple[float, float]]) -> list[Event]:
    return [_counter("power", 0, time, {"kW": watts / 1e3}) for time, watts in history]


def _us(seconds: float) -> float:
    """Microseconds, to whole nanoseconds: viewers round to them, and drop slices that overlap.

    Beyond a quarter of an hour whole microseconds: nanoseconds would not survive the sums that
    viewers make of doubles.
    """
    if seconds > 1000.0:
        return float(round(float(seconds) * 1e6))
    return round(float(seconds) * 1e9) / 1e3


def _span(name: str, kind: str, pid: int, tid: int, start: float, end: float) -> Event:
    begin = _us(start)
    return {
        "name": name,
        "cat": kind,
        "ph": "X",
        "pid": pid,
        "tid": tid,
        "ts": begin,
        "dur": round(_us(end) - begin, 3),
    }


def _name(what: str, pid: int, tid: int, name: str) -> Event:
    return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}


def _order(pid: int) -> Event:
    """Viewers sort processes by name otherwise, device 10 before device 2."""
    order: Event = {"name": "process_sort_index", "ph": "M", "pid": pid, "tid": 0}
    return {**order, "args": {"sort_index": pid}}


def _counter(name: str, pid: int, time: float, values: Mapping[str, float]) -> Event:
    return {"name": name, "ph": "C", "pid": pid, "tid": 0, "ts": _us(time), "args": dict(values)}


def _document(events: list[Event], summary: Mapping[str, Any]) -> Event:
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": dict(summary)}
