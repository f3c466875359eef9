"""The third of the three steps: the residual that measurements leave, learned and evaluated.

The correction is the mean of two learners of ``log(measured / mechanism)``: symmetric boosted
trees, which follow the steps where a library changes kernels, and a Gaussian process, which is
smooth between measured shapes. Both are plain arrays here; how they are learned is in
:mod:`perfmodel.calibrate`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Question = tuple[int, int]
Questions = tuple[
    NDArray[np.int32], list[NDArray[np.float32]], list[tuple[Question, list[Question]]]
]
# Operators at a time: what the caches of a core hold, and the calls of NumPy do not outweigh.
_CHUNK = 20480
_POINT_CHUNK = 64
_FEW = 384
"""Rows up to which all trees are walked at once."""
_COUNTS = tuple(np.array(count, np.uint8) for count in range(256))  # asked faster than integers
_ADDED = 16
"""Trees that are added up in single precision before they join the others."""


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
    _held: list[Questions] = field(default_factory=list, init=False, repr=False, compare=False)

    def check(self, features: int) -> None:
        """See that shapes and places fit together, and so many features.

        Raises
        ------
        ValueError
            If they do not.
        """
        count, depth = self.asked.shape
        shapes = (self.limits.shape, self.leaves.shape, self.base.shape)
        if shapes != ((count, depth), (count, 2**depth), (1,)) or not _all_in(self.asked, features):
            raise ValueError("trees that do not fit together")

    def __call__(self, features: Floats) -> Floats:
        """Sum of the trees at ``features`` of shape (N, F); shape (N,)."""
        if features.shape[0] <= _FEW:
            return self._few(features)
        answer = np.full(features.shape[0], float(self.base[0]))
        if not self._held:
            self._held.append(self._questions())
        used, cuts, questions = self._held[0]
        for part in np.array_split(np.arange(answer.size), -(-answer.size // _CHUNK)):
            here = slice(part[0], part[-1] + 1)
            columns = np.empty((used.size, part.size), np.float32)
            for column, name in zip(columns, used, strict=True):
                column[:] = features[here, name]
            self._add(answer[here], list(_steps(columns, cuts)), questions)
        return answer

    def _add(
        self,
        answer: Floats,
        steps: list[NDArray[np.uint8]],
        questions: list[tuple[Question, list[Question]]],
    ) -> None:
        """Add the trees to ``answer``, in memory that is used again and again."""
        count = answer.size
        yes, leaf = np.empty(count, np.uint8), np.empty(count, np.uint8)
        answered, at_first = yes.view(np.bool_), leaf.view(np.bool_)
        place, value = np.empty(count, np.intp), np.empty(count, np.float32)
        some = np.zeros(count, np.float32)
        pairs = enumerate(zip(questions, self.leaves, strict=True), 1)
        for number, ((first, others), leaves) in pairs:
            np.greater(steps[first[0]], _COUNTS[first[1]], at_first)
            for row, step in others:
                leaf += leaf
                np.greater(steps[row], _COUNTS[step], answered)
                leaf |= yes
            place[:] = leaf
            leaves.take(place, out=value, mode="wrap")  # in range: any mode is right, this is fast
            some += value
            if number % _ADDED == 0:
                answer += some
                some.fill(0.0)
        answer += some

    def _questions(self) -> Questions:
        """Features asked about, each one's limits in order, and every question by place in both.

        Of every tree the first question stands apart.

        Asked of small integers, how many limits a value is above, a question takes a fifth of the
        time.
        """
        used, rows = np.unique(self.asked, return_inverse=True)
        rows = rows.reshape(self.asked.shape)
        cuts: list[NDArray[np.float32]] = []
        above = np.zeros(self.asked.shape, dtype=np.intp)
        for row in range(used.size):
            here = rows == row
            mine, at = np.unique(self.limits[here], return_inverse=True)
            cuts.append(mine)
            above[here] = at
        trees = [
            [(row, step) for row, step in tree] for tree in np.stack([rows, above], -1).tolist()
        ]
        return used, cuts, [(tree[0], tree[1:]) for tree in trees]

    def _few(self, features: Floats) -> Floats:
        """The same, all trees at once: for few rows the calls of NumPy cost more than the work."""
        rows = features.astype(np.float32)
        leaf = np.zeros((rows.shape[0], len(self.asked)), dtype=np.intp)
        for level in range(self.asked.shape[1]):
            leaf <<= 1
            leaf |= rows[:, self.asked[:, level]] > self.limits[:, level]
        values = self.leaves[np.arange(len(self.asked)), leaf]
        return np.asarray(values.sum(axis=1, dtype=np.float64) + float(self.base[0]))


def _all_in(places: NDArray[np.int32], count: int) -> bool:
    return bool(np.all((places >= 0) & (places < count)))


def _steps(columns: NDArray[np.float32], cuts: list[NDArray[np.float32]]) -> NDArray[np.uint8]:
    """How many of its feature's limits every value is above, shape (F, N)."""
    steps = np.zeros(columns.shape, dtype=np.uint8)
    above = np.empty(columns.shape[1], np.uint8)
    answered = above.view(np.bool_)
    for row, limits in enumerate(cuts):
        column, counted = columns[row], steps[row]
        for limit in limits:
            np.greater(column, limit, answered)
            counted += above
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

    def check(self, features: int) -> None:
        """See that shapes and places fit together, and so many features.

        Raises
        ------
        ValueError
            If they do not.
        """
        width = self.columns.size
        shapes = (self.points.shape, self.scales.shape, self.mean.shape)
        wanted = ((self.weights.size, width), (width,), (1,))
        if shapes != wanted or not _all_in(self.columns, features):
            raise ValueError("a process that does not fit together")

    def __call__(self, features: Floats) -> Floats:
        """The mean at ``features`` of shape (N, F); shape (N,)."""
        root = 3.0**0.5
        middle = self.points.mean(axis=0, dtype=np.float64)
        inner = (features[:, self.columns] / self.scales - middle) * root
        points = (self.points - middle) * root
        # |x - p|^2 as one product: (x, 1, |x|^2) . (-2 p, |p|^2, 1). Weights of some hundreds of
        # both signs tell how it is rounded, which a product does by how many rows it has: in
        # double precision, and row by row below, an operator costs the same alone and among others.
        beside = np.ones((2, points.shape[0]))
        beside[0] = np.sum(points**2, axis=1)
        right = np.vstack([points.T * -2.0, beside])
        squares = np.sum(inner**2, axis=1)
        left = np.column_stack([inner, np.ones_like(squares), squares])
        answer = np.empty(features.shape[0])
        exact = np.empty((_POINT_CHUNK, points.shape[0]))
        distances = np.empty_like(exact, np.float32)
        decays = np.empty_like(distances)
        for start in range(0, answer.size, _POINT_CHUNK):
            x = left[start : start + _POINT_CHUNK]
            d, decay = distances[: len(x)], decays[: len(x)]
            d[:] = np.matmul(x, right, out=exact[: len(x)])
            np.maximum(d, np.float32(0.0), out=d)
            np.sqrt(d, out=d)
            np.negative(d, out=decay)
            np.exp(decay, out=decay)
            d += np.float32(1.0)
            d *= self.weights
            answer[start : start + _POINT_CHUNK] = np.vecdot(d, decay)
        return answer + float(self.mean[0])
