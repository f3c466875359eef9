r"""Matrix products with two of every four weights kept, on matrix units that skip the others.

With the sparse operand :math:`m \times k`, tiles of 128 x 256 outputs and :math:`U` units:

.. math::

    t = t_0 + \sqrt{\left(\left\lceil \tfrac{\lceil m / 128 \rceil \lceil n / 256 \rceil}{U}
        \right\rceil \left(\frac{2 \cdot 128 \cdot 256\, k\, U}{2 \eta P} + t_w\right)\right)^2
        + \left(\frac{B}{\eta_b W}\right)^2}

with :math:`P` the dense peak, twice of which is the sparse one, and :math:`B` operands (half the
weights and two bits for each kept one) and result. Long products of few tiles gain nothing: each
wave walks the whole inner dimension on one unit.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from perfmodel.cost.efficiency import efficiency_folder
from perfmodel.errors import CalibrationError, SpecError
from perfmodel.hardware import Accelerator
from perfmodel.workload.dtype import bytes_per_element

Floats = npt.NDArray[np.float64]
TILE: Final = (128, 256)
SPEEDUP: Final = 2.0
"""Matrix rate of 2:4 sparse operands against dense (NVIDIA Ampere architecture white paper)."""
INDEX_SHARE: Final = 1.0 / 8.0
"""Two bits of index for each kept 16-bit weight."""


@dataclass(frozen=True, slots=True)
class Structured:
    """Coefficients of the kernel: start [s], share of the sparse peak, time a wave takes beyond its
    products [s], share of the memory rate.
    """

    floor: float
    rate: float
    wave: float
    bandwidth: float


@lru_cache(maxsize=4)
def structured_coefficients(path: Path | None = None) -> Structured:
    """What ``python3 -m validate.sparse fit`` wrote.

    Raises
    ------
    CalibrationError
        If the file is damaged.
    """
    path = efficiency_folder() / "structured.toml" if path is None else path
    try:
        row = tomllib.loads(path.read_text(encoding="utf-8"))["structured"]
        return Structured(
            float(row["floor_seconds"]),
            float(row["rate_efficiency"]),
            float(row["wave_seconds"]),
            float(row["bandwidth_efficiency"]),
        )
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise CalibrationError(
            str(path),
            f"<{type(error).__name__}: {error}>",
            "a table [structured] of four coefficients",
            repair="restore the file, or run `python3 -m validate.sparse fit`",
        ) from None


def structured_product(
    m: Any,
    n: Any,
    k: Any,
    dtype: str,
    accelerator: Accelerator,
    *,
    coefficients: Structured | None = None,
) -> Floats:
    """Time of an m x k 2:4 sparse matrix times a dense k x n one [s]; arrays broadcast.

    Raises
    ------
    SpecError
        If the chip has no 2:4 sparsity.
    """
    if accelerator.vendor.upper() != "NVIDIA" or (accelerator.year or 0) < 2020:
        raise SpecError(
            f"{accelerator.name}: 2:4 sparsity",
            accelerator.family,
            "an NVIDIA GPU of the Ampere generation or newer",
            repair="use unstructured or channel pruning on this chip",
        )
    c = structured_coefficients() if coefficients is None else coefficients
    units = float(accelerator.units or 1)
    m, n, k = (np.asarray(size, dtype=float) for size in (m, n, k))
    waves = np.ceil(np.ceil(m / TILE[0]) * np.ceil(n / TILE[1]) / units)
    peak = SPEEDUP * accelerator.matrix_peak(dtype) * c.rate
    arithmetic = waves * (2.0 * TILE[0] * TILE[1] * k * units / peak + c.wave)
    moved = bytes_per_element(dtype) * (m * k * (0.5 + INDEX_SHARE / 2) + k * n + m * n)
    memory = moved / (float(accelerator.memory_bandwidth) * c.bandwidth)
    return np.asarray(c.floor + np.hypot(arithmetic, memory))
