"""Operators with the plans proposed for them, as arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.proposed import PASSES, product
from validate.convolutions import columns_of

Floats = NDArray[np.float32]
Whole = NDArray[np.int64]
LONGEST: Final = 10
"""Plans that a search tries at most."""


@dataclass(frozen=True, slots=True)
class Operators:
    """N convolutions on one or two chips.

    Parameters
    ----------
    sizes : array of int, shape (N, 10)
        n, c_in, c_out, h, w, d (0 for images), kernel, stride, padding, groups.
    cell : array of int, shape (N,)
        8 x pass + 4 x layout + dtype, in the orders of :mod:`perfmodel.cost.proposed`.
    chip : array of int, shape (N,)
        0 or 1.
    kernel : array of int, shape (N,)
        Which of the kernels that share networks prices it.
    features : array, shape (N, F)
        What the corrections of prices see; NaN where a kernel has no such feature.
    offset : array, shape (N,)
        Logarithm of the mechanism's seconds.
    plans : array of int, shape (N, 10)
        Proposed plans in their order, 0 for none.
    kept_s, steady_s, trial_s, launch_s : array, shapes (N,) and (N, 10)
        Time of the plan that the search kept, steady time, single trial and launch of each plan;
        NaN where unknown.
    fold : array of int, shape (N,)
        In which cross-validation leaves it out.
    unread : array of bool, shape (N,)
        Kept for judging: never learned from.
    """

    sizes: Whole
    cell: Whole
    chip: Whole
    kernel: Whole
    features: Floats
    offset: Floats
    plans: Whole
    kept_s: Floats
    steady_s: Floats
    trial_s: Floats
    launch_s: Floats
    fold: Whole
    unread: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.cell)

    def only(self, taken: NDArray[np.bool_] | Whole) -> Operators:
        """Some of them."""
        return replace(self, **{f.name: getattr(self, f.name)[taken] for f in fields(self)})

    def joined(self, other: Operators) -> Operators:
        """These and others behind them."""
        parts = [(f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return replace(self, **{name: np.concatenate(pair) for name, *pair in parts})


@dataclass(frozen=True, slots=True)
class Plans:
    """P plans; the first stands for none.

    Parameters
    ----------
    words : array, shape (P, W)
        How often each word of a plan's engine and choices is in its name.
    tiles : array, shape (3, P, 3)
        Rows, columns and depth of the tile in each pass; 0 where the kernel has none.
    clusters : array, shape (P, 2)
        Thread blocks along the rows and the columns that work together.
    loops : array, shape (3, P)
        In each pass, 1 where groups are launched one after another.
    native : array, shape (P, 3)
        Depth-wise kernels: :func:`validate.plan_law.names.natives`.
    """

    words: Floats
    tiles: Floats
    clusters: Floats
    loops: Floats
    native: Floats

    def only(self, taken: Whole) -> Plans:
        """Some of them, and of the words those that they have."""
        words = self.words[taken]
        return Plans(
            words[:, words.any(axis=0)],
            self.tiles[:, taken],
            self.clusters[taken],
            self.loops[:, taken],
            self.native[taken],
        )


def depthwise(sizes: Whole) -> NDArray[np.bool_]:
    """Whether each channel is a group of its own, of ``sizes`` (N, 10) of :class:`Operators`."""
    return np.asarray((sizes[:, 9] > 1) & (sizes[:, 9] == sizes[:, 1]))


def product_of(sizes: Whole, cell: Whole) -> Floats:
    """Rows, columns, depth, repeats and groups of the matrix product that a pass is, (N, 5).

    ``sizes`` (N, 10) and ``cell`` (N,) are those of :class:`Operators`; the product is
    :func:`perfmodel.cost.proposed.product`.
    """
    named, each = columns_of(sizes), np.arange(len(cell))
    ways = [np.stack(product(named, direction), axis=1) for direction in PASSES]
    return np.stack(ways)[cell // 8, each].astype(np.float32)
