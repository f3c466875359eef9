"""Many jobs on one cluster: gang scheduling, backfill, preemption, failures, power.

A job gets all its devices at once or waits. SimPy carries arrivals, ends, node failures and
repairs: two events a job, whatever its size.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import simpy

from perfmodel.errors import ScenarioError, nearest_name
from perfmodel.sim.graph import Stop, stopped
from perfmodel.sim.jobs import JobTrace
from perfmodel.sim.placement import FreeNodes, Place, Pool
from perfmodel.sim.power import EnergyMeter, Power
from perfmodel.sim.queues import POLICIES, make_queue
from perfmodel.sim.schedule_result import JobsResult

NEVER: Final = float("inf")
MOST_RESTARTS: Final = 1_000
MOST_EVENTS: Final = 50_000_000


@dataclass(frozen=True, slots=True)
class Scheduling:
    """How jobs are chosen and interrupted.

    Parameters
    ----------
    policy : str
        ``"fifo"``, ``"priority"`` (within it first come first served) or ``"fair"`` (between
        users).
    backfill : bool
        EASY backfill: a later job may go first if, by the announced run times, it does not delay
        the first one (by devices; fragmentation is not foreseen).
    backfill_depth : int
        Waiting jobs looked at.
    preempt : bool
        Whether a job may displace running jobs of lower priority.
    checkpoint_seconds : float
        Progress of an interrupted job is kept in steps of this length; 0 keeps all of it.
    restart_seconds : float
        Added each time an interrupted job starts again.
    node_failure_rate : float
        Failures of a node [1/s]; its jobs go back to the queue.
    repair_seconds : float
        Mean time until a failed node is back, exponential.
    power : Power, optional
        Draw and caps; a job that would exceed the cap waits.
    seed : int
        Of the failures.
    """

    policy: str = "fifo"
    backfill: bool = False
    backfill_depth: int = 100
    preempt: bool = False
    checkpoint_seconds: float = 0.0
    restart_seconds: float = 0.0
    node_failure_rate: float = 0.0
    repair_seconds: float = 86400.0
    power: Power | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ScenarioError(
                "scheduling: policy",
                self.policy,
                ", ".join(POLICIES),
                nearest=nearest_name(self.policy, POLICIES),
                repair="name one of these",
            )
        if self.preempt and self.policy != "priority":
            raise ScenarioError(
                "scheduling: preempt",
                f"<with policy {self.policy!r}>",
                "the policy 'priority'",
                repair="set policy to 'priority', or preempt to false",
            )
        for what, low in (
            ("backfill_depth", 1),
            ("checkpoint_seconds", 0.0),
            ("restart_seconds", 0.0),
            ("node_failure_rate", 0.0),
            ("repair_seconds", 1e-9),
        ):
            value = getattr(self, what)
            if not low <= value < NEVER:
                raise ScenarioError(
                    f"scheduling: {what}",
                    value,
                    "a finite number in range",
                    repair=f"correct {what}",
                )


def schedule_jobs(
    trace: JobTrace, pool: Pool, scheduling: Scheduling | None = None, *, stop: Stop | None = None
) -> JobsResult:
    """Run every job of a trace to its end.

    Raises
    ------
    ScenarioError
        If a job can never start, or is interrupted without end.
    Stopped
        If ``stop()`` becomes true.
    """
    scheduling = scheduling or Scheduling()
    _check(trace, pool, scheduling)
    run = _Cluster(trace, pool, scheduling)
    events = 0
    while run.unfinished:
        if run.env.peek() == NEVER:
            raise ScenarioError(
                "scheduler",
                f"<{run.unfinished} jobs wait and nothing will happen>",
                "jobs that can start",
                repair="raise the power cap, or use a placement other than 'pack'",
            )
        run.env.step()
        events += 1
        if events > MOST_EVENTS:
            raise ScenarioError(
                "scheduler: events",
                events,
                f"at most {MOST_EVENTS:,}",
                repair="simulate fewer jobs, or a lower failure rate",
            )
        if stop is not None and events % 1024 == 0 and stop():
            raise stopped("scheduler", f"at {run.env.now:.6g} s")
        if run.hopeless is not None:
            raise ScenarioError(
                f"scheduler: {trace.name(run.hopeless)}",
                f"<interrupted {MOST_RESTARTS} times>",
                "jobs that get somewhere between interruptions",
                repair="lower the failure rate, or keep progress more often (checkpoint_seconds)",
            )
    return run.result(events)


class _Cluster:
    """The running simulation."""

    def __init__(self, trace: JobTrace, pool: Pool, how: Scheduling) -> None:
        self.trace, self.pool, self.how = trace, pool, how
        self.env = simpy.Environment()
        self.nodes = FreeNodes(pool)
        self.queue = make_queue(how.policy, trace)
        count = len(trace)
        self.devices, self.estimate = trace.devices.tolist(), trace.estimate.tolist()
        self.left = trace.seconds.tolist()
        self.priority = trace.priority.tolist()
        self.start, self.end = [NEVER] * count, [NEVER] * count
        self.began = [0.0] * count
        self.factor = [1.0] * count
        self.overhead = [0.0] * count
        self.turn = [0] * count  # grows with every start and stop, so that old timers mean nothing
        self.restarts = [0] * count
        self.span = [0] * count
        self.place: dict[int, Place] = {}
        self.on_node: dict[int, set[int]] = {}
        self.announced: list[tuple[float, int, int]] = []  # (announced end, job, devices), sorted
        self.expected: dict[int, tuple[float, int, int]] = {}
        self.unfinished = count
        self.busy = 0
        self.usage: list[tuple[float, int]] = [(0.0, 0)]
        self.hopeless: int | None = None
        self.preemptions = self.failures = 0
        self.meter = EnergyMeter(how.power.overhead if how.power else 1.0, history=[])
        self.env.process(self.arrivals())
        if how.node_failure_rate > 0:
            self.env.process(self.node_failures(np.random.default_rng(how.seed)))
        for start, _ in how.power.caps if how.power else ():
            if start > 0:
                self.env.process(self.recap(start))
        self.draw()

    # --- what happens -----------------------------------------------------------------------------

    def arrivals(self) -> Generator[simpy.Event, Any, None]:
        for job, when in enumerate(self.trace.submit.tolist()):
            if when > self.env.now:
                yield self.env.timeout(when - self.env.now)
            self.queue.add(job)
            self.dispatch(arrived=job)

    def node_failures(self, rng: np.random.Generator) -> Generator[simpy.Event, Any, None]:
        rate = self.how.node_failure_rate * self.pool.nodes
        while self.unfinished:
            yield self.env.timeout(rng.exponential(1 / rate))
            node = int(rng.integers(self.pool.nodes))
            if self.nodes.up[node]:
                self.failures += 1
                self.nodes.fail(node)
                for job in sorted(self.on_node.get(node, ())):
                    self.interrupt(job)
                self.env.process(self.repair(node, rng.exponential(self.how.repair_seconds)))
                self.dispatch()

    def repair(self, node: int, seconds: float) -> Generator[simpy.Event, Any, None]:
        yield self.env.timeout(seconds)
        self.nodes.repair(node)
        self.dispatch()

    def recap(self, start: float) -> Generator[simpy.Event, Any, None]:
        yield self.env.timeout(start - self.env.now)
        self.draw()
        self.dispatch()

    def finish(self, job: int, turn: int) -> None:
        if self.turn[job] != turn:
            return
        self.release(job)
        self.end[job] = self.env.now
        self.unfinished -= 1
        self.dispatch()

    # --- decisions --------------------------------------------------------------------------------

    def dispatch(self, arrived: int = -1) -> None:
        """Start whatever the policy lets start now."""
        if self.how.backfill and arrived >= 0 and self.nodes.total == 0 and not self.how.preempt:
            return
        while len(self.queue):
            head = self.queue.first(1)[0]
            if not self.may_start(head) and not (self.how.preempt and self.displace(head)):
                break
            self.begin(head)
        if self.how.backfill and len(self.queue) > 1 and self.nodes.total:
            self.backfill()
        self.draw()

    def may_start(self, job: int) -> bool:
        return self.devices[job] <= self.allowance() and self.nodes.fits(self.devices[job])

    def allowance(self) -> float:
        """Devices that the power cap leaves for new jobs."""
        power = self.how.power
        if power is None or not power.caps or power.busy == power.idle:
            return NEVER
        room = power.cap_at(self.env.now) - self.pool.devices * power.idle
        return room / (power.busy - power.idle) - self.busy + 1e-9

    def backfill(self) -> None:
        head, *others = self.queue.first(self.how.backfill_depth + 1)
        free, need = self.nodes.total, self.devices[head]
        shadow = NEVER
        for when, _, devices in self.announced:
            free += devices
            if free >= need:
                shadow = max(when, self.env.now)
                break
        extra = free - need if shadow < NEVER else 0
        for job in others:
            devices = self.devices[job]
            if devices > self.nodes.total:
                continue
            in_time = self.env.now + self.announced_seconds(job) <= shadow
            if (in_time or devices <= extra) and self.may_start(job):
                self.begin(job)
                extra -= 0 if in_time else devices
                if not self.nodes.total:
                    break

    def displace(self, job: int) -> bool:
        """Interrupt running jobs of lower priority until this one fits, if that can work."""
        lower = [k for k in self.place if self.priority[k] < self.priority[job]]
        room = self.nodes.total + sum(self.devices[k] for k in lower)
        if room < self.devices[job]:
            return False
        # The least important first, of those the ones that started last.
        lower.sort(key=lambda k: (self.priority[k], -self.began[k], k))
        for victim in lower:
            if self.may_start(job):
                break
            self.preemptions += 1
            self.interrupt(victim)
        return self.may_start(job)

    # --- starting and stopping --------------------------------------------------------------------

    def announced_seconds(self, job: int) -> float:
        """What is left by the user's own estimate."""
        whole = self.trace.seconds[job]
        share = self.left[job] / whole if whole > 0 else 0.0
        return float(self.estimate[job] * share + self.overhead[job])

    def begin(self, job: int) -> None:
        now, devices = self.env.now, self.devices[job]
        self.queue.remove(job)
        announced = self.announced_seconds(job)
        self.queue.charge(job, announced)
        place = self.nodes.take(devices)
        self.place[job] = place
        for node, _ in place:
            self.on_node.setdefault(node, set()).add(job)
        self.span[job] = self.nodes.spans(place)
        self.factor[job] = self.pool.slowdown[self.span[job]]
        self.start[job] = min(self.start[job], now)
        self.began[job] = now
        self.turn[job] += 1
        entry = (now + announced, job, devices)
        self.expected[job] = entry
        insort(self.announced, entry)
        self.busy += devices
        turn = self.turn[job]
        timer = self.env.timeout(self.overhead[job] + self.left[job] * self.factor[job])
        timer.callbacks.append(lambda _: self.finish(job, turn))
        self.note()

    def release(self, job: int) -> None:
        place = self.place.pop(job)
        self.nodes.give(place)
        for node, _ in place:
            self.on_node[node].discard(job)
        entry = self.expected.pop(job)
        self.announced.remove(entry)
        self.busy -= self.devices[job]
        self.turn[job] += 1
        self.note()

    def interrupt(self, job: int) -> None:
        """Stop a running job, keep what it had saved, and queue it again."""
        ran = (self.env.now - self.began[job] - self.overhead[job]) / self.factor[job]
        step = self.how.checkpoint_seconds
        kept = max(ran, 0.0)
        if step > 0:
            kept = np.floor(kept / step) * step
        self.left[job] = max(self.left[job] - float(kept), 0.0)
        self.overhead[job] = self.how.restart_seconds
        self.restarts[job] += 1
        if self.restarts[job] > MOST_RESTARTS:
            self.hopeless = job
        self.release(job)
        self.queue.add(job)

    def note(self) -> None:
        now = self.env.now
        if self.usage[-1][0] == now:
            self.usage[-1] = (now, self.busy)
        else:
            self.usage.append((now, self.busy))

    def draw(self) -> None:
        if self.how.power is not None:
            waiting = self.pool.devices - self.busy
            watts = self.busy * self.how.power.busy + waiting * self.how.power.idle
            self.meter.set(self.env.now, watts)

    def result(self, events: int) -> JobsResult:
        if self.how.power is not None:
            self.meter.set(self.env.now, 0.0)
        times, used = (np.array(column) for column in zip(*self.usage, strict=True))
        return JobsResult(
            trace=self.trace,
            devices=self.pool.devices,
            start=np.array(self.start),
            end=np.array(self.end),
            span=np.array(self.span),
            restarts=np.array(self.restarts),
            usage_times=times,
            usage=used,
            preemptions=self.preemptions,
            failures=self.failures,
            energy=self.meter.joules if self.how.power else None,
            power_history=tuple(self.meter.history or ()),
            events=events,
        )


def _check(trace: JobTrace, pool: Pool, how: Scheduling) -> None:
    most = pool.devices
    where = "devices in the pool"
    power = how.power
    if power is not None and power.caps and power.busy > power.idle:
        cap = power.caps[-1][1]
        allowed = (cap - pool.devices * power.idle) / (power.busy - power.idle)
        if allowed < most:
            most, where = max(int(allowed + 1e-9), 0), "devices that the last power cap lets work"
    job = int(np.argmax(trace.devices))
    if trace.devices[job] > most:
        raise ScenarioError(
            f"{trace.name(job)}: devices",
            int(trace.devices[job]),
            f"at most {most}, the {where}",
            repair="drop the job, or enlarge the pool",
        )
