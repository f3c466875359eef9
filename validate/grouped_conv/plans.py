"""The schedules that are run and ranked for a layer, and what each slot of one holds. No GPU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perfmodel.optimize.grouped.candidates import Candidate, candidate
from perfmodel.optimize.grouped.heuristics import in_order, longest_first
from perfmodel.optimize.grouped.problem import GroupedConv
from perfmodel.optimize.grouped.tables import Tables, tables_in_order


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """What every slot holds, (slots, shapes): tiles, steps, and steps' worth of filled lanes."""

    tiles: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]
    filled: npt.NDArray[np.float64]

    @property
    def busy(self) -> npt.NDArray[np.bool_]:
        """Slots that hold a tile."""
        return np.asarray(self.tiles.sum(axis=1) > 0)


def ladder(
    conv: GroupedConv, found: list[Candidate], units: int
) -> list[tuple[str, Candidate, Tables]]:
    """Schedules to rank: the best, worse placements and shapes of it, and other variants."""
    best = found[0]
    ranked = [("knapsack+lpt", best, best.tables())]
    variant = best.times.variant
    ranked.append(("round-robin", best, tables_in_order(conv, variant, best.pick, best.slots)))
    ordered = candidate(conv, best.times, units, pick=best.pick, place=in_order)
    ranked.append(("in-order", ordered, ordered.tables()))
    for shape in range(len(variant.tiles)):
        pick = np.full(len(conv.groups), shape)
        if not np.array_equal(pick, best.pick):
            one = candidate(conv, best.times, units, pick=pick, place=longest_first)
            ranked.append((f"all-{shape}+lpt", one, one.tables()))
    seen = {best.times.name}
    others = [one for one in found[1:] if one.times.variant.name != variant.name]
    same = [one for one in found[1:] if one.times.variant.name == variant.name]
    for one in [*same[:1], *others[:2], *others[-1:]]:
        if one.times.name not in seen:
            seen.add(one.times.name)
            ranked.append(("other+lpt", one, one.tables()))
    return ranked


def held(one: Candidate, made: Tables) -> Held:
    """Tiles, steps and filled steps of each slot that the tables hold."""
    conv, variant = one.conv, one.times.variant
    slots, width = len(made.first) - 1, len(variant.tiles)
    slot = np.repeat(np.arange(slots), np.diff(made.first))
    group, shape = made.tiles[:, 0], made.tiles[:, 3]
    tiles = np.zeros((slots, width), dtype=np.int64)
    steps = np.zeros((slots, width), dtype=np.int64)
    filled = np.zeros((slots, width))
    np.add.at(tiles, (slot, shape), 1)
    np.add.at(steps, (slot, shape), variant.steps(conv.inputs, conv.kernel)[group, shape])
    np.add.at(filled, (slot, shape), variant.filled(conv.inputs, conv.kernel)[group, shape])
    return Held(tiles, steps, filled)


def planned_seconds(one: Candidate, load: Held) -> npt.NDArray[np.float64]:
    """Time of each slot by the candidate's coefficients [s]."""
    times = one.times
    work = load.tiles @ times.alpha + load.steps @ times.beta + load.filled @ times.fill
    return np.asarray(np.where(load.busy, work + times.begin, 0.0))
