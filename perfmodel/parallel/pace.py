"""Pace: how much longer a stack's kernels take in a whole step than the same kernels alone.

Kernels are measured one at a time, with today's libraries, on a card that has just been spun up. A
step of a real stack runs older or less fused kernels, hour after hour, at the clock that the power
limit leaves. The ratio of the two is fitted for each stack and architecture on one half of the
published training steps (``hardware_specs/efficiency/stacks.toml``); where nothing was fitted, or
the fit stays within the scatter of the rows, it is 1.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost import Price
from perfmodel.cost.efficiency import efficiency_folder
from perfmodel.files import fitted_table

Floats = NDArray[np.float64]


def pace(stack: str, architecture: str) -> float:
    """Time of a kernel inside a step of ``stack`` over its time alone, on an architecture."""
    return _table().get(stack, {}).get(architecture, 1.0)


def paced(price: Price, factor: float) -> tuple[Floats, Floats, Floats, Floats]:
    """Prediction, lower bound, low and high end at a pace [s]; the lower bound stays a bound."""
    lower = np.asarray(price.lower)
    seconds, low, high = (
        np.maximum(np.asarray(row) * factor, lower)
        for row in (price.seconds, price.low, price.high)
    )
    return seconds, lower, low, high


@cache
def _table() -> dict[str, dict[str, float]]:
    path = efficiency_folder() / "stacks.toml"
    if not path.is_file():
        return {}
    tables = fitted_table(path).get("pace", {})
    return {
        stack: {name: float(value) for name, value in row.items()} for stack, row in tables.items()
    }
