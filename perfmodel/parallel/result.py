"""What a plan costs: many plans as arrays, or one with its reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.estimate import Estimate
from perfmodel.parallel.footprint import CLASSES, Memory
from perfmodel.parallel.grid import PlanGrid
from perfmodel.parallel.plan import Plan
from perfmodel.parallel.step import PARTS, StepParts

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PlanTable:
    """Times and memory of n plans.

    Parameters
    ----------
    grid : PlanGrid
        The plans.
    step_time : (n,) array
        One step [s].
    parts : StepParts
        What it consists of.
    memory : Memory
        Bytes by class on the fullest stage.
    peak_memory : (n,) array
        Their sum [B].
    capacity : float
        What a device has [B].
    """

    grid: PlanGrid
    step_time: Floats
    parts: StepParts
    memory: Memory
    peak_memory: Floats
    capacity: float

    def __len__(self) -> int:
        return len(self.step_time)

    @property
    def fits(self) -> NDArray[np.bool_]:
        """Which plans stay within the device's memory."""
        return self.peak_memory <= self.capacity


@dataclass(frozen=True, slots=True)
class TrainResult:
    """One plan: its step with reasons, its memory, its rates.

    Parameters
    ----------
    plan : Plan
        How the job is spread.
    step : Estimate
        The step time, with its parts.
    memory : dict of str to float
        Bytes by class on the fullest stage [B].
    memory_stage : int
        Which stage that is.
    peak_memory : float
        Their sum [B].
    capacity : float
        What a device has [B].
    tokens_per_s_per_device, mfu, hfu : float
        Throughput; model and hardware FLOPs over the dense peak of the products' format.
    bubble_fraction : float
        Idle share of the step while the pipeline fills and drains.
    exposed_comm_s : float
        Communication that nothing hides [s].
    energy_j : float or None
        Energy of a step over all devices [J]; not calibrated; None if the design power is unknown.
    verdict : str
        "fits", or what is missing and the changes that help.
    parts : dict of str to float
        The parts of the step [s].
    """

    plan: Plan
    step: Estimate
    memory: dict[str, float]
    memory_stage: int
    peak_memory: float
    capacity: float
    tokens_per_s_per_device: float
    mfu: float
    hfu: float
    bubble_fraction: float
    exposed_comm_s: float
    energy_j: float | None
    verdict: str
    parts: dict[str, float]

    @property
    def step_time_s(self) -> float:
        """One step [s]."""
        return self.step.seconds

    @property
    def fits(self) -> bool:
        """Whether it stays within the device's memory."""
        return self.peak_memory <= self.capacity

    def explain(self) -> str:
        """The tree of the step, the classes of memory and the verdict, as text."""
        from perfmodel.units import format_bytes

        lines = [repr(self.plan), self.step.explain(), ""]
        lines.append(
            f"memory of stage {self.memory_stage}: {format_bytes(self.peak_memory)} "
            f"of {format_bytes(self.capacity)}"
        )
        for name, size in self.memory.items():
            lines.append(f"  {name}: {format_bytes(size)} {size / self.peak_memory:.1%}")
        lines.append(self.verdict)
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "plan": self.plan.to_dict(),
            "step_time_s": self.step_time_s,
            "low_s": self.step.low,
            "high_s": self.step.high,
            "lower_s": self.step.lower,
            "tokens_per_s_per_device": self.tokens_per_s_per_device,
            "mfu": self.mfu,
            "hfu": self.hfu,
            "bubble_fraction": self.bubble_fraction,
            "exposed_comm_s": self.exposed_comm_s,
            "memory": {f"{name}_bytes": size for name, size in self.memory.items()},
            "peak_memory_bytes": self.peak_memory,
            "memory_capacity_bytes": self.capacity,
            "fits": self.fits,
            "verdict": self.verdict,
            "energy_j": self.energy_j,
            "parts": {f"{name}_s": seconds for name, seconds in self.parts.items()},
            "step": self.step.to_dict(),
        }


def class_bytes(memory: Memory, index: int) -> dict[str, float]:
    """Bytes by class of one plan [B]."""
    return {name: float(getattr(memory, name)[index]) for name in CLASSES}


def part_seconds(parts: StepParts, index: int) -> dict[str, float]:
    """Parts of the step of one plan [s]."""
    return {name: float(getattr(parts, name)[index]) for name in PARTS}
