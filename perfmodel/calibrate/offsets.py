"""How far cheap times of products are from latencies: learned of all kernels of a chip together.

A burst in passing ends before the power limit bites and finds other caches, and a profiler adds its
own: both follow an operator's size and work, whatever its kernel. Few operators of one kernel have
both times, of batched ones in TF32 or full precision 30 to 70; of all products a thousand have.
A kernel with hundreds of them tells its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from perfmodel.calibrate.learn import tables
from perfmodel.calibrate.profiled import CHEAP_MODES, apart
from perfmodel.calibrate.samples import FOLDS, Samples
from perfmodel.calibrate.spread import Spread, in_turn
from perfmodel.cost.correction import Trees
from perfmodel.cost.parts import Floats

ENOUGH_OF_ITS_OWN = 300
"""Operators with both times from which on a kernel's own tell more than all products together."""
Coefficients = Mapping[str, Mapping[str, float]]


def offsets_of(
    cheap: Mapping[str, Samples],
    timed: Mapping[str, Samples],
    start: Callable[[str], Mapping[str, float]],
    spread: Spread = in_turn,
) -> dict[str, Floats]:
    """Logarithms of cheap over timed for the products among ``cheap``, (FOLDS + 1, N) each.

    Parameters
    ----------
    cheap, timed : mapping
        Samples of one chip by kernel.
    start : callable
        Gives the coefficients of a kernel's mechanism, which no row has changed.
    spread : Spread
        Makes the calls that know nothing of each other.

    Returns
    -------
    dict
        Kernel -> what is said without the timed rows of each fold in turn, and of all rows; NaN
        where too few operators have both times.
    """
    kernels = [k for k, one in cheap.items() if k in timed and one.blocks[0][0].product]
    if not kernels:
        return {}
    mine = [{kernel: one[kernel] for kernel in kernels} for one in (cheap, timed)]
    first = {kernel: start(kernel) for kernel in kernels}
    parts = list(spread(offsets_without, [(*mine, first, fold) for fold in (*range(FOLDS), -1)]))
    return {kernel: np.stack([part[kernel] for part in parts]) for kernel in kernels}


def offsets_without(
    cheap: Mapping[str, Samples], timed: Mapping[str, Samples], start: Coefficients, fold: int
) -> dict[str, Floats]:
    """What the timed rows beside those of ``fold`` say of every cheap row, by kernel (N,)."""
    values = {kernel: tables(one, start[kernel])[1] for kernel, one in cheap.items()}
    features = np.concatenate(list(values.values()))
    rows = [row for one in cheap.values() for row in one.rows]
    seconds = {
        row.key: row.seconds
        for one in timed.values()
        for row in one.rows
        if row.fold(FOLDS) != fold
    }
    modes = np.array([row.mode for row in rows])
    known = np.array([row.key in seconds for row in rows])
    ends = np.cumsum([len(one) for one in values.values()])
    said = np.full(len(rows), np.nan)
    for mode in CHEAP_MODES:
        mine = modes == mode
        _say(said, mine, apart(seconds, rows, np.flatnonzero(mine), features), features)
        for begin, end in zip([0, *ends[:-1]], ends, strict=True):
            here = mine & (begin <= np.arange(len(rows))) & (np.arange(len(rows)) < end)
            if np.count_nonzero(known & here) >= ENOUGH_OF_ITS_OWN:
                _say(said, here, apart(seconds, rows, np.flatnonzero(here), features), features)
    return dict(zip(values, np.split(said, ends[:-1]), strict=True))


def _say(said: Floats, mine: NDArray[np.bool_], trees: Trees | None, features: Floats) -> None:
    if trees is not None:
        said[mine] = trees(features[mine])
