"""Boosted symmetric trees: the jumpy half of the residual.

Libraries switch kernels at edges in shape space, which leaves steps in the residual. Trees follow
steps. Symmetric ones, which ask the same question on a whole level, are weak learners that hardly
overfit, and are priced by a few comparisons an operator.

References
----------
Friedman, "Greedy function approximation: a gradient boosting machine", 2001. Prokhorenkova et al.,
"CatBoost: unbiased boosting with categorical features", 2018 (symmetric trees).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.correction import Trees

Floats = NDArray[np.float64]
_BINS = 48
_COUNT_STEP = 1e7
# A residual's exponential weighs no more (and no less) than that of this.
_STEEPEST = 1.5


@dataclass(frozen=True, slots=True)
class Boosting:
    """How trees are grown.

    Parameters
    ----------
    rounds, depth : int
        Trees, and questions in each.
    rate : float
        Share of each tree's answer that is kept.
    rows, columns : float
        Share of the points and of the features that each tree sees.
    shrinkage : float
        Points' worth of pull toward zero in each leaf.
    outlier : float
        Residuals beyond this many medians pull no harder.
    relative : float
        How much harder what is overpriced pulls than what is underpriced: 1 follows the relative
        error, which grows with the exponential of the residual, 0 the residual itself.
    """

    rounds: int = 800
    depth: int = 5
    rate: float = 0.05
    rows: float = 0.7
    columns: float = 0.35
    shrinkage: float = 2.0
    outlier: float = 3.0
    relative: float = 0.0


def fit_trees(
    features: Floats,
    target: Floats,
    settings: Boosting,
    rng: np.random.Generator,
    trust: Floats | None = None,
) -> Trees:
    """Grow trees that add up to ``target``.

    Parameters
    ----------
    features : array, shape (N, F)
        What a tree may ask about.
    target : array, shape (N,)
        What the trees add up to.
    settings : Boosting
        How they are grown.
    rng : numpy.random.Generator
        Draws the points and features that each tree sees.
    trust : array, shape (N,), optional
        Share of its draws, up to 1, that each point comes to; by default all.
    """
    count, width = features.shape
    edges = [_edges(features[:, column]) for column in range(width)]
    binned = np.stack(
        [np.searchsorted(edges[column], features[:, column]) for column in range(width)]
    ).astype(np.uint8)
    base = float(np.median(target))
    answer = np.full(count, base)
    asked = np.zeros((settings.rounds, settings.depth), dtype=np.int32)
    limits = np.full((settings.rounds, settings.depth), np.inf)
    leaves = np.zeros((settings.rounds, 2**settings.depth))
    rows = max(8, int(settings.rows * count))
    columns = max(1, round(settings.columns * width))
    for number in range(settings.rounds):
        residual = target - answer
        size_of = np.abs(residual)
        limit = settings.outlier * max(np.median(size_of), 0.3 * np.mean(size_of)) + 1e-12
        gradient = np.clip(residual, -limit, limit)
        if settings.relative > 0.0:
            over = np.clip(-settings.relative * residual, -_STEEPEST, _STEEPEST)
            gradient = gradient * np.exp(over)
        sample = rng.choice(count, rows, replace=False)
        if trust is not None:
            sample = sample[rng.random(rows) < trust[sample]]
        chosen = np.sort(rng.choice(width, columns, replace=False))
        seen = [binned[column, sample].astype(np.int64) for column in chosen]
        drawn = gradient[sample]
        leaf = np.zeros(count, dtype=np.int64)
        for level in range(settings.depth):
            place, edge = _best_question(seen, drawn, leaf[sample], 2**level, settings.shrinkage)
            column = int(chosen[place])
            leaf = leaf * 2 + (binned[column] > edge)
            asked[number, level] = column
            limits[number, level] = edges[column][edge] if edge < len(edges[column]) else np.inf
        size = 2**settings.depth
        weight = np.bincount(leaf[sample], minlength=size)
        total = np.bincount(leaf[sample], weights=drawn, minlength=size)
        value = settings.rate * total / (weight + settings.shrinkage)
        leaves[number] = value
        answer = answer + value[leaf]
    return Trees(
        asked, limits.astype(np.float32), leaves.astype(np.float32), np.asarray([base], np.float32)
    )


def _edges(values: Floats) -> Floats:
    """Thresholds between neighbouring values, at most one a bin."""
    distinct = np.unique(values.astype(np.float32)).astype(np.float64)
    middles = 0.5 * (distinct[1:] + distinct[:-1])
    if middles.size <= _BINS - 1:
        return np.asarray(middles)
    cuts = np.quantile(values, np.linspace(0.0, 1.0, _BINS + 1)[1:-1])
    places = np.unique(np.clip(np.searchsorted(middles, cuts), 0, middles.size - 1))
    return np.asarray(middles[places])


def _best_question(
    binned: Sequence[NDArray[np.int64]],
    gradient: Floats,
    leaf: NDArray[np.int64],
    leaves: int,
    shrinkage: float,
) -> tuple[int, int]:
    """The (feature, bin) whose question, asked in every leaf, explains most of the gradient.

    ``binned`` holds the bins of one feature after another.
    """
    size = leaves * _BINS
    first = leaf * _BINS
    # Counts and sums of one pass: residuals are logarithms, far below the step of a count.
    joined = gradient + _COUNT_STEP
    both = np.stack(
        [np.bincount(first + bins, weights=joined, minlength=size) for bins in binned]
    ).reshape(len(binned), leaves, _BINS)
    counts = np.rint(both / _COUNT_STEP)
    left_sum = np.cumsum(both - counts * _COUNT_STEP, axis=2)
    left_count = np.cumsum(counts, axis=2)
    right_sum = left_sum[:, :, -1:] - left_sum
    right_count = left_count[:, :, -1:] - left_count
    gain = np.sum(
        left_sum**2 / (left_count + shrinkage) + right_sum**2 / (right_count + shrinkage), axis=1
    )
    best = int(np.argmax(gain))
    return best // _BINS, best % _BINS
