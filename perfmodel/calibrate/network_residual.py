"""The residual of collectives as a Gaussian process over operation, ranks and size, tabulated.

Curves of one link resemble each other: all ring collectives change protocol at about the same
sizes, all-gather and reduce-scatter nearly coincide, neighbouring rank counts look alike. The
covariance says so with three terms (shared by rings; by operation and near rank counts; the curve's
own) and a Matern-3/2 kernel in log2(size), which allows kinks.

Reference: C. E. Rasmussen, C. K. I. Williams, "Gaussian Processes for Machine Learning", 2006.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from perfmodel.network.correction import Correction, Table

Floats = NDArray[np.float64]
RINGS = ("all_reduce", "all_gather", "reduce_scatter")
PERSONAL = ("all_to_all", "p2p", "gather", "scatter")


@dataclass(frozen=True, slots=True)
class Points:
    """Where a residual is known or wanted."""

    op: NDArray[np.str_]
    ranks: Floats
    size: Floats


def tabulate(
    known: Points, residual: Floats, ops: tuple[str, ...], ranks: tuple[int, ...], step: float = 0.5
) -> Correction:
    """Fit the process and put it on a grid of ``step`` octaves over the measured sizes.

    Parameters
    ----------
    known : Points
        The measured points.
    residual : array
        log(measured / mechanism) there.
    ops, ranks : tuple
        Tables that are wanted.
    """
    theta = _likely(known, residual)
    smooth = _kernel(theta, known, known)
    factor = cho_factor(smooth + np.diag(_noises(theta, smooth, residual)))
    weights = cho_solve(factor, residual)
    first, last = np.log2(known.size.min()), np.log2(known.size.max())
    columns = max(2, int(np.ceil((last - first) / step)) + 1)
    grid = 2.0 ** (first + step * np.arange(columns))
    tables = {}
    for op in ops:
        values, spreads = [], []
        for count in ranks:
            wanted = Points(np.full(columns, op), np.full(columns, float(count)), grid)
            cross = _kernel(theta, wanted, known)
            values.append(cross @ weights)
            prior = np.diag(_kernel(theta, wanted, wanted))
            explained = np.einsum("ij,ji->i", cross, cho_solve(factor, cross.T))
            spreads.append(np.sqrt(np.maximum(prior - explained, 0.0) + _noise(theta)))
        tables[op] = Table(tuple(ranks), np.array(values), np.array(spreads))
    return Correction(
        float(first),
        step,
        tables,
        (float(known.size.min()), float(known.size.max())),
        (int(known.ranks.min()), int(known.ranks.max())),
    )


def _kernel(theta: Floats, a: Points, b: Points) -> Floats:
    shared, alike, own, long, short, far = np.exp(theta[:6])
    distance = np.abs(np.log2(a.size)[:, None] - np.log2(b.size)[None, :])
    ranks = np.abs(np.log2(a.ranks)[:, None] - np.log2(b.ranks)[None, :])
    nearby = np.exp(-ranks / far)
    kind_a, kind_b = _kind(a.op), _kind(b.op)
    kind = (kind_a[:, None] == kind_b[None, :]).astype(float)
    same = (a.op[:, None] == b.op[None, :]).astype(float)
    twins = ("all_gather", "reduce_scatter")
    twin = np.isin(a.op, twins)[:, None] & np.isin(b.op, twins)[None, :]
    close = np.maximum(same, 0.9 * twin)
    matern = _matern(distance / short)
    covariance = shared**2 * kind * np.sqrt(nearby) * _matern(distance / long)
    covariance += alike**2 * close * nearby * matern
    covariance += own**2 * same * (ranks == 0) * matern
    return np.asarray(covariance, dtype=np.float64)


def _kind(op: NDArray[np.str_]) -> NDArray[np.int_]:
    return np.where(np.isin(op, RINGS), 0, np.where(np.isin(op, PERSONAL), 1, 2))


def _matern(distance: Floats) -> Floats:
    scaled = np.sqrt(3.0) * distance
    return np.asarray((1.0 + scaled) * np.exp(-scaled), dtype=np.float64)


def _noises(theta: Floats, smooth: Floats, residual: Floats) -> Floats:
    """Noise of every point; one that its neighbours contradict counts for less (two modes exist).

    The leave-one-out miss of point i is (K^-1 y)_i / (K^-1)_ii with variance 1 / (K^-1)_ii.
    """
    noise = np.full(len(residual), _noise(theta))
    for _ in range(3):
        inverse = np.linalg.inv(smooth + np.diag(noise))
        doubt = np.abs(inverse @ residual) / np.sqrt(np.diag(inverse))
        noise = noise * np.maximum(1.0, (doubt / 2.5) ** 2)
    return noise


def _noise(theta: Floats) -> float:
    return float(np.exp(2.0 * theta[6]))


# Logarithms of three amplitudes, two lengths [octaves], the reach over ranks, and the noise.
_START = np.log([0.03, 0.06, 0.02, 1.5, 1.2, 1.5, 0.06])
_WIDTH = np.full(7, 0.3)


def _likely(known: Points, residual: Floats) -> Floats:
    """Maximum a posteriori of the seven logarithms, normal priors around ordinary values."""

    def minus_log(theta: Floats) -> float:
        covariance = _kernel(theta, known, known) + np.eye(len(residual)) * _noise(theta)
        try:
            factor = cho_factor(covariance)
        except np.linalg.LinAlgError:
            return 1e9
        logarithm = 2.0 * float(np.log(np.diag(factor[0])).sum())
        fit = float(residual @ cho_solve(factor, residual))
        prior = float((((theta - _START) / _WIDTH) ** 2).sum())
        return 0.5 * (fit + logarithm + prior)

    found = minimize(minus_log, _START, method="L-BFGS-B", options={"maxiter": 25})
    return np.asarray(found.x, dtype=np.float64)
