"""The inner programme without a memory grid: exact, by lists of undominated choices.

A partial choice of strategies for layers i..l is worth keeping if no other with the same last
strategy is both smaller and faster, if the remaining layers can still fit, and if their fastest
times can still bring it below the known upper bound. Slower per interval than the grid, so it is
asked only for the few intervals that decide the answer.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from perfmodel.optimize.intervals import IntervalCosts
from perfmodel.optimize.problem import PlanningProblem

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def exact_costs(
    problem: PlanningProblem, wanted: npt.NDArray[np.bool_], bracket: IntervalCosts
) -> IntervalCosts:
    """Close the bracket of the wanted (Q, F, L, L) intervals; the others become ``inf``."""
    upper = np.where(wanted, bracket.upper, np.inf)
    lower = np.where(wanted, bracket.lower, np.inf)
    tables = 0
    for q, f, i, j in np.argwhere(wanted & (bracket.lower < bracket.upper)):
        limit = float(bracket.upper[q, f, i, j])
        seconds, _ = exact_interval(problem, int(q), bracket.counts[f], int(i), int(j), limit=limit)
        upper[q, f, i, j] = lower[q, f, i, j] = seconds
        tables += 1
    return IntervalCosts(upper, lower, bracket.counts, tables)


def exact_interval(
    problem: PlanningProblem, q: int, count: float, first: int, last: int, *, limit: float = np.inf
) -> tuple[float, tuple[int, ...] | None]:
    """Fastest time of layers first..last on one stage and its strategies; inf if nothing fits.

    ``limit`` is a time known to be reachable: choices that cannot get to it are dropped.
    """
    span = slice(first, last + 1)
    seconds = problem.seconds[q, span]
    transient = np.where(np.isfinite(seconds), problem.transient[q, span], np.inf)
    best: tuple[float, tuple[int, ...] | None] = (np.inf, None)
    capacity = problem.kinds[q].capacity
    for level in np.unique(transient[np.isfinite(transient)]):
        room = capacity * (1 + 1e-12) - level
        allowed = np.where(transient <= level, seconds, np.inf)
        if room < 0 or np.isinf(allowed.min(axis=1)).any():
            continue
        found = _chain(problem, q, count, first, allowed, room, min(limit, best[0]))
        if found[0] < best[0]:
            best = found
    return best


def _chain(
    problem: PlanningProblem,
    q: int,
    count: float,
    first: int,
    seconds: Floats,
    room: float,
    limit: float,
) -> tuple[float, tuple[int, ...] | None]:
    length, k = seconds.shape
    span = slice(first, first + length)
    size = problem.persistent[q, span] + count * problem.activation[q, span]
    reshard = problem.reshard[q, span]
    onward = _onward(seconds, reshard)
    least = np.where(np.isfinite(seconds), size, np.inf).min(axis=1)
    ahead = np.append(np.cumsum(least[::-1])[::-1][1:], 0.0)
    slack = limit * (1 + 1e-12) if np.isfinite(limit) else np.inf
    # Labels: bytes, seconds, last strategy, and the position of the label they extend.
    held, time, at = size[0], seconds[0], np.arange(k)
    history: list[tuple[Integers, Integers]] = []
    parent = np.full(k, -1)
    for layer in range(length):
        if layer:
            held = (held[:, None] + size[layer][None]).ravel()
            time = (time[:, None] + reshard[layer][at] + seconds[layer][None]).ravel()
            parent = np.repeat(np.arange(len(at)), k)
            at = np.tile(np.arange(k), len(at))
        keep = np.flatnonzero(
            (held + ahead[layer] <= room) & (time + onward[layer, at] <= slack) & np.isfinite(time)
        )
        keep = keep[_undominated(held[keep], time[keep], at[keep], k)]
        held, time, at, parent = held[keep], time[keep], at[keep], parent[keep]
        history.append((at, parent))
        if not len(at):
            return np.inf, None
    label = int(time.argmin())
    value, choice = float(time[label]), []
    for strategies, before in reversed(history):
        choice.append(int(strategies[label]))
        label = int(before[label])
    return value, tuple(reversed(choice))


def _onward(seconds: Floats, reshard: Floats) -> Floats:
    """``onward[l, a]``: fastest time of the layers after l when l uses strategy a."""
    onward = np.zeros_like(seconds)
    for layer in range(len(seconds) - 2, -1, -1):
        arrive = reshard[layer + 1] + (seconds[layer + 1] + onward[layer + 1])[None]
        onward[layer] = arrive.min(axis=1)
    return onward


def _undominated(held: Floats, time: Floats, at: Integers, k: int) -> Integers:
    """Positions of labels that no label with the same last strategy beats in both."""
    kept = []
    for a in range(k):
        members = np.flatnonzero(at == a)
        order = members[np.lexsort((time[members], held[members]))]
        fastest = np.minimum.accumulate(time[order])
        new = np.ones(len(order), dtype=bool)
        new[1:] = time[order][1:] < fastest[:-1]
        kept.append(order[new])
    return np.concatenate(kept)
