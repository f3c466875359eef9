"""Sizes of drawn operators."""

from __future__ import annotations

import math
import random


def spread(u: float, low: float, high: float) -> int:
    """Between `low` and `high`, spread evenly in the logarithm."""
    return max(1, round(low * (high / low) ** u))


def snap(value: int, rng: random.Random, odd: float, steps: tuple[int, ...]) -> int:
    """Mostly a multiple of one of `steps`; with probability `odd` any integer."""
    if rng.random() < odd:
        return value
    step = rng.choice(steps)
    return max(step, round(value / step) * step)


def pow2(value: int) -> int:
    """The nearest one on a logarithmic scale."""
    return int(2 ** round(math.log2(value)))
