"""Pareto fronts: the points that no other point beats in everything."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def pareto_front(first: ArrayLike, second: ArrayLike) -> NDArray[np.intp]:
    """Places of the points that are best in two quantities, both to be small.

    Parameters
    ----------
    first, second : (n,) array_like
        For instance time and memory. Of equal points the earliest is kept.

    Returns
    -------
    (f,) integer array
        In ascending order of ``first``; ``second`` descends strictly along it.

    Examples
    --------
    >>> pareto_front([3.0, 1.0, 2.0, 2.5], [1.0, 9.0, 4.0, 4.0]).tolist()
    [1, 2, 0]
    """
    x, y = np.asarray(first, float), np.asarray(second, float)
    if x.size == 0:
        return np.zeros(0, dtype=np.intp)
    order = np.lexsort((y, x))
    lowest = np.minimum.accumulate(y[order])
    keep = np.ones(len(order), dtype=bool)
    keep[1:] = y[order][1:] < lowest[:-1]
    return order[keep]
