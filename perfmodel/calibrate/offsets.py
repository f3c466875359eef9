"""How far cheap times of products are from latencies: learned of all kernels of a chip together.

A burst in passing ends before the power limit bites and finds other caches, and a profiler adds its
own: both follow an operator's size and work, whatever its kernel. Few operators of one kernel have
both times, of batched ones in TF32 or full precision 30 to 70; of all products thousands have. They
come closer even to those of a kernel with hundreds of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from perfmodel.calibrate.learn import tables
from perfmodel.calibrate.profiled import CHEAP_MODES, apart
from perfmodel.calibrate.samples import FOLDS, Samples
from perfmodel.calibrate.spread import Spread, in_turn
from perfmodel.cost.parts import Floats

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
    ends = np.cumsum([len(one) for one in values.values()])
    said = np.full(len(rows), np.nan)
    for mode in CHEAP_MODES:
        mine = modes == mode
        trees = apart(seconds, rows, np.flatnonzero(mine), features)
        if trees is not None:
            said[mine] = trees(features[mine])
    return dict(zip(values, np.split(said, ends[:-1]), strict=True))
