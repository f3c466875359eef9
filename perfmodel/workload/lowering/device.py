"""What a lowering needs to know of the chip: how many blocks it runs, and how fast they stream.

Compilers split reductions by the number of units; PyTorch's batch norm launches few blocks, whose
rate comes from the clock and not from the memory's bandwidth. The default is an H100 SXM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Device:
    """A chip as kernels are launched for it.

    Parameters
    ----------
    units : int
        SMs (CUs) that share the blocks of a kernel.
    threads : int
        Threads that reside on one of them.
    clock : float
        Boost clock [Hz].
    bandwidth : float
        Of device memory [B/s].
    """

    units: int = 132
    threads: int = 2048
    clock: float = 1.98e9
    bandwidth: float = 3.35e12


H100: Final = Device()
"""What is lowered for unless told otherwise."""
