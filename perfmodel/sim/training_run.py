"""A training job over weeks: failures, checkpoints, spares, restarts, and what is left of it.

SimPy carries the control plane: one process for the job, one for all failures together (the sum of
independent exponential failures is one exponential stream, and which component failed is drawn from
the rates), one per node in repair. A step is never an event.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import simpy

from perfmodel.errors import ScenarioError, nearest_name
from perfmodel.sim.graph import Stop, stopped
from perfmodel.sim.power import EnergyMeter, Power
from perfmodel.sim.reliability import daly_interval, young_interval
from perfmodel.sim.run_result import Segment, TrainingRunResult

MODES: Final = ("sync", "async")
STATES: Final = ("train", "checkpoint", "detect", "restart", "wait for node")
MOST_EVENTS: Final = 20_000_000


@dataclass(frozen=True, slots=True)
class FailureClass:
    """One kind of interruption.

    Parameters
    ----------
    name : str
        Component or cause.
    rate : float
        Interruptions of the whole job [1/s].
    takes_node : bool
        Whether a node must be replaced (hardware) or a restart is enough (software).
    detect_seconds : float, optional
        Until it is noticed [s]; the run's value by default.
    """

    name: str
    rate: float
    takes_node: bool = True
    detect_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """How state is saved.

    Parameters
    ----------
    size : float
        Of one checkpoint [B].
    write_bandwidth, read_bandwidth : float
        Of the storage for the whole job [B/s].
    interval : float or str
        Training time between checkpoints [s], or ``"young"`` or ``"daly"``.
    mode : str
        ``"sync"``: training waits for the write; ``"async"``: it waits ``snapshot_seconds``, and
        the write goes on beside it.
    snapshot_seconds : float
        Copy to host memory [s].
    """

    size: float
    write_bandwidth: float
    read_bandwidth: float
    interval: float | str = "daly"
    mode: str = "sync"
    snapshot_seconds: float = 0.0

    @property
    def write_seconds(self) -> float:
        """Time of the write [s]."""
        return self.size / self.write_bandwidth

    @property
    def cost(self) -> float:
        """Training time that a checkpoint takes [s]."""
        return self.write_seconds if self.mode == "sync" else self.snapshot_seconds


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """A job on a cluster that fails.

    Parameters
    ----------
    duration : float
        Wall time simulated [s].
    nodes, devices_per_node : int
        Size of the job.
    failures : sequence of FailureClass
        What interrupts it.
    checkpoints : Checkpoints
        How state is saved.
    detect_seconds, restart_seconds : float
        From a failure to its notice, and from there (node in hand) to the first step, without
        loading the checkpoint [s].
    step_seconds : float
        Of one training step at full size [s].
    spares : int
        Nodes kept ready.
    swap_seconds : float
        To put a spare in [s].
    repair_seconds : float
        Mean time until a failed node is back as a spare, exponential [s].
    elastic : bool
        Whether the job goes on smaller when no spare is left.
    shrink_nodes : int
        Nodes given up together (those of one data-parallel replica).
    power : Power, optional
        Draw and caps.
    seed : int
        Of everything random here.
    """

    duration: float
    nodes: int
    devices_per_node: int
    failures: Sequence[FailureClass]
    checkpoints: Checkpoints
    detect_seconds: float = 0.0
    restart_seconds: float = 0.0
    step_seconds: float = 1.0
    spares: int = 0
    swap_seconds: float = 0.0
    repair_seconds: float = 86400.0
    elastic: bool = False
    shrink_nodes: int = 1
    power: Power | None = None
    seed: int = 0
    names: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        _check(self)
        object.__setattr__(self, "names", tuple(f.name for f in self.failures))

    @property
    def rate(self) -> float:
        """Interruptions of all kinds [1/s]."""
        return float(sum(f.rate for f in self.failures))

    @property
    def interval(self) -> float:
        """Training time between checkpoints [s]."""
        chosen = self.checkpoints.interval
        if not isinstance(chosen, str):
            return chosen
        if self.rate == 0:
            return self.duration
        # A free checkpoint has no best interval; a thousandth of a second stands for "no cost".
        cost = max(self.checkpoints.cost, 1e-3)
        rule = daly_interval if chosen == "daly" else young_interval
        # The next write cannot begin before the last has ended.
        return max(float(rule(cost, 1 / self.rate)), self.checkpoints.write_seconds)


def simulate_run(run: TrainingRun, *, stop: Stop | None = None) -> TrainingRunResult:
    """Simulate a job until its wall time is over.

    Raises
    ------
    Stopped
        If ``stop()`` becomes true.
    ScenarioError
        For a run that would take too many events.
    """
    expected = run.duration * (3 * run.rate + 2 / (run.interval + run.checkpoints.cost + 1e-9))
    if expected > MOST_EVENTS:
        raise ScenarioError(
            "training run: events",
            round(expected),
            f"about {MOST_EVENTS:,} at most",
            repair="shorten the run, or lengthen the checkpoint interval",
        )
    job = _Job(run)
    env = job.env
    events = 0
    while env.peek() <= run.duration:
        env.step()
        events += 1
        if events % 1024 == 0 and stop is not None and stop():
            raise stopped("training run", f"at {env.now:.6g} s")
        if events > 2 * MOST_EVENTS:
            raise ScenarioError(
                "training run: events",
                events,
                f"at most {2 * MOST_EVENTS:,}",
                repair="shorten the run",
            )
    job.close(run.duration)
    return job.result(events)


class _Job:
    """State of one run; every method that waits is a SimPy generator."""

    def __init__(self, run: TrainingRun) -> None:
        self.run = run
        self.env = simpy.Environment()
        # One stream of numbers for each purpose: other settings do not disturb the failures.
        failures, repairs = np.random.SeedSequence(run.seed).spawn(2)
        self.failure_rng, self.repair_rng = (np.random.default_rng(s) for s in (failures, repairs))
        self.spares, self.missing = run.spares, 0
        self.done = self.saved = self.lost = self.slowed = 0.0
        self.every, self.rate = run.interval, run.rate
        self.mark = 0.0  # work done when the last checkpoint was begun
        self.broken = self.to_repair = 0  # failed nodes not yet replaced, not yet in repair
        self.counts = dict.fromkeys(run.names, 0)
        self.checkpoints = 0
        self.write_ends, self.writing = 0.0, -1.0
        self.segments: list[Segment] = []
        self.state, self.since = "train", 0.0
        self.returned: simpy.Event | None = None
        self.meter = EnergyMeter(run.power.overhead if run.power else 1.0, history=[])
        self.enter("train")
        self.process = self.env.process(self.work())
        if run.rate > 0:
            self.env.process(self.fail())
        for start, _ in run.power.caps if run.power else ():
            if start > 0:
                self.env.process(self.recap(start))

    # --- what goes on beside the job ------------------------------------------------------------

    def fail(self) -> Generator[simpy.Event, Any, None]:
        rates = np.array([f.rate for f in self.run.failures])
        edges = np.cumsum(rates)[:-1] / rates.sum()
        while True:
            yield self.env.timeout(self.failure_rng.exponential(1 / self.rate))
            kind = int(np.searchsorted(edges, self.failure_rng.random(), side="right"))
            self.process.interrupt(self.run.failures[kind])

    def recap(self, start: float) -> Generator[simpy.Event, Any, None]:
        yield self.env.timeout(start)
        if self.state == "train":
            self.process.interrupt(None)
        else:
            self.enter(self.state)

    def repair(self) -> Generator[simpy.Event, Any, None]:
        yield self.env.timeout(self.repair_rng.exponential(self.run.repair_seconds))
        self.spares += 1
        if self.returned is not None and not self.returned.triggered:
            self.returned.succeed()

    # --- the job --------------------------------------------------------------------------------

    def work(self) -> Generator[simpy.Event, Any, None]:
        failure: FailureClass | None = None
        while True:
            try:
                if failure is not None:
                    yield from self.recover(failure)
                    failure = None
                yield from self.interval()
            except simpy.Interrupt as interrupt:
                if interrupt.cause is None:  # only the power cap changed
                    self.enter(self.state)
                    continue
                failure = interrupt.cause
                self.counts[failure.name] += 1
                self.broken += failure.takes_node
                self.to_repair += failure.takes_node
                self.rollback()

    def interval(self) -> Generator[simpy.Event, Any, None]:
        """Train up to the next checkpoint, and take it."""
        yield from self.train(self.mark + self.every - self.done)
        if self.missing and self.spares >= self.run.shrink_nodes:
            self.grow()
            yield from self.spend("restart", self.run.restart_seconds)
        saves = self.run.checkpoints
        if saves.mode == "sync":
            yield from self.spend("checkpoint", saves.write_seconds)
            self.saved = self.done
        else:
            self.settle()
            late = self.write_ends - self.env.now
            yield from self.spend("checkpoint", max(late, 0.0) + saves.snapshot_seconds)
            self.settle()
            self.writing, self.write_ends = self.done, self.env.now + saves.write_seconds
        self.checkpoints += 1
        self.mark = self.done

    def train(self, amount: float) -> Generator[simpy.Event, Any, None]:
        self.enter("train")
        speed, begin = self.speed(), self.env.now
        try:
            if amount > 0:
                yield self.env.timeout(amount / speed)
        finally:
            span = self.env.now - begin
            self.done += span * speed
            self.slowed += span * (1 - speed)

    def recover(self, failure: FailureClass) -> Generator[simpy.Event, Any, None]:
        run = self.run
        seconds = failure.detect_seconds
        yield from self.spend("detect", run.detect_seconds if seconds is None else seconds)
        for _ in range(self.to_repair):
            self.env.process(self.repair())
        self.to_repair = 0
        while self.broken:  # more than one, where a failure struck during a recovery
            yield from self.replace()
        load = run.checkpoints.size / run.checkpoints.read_bandwidth
        yield from self.spend("restart", run.restart_seconds + load)

    def replace(self) -> Generator[simpy.Event, Any, None]:
        """A spare if there is one; else go on smaller, or wait for a repair."""
        run = self.run
        if self.spares == 0 and run.elastic and self.missing + run.shrink_nodes < run.nodes:
            # The replica's healthy nodes become spares until it is whole again.
            self.broken -= 1
            self.missing += run.shrink_nodes
            self.spares += run.shrink_nodes - 1
            return
        while self.spares == 0:
            self.enter("wait for node")
            self.returned = self.env.event()
            yield self.returned
        self.spares -= 1
        self.broken -= 1
        yield from self.spend("restart", run.swap_seconds)

    def grow(self) -> None:
        while self.missing and self.spares >= self.run.shrink_nodes:
            self.missing -= self.run.shrink_nodes
            self.spares -= self.run.shrink_nodes

    def spend(self, state: str, seconds: float) -> Generator[simpy.Event, Any, None]:
        self.enter(state)
        if seconds > 0:
            yield self.env.timeout(seconds)

    # --- accounts -------------------------------------------------------------------------------

    def speed(self) -> float:
        run = self.run
        here = run.nodes - self.missing
        capped = (
            1.0 if run.power is None else run.power.speed(here * run.devices_per_node, self.env.now)
        )
        return here / run.nodes * capped

    def settle(self) -> None:
        """Count a background write that has ended."""
        if self.writing >= 0 and self.env.now >= self.write_ends:
            self.saved, self.writing = self.writing, -1.0

    def rollback(self) -> None:
        self.settle()
        self.lost += self.done - self.saved
        self.done = self.mark = self.saved
        self.writing = -1.0
        self.write_ends = self.env.now

    def enter(self, state: str) -> None:
        now = self.env.now
        if now > self.since:
            last = self.segments[-1] if self.segments else None
            if last is not None and last.state == self.state and last.end == self.since:
                self.segments[-1] = Segment(self.state, last.start, now, last.nodes)
            else:
                self.segments.append(
                    Segment(self.state, self.since, now, self.run.nodes - self.missing)
                )
        self.state, self.since = state, now
        if self.run.power is not None:
            here = (self.run.nodes - self.missing) * self.run.devices_per_node
            others = (self.missing + self.spares) * self.run.devices_per_node
            working = here if state == "train" else 0
            self.meter.set(now, self.run.power.draw(working, here - working + others, now))

    def close(self, end: float) -> None:
        """Cut what is under way at the end of the run."""
        if self.state == "train":
            speed = self.speed()
            self.done += (end - self.since) * speed
            self.slowed += (end - self.since) * (1 - speed)
        if end > self.since:
            self.segments.append(
                Segment(self.state, self.since, end, self.run.nodes - self.missing)
            )
        self.meter.set(end, 0.0)

    def result(self, events: int) -> TrainingRunResult:
        spent = dict.fromkeys(STATES, 0.0)
        for segment in self.segments:
            spent[segment.state] += segment.end - segment.start
        return TrainingRunResult(
            duration=self.run.duration,
            devices=self.run.nodes * self.run.devices_per_node,
            productive=self.done,
            lost=self.lost,
            slowed=self.slowed,
            spent=spent,
            interruptions=self.counts,
            checkpoints=self.checkpoints,
            interval=self.run.interval,
            steps=self.done / self.run.step_seconds,
            energy=self.meter.joules if self.run.power else None,
            power_history=tuple(self.meter.history or ()),
            segments=tuple(self.segments),
            events=events,
        )


def _check(run: TrainingRun) -> None:
    saves = run.checkpoints
    numbers: tuple[tuple[str, float, float], ...] = (
        ("duration", run.duration, 1e-9),
        ("nodes", run.nodes, 1),
        ("devices_per_node", run.devices_per_node, 1),
        ("detect_seconds", run.detect_seconds, 0),
        ("restart_seconds", run.restart_seconds, 0),
        ("step_seconds", run.step_seconds, 1e-12),
        ("spares", run.spares, 0),
        ("swap_seconds", run.swap_seconds, 0),
        ("repair_seconds", run.repair_seconds, 1e-9),
        ("shrink_nodes", run.shrink_nodes, 1),
        ("checkpoints.size", saves.size, 0),
        ("checkpoints.write_bandwidth", saves.write_bandwidth, 1e-9),
        ("checkpoints.read_bandwidth", saves.read_bandwidth, 1e-9),
        ("checkpoints.snapshot_seconds", saves.snapshot_seconds, 0),
    )
    numbers += tuple((f"failures.{f.name}.rate", f.rate, 1e-300) for f in run.failures)
    if not isinstance(saves.interval, str):
        numbers += (("checkpoints.interval", saves.interval, 1e-9),)
    for what, value, low in numbers:
        if not low <= value < float("inf"):
            raise ScenarioError(
                f"training run: {what}",
                value,
                "a finite number above 0" if low else "a finite number that is not negative",
                repair=f"correct {what} (leave out a failure class that never happens)",
            )
    for what, name, known in (
        ("mode", saves.mode, MODES),
        ("interval", saves.interval, ("young", "daly")),
    ):
        if isinstance(name, str) and name not in known:
            raise ScenarioError(
                f"training run: checkpoints.{what}",
                name,
                ", ".join(known) + (" or a time" if what == "interval" else ""),
                nearest=nearest_name(name, known),
                repair="name one of these",
            )
    if run.power is not None:
        for start, _ in run.power.caps:
            run.power.speed(run.nodes * run.devices_per_node, start)  # refuses a cap below idle
    names = [f.name for f in run.failures]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise ScenarioError(
            "training run: failures", twice, "a name of its own for each class",
            repair="join the classes, or rename one",
        )  # fmt: skip
