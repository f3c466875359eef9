"""The answer about a program on a device: step time with its reasons, memory, operators."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from perfmodel.cost.parts import Floats
from perfmodel.cost.program.memory import Memory
from perfmodel.cost.program.queue import Timeline
from perfmodel.estimate import Estimate
from perfmodel.units import format_seconds
from perfmodel.workload.lowering.kernel import Kernel

COUNTED: Final = frozenset(
    ("gemm", "grouped_gemm", "conv2d", "conv3d", "attention", "recurrent", "fft", "spmm")
)
"""Operators whose arithmetic is that of the algorithm; what others count are instructions."""


def counted_flops(kernel: Kernel) -> float:
    """Arithmetic of products, convolutions, attention and transforms in a kernel [FLOP].

    It is 0 where a kernel streams: the instructions of such a kernel, of which its price is made,
    hold what it waits for too.
    """
    return float(sum(op.flops for op in kernel.ops if op.family in COUNTED))


@dataclass(frozen=True, slots=True)
class KernelTable:
    """Kernels in launch order, arrays of shape (N,).

    Parameters
    ----------
    kernels : tuple of Kernel
        What ran.
    seconds, low, high, alone : array
        Time in the program, its interval, and time alone with cold inputs [s].
    resident : array
        Share of its reads that the last-level cache serves.
    bound : tuple of str
        What limits each.
    calibrated : bool array
        Whether measurements of this chip stand behind each.
    """

    kernels: tuple[Kernel, ...]
    seconds: Floats
    low: Floats
    high: Floats
    alone: Floats
    resident: Floats
    bound: tuple[str, ...]
    calibrated: np.ndarray[tuple[int], np.dtype[np.bool_]]

    def __len__(self) -> int:
        return len(self.kernels)

    def by_kind(self) -> dict[str, float]:
        """Seconds by kind of kernel, the longest first [s]."""
        return self._summed([kernel.kind for kernel in self.kernels])

    def by_phase(self) -> dict[str, float]:
        """Seconds by phase of the step [s]."""
        return self._summed([kernel.phase for kernel in self.kernels])

    def rows(self) -> list[dict[str, Any]]:
        """One JSON-ready record a kernel."""
        return [
            {
                "name": kernel.name,
                "kind": kernel.kind,
                "phase": kernel.phase,
                "latency_us": float(self.seconds[k]) * 1e6,
                "low_us": float(self.low[k]) * 1e6,
                "high_us": float(self.high[k]) * 1e6,
                "alone_us": float(self.alone[k]) * 1e6,
                "flops": counted_flops(kernel),
                "read_bytes": kernel.bytes_read,
                "written_bytes": kernel.bytes_written,
                "resident_share": float(self.resident[k]),
                "bound": self.bound[k],
                "calibrated": bool(self.calibrated[k]),
                "known": kernel.known,
            }
            for k, kernel in enumerate(self.kernels)
        ]

    def _summed(self, words: list[str]) -> dict[str, float]:
        found = Counter[str]()
        for word, seconds in zip(words, self.seconds.tolist(), strict=True):
            found[word] += seconds
        return dict(found.most_common())


@dataclass(frozen=True, slots=True)
class Unknown:
    """An operator that no table knows, and what it may take in all its calls [s]."""

    name: str
    count: int
    low: float
    high: float


@dataclass(frozen=True, slots=True, repr=False)
class ProgramEstimate:
    """A program's step on a device.

    Parameters
    ----------
    program, accelerator, stack, mode : str
        What was asked; ``mode`` is ``eager``, ``compile`` or ``graph``.
    seconds : float
        Time of one step in a steady stream of steps [s].
    synchronised_seconds : float
        Time of one step that begins on an idle device and is waited for [s].
    host_seconds, device_seconds : float
        Work of the host, and of the device without waiting [s].
    idle_seconds : float
        Device time without work in a steady step [s].
    launch_bound : float
        Share of the step in which the device waits for the host.
    peak_allocated, peak_reserved : int
        Memory of the caching allocator [B].
    fits : bool
        Whether the segments fit the device.
    estimate : Estimate
        The step as a tree of parts.
    kernels : KernelTable
        Every kernel.
    timeline : Timeline
        When each is launched, begins and ends.
    memory : Memory
        Blocks over the step.
    unknown : tuple of Unknown
        Operators priced between two estimates.
    host_pace : float
        How much longer the host takes for a call than the reference.
    host_pace_assumed : bool
        Whether that is what was usual among the measured hosts, for want of a given one.
    notes : tuple of str
        What was assumed.
    """

    program: str
    accelerator: str
    stack: str
    mode: str
    seconds: float
    synchronised_seconds: float
    host_seconds: float
    device_seconds: float
    idle_seconds: float
    launch_bound: float
    peak_allocated: int
    peak_reserved: int
    fits: bool
    estimate: Estimate
    kernels: KernelTable
    timeline: Timeline
    memory: Memory
    unknown: tuple[Unknown, ...]
    host_pace: float = 1.0
    host_pace_assumed: bool = True
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """A line; :meth:`explain` tells the rest."""
        return (
            f"<ProgramEstimate {self.program} on {self.accelerator}, {self.stack}, {self.mode}:"
            f" {format_seconds(self.seconds)}, {_binary(self.peak_allocated)}"
            f"{'' if self.fits else ', more than the device has'}; explain() tells of what>"
        )

    def explain(self, depth: int = 6) -> str:
        """Where the step goes, as text."""
        lines = [self.estimate.explain(depth, smallest=0.002)]
        lines.append(
            f"host {format_seconds(self.host_seconds)},"
            f" device {format_seconds(self.device_seconds)},"
            f" idle {format_seconds(self.idle_seconds)} ({self.launch_bound:.0%})"
        )
        lines.append(
            f"memory: {_binary(self.peak_allocated)} allocated,"
            f" {_binary(self.peak_reserved)} reserved"
            + ("" if self.fits else ": more than the device has")
        )
        lines += [f"  {role}: {_binary(size)}" for role, size in self._at_peak()]
        lines += [
            f"unknown operator {one.name} ({one.count} calls):"
            f" {format_seconds(one.low)} .. {format_seconds(one.high)}"
            for one in self.unknown
        ]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def to_dict(self, *, kernels: bool = True) -> dict[str, Any]:
        """JSON-ready."""
        record: dict[str, Any] = {
            "program": self.program,
            "accelerator": self.accelerator,
            "stack": self.stack,
            "mode": self.mode,
            "latency_s": self.seconds,
            "low_s": self.estimate.low,
            "high_s": self.estimate.high,
            "lower_s": self.estimate.lower,
            "synchronised_s": self.synchronised_seconds,
            "host_s": self.host_seconds,
            "device_s": self.device_seconds,
            "idle_s": self.idle_seconds,
            "host_pace": self.host_pace,
            "host_pace_assumed": self.host_pace_assumed,
            "launch_bound": self.launch_bound,
            "peak_memory_bytes": self.peak_allocated,
            "peak_reserved_bytes": self.peak_reserved,
            "memory": self.memory.to_dict(),
            "fits": self.fits,
            "calibrated": self.estimate.calibrated,
            "kinds_s": self.kernels.by_kind(),
            "phases_s": self.kernels.by_phase(),
            "unknown": [
                {"name": one.name, "count": one.count, "low_s": one.low, "high_s": one.high}
                for one in self.unknown
            ],
            "notes": list(self.notes),
        }
        if kernels:
            record["kernels"] = self.kernels.rows()
        return record

    def _at_peak(self) -> list[tuple[str, int]]:
        return sorted(self.memory.at_peak.items(), key=lambda item: -item[1])


def _binary(size: float) -> str:
    """Bytes in GiB, below a tenth of one in MiB, below a tenth of that in KiB."""
    for unit, power in (("GiB", 30), ("MiB", 20)):
        if size >= 0.1 * 2**power:
            return f"{size / 2**power:.3f} {unit}"
    return f"{size / 2**10:.3f} KiB"
