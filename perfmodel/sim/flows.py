"""Transfers that share links: a task graph whose flows get max-min fair rates.

Only what can change is an event: a task that ends, a flow that starts or drains. Between two events
all rates stand still, so each event moves every active flow at once (array arithmetic), and rates
are computed again only when the set of flows changed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import ScenarioError
from perfmodel.network.contention import max_min_rates
from perfmodel.network.groups import Group, link_bytes
from perfmodel.network.topology import Topology
from perfmodel.sim.graph import Stop, TaskGraph, Timeline, stopped, topological_order, waits
from perfmodel.sim.graph import task_label as label_of

Floats = NDArray[np.float64]
Share = Callable[[Sequence[Mapping[int, float]], Floats], Floats]


@dataclass(frozen=True, slots=True)
class Flow:
    """A transfer over links.

    Parameters
    ----------
    size : float
        What it moves [B].
    usage : mapping
        Link -> bytes on that link for each byte of the flow.
    """

    size: float
    usage: Mapping[int, float]


def route_flow(size: float, links: Iterable[int]) -> Flow:
    """A transfer that loads each of its links alike."""
    return Flow(size, dict.fromkeys(links, 1.0))


def collective_flow(topology: Topology, group: Group) -> Flow:
    """A collective as one flow: all its hops advance together, measured on its busiest link."""
    load = {link: size for link, size in link_bytes(topology, group).items() if size > 0}
    most = max(load.values(), default=0.0)
    return Flow(most, {link: size / most for link, size in load.items()})


@dataclass(frozen=True, slots=True)
class FlowTimeline:
    """A solved graph with its flows.

    Parameters
    ----------
    timeline : Timeline
        Start and end of every task (one replica).
    link_times, link_rates : float arrays
        When the rates changed [s], and the rate on every link from then on, shape
        ``[changes]`` and ``[changes, links]`` [B/s].
    events : int
        Events that were handled.
    """

    timeline: Timeline
    link_times: Floats
    link_rates: Floats
    events: int


def solve_flows(
    graph: TaskGraph,
    flows: Mapping[int, Flow],
    capacity: Sequence[float],
    *,
    share: Share = max_min_rates,
    stop: Stop | None = None,
) -> FlowTimeline:
    """Run a graph in which some tasks are flows; a flow's ``seconds`` are its latency.

    Parameters
    ----------
    graph : TaskGraph
        With one replica.
    flows : mapping
        The transfer of each task that is one.
    capacity : sequence of float
        Of every link [B/s].
    share : callable
        ``share(usages, capacity)`` gives the rates; max-min fair by default.

    Raises
    ------
    ScenarioError
        For a circle, an unknown link, a link without capacity, or a rate of 0.
    """
    room = _check(graph, flows, capacity)
    needs = waits(graph)
    order = topological_order(graph.name, needs, lambda task: label_of(graph, task))
    run = _Run(graph, flows, needs)
    left: dict[int, float] = {}
    rates: dict[int, float] = {}
    changes: list[float] = []
    loads: list[Floats] = []
    events = 0
    while run.timers or left:
        events += 1
        if stop is not None and events % 256 == 0 and stop():
            raise stopped(graph.name, f"at {run.now:.6g} s")
        # Compared as times, so that a remainder too small to move the clock cannot stall it.
        drains = {task: run.now + size / rates[task] for task, size in left.items()}
        then = min(min(drains.values(), default=np.inf), run.next_timer())
        for task in left:
            left[task] -= rates[task] * (then - run.now)
        run.now = then
        ended = [task for task, when in drains.items() if when <= then]
        for task in ended:
            del left[task]
            run.finish(task)
        started = run.fire()
        left.update((task, flows[task].size) for task in started)
        if ended or started:
            active = list(left)
            usages = [flows[task].usage for task in active]
            given = share(usages, room) if active else np.zeros(0)
            rates = _rates(graph, active, given)
            changes.append(run.now)
            loads.append(_loads(usages, given, len(room)))
    timeline = Timeline(graph, run.start[:, None], run.end[:, None], order)
    table = np.array(loads) if loads else np.zeros((0, len(room)))
    return FlowTimeline(timeline, np.array(changes), table, events)


class _Run:
    """What has started and ended, and the timers of tasks with a known end."""

    def __init__(
        self, graph: TaskGraph, flows: Mapping[int, Flow], needs: Sequence[tuple[int, ...]]
    ) -> None:
        self.graph, self.flows = graph, flows
        self.now = 0.0
        self.start, self.end = np.zeros(len(graph)), np.zeros(len(graph))
        self.timers: list[tuple[float, int]] = []
        self.open_needs = [len(need) for need in needs]
        self.feeds: list[list[int]] = [[] for _ in needs]
        for task, need in enumerate(needs):
            for other in need:
                self.feeds[other].append(task)
        for task, need in enumerate(needs):
            if not need:
                self.begin(task)

    def begin(self, task: int) -> None:
        self.start[task] = self.now
        latency = float(np.max(self.graph.seconds[task]))
        heapq.heappush(self.timers, (self.now + latency, task))

    def finish(self, task: int) -> None:
        self.end[task] = self.now
        for other in self.feeds[task]:
            self.open_needs[other] -= 1
            if self.open_needs[other] == 0:
                self.begin(other)

    def next_timer(self) -> float:
        return self.timers[0][0] if self.timers else float("inf")

    def fire(self) -> list[int]:
        """End the tasks whose time has come; the flows whose latency has passed."""
        flowing = []
        while self.timers and self.timers[0][0] <= self.now:
            _, task = heapq.heappop(self.timers)
            if task in self.flows and self.flows[task].size > 0:
                flowing.append(task)
            else:
                self.finish(task)
        return flowing


def _rates(graph: TaskGraph, active: list[int], given: Floats) -> dict[int, float]:
    for task, rate in zip(active, given, strict=True):
        if not rate > 0:
            raise ScenarioError(
                f"{graph.name}: flow {graph.names[task]!r}",
                float(rate),
                "a rate above 0 for every flow",
                repair="give its links capacity, or route it elsewhere",
            )
    return {task: float(rate) for task, rate in zip(active, given, strict=True)}


def _loads(usages: Sequence[Mapping[int, float]], rates: Floats, links: int) -> Floats:
    load = np.zeros(links)
    for usage, rate in zip(usages, rates, strict=True):
        for link, each in usage.items():
            load[link] += each * rate
    return load


def _check(graph: TaskGraph, flows: Mapping[int, Flow], capacity: Sequence[float]) -> Floats:
    room = np.asarray(capacity, dtype=np.float64)
    if graph.replicas != 1:
        raise ScenarioError(
            f"{graph.name}: replicas",
            graph.replicas,
            "1 where flows share links",
            repair="give every rank its own streams",
        )
    if (bad := np.flatnonzero(~(np.isfinite(room) & (room > 0)))).size:
        raise ScenarioError(
            f"{graph.name}: link {bad[0]}",
            float(room[bad[0]]),
            "a finite capacity above 0 [B/s]",
            repair="give the link a rate, or route nothing over it",
        )
    for task, flow in flows.items():
        known = 0 <= task < len(graph) and (len(flow.usage) > 0 or flow.size == 0)
        known = known and all(0 <= link < len(room) for link in flow.usage)
        known = known and all(0 < each < np.inf for each in flow.usage.values())
        if not known or not np.isfinite(flow.size) or flow.size < 0:
            raise ScenarioError(
                f"{graph.name}: flow of task {task}",
                flow,
                f"a size that is not negative, and links from 0 to {len(room) - 1}",
                repair="correct the flow's size or links",
            )
    return room
