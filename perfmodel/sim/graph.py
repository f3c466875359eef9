"""A step as tasks on streams, solved in dependency order.

A task sits on a stream (a device's compute queue, its communication queue, the host), takes a
time, and waits for other tasks; a stream does its tasks in the order in which they were added, as
GPU streams do. There is then nothing to decide while time passes, and the whole step is the longest
path through the tasks: one pass, no event queue. Every time may be an array over *replicas* (copies
of the same graph, such as data-parallel ranks); a task marked ``sync`` starts on all replicas of a
group when the last of them is ready: a collective.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfmodel.errors import ScenarioError
from perfmodel.sim.perturb import check_cells

Floats = NDArray[np.float64]
Stop = Callable[[], bool]


class Stopped(ScenarioError):
    """A simulation that was asked to stop before its end."""


def stopped(what: str, progress: str) -> Stopped:
    """The error raised when a ``stop`` callable says so."""
    return Stopped(
        what, f"<stopped {progress}>", "a run to its end", repair="run again without stopping it"
    )


@dataclass(slots=True)
class TaskGraph:
    """Tasks in the order of their streams; :meth:`add` returns the index of each.

    Parameters
    ----------
    name : str
        Named in errors.
    replicas : int
        Length of the time arrays.
    """

    name: str = "step"
    replicas: int = 1
    streams: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    stream: list[int] = field(default_factory=list)
    seconds: list[float | Floats] = field(default_factory=list)
    after: list[tuple[int, ...]] = field(default_factory=list)
    sync: list[bool] = field(default_factory=list)
    kind: list[str] = field(default_factory=list)

    def add_stream(self, name: str) -> int:
        """A new queue; its index."""
        self.streams.append(name)
        return len(self.streams) - 1

    def add(
        self,
        name: str,
        stream: int,
        seconds: ArrayLike,
        after: Iterable[int] = (),
        *,
        kind: str = "compute",
        sync: bool = False,
    ) -> int:
        """Append a task to a stream.

        Parameters
        ----------
        seconds : float or array
            Duration [s], scalar or shape ``[replicas]``.
        after : iterable of int
            Tasks that must have ended; may name tasks added later.
        kind : str
            Colours traces and sums.
        sync : bool
            Whether the replicas start it together.
        """
        value = _duration(self, name, seconds)
        self.names.append(name)
        self.stream.append(stream)
        self.seconds.append(value)
        self.after.append(tuple(after))
        self.sync.append(sync)
        self.kind.append(kind)
        return len(self.names) - 1

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, slots=True)
class Timeline:
    """When each task ran.

    Parameters
    ----------
    graph : TaskGraph
        What ran.
    start, end : float arrays
        Shape ``[tasks, replicas]`` [s].
    order : list of int
        The dependency order in which it was solved.
    """

    graph: TaskGraph
    start: Floats
    end: Floats
    order: list[int]

    @property
    def seconds(self) -> float:
        """When the last task ends [s]."""
        return float(self.end.max(initial=0.0))

    def busy(self, stream: int) -> Floats:
        """Time that a stream spends on tasks, shape ``[replicas]`` [s]."""
        rows = [t for t, s in enumerate(self.graph.stream) if s == stream]
        return np.asarray((self.end[rows] - self.start[rows]).sum(axis=0))

    def total(self, kind: str) -> Floats:
        """Time spent on tasks of a kind over all streams, shape ``[replicas]`` [s]."""
        rows = [t for t, k in enumerate(self.graph.kind) if k == kind]
        return np.asarray((self.end[rows] - self.start[rows]).sum(axis=0))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready summary."""
        return {
            "step_time_s": self.seconds,
            "tasks": len(self.graph),
            "streams": len(self.graph.streams),
            "replicas": self.graph.replicas,
        }


def waits(graph: TaskGraph) -> list[tuple[int, ...]]:
    """What each task waits for, the task before it on its stream included."""
    last: dict[int, int] = {}
    count = len(graph)
    found: list[tuple[int, ...]] = []
    for task, (stream, after) in enumerate(zip(graph.stream, graph.after, strict=True)):
        for other in after:
            if not 0 <= other < count:
                raise ScenarioError(
                    f"{graph.name}: task {task} ({graph.names[task]!r})",
                    other,
                    f"a task from 0 to {count - 1} to wait for",
                    repair="add the task it waits for, or drop the dependency",
                )
        before = last.get(stream)
        found.append(after if before is None else (*after, before))
        last[stream] = task
    return found


def topological_order(
    where: str, needs: Sequence[tuple[int, ...]], label: Callable[[int], str]
) -> list[int]:
    """An order in which every task comes after what it waits for.

    Parameters
    ----------
    where : str
        Named in the error.
    needs : sequence of tuples
        What each task waits for.
    label : callable
        The name of a task, for the error.

    Raises
    ------
    ScenarioError
        If some tasks wait for each other in a circle: the message spells one circle out.
    """
    open_needs = [len(need) for need in needs]
    feeds: list[list[int]] = [[] for _ in needs]
    for task, need in enumerate(needs):
        for other in need:
            feeds[other].append(task)
    ready = deque(task for task, count in enumerate(open_needs) if count == 0)
    order: list[int] = []
    while ready:
        task = ready.popleft()
        order.append(task)
        for other in feeds[task]:
            open_needs[other] -= 1
            if open_needs[other] == 0:
                ready.append(other)
    if len(order) < len(needs):
        raise _circle(where, needs, open_needs, label)
    return order


def solve(graph: TaskGraph, *, stop: Stop | None = None) -> Timeline:
    """Start and end of every task: ``end = max(end of what it waits for) + seconds``.

    Raises
    ------
    ScenarioError
        For a circle of waiting tasks, or more cells than memory should hold.
    Stopped
        If ``stop()`` becomes true.
    """
    count, replicas = len(graph), graph.replicas
    check_cells(count * replicas)
    needs = waits(graph)
    order = topological_order(graph.name, needs, lambda task: task_label(graph, task))
    if stop is not None and stop():
        raise stopped(graph.name, "before it was solved")
    if replicas == 1:
        return _solve_one(graph, needs, order)
    start = np.zeros((count, replicas))
    end = np.zeros((count, replicas))
    for index, task in enumerate(order):
        begin = start[task]
        for other in needs[task]:
            np.maximum(begin, end[other], out=begin)
        if graph.sync[task]:  # a collective starts with its last rank and ends for all at once
            begin[:] = begin.max()
            end[task] = begin[0] + np.max(graph.seconds[task])
        else:
            np.add(begin, graph.seconds[task], out=end[task])
        if stop is not None and index % 1024 == 0 and stop():
            raise stopped(graph.name, f"after {index} of {count} tasks")
    return Timeline(graph, start, end, order)


def _solve_one(graph: TaskGraph, needs: list[tuple[int, ...]], order: list[int]) -> Timeline:
    """The same on plain floats, which are faster one at a time."""
    ends = [0.0] * len(graph)
    starts = [0.0] * len(graph)
    seconds = [float(np.max(s)) if isinstance(s, np.ndarray) else s for s in graph.seconds]
    for task in order:
        begin = 0.0
        for other in needs[task]:
            begin = max(begin, ends[other])
        starts[task] = begin
        ends[task] = begin + seconds[task]
    return Timeline(graph, np.array(starts)[:, None], np.array(ends)[:, None], order)


def _duration(graph: TaskGraph, name: str, seconds: ArrayLike) -> float | Floats:
    if isinstance(seconds, float) and 0.0 <= seconds < float("inf"):
        return seconds
    value = np.asarray(seconds, dtype=np.float64)
    if not np.all(np.isfinite(value)) or np.any(value < 0):
        raise ScenarioError(
            f"{graph.name}: task {name!r}, seconds",
            seconds,
            "finite times that are not negative",
            repair="check the times that this task was given",
        )
    if value.ndim == 0:
        return float(value)
    if value.shape != (graph.replicas,):
        raise ScenarioError(
            f"{graph.name}: task {name!r}, seconds",
            value.shape,
            f"one time, or one for each of {graph.replicas} replicas",
            repair="make the array as long as the graph has replicas",
        )
    return value


def task_label(graph: TaskGraph, task: int) -> str:
    """``"F s0 m1 on device 0: compute"``."""
    return f"{graph.names[task]} on {graph.streams[graph.stream[task]]}"


def _circle(
    where: str,
    needs: Sequence[tuple[int, ...]],
    open_needs: list[int],
    label: Callable[[int], str],
) -> ScenarioError:
    """The error that spells out one circle among the tasks that never became ready."""
    task = next(t for t, count in enumerate(open_needs) if count)
    seen: dict[int, int] = {}
    path: list[int] = []
    while task not in seen:
        seen[task] = len(path)
        path.append(task)
        task = next(other for other in needs[task] if open_needs[other])
    loop = path[seen[task] :]
    shown = [label(t) for t in loop[:6]] + ([f"({len(loop) - 6} more)"] if len(loop) > 6 else [])
    return ScenarioError(
        f"{where}: {label(loop[0])}",
        f"<a circle of waiting tasks: {' <- '.join([*shown, shown[0]])}>",
        "tasks that can be put in an order",
        repair="reorder these streams, or drop one of the dependencies",
    )
