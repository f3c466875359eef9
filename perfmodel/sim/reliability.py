"""Failure rates and checkpoint intervals in closed form.

References
----------
Young 1974, "A first order approximation to the optimum checkpoint interval". Daly 2006, "A higher
order estimate of the optimum checkpoint interval for restart dumps". Kokolis et al. 2024,
"Revisiting reliability in large-scale machine learning research clusters" (arXiv 2410.21680).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfmodel.errors import ScenarioError

Floats = NDArray[np.float64]
DAY: Final = 86400.0
HOUR: Final = 3600.0


def rate_from_node_days(failures_per_1000_node_days: ArrayLike) -> Any:
    """Failures per node and second.

    Examples
    --------
    >>> float(rate_from_node_days(6.5) * 1000 * 86400)
    6.5
    """
    rate = positive(failures_per_1000_node_days, "failures_per_1000_node_days")
    return rate / (1000 * DAY)


def mean_time_between(rate: ArrayLike, units: ArrayLike) -> Any:
    """Mean time between failures of ``units`` independent parts [s]: ``1 / (rate units)``."""
    return 1.0 / (positive(rate, "rate") * positive(units, "units"))


def young_interval(write: ArrayLike, mtbf: ArrayLike) -> Any:
    """Young's best time between checkpoints [s]: ``sqrt(2 C M)``.

    Parameters
    ----------
    write : array
        Time that a checkpoint takes from training, ``C`` [s].
    mtbf : array
        Mean time between failures, ``M`` [s].
    """
    return np.sqrt(2 * positive(write, "write") * positive(mtbf, "mtbf"))


def daly_interval(write: ArrayLike, mtbf: ArrayLike) -> Any:
    """Daly's best time between checkpoints [s]; ``M`` where a checkpoint takes ``2 M`` or more.

    ``sqrt(2 C M) (1 + sqrt(C / 2M) / 3 + C / 18M) - C`` for ``C < 2 M`` (Daly 2006, equation 37).
    """
    c, m = positive(write, "write"), positive(mtbf, "mtbf")
    ratio = c / (2 * m)
    long = np.sqrt(2 * c * m) * (1 + np.sqrt(ratio) / 3 + ratio / 9) - c
    return np.where(c < 2 * m, long, m)[()]


def expected_time(
    work: ArrayLike, interval: ArrayLike, write: ArrayLike, restart: ArrayLike, mtbf: ArrayLike
) -> Any:
    """Mean wall time to finish ``work`` with exponential failures at any time [s].

    ``M exp(R / M) (exp((tau + C) / M) - 1) T / tau`` (Daly 2006, equation 20): failures during a
    checkpoint and during a restart included.

    Parameters
    ----------
    work : array
        Time without failures or checkpoints, ``T`` [s].
    interval, write, restart, mtbf : array
        ``tau``, ``C``, ``R`` and ``M`` [s].
    """
    m, tau = positive(mtbf, "mtbf"), positive(interval, "interval")
    spent = np.expm1((tau + np.asarray(write)) / m)
    return m * np.exp(np.asarray(restart) / m) * spent * np.asarray(work) / tau


def effective_ratio(
    interval: ArrayLike, write: ArrayLike, restart: ArrayLike, mtbf: ArrayLike
) -> Any:
    """Effective training time ratio in the long run: work over :func:`expected_time`."""
    return 1.0 / expected_time(1.0, interval, write, restart, mtbf)


def positive(value: ArrayLike, name: str) -> Floats:
    """``value`` as an array, or an error unless all of it is finite and above 0."""
    given = np.asarray(value, dtype=np.float64)
    if not np.all(np.isfinite(given)) or np.any(given <= 0):
        raise ScenarioError(
            f"reliability: {name}",
            value,
            "a finite number above 0",
            repair="leave out what never fails instead of giving it a rate of 0",
        )
    return given
