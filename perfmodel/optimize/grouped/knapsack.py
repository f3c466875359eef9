"""Which tile each group uses: a multiple-choice knapsack.

Group g with tile shape c makes ``n[g, c]`` tiles of ``tau[g, c]`` seconds. Choose one per group:
minimise T with ``sum n tau <= slots T`` and ``tau <= T`` for every choice. With these two rows the
knapsack is separable once the longest allowed tile is fixed, so trying every value of tau as that
limit solves it exactly. A further shared resource (bytes out of the last-level cache, or a cap on
the shapes compiled into one kernel) couples the groups, and then it is an integer programme.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perfmodel.optimize.grouped.heuristics import longest_first, makespan
from perfmodel.optimize.grouped.problem import Floats, Integers


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """A shape per group (``pick``), the knapsack's value and a proven lower bound of it [s]."""

    pick: Integers
    value: float
    bound: float


def limits(tau: Floats) -> Floats:
    """Values of the longest allowed tile that matter: from the least possible one upwards."""
    values = np.unique(tau)
    return np.asarray(values[values >= tau.min(axis=1).max()])


def choose(number: Integers, tau: Floats, slots: int) -> Choice:
    """The exact optimum of the knapsack with slot time alone.

    Parameters
    ----------
    number, tau : (groups, shapes) arrays
        Tiles, and the time of one [s].
    slots : int
        Programs that run at once.
    """
    best, value = _least_work(number, tau, np.inf), np.inf
    for limit in limits(tau):
        pick = _least_work(number, tau, float(limit))
        reached = _value(number, tau, pick, slots)
        if reached < value:
            best, value = pick, reached
    return Choice(best, value, value)


def choose_placed(number: Integers, tau: Floats, slots: int, most: int = 24) -> Choice:
    """Like :func:`choose`, but each limit is judged by the schedule LPT makes of it.

    With few tiles a slot, the mean load says little about the fullest slot. The bound is still the
    knapsack's.
    """
    bound = choose(number, tau, slots)
    candidates = limits(tau)
    if len(candidates) > most:
        candidates = candidates[np.linspace(0, len(candidates) - 1, most).round().astype(int)]
    best, value = bound.pick, placed(number, tau, bound.pick, slots)
    seen = {best.tobytes()}
    for limit in candidates:
        pick = _least_work(number, tau, float(limit))
        if pick.tobytes() in seen:
            continue
        seen.add(pick.tobytes())
        reached = placed(number, tau, pick, slots)
        if reached < value:
            best, value = pick, reached
    return Choice(best, value, bound.bound)


def placed(number: Integers, tau: Floats, pick: Integers, slots: int) -> float:
    """Makespan of LPT for these picks [s]."""
    kinds = merge(number, tau, pick)
    return makespan(longest_first(kinds.seconds, kinds.number, slots), kinds.seconds)


def _least_work(number: Integers, tau: Floats, limit: float) -> Integers:
    work = np.where(tau <= limit, number * tau, np.inf)
    return np.asarray(work.argmin(axis=1))


def _value(number: Integers, tau: Floats, pick: Integers, slots: int) -> float:
    rows = np.arange(len(pick))
    chosen = tau[rows, pick]
    return max(float(number[rows, pick] @ chosen) / slots, float(chosen.max()))


@dataclass(frozen=True, slots=True, eq=False)
class Kinds:
    """Tiles of equal time, merged: ``seconds`` and ``number`` per kind, ``of`` group -> kind."""

    seconds: Floats
    number: Integers
    of: Integers


def merge(number: Integers, tau: Floats, pick: Integers) -> Kinds:
    """Merge the groups whose tiles take the same time (identical items are interchangeable)."""
    rows = np.arange(len(pick))
    seconds, of = np.unique(tau[rows, pick], return_inverse=True)
    total = np.zeros(len(seconds), dtype=np.int64)
    np.add.at(total, of, number[rows, pick])
    first = np.full(len(seconds), len(pick))
    np.minimum.at(first, of, rows)
    order = np.argsort(first, kind="stable")  # kinds in the order of their first group
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return Kinds(seconds[order], total[order], rank[of])
