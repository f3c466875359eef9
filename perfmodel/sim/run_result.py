"""What came of a simulated training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from perfmodel.sim.power import energy_summary
from perfmodel.units import format_seconds


@dataclass(frozen=True, slots=True)
class Segment:
    """What the job did from ``start`` to ``end`` [s] on how many nodes."""

    state: str
    start: float
    end: float
    nodes: int


@dataclass(frozen=True, slots=True)
class TrainingRunResult:
    """Where the wall time of a run went.

    Parameters
    ----------
    duration : float
        Wall time [s].
    devices : int
        Devices of the whole job.
    productive : float
        Training that counts, in seconds of the undisturbed job at full size [s].
    lost : float
        Training done again after failures [s].
    slowed : float
        Training time lost to running smaller, or slower under a power cap [s].
    spent : dict
        Wall time in each state [s].
    interruptions : dict
        How often each failure class struck.
    checkpoints : int
        How many were taken.
    interval : float
        Training time between checkpoints [s].
    steps : float
        Training steps that count.
    energy : float or None
        [J], where power was given.
    power_history : tuple
        (time [s], draw [W]) whenever the draw changed.
    segments : tuple of Segment
        The run as a sequence of states.
    events : int
        Simulation events handled.
    """

    duration: float
    devices: int
    productive: float
    lost: float
    slowed: float
    spent: dict[str, float]
    interruptions: dict[str, int]
    checkpoints: int
    interval: float
    steps: float
    energy: float | None
    power_history: tuple[tuple[float, float], ...]
    segments: tuple[Segment, ...]
    events: int

    @property
    def effective_ratio(self) -> float:
        """Effective training time ratio: productive over wall time."""
        return self.productive / self.duration

    @property
    def interruption_count(self) -> int:
        """Interruptions of all kinds."""
        return sum(self.interruptions.values())

    @property
    def mean_between(self) -> float | None:
        """Mean wall time between interruptions [s]; ``None`` without any."""
        count = self.interruption_count
        return self.duration / count if count else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        found: dict[str, Any] = {
            "duration_s": self.duration,
            "devices": self.devices,
            "effective_training_time_ratio": self.effective_ratio,
            "productive_s": self.productive,
            "lost_s": self.lost,
            "slowed_s": self.slowed,
            "spent_s": self.spent,
            "interruptions": self.interruption_count,
            "interruptions_by_class": self.interruptions,
            "mean_time_between_interruptions_s": self.mean_between,
            "checkpoints": self.checkpoints,
            "checkpoint_interval_s": self.interval,
            "steps": self.steps,
            "events": self.events,
        }
        if self.energy is not None:
            found |= energy_summary(self.energy, self.devices, self.duration)
        return found

    def explain(self) -> str:
        """The account as text: the lines under it add up to the wall time."""
        lines = [
            f"training run: {format_seconds(self.duration)} on {self.devices:,} devices,"
            f" effective training time {self.effective_ratio:.2%}",
            f"├─ productive: {format_seconds(self.productive)}",
            f"├─ done again after failures: {format_seconds(self.lost)}",
        ]
        if self.slowed > 0:
            lines.append(f"├─ lost to running smaller or slower: {format_seconds(self.slowed)}")
        lines += [
            f"├─ {state}: {format_seconds(seconds)}"
            for state, seconds in self.spent.items()
            if state != "train" and seconds > 0
        ]
        between = "none" if self.mean_between is None else format_seconds(self.mean_between)
        lines.append(
            f"└─ {self.interruption_count} interruptions ({between} between them),"
            f" {self.checkpoints} checkpoints every {format_seconds(self.interval)}"
        )
        if self.energy is not None:
            lines.append(f"energy: {self.energy / 3.6e6:,.0f} kWh")
        return "\n".join(lines)
