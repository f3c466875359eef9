"""A Gaussian process with one length scale a feature: the smooth half of the residual.

Length scales and noise come from the marginal likelihood of a subset of the points, the weights
from all of them.

References
----------
Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, sections 2.2 and 5.4.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from perfmodel.cost.correction import Smooth

Floats = NDArray[np.float64]
_SHORTEST, _LONGEST = 0.1, 60.0
# A feature with a longer scale than this, in its standard deviations, tells nothing.
_FLAT = 40.0
_LEAST_SPREAD = 1e-3


def fit_smooth(
    features: Floats,
    target: Floats,
    columns: NDArray[np.int32],
    rng: np.random.Generator,
    *,
    subset: int = 360,
    steps: int = 22,
) -> Smooth:
    """Fit the process to ``target`` of shape (N,) at ``features`` of shape (N, F)."""
    x = features[:, columns]
    centre, spread = x.mean(axis=0), x.std(axis=0)
    # What hardly changes would be told by its rounding alone.
    keep = spread > _LEAST_SPREAD * np.maximum(1.0, np.abs(centre))
    columns, x, spread = columns[keep], x[:, keep] - centre[keep], spread[keep]
    mean = float(np.median(target))
    variation = max(float(np.std(target)), 1e-6)
    y = (target - mean) / variation
    sample = rng.permutation(len(y))[:subset]
    scales, noise, level = _likely(x[sample] / spread, y[sample], steps)
    told = scales < _FLAT
    if np.any(told):
        columns, x, spread, scales = columns[told], x[:, told], spread[told], scales[told]
        keep = np.flatnonzero(keep)[told]
    inner = x / (spread * scales)
    kernel = level * _matern(_distance(inner, inner))
    kernel[np.diag_indices_from(kernel)] += noise
    weights = level * variation * cho_solve(cho_factor(kernel, lower=True), y)
    offset = centre[keep] / (spread * scales)
    return Smooth(
        columns.astype(np.int32),
        (inner + offset).astype(np.float32),
        weights.astype(np.float32),
        (spread * scales).astype(np.float32),
        np.asarray([mean], dtype=np.float32),
    )


def _distance(a: Floats, b: Floats) -> Floats:
    squared = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1)[None, :] - 2.0 * a @ b.T
    return np.asarray(np.sqrt(3.0 * np.maximum(squared, 0.0)))


def _matern(distance: Floats) -> Floats:
    return np.asarray((1.0 + distance) * np.exp(-distance))


def _likely(x: Floats, y: Floats, steps: int) -> tuple[Floats, float, float]:
    """Length scales, noise and level that make the sample most likely."""
    count, width = x.shape
    gaps = (x[:, None, :] - x[None, :, :]) ** 2

    def objective(theta: Floats) -> tuple[float, Floats]:
        scales, noise, level = np.exp(theta[:width]), np.exp(theta[width]), np.exp(theta[-1])
        distance = np.sqrt(3.0 * np.maximum(gaps @ scales**-2.0, 0.0))
        decay = np.exp(-distance)
        plain = (1.0 + distance) * decay
        kernel = level * plain
        kernel[np.diag_indices(count)] += noise + 1e-8
        try:
            factor = cho_factor(kernel, lower=True)
        except np.linalg.LinAlgError:
            return 1e12, np.zeros_like(theta)
        alpha = cho_solve(factor, y)
        inverse = cho_solve(factor, np.eye(count))
        value = 0.5 * y @ alpha + np.sum(np.log(np.diag(factor[0])))
        pull = inverse - np.outer(alpha, alpha)
        # d kernel / d log scale = level * 3 * decay * gap / scale**2
        shared = pull * decay * (3.0 * level)
        slope = np.empty_like(theta)
        slope[:width] = 0.5 * np.tensordot(shared, gaps, axes=([0, 1], [0, 1])) * scales**-2.0
        slope[width] = 0.5 * noise * np.trace(pull)
        slope[-1] = 0.5 * level * np.sum(pull * plain)
        # A weak pull toward long scales keeps useless features out.
        prior = 0.5 * np.sum((theta[:width] - np.log(6.0)) ** 2) / 1.5**2
        slope[:width] += (theta[:width] - np.log(6.0)) / 1.5**2
        return float(value + prior), slope

    start = np.concatenate([np.full(width, np.log(3.0)), [np.log(0.05), 0.0]])
    limits = [(np.log(_SHORTEST), np.log(_LONGEST))] * width
    limits += [(np.log(1e-4), np.log(1.0)), (np.log(0.05), np.log(20.0))]
    found = minimize(
        objective, start, jac=True, method="L-BFGS-B", bounds=limits, options={"maxiter": steps}
    )
    theta = found.x
    return np.exp(theta[:width]), float(np.exp(theta[width])), float(np.exp(theta[-1]))
