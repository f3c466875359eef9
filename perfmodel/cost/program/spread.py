r"""The interval of a step: what hosts differ by, and what the model itself is off by.

The two have nothing to do with each other, so they add in squares, in the logarithm of time:

.. math::

    \ln\frac{t_\mathrm{high}}{t} = \sqrt{\ln^2\frac{t(p_\mathrm{slow})}{t} + w^2}

with :math:`w` the half-width at a known pace. On a slow host both threads of a training step are
slow: what the thread of the backward pass usually has is a middle, and here its ends count.
"""

from __future__ import annotations

import math

from perfmodel.cost.program.coefficients import ProgramCoefficients
from perfmodel.cost.program.step import Prepared, step


def over_paces(
    prepared: Prepared, coefficients: ProgramCoefficients, *, behind: float | None = None
) -> tuple[float, float]:
    """Period of a step on the fast and on the slow host of those that were measured [s].

    Parameters
    ----------
    prepared : Prepared
        Kernels and calls.
    coefficients : ProgramCoefficients
        What they cost, and what paces one measured host in twenty lies beyond.
    behind : float, optional
        The pace of the backward pass's thread where it is known.
    """
    fast, slow = (prepared.assumed_pace(coefficients, word) for word in ("fast", "slow"))
    first, last = (
        step(prepared, coefficients, pace=one, behind=one if behind is None else behind).seconds
        for one in (fast, slow)
    )
    return first, last


def within(seconds: float, spread: tuple[float, float], width: float) -> tuple[float, float]:
    """Low and high end of a step of `seconds` whose hosts spread so [s].

    Examples
    --------
    >>> low, high = within(2.0, (2.0, 2.0), 0.1)
    >>> round(low, 4), round(high, 4)
    (1.8097, 2.2103)
    """
    if seconds <= 0.0:
        return seconds, seconds
    down = math.log(seconds / min(spread[0], seconds))
    up = math.log(max(spread[1], seconds) / seconds)
    return seconds * math.exp(-math.hypot(down, width)), seconds * math.exp(math.hypot(up, width))
