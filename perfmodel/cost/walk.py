"""Decision trees that are held as arrays, and walks through them, many rows at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_LEVELS: Final = 4


@dataclass(frozen=True, slots=True)
class Tree:
    """A decision tree; what its leaves say is held beside it, in arrays of shape (P,).

    Parameters
    ----------
    asked, limits, below : array, shape (P,)
        Column that a place asks about, its limit, and the place where smaller ones go; larger ones
        go to the next. A leaf points at itself.
    depth : int
        Questions from the root to the deepest leaf, at least.
    """

    asked: NDArray[np.int16]
    limits: NDArray[np.float32]
    below: NDArray[np.int32]
    depth: int

    def __call__(self, columns: NDArray[np.float32]) -> NDArray[np.int32]:
        """Leaf of every row of ``columns`` (N, F), shape (N,)."""
        values, width = np.ascontiguousarray(columns).reshape(-1), columns.shape[1]
        found, place = (np.zeros(len(columns), dtype=np.int32) for _ in range(2))
        each, first = np.arange(len(columns)), np.arange(len(columns)) * width
        for level in range(self.depth):
            above = values.take(first + self.asked.take(place)) > self.limits.take(place)
            place = self.below.take(place) + above
            if level % _LEVELS == _LEVELS - 1:  # few rows go to the deepest leaves
                on = np.flatnonzero(self.below.take(place) != place)
                found[each] = place
                each, first, place = each.take(on), first.take(on), place.take(on)
        found[each] = place
        return found


def tree_of(held: Mapping[str, Any], key: str = "", depth: int | None = None) -> Tree:
    """The tree of the arrays ``{key}asked``, ``{key}limits`` and ``{key}below`` of a file.

    ``depth`` is that of ``{key}depth`` unless it is given.

    Raises
    ------
    KeyError
        If an array is missing.
    ValueError
        If the arrays are of different lengths, or lead out of the tree or back.
    """
    tree = Tree(
        held[f"{key}asked"].astype(np.int16),
        held[f"{key}limits"].astype(np.float32),
        held[f"{key}below"].astype(np.int32),
        int(held[f"{key}depth"]) if depth is None else depth,
    )
    places = np.arange(tree.below.size)
    if not tree.asked.shape == tree.limits.shape == tree.below.shape == places.shape:
        raise ValueError(f"a tree {key} of arrays that differ in length")
    # A leaf points at itself, all others further on, at two that stand side by side.
    ends = np.where(tree.below == places, places, tree.below + 1)
    if np.any(tree.below < places) or np.any(ends >= places.size) or tree.asked.min() < 0:
        raise ValueError(f"a tree {key} that leads nowhere")
    return tree
