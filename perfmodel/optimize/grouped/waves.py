"""Stream execution without a kernel of one's own: which groups run side by side, wave after wave.

A group on the device is a rectangle: as wide as the slots it occupies, as high as its time. Waves
follow one another (a join of the streams between them), so this is level packing (Lodi, Martello
and Monaci 2002): a wave is as high as its highest member, the widths of its members fit the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perfmodel.optimize.grouped.problem import Floats, Integers

EXACT_GROUPS = 48


@dataclass(frozen=True, slots=True)
class Waves:
    """Groups of each wave, the total time [s] and its proven lower bound [s]."""

    waves: tuple[tuple[int, ...], ...]
    seconds: float
    bound: float

    @property
    def gap(self) -> float:
        """(seconds - bound) / bound."""
        return max(0.0, self.seconds / self.bound - 1) if self.bound > 0 else 0.0


def rectangles(number: Integers, tau: Floats, slots: int) -> tuple[Integers, Floats]:
    """Width (slots) and height [s] of each group alone: more tiles than slots fold into rounds."""
    rounds = -(-number // slots)
    return np.asarray(-(-number // rounds)), np.asarray(rounds * tau)


def wave_plan(
    width: Integers, height: Floats, slots: int, join: float, *, time_limit_s: float = 10.0
) -> Waves:
    """Waves of groups that minimise the sum of heights plus ``join`` [s] a wave.

    First fit by height for any number; an integer programme proves up to 48 groups.
    """
    order = np.argsort(-height, kind="stable")
    wide, high = width[order], height[order]
    first = _first_fit(wide, slots)
    total = _total(first, high, join)
    area = float(wide @ high) / slots
    fewest = -(-int(wide.sum()) // slots)
    bound = max(area, float(high[0])) + join * fewest
    if len(order) <= EXACT_GROUPS and total > bound * (1 + 1e-9):
        first, proven = _exact(wide, high, slots, join, first, time_limit_s)
        total, bound = _total(first, high, join), max(bound, proven)
    waves: dict[int, list[int]] = {}
    for place, opener in enumerate(first):
        waves.setdefault(int(opener), []).append(int(order[place]))
    return Waves(tuple(tuple(wave) for wave in waves.values()), total, min(bound, total))


def _total(opener: Integers, high: Floats, join: float) -> float:
    opened = np.unique(opener)
    return float(high[opened].sum() + join * len(opened))


def _first_fit(wide: Integers, slots: int) -> Integers:
    """For each group (highest first) the group that opens its wave."""
    opener = np.arange(len(wide))
    room: dict[int, int] = {}
    for place, need in enumerate(wide):
        home = next((wave for wave, free in room.items() if free >= need), place)
        opener[place] = home
        room[home] = room.get(home, slots) - int(need)
    return opener


def _exact(
    wide: Integers, high: Floats, slots: int, join: float, start: Integers, time_limit_s: float
) -> tuple[Integers, float]:
    """x[i, j]: group j lies in the wave that group i (no shorter) opens; x[i, i]: i opens one."""
    from perfmodel.optimize.milp import Program, solve

    count = len(wide)
    pairs = [(i, j) for i in range(count) for j in range(i, count)]
    index = {pair: place for place, pair in enumerate(pairs)}
    scale = float(high.max())
    cost = np.array([(high[i] + join) / scale if i == j else 0.0 for i, j in pairs])
    entries: list[tuple[int, int, float]] = []
    low = np.repeat([1.0, -np.inf], count)
    up = np.repeat([1.0, 0.0], count)
    for j in range(count):
        for i in range(j + 1):
            entries.append((j, index[i, j], 1.0))
    for i in range(count):
        for j in range(i + 1, count):
            entries.append((count + i, index[i, j], float(wide[j])))
        entries.append((count + i, index[i, i], -float(slots - wide[i])))
    # with no room beside it an opener's row has a zero coefficient, which the matrix may not hold
    rows, columns, values = zip(*[entry for entry in entries if entry[2] != 0], strict=True)
    begin = np.zeros(len(pairs))
    for j, i in enumerate(start):
        begin[index[int(i), j]] = 1.0
    answer = solve(
        Program(
            cost,
            np.zeros(len(pairs)),
            np.ones(len(pairs)),
            np.ones(len(pairs), dtype=bool),
            np.array(rows),
            np.array(columns),
            np.array(values),
            low,
            up,
        ),
        time_limit_s=time_limit_s,
        start=begin,
    )
    if answer.values is None:
        return start, 0.0
    opener = np.array(
        [next(i for i in range(j + 1) if answer.values[index[i, j]] > 0.5) for j in range(count)]
    )
    proven = answer.bound * scale if np.isfinite(answer.bound) else 0.0
    return opener, proven
