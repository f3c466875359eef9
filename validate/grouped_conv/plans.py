"""The schedules that are run and ranked for a layer, and what each slot of one holds. No GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from perfmodel.optimize.grouped.candidates import Candidate, candidate
from perfmodel.optimize.grouped.heuristics import in_order, longest_first
from perfmodel.optimize.grouped.problem import GroupedConv, contiguous_groups
from perfmodel.optimize.grouped.sharing import finish
from perfmodel.optimize.grouped.tables import Tables, tables_in_order
from perfmodel.optimize.grouped.tiles import TileTimes

Floats = npt.NDArray[np.float64]


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


def remade(one: Candidate, label: str) -> tuple[Candidate, Tables]:
    """A schedule of :func:`ladder` again, from its label and its kernel's candidate."""
    conv, times = one.conv, one.times
    units = one.slots // times.residency
    if label.endswith("round-robin"):
        return one, tables_in_order(conv, times.variant, one.pick, one.slots)
    if label == "in-order":
        one = candidate(conv, times, units, pick=one.pick, place=in_order)
    elif label.startswith("all-"):
        pick = np.full(len(conv.groups), int(label[4]))
        one = candidate(conv, times, units, pick=pick, place=longest_first)
    return one, one.tables()


def side_by_side(conv: GroupedConv) -> GroupedConv:
    """The layer on gathered channels: groups side by side, each padded to 8 channels."""
    widths = [-(-len(group.channels) // 8) * 8 for group in conv.groups]
    return replace(
        conv,
        in_channels=sum(widths),
        groups=contiguous_groups(widths, conv.outputs.tolist()),
    )


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


def busy_seconds(times: TileTimes, load: Held) -> Floats:
    """Time of each slot if all slots are busy throughout [s]."""
    work = load.tiles @ times.alpha + load.steps @ times.beta + load.filled @ times.fill
    return np.asarray(np.where(load.busy, work + times.begin, 0.0))


def planned_seconds(times: TileTimes, load: Held) -> Floats:
    """Finish of each slot by these coefficients, neighbours on the SM considered [s]."""
    return finish(paces(times, load), times.dealing, len(load.tiles) // times.residency)[0]


def paces(times: TileTimes, load: Held) -> Floats:
    """Time of each slot's work in company of 1, 2, ... busy programs, (slots, residency) [s]."""
    columns = [
        sum((weight * busy_seconds(one, load) for one, weight in times.mix(programs)), 0.0)
        for programs in range(1, times.residency + 1)
    ]
    return np.column_stack(columns)
