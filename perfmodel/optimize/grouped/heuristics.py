"""Placing tiles on slots without a solver: a ladder from naive to near-optimal.

Every rung takes the times of tile kinds and how many there are of each, and returns ``counts``, an
integer array (slots, kinds). Rungs that depend on the order take kinds in the order given.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

import numpy as np

from perfmodel.optimize.grouped.problem import Floats, Integers


def makespan(counts: Integers, seconds: Floats) -> float:
    """Time of the fullest slot [s]."""
    return float((counts @ seconds).max())


def round_robin(seconds: Floats, number: Integers, slots: int) -> Integers:
    """Tile i goes to slot ``i % slots`` (what a grouped GEMM kernel does on the device)."""
    kind = np.repeat(np.arange(len(number)), number)
    counts = np.zeros((slots, len(number)), dtype=np.int64)
    np.add.at(counts, (np.arange(len(kind)) % slots, kind), 1)
    return counts


def in_order(seconds: Floats, number: Integers, slots: int) -> Integers:
    """The next tile goes to the slot that is free first (what the block scheduler does)."""
    return _least_loaded(seconds, number, slots, np.arange(len(number)))


def longest_first(seconds: Floats, number: Integers, slots: int) -> Integers:
    """LPT: in order, longest tiles first; at most 4/3 of the optimum (Graham 1969)."""
    return _least_loaded(seconds, number, slots, np.argsort(-seconds, kind="stable"))


def _least_loaded(seconds: Floats, number: Integers, slots: int, order: Integers) -> Integers:
    counts = np.zeros((slots, len(number)), dtype=np.int64)
    load = [(0.0, slot) for slot in range(slots)]
    for kind in order:
        length = float(seconds[kind])
        for _ in range(int(number[kind])):
            before, slot = heapq.heappop(load)
            counts[slot, kind] += 1
            heapq.heappush(load, (before + length, slot))
    return counts


def multifit(seconds: Floats, number: Integers, slots: int, rounds: int = 12) -> Integers:
    """MULTIFIT: bisect the deadline, packing by first fit decreasing (Coffman et al. 1978)."""
    best = longest_first(seconds, number, slots)
    low = max(float(seconds @ number) / slots, float(seconds.max()))
    high = makespan(best, seconds)
    for _ in range(rounds):
        if high - low <= 1e-4 * high:
            break
        deadline = (low + high) / 2
        found = first_fit(seconds, number, slots, deadline)
        if found is None:
            low = deadline
        else:
            best, high = found, min(deadline, makespan(found, seconds))
    return best


def first_fit(seconds: Floats, number: Integers, slots: int, deadline: float) -> Integers | None:
    """First fit decreasing into slots of ``deadline``; ``None`` if a tile is left over."""
    counts = np.zeros((slots, len(number)), dtype=np.int64)
    room = np.full(slots, deadline * (1 + 1e-12))
    for kind in np.argsort(-seconds, kind="stable"):
        # identical tiles fill the slots in order, each as far as it goes: one cumulative sum
        fits = np.floor(room / seconds[kind]).astype(np.int64)
        taken = np.diff(np.minimum(np.cumsum(fits), number[kind]), prepend=0)
        if taken.sum() < number[kind]:
            return None
        counts[:, kind] = taken
        room -= taken * seconds[kind]
    return counts


def knapsack_fill(seconds: Floats, number: Integers, slots: int, cells: int = 512) -> Integers:
    """Fill one slot after another as close to the mean of what is left as a knapsack can.

    The subset-sum runs on ``cells`` cells; what is left at the end goes to the least loaded slots.
    """
    counts = np.zeros((slots, len(number)), dtype=np.int64)
    left = np.asarray(number, dtype=np.int64).copy()
    for slot in range(slots):
        remaining = float(left @ seconds)
        if remaining <= 0:
            break
        counts[slot] = fill_slot(seconds, left, remaining / (slots - slot), cells)
        left -= counts[slot]
    load = counts @ seconds
    for kind in np.argsort(-seconds, kind="stable"):
        for _ in range(int(left[kind])):
            slot = int(load.argmin())
            counts[slot, kind] += 1
            load[slot] += seconds[kind]
    return counts


def fill_slot(seconds: Floats, left: Integers, target: float, cells: int) -> Integers:
    """Counts whose total comes closest to ``target``, above it or below."""
    unit = target / cells
    goal = cells
    size = np.maximum(1, np.round(seconds / unit).astype(np.int64))
    cells = goal + int(size[left > 0].min()) // 2
    reach = np.zeros(cells + 1, dtype=bool)
    reach[0] = True
    history = []
    for kind in np.argsort(-seconds, kind="stable"):
        for part in parts(int(min(left[kind], cells // size[kind]))):
            step = part * int(size[kind])
            before = reach.copy()
            reach[step:] |= before[: cells + 1 - step]
            history.append((kind, part, step, before))
    counts = np.zeros(len(left), dtype=np.int64)
    reached = np.flatnonzero(reach)
    at = int(reached[np.abs(reached - goal).argmin()])
    for kind, part, step, before in reversed(history):
        if not before[at]:
            counts[kind] += part
            at -= step
    return counts


def parts(number: int) -> list[int]:
    """Binary splitting: parts whose subsets give every count from 0 to ``number``."""
    found, size = [], 1
    while number > 0:
        found.append(min(size, number))
        number -= found[-1]
        size *= 2
    return found


LADDER: Final[dict[str, Callable[[Floats, Integers, int], Integers]]] = {
    "round-robin": round_robin,
    "in-order": in_order,
    "lpt": longest_first,
    "multifit": multifit,
    "knapsack-fill": knapsack_fill,
}
