"""The third of the three steps: the residual that measurements leave, learned and evaluated.

The correction is the mean of two learners of ``log(measured / mechanism)``: symmetric boosted
trees, which follow the steps where a library changes kernels, and a Gaussian process, which is
smooth between measured shapes. Both are plain arrays here; how they are learned is in
:mod:`perfmodel.calibrate`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_CHUNK = 16384
_POINT_CHUNK = 256
_FEW = 384
"""Rows up to which all trees are walked at once."""


@dataclass(frozen=True, slots=True)
class Trees:
    """Symmetric trees.

    Parameters
    ----------
    asked : array of int, shape (T, D)
        Feature that level ``d`` of tree ``t`` asks about.
    limits : array, shape (T, D)
        The answer is yes above this.
    leaves : array, shape (T, 2**D)
        Value of each leaf.
    base : array, shape (1,)
        Added once.
    """

    asked: NDArray[np.int32]
    limits: NDArray[np.float32]
    leaves: NDArray[np.float32]
    base: NDArray[np.float32]

    def __call__(self, features: Floats) -> Floats:
        """Sum of the trees at ``features`` of shape (N, F); shape (N,)."""
        if features.shape[0] <= _FEW:
            return self._few(features)
        answer = np.full(features.shape[0], float(self.base[0]))
        used, cuts, places = self._questions()
        for start in range(0, features.shape[0], _CHUNK):
            columns = np.ascontiguousarray(features[start : start + _CHUNK, used].T, np.float32)
            steps = _steps(columns, cuts)
            part = answer[start : start + _CHUNK]
            yes = np.empty(part.size, dtype=np.bool_)
            for rows, above, leaves in zip(*places, self.leaves, strict=True):
                leaf = np.zeros(part.size, dtype=np.uint8)
                for row, step in zip(rows, above, strict=True):
                    leaf += leaf
                    np.greater(steps[row], step, out=yes)
                    leaf |= yes.view(np.uint8)
                part += leaves.take(leaf)
        return answer

    def _questions(
        self,
    ) -> tuple[
        NDArray[np.int32], list[NDArray[np.float32]], tuple[list[list[int]], list[list[int]]]
    ]:
        """Features asked about, each one's limits in order, and every question by place in both.

        Asked of small integers, how many limits a value is above, a question takes a fifth of the
        time.
        """
        used, rows = np.unique(self.asked, return_inverse=True)
        rows = rows.reshape(self.asked.shape)
        cuts: list[NDArray[np.float32]] = []
        above = np.zeros(self.asked.shape, dtype=np.int64)
        for row in range(used.size):
            here = rows == row
            mine, at = np.unique(self.limits[here], return_inverse=True)
            cuts.append(mine)
            above[here] = at
        asked, steps = ([[int(x) for x in tree] for tree in table] for table in (rows, above))
        return used, cuts, (asked, steps)

    def _few(self, features: Floats) -> Floats:
        """The same, all trees at once: for few rows the calls of NumPy cost more than the work."""
        rows = features.astype(np.float32)
        leaf = np.zeros((rows.shape[0], len(self.asked)), dtype=np.intp)
        for level in range(self.asked.shape[1]):
            leaf <<= 1
            leaf |= rows[:, self.asked[:, level]] > self.limits[:, level]
        values = self.leaves[np.arange(len(self.asked)), leaf]
        return np.asarray(values.sum(axis=1, dtype=np.float64) + float(self.base[0]))


def _steps(columns: NDArray[np.float32], cuts: list[NDArray[np.float32]]) -> NDArray[np.uint8]:
    """How many of its feature's limits every value is above, shape (F, N)."""
    steps = np.zeros(columns.shape, dtype=np.uint8)
    for row, limits in enumerate(cuts):
        for limit in limits:
            steps[row] += columns[row] > limit
    return steps


@dataclass(frozen=True, slots=True)
class Smooth:
    r"""A Gaussian process with a Matérn 3/2 kernel, as its predictive mean.

    .. math::

        f(x) = \mu + \sum_i w_i (1 + d_i) e^{-d_i}, \qquad
        d_i = \sqrt{3} \lVert (x - x_i) / \ell \rVert

    Parameters
    ----------
    columns : array of int, shape (G,)
        Features that it sees.
    points : array, shape (N, G)
        Measured points, divided by the length scales.
    weights : array, shape (N,)
        What each contributes.
    scales : array, shape (G,)
        Length scales.
    mean : array, shape (1,)
        Far from every point.
    """

    columns: NDArray[np.int32]
    points: NDArray[np.float32]
    weights: NDArray[np.float32]
    scales: NDArray[np.float32]
    mean: NDArray[np.float32]

    def __call__(self, features: Floats) -> Floats:
        """The mean at ``features`` of shape (N, F); shape (N,)."""
        root = np.float32(3.0**0.5)
        # Distances of numbers far from zero would drown in single precision.
        middle = self.points.mean(axis=0, dtype=np.float64)
        inner = ((features[:, self.columns] / self.scales - middle) * root).astype(np.float32)
        points = ((self.points - middle) * root).astype(np.float32).T
        squares = np.sum(points**2, axis=0)
        points = points * np.float32(-2.0)
        answer = np.empty(features.shape[0])
        for start in range(0, inner.shape[0], _POINT_CHUNK):
            x = inner[start : start + _POINT_CHUNK]
            d = x @ points
            d += squares
            d += np.sum(x**2, axis=1)[:, None]
            np.maximum(d, np.float32(0.0), out=d)
            np.sqrt(d, out=d)
            decay = np.negative(d)
            np.exp(decay, out=decay)
            d += np.float32(1.0)
            d *= decay
            answer[start : start + _POINT_CHUNK] = d @ self.weights
        return answer + float(self.mean[0])
