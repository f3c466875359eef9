"""Communication behind computation: what stays in sight, and what hiding costs.

A collective runs on the same device: each channel of NCCL or RCCL occupies one SM or CU while it
moves data, so kernels that run meanwhile have that much less of the machine.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.hardware import Accelerator

CHANNELS: Final = 16
"""Channels of a collective: NCCL opens 16 to 32 on NVSwitch machines and RCCL alike; XLA devices
with engines of their own for the links have none."""


def stolen_share(accelerator: Accelerator) -> float:
    """Share of the compute units that a running collective occupies."""
    units = accelerator.units
    if accelerator.family == "tpu" or not units:
        return 0.0
    return min(CHANNELS / units, 0.5)


def exposed(communication: Any, cover: Any, share: float) -> NDArray[np.float64]:
    """Time that communication adds to the computation that covers it [s].

    ``max(0, c - k) + share * min(c, k)``: what is longer than the cover, plus the slower kernels
    for as long as both run.

    Examples
    --------
    >>> float(exposed(3.0, 2.0, 0.1)), float(exposed(1.0, 2.0, 0.1))
    (1.2, 0.1)
    """
    longer = np.maximum(communication - cover, 0.0)
    both = np.minimum(communication, cover)
    return np.asarray(longer + share * np.maximum(both, 0.0), dtype=np.float64)
