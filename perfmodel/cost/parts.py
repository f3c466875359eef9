"""What a mechanism answers: the time of a kernel and the times of its parts.

A kernel's parts run at once (arithmetic, memory traffic) on top of a floor that nothing hides (the
start of a kernel in a stream, the fill and drain of its pipeline). The overlap is not perfect: two
parts of equal length take a little longer than either, which :func:`soft_max` expresses with one
exponent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a kernel's time, arrays of one shape [s].

    ``seconds = floor + soft_max(compute, memory, power)``; ``choice`` is the number of the tile
    that the mechanism chose (0 where there is nothing to choose). ``beside``, of shape (F, N), are
    the times of the forms that it chose among, infinite where one does not serve.
    """

    seconds: Floats
    compute: Floats
    memory: Floats
    power: Floats
    floor: Floats
    choice: Floats
    beside: Floats | None = None


def either(where: NDArray[np.bool_], one: Parts, other: Parts) -> Parts:
    """The parts of ``one`` where it says so, else those of the ``other``; neither has forms."""
    names = ("seconds", "compute", "memory", "power", "floor", "choice")
    return Parts(*(np.where(where, getattr(one, name), getattr(other, name)) for name in names))


def soft_max(parts: tuple[Floats, ...], exponent: float) -> Floats:
    r"""A maximum with a rounded corner, :math:`(\sum_i t_i^p)^{1/p}`.

    Parameters
    ----------
    parts : tuple of array
        Times of parts that overlap [s].
    exponent : float
        ``p``; infinity is perfect overlap, 1 is none at all.
    """
    longest = reduce(np.maximum, parts)
    scale = np.where(longest > 0.0, longest, 1.0)
    total = sum((part / scale) ** exponent for part in parts)
    return np.asarray(longest * total ** (1.0 / exponent))


def waves(units: Floats, blur: float) -> Floats:
    """Turns that so many blocks a unit take."""
    return np.asarray(blur * np.maximum(units, 1.0) + (1.0 - blur) * np.ceil(units))


def combine(
    compute: Floats,
    memory: Floats,
    power: Floats,
    floor: Floats,
    exponent: float,
    choice: Floats | None = None,
) -> Parts:
    """The whole from its parts; all are broadcast to one shape."""
    compute, memory, power, floor = (
        np.asarray(part, dtype=float) for part in np.broadcast_arrays(compute, memory, power, floor)
    )
    seconds = floor + soft_max((compute, memory, power), exponent)
    chosen = np.zeros_like(seconds) if choice is None else np.broadcast_to(choice, seconds.shape)
    return Parts(seconds, compute, memory, power, floor, np.asarray(chosen, dtype=float))
