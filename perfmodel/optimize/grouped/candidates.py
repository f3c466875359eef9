"""A schedule for each variant and residency of a device, fastest first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from perfmodel.optimize.grouped.heuristics import longest_first, makespan
from perfmodel.optimize.grouped.knapsack import Kinds, choose_placed, merge
from perfmodel.optimize.grouped.problem import Floats, GroupedConv, Integers
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
        """Planned time of each slot [s]."""
        work = self.counts @ self.kinds.seconds
        return np.asarray(np.where(work > 0, work + self.times.begin, 0.0))

    @property
    def makespan(self) -> float:
        """Planned time of the fullest slot [s]."""
        return makespan(self.counts, self.kinds.seconds) + self.times.begin

    @property
    def seconds(self) -> float:
        """Planned time of the layer: the fullest slot and the launch [s]."""
        return self.makespan + self.times.launch

    def tables(self) -> Tables:
        """The tables that drive the kernel."""
        return tables(self.conv, self.times.variant, self.pick, self.kinds, self.counts)


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
    choice = choose_placed(number, tau, slots, most)
    if pick is None:
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
