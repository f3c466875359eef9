"""The numbers of a chip that a kernel's time depends on, as plain SI floats.

The mechanisms are functions of this small value rather than of a hardware description, so that a
formula can be tested, swept and fitted without a file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from perfmodel.hardware import Accelerator


@dataclass(frozen=True, slots=True)
class Device:
    """What the kernel formulas see of an accelerator.

    Parameters
    ----------
    peak : float
        Dense peak rate of the operator's arithmetic [FLOP/s].
    vector : float
        Peak rate of the vector units in fp32 [FLOP/s]; infinite where nobody published it, so
        that it bounds nothing.
    bandwidth : float
        Peak rate of device memory [B/s].
    cache : float
        Capacity of the last-level on-chip cache shared by all units [B]; 0 if there is none.
    units : int
        Streaming multiprocessors, compute units or matrix units that work independently.
    clock : float
        Boost clock [Hz].
    power : float
        Power limit [W]; infinite where it is not known, so that it bounds nothing.
    year : float
        Year of release; energy per operation falls with it.
    """

    peak: float
    vector: float
    bandwidth: float
    cache: float
    units: int
    clock: float
    power: float = math.inf
    year: float = 2020.0


def device_of(accelerator: Accelerator, dtype: str, *, matrix: bool) -> Device:
    """The view of ``accelerator`` for arithmetic in ``dtype``.

    Parameters
    ----------
    accelerator : Accelerator
        A hardware description.
    dtype : str
        Type of the operands.
    matrix : bool
        Whether the kernel runs on the matrix units; a type that has none there runs on the vector
        units.

    Raises
    ------
    SpecError
        If the description does not say how fast the chip is in that type.
    """
    vector = accelerator.peaks.vector.get("fp32", math.inf)
    return Device(
        peak=accelerator.peak(dtype) if matrix else vector,
        vector=vector,
        bandwidth=float(accelerator.memory_bandwidth),
        cache=float(accelerator.last_level_cache or accelerator.l2_capacity or 0.0),
        units=int(accelerator.require("units")),
        clock=accelerator.require("clock_boost"),
        power=accelerator.tdp or math.inf,
        year=float(accelerator.year or 2020),
    )


def energy_scale(device: Device, halving_years: float) -> float:
    """Energy of an operation against that of a chip of 2020: it halves every so many years.

    Reference
    ---------
    Koomey et al., "Implications of historical trends in the electrical efficiency of computing",
    2011 (the trend; the halving time of the arithmetic units is a fitted coefficient).
    """
    return float(2.0 ** ((2020.0 - device.year) / halving_years))
