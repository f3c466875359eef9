"""A schedule for each variant and residency of a device, fastest first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from perfmodel.optimize.grouped.heuristics import longest_first, makespan
from perfmodel.optimize.grouped.knapsack import Kinds, choose, choose_placed, merge
from perfmodel.optimize.grouped.problem import Floats, GroupedConv, Integers
from perfmodel.optimize.grouped.sharing import finish, lateness
from perfmodel.optimize.grouped.tables import Tables, tables
from perfmodel.optimize.grouped.tiles import TileTimes, usable


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One way to run a layer.

    ``pick`` is the tile shape of each group, ``counts`` (slots, kinds) the placement, ``bound`` the
    knapsack's lower bound of the slot time for this variant [s].
    """

    conv: GroupedConv
    times: TileTimes
    slots: int
    pick: Integers
    kinds: Kinds
    counts: Integers
    bound: float

    @property
    def slot_seconds(self) -> Floats:
        """Time of each slot if all slots are busy throughout [s]; what bounds refer to."""
        work = self.counts @ self.kinds.seconds
        return np.asarray(np.where(work > 0, work + self.times.begin, 0.0))

    @property
    def makespan(self) -> float:
        """Time of the fullest slot if all slots are busy throughout [s]; what bounds refer to."""
        return makespan(self.counts, self.kinds.seconds) + self.times.begin

    @property
    def planned(self) -> Floats:
        """Planned finish of each slot, with idle and finished neighbours out of the way [s]."""
        busy = self.counts.sum(axis=1) > 0
        work = np.zeros((self.slots, self.times.residency))
        for programs in range(1, self.times.residency + 1):
            for times, weight in self.times.mix(programs):
                each = _of_kinds(self, times)
                work[:, programs - 1] += weight * (self.counts @ each + busy * times.begin)
        return finish(work, self.times.dealing, self.slots // self.times.residency)[0]

    @property
    def seconds(self) -> float:
        """Planned time of the layer: the last slot's finish and the launch [s]."""
        return layer_seconds(self.times, self.planned)

    def tables(self) -> Tables:
        """The tables that drive the kernel."""
        return tables(self.conv, self.times.variant, self.pick, self.kinds, self.counts)


def layer_seconds(times: TileTimes, planned: Floats) -> float:
    """Time of a layer from the planned finish of its slots [s]."""
    return float(planned.max()) + times.spread * lateness(planned) + times.launch


def _of_kinds(one: Candidate, times: TileTimes) -> Floats:
    """Time of a tile of each kind by other coefficients of the same variant [s]."""
    rows = np.arange(len(one.pick))
    number = times.variant.counts(one.conv)[rows, one.pick].astype(float)
    total = np.zeros(len(one.kinds.number))
    np.add.at(total, one.kinds.of, number * times.seconds(one.conv)[rows, one.pick])
    return np.asarray(total / one.kinds.number)


def candidate(
    conv: GroupedConv,
    times: TileTimes,
    units: int,
    *,
    pick: Integers | None = None,
    place: Callable[[Floats, Integers, int], Integers] = longest_first,
    most: int = 8,
) -> Candidate:
    """A schedule of one variant: tile shapes by knapsack (or as given), placement by ``place``."""
    slots = units * times.residency
    number, tau = times.variant.counts(conv), times.seconds(conv)
    choice = choose(number, tau, slots)
    if pick is None:
        choice = choose_placed(number, tau, slots, most)
        pick = choice.pick
    kinds = merge(number, tau, pick)
    counts = place(kinds.seconds, kinds.number, slots)
    return Candidate(conv, times, slots, pick, kinds, counts, choice.bound)


def candidates(conv: GroupedConv, coefficients: Sequence[TileTimes], units: int) -> list[Candidate]:
    """One candidate per usable variant and residency, fastest first."""
    names = {variant.name for variant in usable(conv)}
    found: list[Candidate] = []
    for times in coefficients:
        if times.variant.name in names:
            found.append(candidate(conv, times, units))
    return sorted(found, key=lambda one: one.seconds)
