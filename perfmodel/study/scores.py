"""How far predictions are from measurements: errors, bias, order, regret.

Plain functions of arrays. An error is signed, ``predicted / measured - 1``; bias is geometric, so
that twice too slow and twice too fast cancel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

TUNE, REPORT = "tune", "report"


@dataclass(frozen=True, slots=True)
class Score:
    """Errors of ``count`` predictions, as fractions.

    Parameters
    ----------
    mape, median, p90 : float
        Mean, median and 90th percentile of the absolute error.
    bias : float
        ``exp(mean(log(predicted / measured))) - 1``: above 0 is too slow.
    worst : float
        The signed error with the largest absolute value.
    """

    count: int
    mape: float
    median: float
    bias: float
    p90: float
    worst: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def score(predicted: ArrayLike, measured: ArrayLike) -> Score | None:
    """Errors of (n,) predictions against (n,) measurements; ``None`` without any."""
    ratio = np.asarray(predicted, float) / np.asarray(measured, float)
    if ratio.size == 0:
        return None
    error = np.abs(ratio - 1)
    return Score(
        count=int(ratio.size),
        mape=float(error.mean()),
        median=float(np.median(error)),
        bias=float(np.expm1(np.log(ratio).mean())),
        p90=float(np.percentile(error, 90)),
        worst=float(ratio[np.argmax(error)] - 1),
    )


def half(row_id: str) -> str:
    """``"tune"`` for rows on which coefficients may be chosen, ``"report"`` for the others.

    The first byte of SHA-256 of the identifier decides: even is ``"tune"``. Nothing about the
    measurement does.
    """
    return TUNE if hashlib.sha256(row_id.encode()).digest()[0] % 2 == 0 else REPORT


def spearman(predicted: ArrayLike, measured: ArrayLike) -> float:
    """Rank correlation of two (n,) arrays; nan when one of them is constant."""
    a, b = rankdata(np.asarray(predicted, float)), rankdata(np.asarray(measured, float))
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else float("nan")


def regret(predicted: ArrayLike, measured: ArrayLike) -> float:
    """What the configuration that is predicted fastest loses against the fastest, as a fraction."""
    best = np.asarray(measured, float)
    return float(best[int(np.argmin(np.asarray(predicted, float)))] / best.min() - 1)


def groups(keys: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    """Places of equal keys, in order of first appearance."""
    found: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        found.setdefault(key, []).append(place)
    return found
