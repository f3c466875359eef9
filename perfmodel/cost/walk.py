"""Walks through decision trees that are held as arrays, many rows at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_LEVELS: Final = 4


@dataclass(frozen=True, slots=True)
class Tree:
    """A decision tree whose leaves say a number.

    Parameters
    ----------
    asked, limits, below : array, shape (P,)
        Column that a place asks about, its limit, and the place where smaller ones go; larger ones
        go to the next. A leaf points at itself.
    says : array, shape (P,)
        What a leaf says.
    depth : int
        Questions from the root to the deepest leaf, at least.
    """

    asked: NDArray[np.int16]
    limits: NDArray[np.float32]
    below: NDArray[np.int32]
    says: NDArray[np.float32]
    depth: int

    def __call__(self, columns: NDArray[np.float32]) -> NDArray[np.float32]:
        """Answer for every row of ``columns`` (N, F), shape (N,)."""
        return self.says[leaf_of(columns, self.asked, self.limits, self.below, self.depth)]


def leaf_of(
    columns: NDArray[np.float32],
    asked: NDArray[np.int16],
    limits: NDArray[np.float32],
    below: NDArray[np.int32],
    depth: int,
) -> NDArray[np.int32]:
    """Leaf of a tree for every row of ``columns`` (N, F), shape (N,)."""
    values, width = np.ascontiguousarray(columns).reshape(-1), columns.shape[1]
    found, place = (np.zeros(len(columns), dtype=np.int32) for _ in range(2))
    each, first = np.arange(len(columns)), np.arange(len(columns)) * width
    for level in range(depth):
        above = values.take(first + asked.take(place)) > limits.take(place)
        place = below.take(place) + above
        if level % _LEVELS == _LEVELS - 1:  # few rows go to the deepest leaves
            on = np.flatnonzero(below.take(place) != place)
            found[each] = place
            each, first, place = each.take(on), first.take(on), place.take(on)
    found[each] = place
    return found
