"""What came of a trace of jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.sim.jobs import JobTrace
from perfmodel.sim.power import energy_summary
from perfmodel.units import format_seconds

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class JobsResult:
    """Every job's times, and the cluster's use.

    Parameters
    ----------
    trace : JobTrace
        The jobs.
    devices : int
        Of the pool.
    start, end : float arrays
        First start and last end of each job [s].
    span : int array
        Of each job's last place: 0 in one node, 1 in one rack, 2 across racks.
    restarts : int array
        How often each job was interrupted.
    usage_times, usage : arrays
        When the number of busy devices changed [s], and to what.
    preemptions, failures : int
        Interruptions by other jobs, and nodes that failed.
    energy : float or None
        [J], where power was given.
    power_history : tuple
        (time [s], draw [W]) whenever it changed.
    events : int
        Simulation events handled.
    """

    trace: JobTrace
    devices: int
    start: Floats
    end: Floats
    span: NDArray[np.int64]
    restarts: NDArray[np.int64]
    usage_times: Floats
    usage: NDArray[np.int64]
    preemptions: int
    failures: int
    energy: float | None
    power_history: tuple[tuple[float, float], ...]
    events: int

    @property
    def wait(self) -> Floats:
        """From submission to first start, shape ``[jobs]`` [s]."""
        return self.start - self.trace.submit

    @property
    def completion(self) -> Floats:
        """From submission to end, shape ``[jobs]`` [s]."""
        return self.end - self.trace.submit

    @property
    def makespan(self) -> float:
        """From the first submission to the last end [s]."""
        return float(self.end.max() - self.trace.submit[0])

    @property
    def utilisation(self) -> float:
        """Busy device time over device time, from the first submission to the last end."""
        first, last = self.trace.submit[0], float(self.end.max())
        edges = np.clip(np.append(self.usage_times, last), first, last)
        area = float((np.diff(edges) * self.usage).sum())
        return float(area / (self.devices * (last - first))) if last > first else 0.0

    @property
    def fairness(self) -> float:
        """Jain's index of the users' mean slowdown (completion over run time); 1 is even."""
        ran = np.maximum(self.trace.seconds, 1.0)
        slow = np.maximum(self.completion / ran, 1.0)
        count = np.bincount(self.trace.user, minlength=len(self.trace.users))
        mean = (
            np.bincount(self.trace.user, slow, len(self.trace.users))[count > 0] / count[count > 0]
        )
        return float(mean.sum() ** 2 / (len(mean) * (mean**2).sum()))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        found: dict[str, Any] = {
            "jobs": len(self.trace),
            "devices": self.devices,
            "makespan_s": self.makespan,
            "utilisation": self.utilisation,
            "wait_s": _summary(self.wait),
            "completion_s": _summary(self.completion),
            "fairness": self.fairness,
            "preemptions": self.preemptions,
            "node_failures": self.failures,
            "interrupted_jobs": int(np.count_nonzero(self.restarts)),
            "placed_in_node": int(np.count_nonzero(self.span == 0)),
            "placed_in_rack": int(np.count_nonzero(self.span == 1)),
            "placed_across_racks": int(np.count_nonzero(self.span == 2)),
            "events": self.events,
        }
        if self.energy is not None:
            found |= energy_summary(self.energy, self.devices, self.makespan)
        return found

    def explain(self) -> str:
        """The summary as text."""
        wait, done = _summary(self.wait), _summary(self.completion)
        lines = [
            f"{len(self.trace):,} jobs on {self.devices:,} devices:"
            f" {format_seconds(self.makespan)}",
            f"├─ utilisation: {self.utilisation:.1%}",
            f"├─ wait: mean {format_seconds(wait['mean'])}, median {format_seconds(wait['p50'])},"
            f" p99 {format_seconds(wait['p99'])}",
            f"├─ completion: mean {format_seconds(done['mean'])},"
            f" median {format_seconds(done['p50'])}, p99 {format_seconds(done['p99'])}",
            f"└─ {self.preemptions} preemptions, {self.failures} node failures,"
            f" fairness between users {self.fairness:.3f}",
        ]
        if self.energy is not None:
            lines.append(f"energy: {self.energy / 3.6e6:,.0f} kWh")
        return "\n".join(lines)


def _summary(values: Floats) -> dict[str, float]:
    p50, p90, p99 = np.percentile(values, [50, 90, 99])
    return {"mean": float(values.mean()), "p50": float(p50), "p90": float(p90), "p99": float(p99)}
