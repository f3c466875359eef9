"""A training job over weeks: failures, checkpoints, spares, restarts, and what is left of it.

SimPy carries the control plane: one process for the job, one for all failures together (the sum of
independent exponential failures is one exponential stream, and which component failed is drawn from
the rates), one per node in repair. A step is never an event.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

import numpy as np
import simpy

from perfmodel.errors import ScenarioError
from perfmodel.sim.graph import Stop, stopped
from perfmodel.sim.power import EnergyMeter
from perfmodel.sim.run_result import Segment, TrainingRunResult
from perfmodel.sim.training_setup import FailureClass, TrainingRun

STATES: Final = ("train", "checkpoint", "detect", "restart", "wait for node")
MOST_EVENTS: Final = 20_000_000


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
