"""What a network of plans sees of an operator."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np

from perfmodel.cost.answers import UNITS
from perfmodel.cost.proposed import SIZES
from validate.convolutions import columns_of
from validate.plan_law.table import Floats, Operators, product_of

CELLS: Final = 24
_TILES: Final = ((64, 64), (128, 64), (128, 128), (256, 128), (256, 64))
_EVEN: Final = (8, 64, 32, 4, 2)
_FURTHEST: Final = 6.0  # standard deviations


class Inputs:
    """Columns of operators, standardised by those of some of them.

    Parameters
    ----------
    known : Operators
        Whose means and deviations are taken.
    kernels : sequence of str
        Names of the kernels.
    chips : bool
        Whether a network is told the chip; one that learns from a single chip is not.
    """

    def __init__(self, known: Operators, kernels: Sequence[str], *, chips: bool = True) -> None:
        said = [re.split("[_-]", name) for name in kernels]
        every = sorted({word for words in said for word in words})
        self.words = np.array([[word in words for word in every] for words in said], np.float32)
        self.chips = chips
        plain = shapes(known)
        self.middle = np.nanmean(known.features, axis=0), plain.mean(axis=0)
        self.spread = np.nanstd(known.features, axis=0) + 1e-6, plain.std(axis=0) + 1e-6

    def __call__(self, ones: Operators) -> Floats:
        """Columns, shape (N, F): features, words of the kernel, cell, chip, shapes."""
        marks = np.zeros((len(ones), CELLS + 2), np.float32)
        each = np.arange(len(ones))
        marks[each, ones.cell] = 1.0
        marks[each, CELLS + (ones.chip if self.chips else 0)] = 1.0
        parts = [
            ((values - middle) / spread).clip(-_FURTHEST, _FURTHEST)
            for values, middle, spread in zip(
                (ones.features, shapes(ones)), self.middle, self.spread, strict=True
            )
        ]
        columns = [np.nan_to_num(parts[0]), self.words[ones.kernel], marks, parts[1]]
        return np.concatenate(columns, axis=1).astype(np.float32)


def shapes(ones: Operators) -> Floats:
    """Sizes, their evenness, and waves of some tiles, shape (N, 38)."""
    named = columns_of(ones.sizes)
    n, c_in, c_out, h, w, inputs, outputs, taps, _, stride, padding, groups = (
        named[name] for name in SIZES
    )
    product = product_of(ones.sizes, ones.cell).astype(np.float64)
    rows, cols = product[:, 0], product[:, 1]
    own_in, own_out = c_in / groups, c_out / groups
    logs = [*product.T, n, own_in, own_out, inputs, outputs, taps]
    columns = [*np.log2(np.maximum(logs, 1e-9)), stride, padding]
    columns += [size % 8 == 0 for size in (c_in, c_out)]
    columns += [size % even == 0 for even in _EVEN for size in (own_in, own_out)]
    columns += [size % 8 == 0 for size in (w, h * w, outputs)]
    for high, wide in _TILES:
        waves = np.ceil(rows / high) * np.ceil(cols / wide) * groups / UNITS
        columns += [np.log2(waves), np.where(waves > 20, 0.0, waves / np.ceil(waves) - 1.0)]
    return np.stack(columns, axis=1).astype(np.float32)
