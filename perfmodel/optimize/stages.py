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
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from perfmodel.optimize.problem import PlanningProblem

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
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
    stage of type t counts in the sum, ``rooms[t]`` how many stages of type t there can be.
    """

    cost: Floats
    type_of: Integers
    weights: Floats
    rooms: Integers

    @property
    def types(self) -> int:
        """Number of device types."""
        return len(self.weights)


def columns(problem: PlanningProblem, interval: Floats, counts: tuple[float, ...]) -> Columns:
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
    rooms = np.array(
        [
            have // min((k.devices for k in problem.kinds if k.device_type == t), default=have + 1)
            for t, have in enumerate(problem.available)
        ]
    )
    return Columns(cost, type_of, problem.sum_weights, rooms)


def _per_type(table: Columns) -> tuple[Floats, Integers]:
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


def _room(table: Columns, stages: int) -> tuple[int, int]:
    """Most stages of type 0, and of type 1; with one type, or more than two, nothing is counted."""
    if table.types != 2:
        return 0, stages
    return min(int(table.rooms[0]), stages), min(int(table.rooms[1]), stages)


def _advance(new: Floats, s: int, room: tuple[int, int], counted: bool, fill: float) -> Floats:
    """Move values reached by stage ``s`` to the count of type-0 stages after it."""
    if not counted:
        return new
    moved = np.full_like(new, fill)
    moved[1:, 0] = new[:-1, 0]
    moved[:, 1] = new[:, 1]
    used = np.arange(len(new))
    moved[(used > room[0]) | (s + 1 - used > room[1])] = fill
    return moved


def _forward(best: Floats, table: Columns, threshold: float) -> tuple[Floats, Integers]:
    """Least weighted sum of stages 0..s-1: ``value[s, u, t, l]``.

    They cover the layers below l, the last one is of type t, and u of them are of type 0 (always 0
    where types are not counted).
    """
    stages, types, _, n, _ = best.shape
    counted = table.types == 2
    room = _room(table, stages)
    size = room[0] + 1 if counted else 1
    value = np.full((stages + 1, size, types, n + 1), np.inf)
    value[0, 0, 0, 0] = 0.0
    back = np.zeros((stages + 1, size, types, n + 1), dtype=np.int64)
    for s in range(stages):
        step = np.where(best[s] <= threshold, best[s], np.inf)  # G, T, i, j
        step = step * table.weights[None, :, None, None]
        reach = value[s][:, :, None, :n, None] + step[None]
        flat = reach.swapaxes(1, 2).reshape(size, types, -1, n)  # u, T, (G, i), j
        arg = flat.argmin(axis=2)
        least = np.take_along_axis(flat, arg[:, :, None], axis=2)[:, :, 0]
        value[s + 1, :, :, 1:] = _advance(least, s, room, counted, np.inf)
        back[s + 1, :, :, 1:] = arg
    return value, back


def _backward(best: Floats, table: Columns, threshold: float) -> Floats:
    """``value[s, u, g, l]``: least weighted sum of stages s.. that cover layers l.. and follow."""
    stages, types, _, n, _ = best.shape
    counted = table.types == 2
    room = _room(table, stages)
    size = room[0] + 1 if counted else 1
    value = np.full((stages + 1, size, types, n + 1), np.inf)
    used = np.arange(size)
    ends = (stages - used <= room[1]) if counted else np.ones(size, dtype=bool)
    value[stages, ends, :, n] = 0.0
    for s in range(stages - 1, -1, -1):
        step = np.where(best[s] <= threshold, best[s], np.inf)
        step = step * table.weights[None, :, None, None]
        after = value[s + 1][:, :, 1:]  # u, T, j
        if counted:
            shifted = np.full_like(after, np.inf)
            shifted[:-1, 0] = after[1:, 0]
            shifted[:, 1] = after[:, 1]
            after = shifted
        onward = step[None] + after[:, None, :, None]
        value[s, :, :, :n] = onward.min(axis=(2, 4))
        if counted:
            value[s, s - used > room[1]] = np.inf
    return value


def _trace(best: Floats, kind: Integers, table: Columns, value: Floats, back: Integers) -> Chain:
    stages, _, _, n, _ = best.shape
    counted = table.types == 2
    u, t = divmod(int(value[stages, :, :, n].argmin()), value.shape[2])
    end = n
    pieces: list[tuple[int, int, int]] = []
    slowest = 0.0
    total = float(value[stages, u, t, n])
    for s in range(stages, 0, -1):
        before = u - 1 if counted and t == 0 else u
        g, first = divmod(int(back[s, before, t, end]), n)
        pieces.append((first, end - 1, int(kind[s - 1, g, t, first, end - 1])))
        slowest = max(slowest, float(best[s - 1, g, t, first, end - 1]))
        u, t, end = before, g, first
    return Chain(tuple(reversed(pieces)), total, slowest)


def least_total(table: Columns, threshold: float = np.inf) -> float:
    """Least weighted sum of stage times with no stage above the threshold; inf if there is none."""
    best, _ = _per_type(table)
    return float(_forward(best, table, threshold)[0][-1, :, :, -1].min())


def least_slowest(table: Columns) -> float:
    """The smallest possible time of the slowest stage, by a min-max path."""
    return _least_slowest(_per_type(table)[0], table)


def _least_slowest(best: Floats, table: Columns) -> float:
    stages, types, _, n, _ = best.shape
    counted = table.types == 2
    room = _room(table, stages)
    size = room[0] + 1 if counted else 1
    value = np.full((size, types, n + 1), np.inf)
    value[0, 0, 0] = 0.0
    for s in range(stages):
        reach = np.maximum(value[:, :, None, :n, None], best[s][None])
        value = np.full((size, types, n + 1), np.inf)
        value[:, :, 1:] = _advance(reach.min(axis=(1, 3)), s, room, counted, np.inf)
    return float(value[:, :, n].min())


def best_chain(table: Columns, tail: float, *, limit: int = 400) -> tuple[Chain | None, float]:
    """Minimise ``total + tail * slowest`` (the total weighted): the chain and a lower bound.

    The total falls as the threshold on the slowest stage rises, so a range of thresholds cannot
    hold anything below (total at its upper end) + tail * (its lower end): ranges are halved until
    none can improve. The two results agree unless ``limit`` evaluations run out.
    """
    best, kind = _per_type(table)
    smallest = _least_slowest(best, table)
    if not np.isfinite(smallest):
        return None, np.inf
    thresholds = np.unique(best[np.isfinite(best) & (best >= smallest)])
    chains: dict[int, Chain] = {}

    def at(index: int) -> Chain:
        if index not in chains:
            result = _forward(best, table, float(thresholds[index]))
            chains[index] = _trace(best, kind, table, *result)
        return chains[index]

    def worth(chain: Chain) -> float:
        return chain.total + tail * chain.slowest

    last = len(thresholds) - 1
    found = min((at(0), at(last)), key=worth)
    ranges = [(0, last)]
    left = np.inf
    while ranges:
        low, high = ranges.pop()
        floor = at(high).total + tail * float(thresholds[low])
        if floor >= worth(found) or high - low <= 1:
            # Neighbouring thresholds: both ends are evaluated and nothing lies between.
            continue
        if len(chains) >= limit:
            left = min(left, floor)
            continue
        middle = (low + high) // 2
        found = min((found, at(middle)), key=worth)
        ranges += [(middle, high), (low, middle)]
    return found, min(worth(found), left)


def through_bounds(table: Columns, threshold: float) -> Floats:
    """``bound[s, g, q, i, j]``: least weighted sum of a chain through this column (inf: none)."""
    best, _ = _per_type(table)
    forward, _ = _forward(best, table, threshold)
    backward = _backward(best, table, threshold)
    counted = table.types == 2
    n = best.shape[-1]
    total = np.full(table.cost.shape, np.inf)
    weight = table.weights[table.type_of][:, None, None]
    for u in range(forward.shape[1]):
        before = forward[:-1, u][:, :, None, :n, None]  # S, G, 1, i, 1
        after = np.full((len(best), len(table.type_of), n), np.inf)
        for q, t in enumerate(table.type_of):
            now = u + 1 if counted and t == 0 else u
            if now < backward.shape[1]:
                after[:, q] = backward[1:, now, t, 1:]
        np.minimum(total, before + after[:, None, :, None, :], out=total)
    total = total + weight * table.cost
    return np.where(table.cost <= threshold, total, np.inf)


def restricted(table: Columns, kinds_of_stage: Iterable[Iterable[int]]) -> Columns:
    """The columns in which stage s uses only the listed kinds."""
    cost = np.full_like(table.cost, np.inf)
    for s, allowed in enumerate(kinds_of_stage):
        members = list(allowed)
        cost[s][:, members] = table.cost[s][:, members]
    return replace(table, cost=cost)


def tightest_chain(table: Columns) -> Chain | None:
    """A chain whose slowest stage is as fast as possible."""
    best, kind = _per_type(table)
    smallest = _least_slowest(best, table)
    if not np.isfinite(smallest):
        return None
    return _trace(best, kind, table, *_forward(best, table, smallest))


def variants(problem: PlanningProblem, table: Columns) -> list[Columns]:
    """Tables whose every chain stays within the devices.

    One for each choice of a stage size per type. Up to two types are counted along the chain; with
    more, the types come in blocks, in every cut of their order and its reverse.
    """
    types = sorted({kind.device_type for kind in problem.kinds})
    stages = problem.stages
    members = {t: [q for q, k in enumerate(problem.kinds) if k.device_type == t] for t in types}
    found = []
    for size_of in _sizes(problem, members):
        rooms = np.array(
            [problem.available[t] // size_of.get(t, 1) for t in range(len(problem.available))]
        )
        usable = {
            t: [q for q in members[t] if problem.kinds[q].devices == size_of[t]] for t in types
        }
        if table.types <= 2:
            if sum(int(rooms[t]) for t in types) >= stages:
                every = [q for t in types for q in usable[t]]
                found.append(replace(restricted(table, [every] * stages), rooms=rooms))
            continue
        for order in (types, types[::-1]):
            for cuts in _cuts(stages, len(order)):
                runs = [b - a for a, b in pairwise((0, *cuts, stages))]
                if all(run <= rooms[t] for run, t in zip(runs, order, strict=True)):
                    kinds = [
                        usable[t] for run, t in zip(runs, order, strict=True) for _ in range(run)
                    ]
                    found.append(restricted(table, kinds))
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
