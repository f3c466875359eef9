"""Imperfection: slow ranks, jitter, degraded links, uneven experts; and folding what stays equal.

All factors multiply times, so 1 means undisturbed. Randomness comes from a seeded
``numpy.random.Generator`` made here from the seed in the perturbation: the same seed gives the same
step, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfmodel.errors import ScenarioError, nearest_name

Floats = NDArray[np.float64]
MOST_CELLS: Final = 50_000_000
DISTRIBUTIONS: Final = ("lognormal", "gamma", "exponential", "uniform")


@dataclass(frozen=True, slots=True)
class Perturbation:
    """What is not as it should be.

    Parameters
    ----------
    compute : float array, optional
        Factor on compute times, shape ``[devices, replicas]`` (or what broadcasts to it).
    links : float array, optional
        Factor on the time of what a device sends or reduces, same shape.
    jitter : float
        Coefficient of variation (standard deviation over mean) of every row's compute time.
    distribution : str
        Shape of the jitter, mean 1: one of :data:`DISTRIBUTIONS` (``exponential`` adds a positive
        tail: 1 - cv + Exponential(cv)).
    expert_share : float
        Share of a stage's compute that experts take.
    experts : int
        Expert-parallel ranks whose slowest sets the pace.
    expert_concentration : float
        Dirichlet concentration of the routed load; small is uneven. ``inf`` is even.
    seed : int
        Seed of everything random here.
    """

    compute: ArrayLike = 1.0
    links: ArrayLike = 1.0
    jitter: float = 0.0
    distribution: str = "lognormal"
    expert_share: float = 0.0
    experts: int = 1
    expert_concentration: float = float("inf")
    seed: int = 0

    def __post_init__(self) -> None:
        for what, factors in (("compute", self.compute), ("links", self.links)):
            values = np.asarray(factors, dtype=np.float64)
            if not np.all(np.isfinite(values)) or np.any(values <= 0):
                raise ScenarioError(
                    f"perturbation: {what}",
                    factors,
                    "finite factors above 0 (2 means twice as slow)",
                    repair="remove a rank that has failed from the plan instead of slowing it",
                )
        if not 0 <= self.jitter <= 2:
            raise ScenarioError(
                "perturbation: jitter",
                self.jitter,
                "a coefficient of variation from 0 to 2",
                repair="give 0.05 for a spread of 5 %",
            )
        if self.distribution not in DISTRIBUTIONS:
            raise ScenarioError(
                "perturbation: distribution",
                self.distribution,
                ", ".join(DISTRIBUTIONS),
                nearest=nearest_name(self.distribution, DISTRIBUTIONS),
                repair="name one of these",
            )
        if not 0 <= self.expert_share <= 1 or self.experts < 1 or self.expert_concentration <= 0:
            raise ScenarioError(
                "perturbation: experts",
                (self.expert_share, self.experts, self.expert_concentration),
                "a share from 0 to 1, at least one expert rank, a concentration above 0",
                repair="correct expert_share, experts or expert_concentration",
            )

    @property
    def random(self) -> bool:
        """Whether replicas differ by chance, so that none can stand for another."""
        uneven = self.expert_share > 0 and self.experts > 1
        return self.jitter > 0 or (uneven and np.isfinite(self.expert_concentration))


def check_cells(count: int) -> None:
    """Refuse arrays that would not fit in memory, before they are made."""
    if count > MOST_CELLS:
        raise ScenarioError(
            "simulation size",
            count,
            f"at most {MOST_CELLS:,} task times",
            repair="simulate fewer replicas or micro-batches, or leave out what differs by chance",
        )


def factors(given: ArrayLike, devices: int, replicas: int, what: str) -> Floats:
    """Factors broadcast to ``[devices, replicas]``."""
    check_cells(devices * replicas)
    values = np.asarray(given, dtype=np.float64)
    try:
        return np.array(np.broadcast_to(values, (devices, replicas)))
    except ValueError:
        raise ScenarioError(
            f"perturbation: {what}",
            values.shape,
            f"one factor, or an array that fits [{devices} devices, {replicas} replicas]",
            repair="give a column of devices, or one value for each device and replica",
        ) from None


def row_factors(perturbation: Perturbation, rows: int, replicas: int) -> Floats | None:
    """Random factors on compute, shape ``[rows, replicas]``; ``None`` if nothing is random."""
    if not perturbation.random:
        return None
    check_cells(rows * replicas)
    rng = np.random.default_rng(perturbation.seed)
    shape = (rows, replicas)
    found = np.ones(shape)
    if perturbation.jitter > 0:
        found *= draw(rng, perturbation.distribution, perturbation.jitter, shape)
    if perturbation.expert_share > 0 and perturbation.experts > 1:
        load = expert_load(rng, perturbation.experts, perturbation.expert_concentration, shape)
        found *= 1 + perturbation.expert_share * (load - 1)
    return found


def draw(
    rng: np.random.Generator, distribution: str, spread: float, shape: tuple[int, ...]
) -> Floats:
    """Positive factors of mean 1 and coefficient of variation ``spread``."""
    if distribution == "lognormal":
        variance = log(1 + spread**2)
        return np.asarray(rng.lognormal(-variance / 2, variance**0.5, shape))
    if distribution == "gamma":
        return np.asarray(rng.gamma(1 / spread**2, spread**2, shape))
    if distribution == "exponential" and spread <= 1:
        return 1 - spread + np.asarray(rng.exponential(spread, shape))
    half = spread * 3**0.5
    if distribution == "uniform" and half <= 1:
        return np.asarray(rng.uniform(1 - half, 1 + half, shape))
    raise ScenarioError(
        f"perturbation: jitter of distribution {distribution!r}",
        spread,
        "at most 1 for exponential and 0.577 for uniform, so that times stay positive",
        repair="lower the jitter, or take 'lognormal' or 'gamma'",
    )


def expert_load(
    rng: np.random.Generator, experts: int, concentration: float, shape: tuple[int, ...]
) -> Floats:
    """Load of the busiest expert rank over the mean load, each with Dirichlet shares; >= 1."""
    if not np.isfinite(concentration):
        return np.ones(shape)
    count = int(np.prod(shape))
    found = np.empty(count)
    block = max(1, 4_000_000 // experts)
    for first in range(0, count, block):
        size = min(block, count - first)
        share = rng.standard_gamma(concentration, (size, experts))
        found[first : first + size] = share.max(axis=1) / np.maximum(share.mean(axis=1), 1e-300)
    return found.reshape(shape)


def factors_from_ranks(
    slow: Mapping[int, float], *, tp: int = 1, cp: int = 1, pp: int = 1, dp: int = 1
) -> Floats:
    """Slow global ranks as factors ``[pp, dp]``: a group of tp x cp ranks goes as its slowest.

    Ranks are numbered tp fastest, then cp, then dp, then pp (Megatron-LM's default order).

    Examples
    --------
    >>> factors_from_ranks({5: 1.2}, tp=2, pp=2, dp=2)
    array([[1. , 1. ],
           [1.2, 1. ]])
    """
    found = np.ones((pp, dp))
    world = tp * cp * pp * dp
    for rank, factor in slow.items():
        if not 0 <= rank < world:
            raise ScenarioError(
                "perturbation: slow rank",
                rank,
                f"0 to {world - 1}, the ranks of tp={tp} cp={cp} pp={pp} dp={dp}",
                repair="name a rank of the job",
            )
        stage, replica = divmod(rank // (tp * cp), dp)
        found[stage, replica] = max(found[stage, replica], factor)
    return found


def fold(*columns: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Replicas with the same factors, once each.

    Parameters
    ----------
    columns : float arrays
        Factors, shape ``[devices, replicas]`` each.

    Returns
    -------
    representatives, members : int arrays
        The replica that stands for each class, and the class of every replica.
    """
    stacked = np.concatenate(columns, axis=0)
    _, first, members = np.unique(stacked, axis=1, return_index=True, return_inverse=True)
    return first.astype(np.int64), np.asarray(members, dtype=np.int64).reshape(-1)
