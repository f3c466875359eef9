"""Repeated runs with confidence, and the best checkpoint interval found by simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from perfmodel.errors import ScenarioError
from perfmodel.sim.graph import Stop
from perfmodel.sim.reliability import daly_interval, young_interval
from perfmodel.sim.training_run import simulate_run
from perfmodel.sim.training_setup import TrainingRun

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Replicated:
    """Effective training time ratio over independent seeds.

    Parameters
    ----------
    ratios : float array
        One per seed.
    mean, low, high : float
        Mean and its 95 % confidence interval (Student).
    """

    ratios: Floats
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class BestInterval:
    """The interval with the highest mean ratio, beside the formulas.

    Parameters
    ----------
    interval, ratio : float
        The best time between checkpoints [s] and its mean ratio.
    young, daly : float
        The closed forms [s].
    intervals, ratios : float arrays
        What was tried.
    """

    interval: float
    ratio: float
    young: float
    daly: float
    intervals: Floats
    ratios: Floats

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "best_interval_s": self.interval,
            "effective_training_time_ratio": self.ratio,
            "young_s": self.young,
            "daly_s": self.daly,
            "curve": [
                {"interval_s": float(i), "effective_training_time_ratio": float(r)}
                for i, r in zip(self.intervals, self.ratios, strict=True)
            ],
        }


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % confidence interval; the mean alone where there is one value."""
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if len(array) < 2:
        return mean, mean, mean
    half = float(stdtrit(len(array) - 1, 0.975) * array.std(ddof=1) / np.sqrt(len(array)))
    return mean, mean - half, mean + half


def replicate(run: TrainingRun, seeds: int, *, stop: Stop | None = None) -> Replicated:
    """The run with seeds ``run.seed``, ``run.seed + 1``, ..."""
    if not 1 <= seeds <= 10_000:
        raise ScenarioError(
            "replicate: seeds", seeds, "1 to 10,000", repair="ask for fewer repetitions"
        )
    ratios = [
        simulate_run(replace(run, seed=run.seed + k), stop=stop).effective_ratio
        for k in range(seeds)
    ]
    return Replicated(np.array(ratios), *mean_interval(ratios))


def best_interval(
    run: TrainingRun, *, seeds: int = 5, points: int = 9, stop: Stop | None = None
) -> BestInterval:
    """Try intervals around Daly's, all against the same failures (common random numbers).

    Parameters
    ----------
    seeds : int
        Failure histories each interval meets.
    points : int
        Intervals tried, from a fifth to five times Daly's, equally spaced in their logarithm.

    Raises
    ------
    ScenarioError
        If nothing fails or checkpoints cost nothing: no interval is best then.
    """
    if run.rate <= 0 or run.checkpoints.cost <= 0 or points < 2:
        raise ScenarioError(
            "best_interval",
            (run.rate, run.checkpoints.cost, points),
            "a failure rate and a checkpoint cost above 0, at least 2 points",
            repair="add failures, or the time that a checkpoint takes",
        )
    cost, mtbf = run.checkpoints.cost, 1 / run.rate
    daly = float(daly_interval(cost, mtbf))
    intervals = daly * np.geomspace(0.2, 5.0, points)
    ratios = [
        replicate(
            replace(run, checkpoints=replace(run.checkpoints, interval=float(interval))),
            seeds,
            stop=stop,
        ).mean
        for interval in intervals
    ]
    best = int(np.argmax(ratios))
    return BestInterval(
        interval=float(intervals[best]),
        ratio=float(ratios[best]),
        young=float(young_interval(cost, mtbf)),
        daly=daly,
        intervals=intervals,
        ratios=np.array(ratios),
    )
