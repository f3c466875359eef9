"""When nothing fits: the smallest memory that would, and where the shortage is.

The least a stage can hold is found exactly per interval (the smallest choice at each level of
transient memory); the layout whose worst stage lacks least is then a min-max path over stages.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from perfmodel.optimize import stages as chains
from perfmodel.optimize.problem import Floats, PlanningProblem


@dataclass(frozen=True, slots=True)
class Shortage:
    """The layout that comes closest to fitting.

    ``missing`` is what its worst device lacks [B] (not positive: it fits), ``needed`` what that
    device must hold [B], ``stage`` which one it is, ``pieces`` the layout as (first, last, kind).
    """

    missing: float
    needed: float
    stage: int
    pieces: tuple[tuple[int, int, int], ...]


def exact_least_bytes(problem: PlanningProblem, count: float) -> Floats:
    """(Q, L, L): the fewest bytes that layers i..j can take with ``count`` in flight; inf: none."""
    n = len(problem.layers)
    legal = np.isfinite(problem.seconds)
    size = problem.persistent + count * problem.activation
    best = np.full((len(problem.kinds), n, n), np.inf)
    ordered = ~np.tri(n, n, -1, dtype=bool)
    for level in np.unique(problem.transient[legal]):
        allowed = np.where(legal & (problem.transient <= level), size, np.inf).min(axis=2)
        impossible = np.isinf(allowed)
        total = np.cumsum(np.where(impossible, 0.0, allowed), axis=1)
        barred = np.cumsum(impossible, axis=1)
        before = np.concatenate([np.zeros_like(total[:, :1]), total[:, :-1]], axis=1)
        barred_before = np.concatenate([np.zeros_like(barred[:, :1]), barred[:, :-1]], axis=1)
        sums = total[:, None, :] - before[:, :, None] + level
        open_ = (barred[:, None, :] == barred_before[:, :, None]) & ordered[None]
        best = np.where(open_, np.minimum(best, sums), best)
    return best


def shortage(problem: PlanningProblem) -> Shortage | None:
    """How much memory the closest layout lacks; ``None`` if no layout exists at any size."""
    counts = tuple(sorted(set(problem.in_flight)))
    least = np.stack([exact_least_bytes(problem, count) for count in counts], axis=1)
    capacity = np.array([kind.capacity for kind in problem.kinds])[:, None, None, None]
    # Path costs must not be negative: measure the excess above minus the largest capacity.
    floor = float(capacity.max())
    excess = least - capacity + floor
    table = chains.columns(problem, excess, counts)
    if problem.enter.any():
        bare = np.where(np.isfinite(table.cost), 0.0, np.inf)
        which = [counts.index(count) for count in problem.in_flight]
        table = replace(table, cost=bare + excess[:, which].swapaxes(0, 1)[:, None])
    found: Shortage | None = None
    for variant in chains.variants(problem, table):
        chain = chains.tightest_chain(variant)
        if chain is None:
            continue
        held = [
            float(least[q, counts.index(problem.in_flight[s]), i, j])
            for s, (i, j, q) in enumerate(chain.pieces)
        ]
        lack = [h - problem.kinds[p[2]].capacity for h, p in zip(held, chain.pieces, strict=True)]
        worst = int(np.argmax(lack))
        if found is None or lack[worst] < found.missing:
            found = Shortage(lack[worst], held[worst], worst, chain.pieces)
    return found
