"""The part of an accelerator's description that lowering a program reads."""

from __future__ import annotations

from perfmodel.hardware import Accelerator
from perfmodel.workload.lowering.device import Device


def lowering_device(accelerator: Accelerator) -> Device:
    """Units, clock and bandwidth of a chip; what its file does not say is an H100's.

    Examples
    --------
    >>> from perfmodel.hardware import load_accelerator
    >>> lowering_device(load_accelerator("a100-sxm4-80gb")).units
    108
    """
    usual = Device()
    return Device(
        units=accelerator.units or usual.units,
        clock=accelerator.clock_boost or usual.clock,
        bandwidth=accelerator.memory_bandwidth,
    )
