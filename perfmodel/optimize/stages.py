"""The outer programme without the solver: chains of stages, thresholds, bounds, incumbents.

With the slowest stage capped at a threshold, choosing the cuts between stages is a shortest path
over (stage, first layer, device type of the stage before); the best threshold is one of the
interval times (Alpa's observation, Zheng et al., OSDI 2022, section 5.2). This is exact when
devices are not scarce and once-a-step work does not depend on the choice; otherwise it gives a
lower bound, and a first plan. The same path values tell which intervals cannot be part of any plan
better than the incumbent: those never reach the inner programme or the solver.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from perfmodel.optimize.problem import PlanningProblem

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """Cuts and kinds of a path: ``pieces[s] = (first, last, kind)``, with its two path values."""

    pieces: tuple[tuple[int, int, int], ...]
    total: float
    slowest: float


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Every (stage, kind) interval time, with the time of receiving the input.

    ``cost[s, g, q, i, j]``: seconds of layers i..j as stage s of kind q behind a stage of type g
    (stage 0 has g = 0 only). ``type_of[q]`` is the device type, ``weights[t]`` what a second of a
    stage of type t counts in the sum.
    """

    cost: Floats
    type_of: npt.NDArray[np.int64]
    weights: Floats

    @property
    def types(self) -> int:
        """Number of device types."""
        return len(self.weights)


def columns(problem: PlanningProblem, interval: Floats, counts: tuple[int, ...]) -> Columns:
    """Interval times (Q, F, L, L) -> times per stage, with ends of the chain respected."""
    stages, n = problem.stages, len(problem.layers)
    which = [counts.index(count) for count in problem.in_flight]
    per_stage = interval[:, which].swapaxes(0, 1)  # S, Q, L, L
    cost = per_stage[:, None] + problem.enter[None, :, :, :, None]
    # Stage 0 begins with layer 0 and receives nothing; later stages leave a layer for each before.
    cost[0, 0] = per_stage[0]
    cost[0, 1:] = np.inf
    for s in range(stages):
        if s == 0:
            cost[s, :, :, 1:, :] = np.inf
        else:
            cost[s, :, :, :s, :] = np.inf
        if s == stages - 1:
            cost[s, :, :, :, : n - 1] = np.inf
        else:
            cost[s, :, :, :, n - (stages - 1 - s) :] = np.inf
    type_of = np.array([kind.device_type for kind in problem.kinds])
    return Columns(cost, type_of, problem.sum_weights)


def _per_type(table: Columns) -> tuple[Floats, npt.NDArray[np.int64]]:
    """(S, G, T, L, L) cheapest kind of each type, and which kind that is."""
    best = np.full((*table.cost.shape[:2], table.types, *table.cost.shape[3:]), np.inf)
    kind = np.zeros(best.shape, dtype=np.int64)
    for t in range(table.types):
        members = np.flatnonzero(table.type_of == t)
        if not len(members):
            continue
        part = table.cost[:, :, members]
        arg = part.argmin(axis=2)
        best[:, :, t] = np.take_along_axis(part, arg[:, :, None], axis=2)[:, :, 0]
        kind[:, :, t] = members[arg]
    return best, kind


def _forward(
    best: Floats, weights: Floats, threshold: float
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """``value[s, t, l]``: least weighted sum of stages 0..s-1 that cover layers below l, last of type t."""
    stages, types, _, n, _ = best.shape
    value = np.full((stages + 1, types, n + 1), np.inf)
    value[0, 0, 0] = 0.0
    back = np.zeros((stages + 1, types, n + 1), dtype=np.int64)
    for s in range(stages):
        step = np.where(best[s] <= threshold, best[s], np.inf)  # G, T, i, j
        step = step * weights[None, :, None, None]
        reach = value[s][:, None, :n, None] + step
        flat = reach.swapaxes(0, 1).reshape(types, -1, n)  # T, (G, i), j
        back[s + 1, :, 1:] = flat.argmin(axis=1)
        value[s + 1, :, 1:] = flat.min(axis=1)
    return value, back


def _backward(best: Floats, weights: Floats, threshold: float) -> Floats:
    """``value[s, g, l]``: least weighted sum of stages s.. that cover layers l.., behind a type g."""
    stages, types, _, n, _ = best.shape
    value = np.full((stages + 1, types, n + 1), np.inf)
    value[stages, :, n] = 0.0
    for s in range(stages - 1, -1, -1):
        step = np.where(best[s] <= threshold, best[s], np.inf)
        step = step * weights[None, :, None, None]
        onward = step + value[s + 1][None, :, None, 1:]
        value[s, :, :n] = onward.min(axis=(1, 3))
    return value


def _trace(
    best: Floats,
    kind: npt.NDArray[np.int64],
    value: Floats,
    back: npt.NDArray[np.int64],
) -> Chain:
    stages, _, _, n, _ = best.shape
    end = n
    t = int(value[stages, :, n].argmin())
    pieces: list[tuple[int, int, int]] = []
    slowest = 0.0
    total = float(value[stages, t, n])
    for s in range(stages, 0, -1):
        g, first = divmod(int(back[s, t, end]), n)
        pieces.append((first, end - 1, int(kind[s - 1, g, t, first, end - 1])))
        slowest = max(slowest, float(best[s - 1, g, t, first, end - 1]))
        t, end = g, first
    return Chain(tuple(reversed(pieces)), total, slowest)


def least_total(table: Columns, threshold: float = np.inf) -> float:
    """Least weighted sum of stage times with no stage above the threshold; inf if there is none."""
    best, _ = _per_type(table)
    return float(_forward(best, table.weights, threshold)[0][-1, :, -1].min())


def least_slowest(table: Columns) -> float:
    """The smallest possible time of the slowest stage, by a min-max path."""
    best, _ = _per_type(table)
    stages, types, _, n, _ = best.shape
    value = np.full((types, n + 1), np.inf)
    value[0, 0] = 0.0
    for s in range(stages):
        reach = np.maximum(value[:, None, :n, None], best[s])
        value = np.full((types, n + 1), np.inf)
        value[:, 1:] = reach.min(axis=(0, 2))
    return float(value[:, n].min())


def best_chain(table: Columns, tail: float, *, limit: int | None = 4000) -> Chain | None:
    """Minimise ``total + tail * slowest`` (the total weighted), exactly, by thresholds.

    ``limit`` caps the thresholds tried (``None``: all that matter); beyond it the best chain so far
    comes back: still a plan, no longer a bound.
    """
    best, kind = _per_type(table)
    smallest = least_slowest(table)
    if not np.isfinite(smallest):
        return None
    loosest = _forward(best, table.weights, np.inf)[0][-1, :, -1].min()
    thresholds = np.unique(best[np.isfinite(best) & (best >= smallest)])
    found: Chain | None = None
    value = np.inf
    for threshold in thresholds[:limit]:
        if loosest + tail * threshold >= value:
            break
        if found is not None and threshold <= found.slowest:
            continue
        chain = _trace(best, kind, *_forward(best, table.weights, float(threshold)))
        reached = chain.total + tail * chain.slowest
        if reached < value:
            found, value = chain, reached
    return found


def chain_bound(table: Columns, tail: float) -> float:
    """Lower bound of ``total + tail * slowest`` over chains (exact but for scarcity)."""
    chain = best_chain(table, tail, limit=None)
    return np.inf if chain is None else chain.total + tail * chain.slowest


def through_bounds(table: Columns, threshold: float) -> Floats:
    """``bound[s, g, q, i, j]``: least weighted sum of a chain that uses this column (inf: none does)."""
    best, _ = _per_type(table)
    forward, _ = _forward(best, table.weights, threshold)
    backward = _backward(best, table.weights, threshold)
    n = best.shape[-1]
    before = forward[:-1][:, :, None, :n, None]  # S, G, 1, i, 1
    after = backward[1:][:, :, 1:][:, table.type_of][:, None, :, None, :]  # S, 1, Q, 1, j
    weight = table.weights[table.type_of][:, None, None]
    total = before + weight * table.cost + after
    return np.where(table.cost <= threshold, total, np.inf)


def restricted(table: Columns, kinds_of_stage: Iterable[Iterable[int]]) -> Columns:
    """The columns in which stage s uses only the listed kinds."""
    cost = np.full_like(table.cost, np.inf)
    for s, allowed in enumerate(kinds_of_stage):
        members = list(allowed)
        cost[s][:, members] = table.cost[s][:, members]
    return Columns(cost, table.type_of, table.weights)


def orders(problem: PlanningProblem) -> list[list[list[int]]]:
    """Kinds per stage for the natural orders of device types: one block per type, either way round.

    Only orders whose devices suffice are listed (kinds of one type are taken at their size).
    """
    types = sorted({kind.device_type for kind in problem.kinds})
    stages = problem.stages
    members = {t: [q for q, k in enumerate(problem.kinds) if k.device_type == t] for t in types}
    found: list[list[list[int]]] = []
    for size_of in _sizes(problem, members):
        room = {t: problem.available[t] // size for t, size in size_of.items()}
        usable = {
            t: [q for q in members[t] if problem.kinds[q].devices == size_of[t]] for t in types
        }
        if len(types) == 1:
            if room[types[0]] >= stages:
                found.append([usable[types[0]]] * stages)
            continue
        for order in (types, types[::-1]):
            for cuts in _cuts(stages, len(order)):
                runs = [b - a for a, b in pairwise((0, *cuts, stages))]
                if all(run <= room[t] for run, t in zip(runs, order, strict=True)):
                    found.append(
                        [usable[t] for run, t in zip(runs, order, strict=True) for _ in range(run)]
                    )
    return found


def _sizes(problem: PlanningProblem, members: dict[int, list[int]]) -> list[dict[int, int]]:
    """Choices of one stage size per type."""
    choices: list[dict[int, int]] = [{}]
    for t, kinds in members.items():
        sizes = sorted({problem.kinds[q].devices for q in kinds})
        choices = [choice | {t: size} for choice in choices for size in sizes]
    return choices


def _cuts(stages: int, parts: int) -> list[tuple[int, ...]]:
    if parts == 1:
        return [()]
    if parts == 2:
        return [(a,) for a in range(stages + 1)]
    return [(a, *rest) for a in range(stages + 1) for rest in _tails(a, stages, parts - 2)]


def _tails(low: int, stages: int, cuts: int) -> list[tuple[int, ...]]:
    if cuts == 0:
        return [()]
    return [(a, *rest) for a in range(low, stages + 1) for rest in _tails(a, stages, cuts - 1)]
