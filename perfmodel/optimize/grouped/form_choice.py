"""Which form of a layer to run, with which kernel: by planned time, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perfmodel.optimize.grouped.candidates import Candidate, candidate
from perfmodel.optimize.grouped.forms import Form, Packing, forms
from perfmodel.optimize.grouped.knapsack import choose
from perfmodel.optimize.grouped.problem import GroupedConv
from perfmodel.optimize.grouped.tiles import TileTimes, usable


@dataclass(frozen=True, slots=True, eq=False)
class Formed:
    """A form, how it would run, and the packing before it [s]."""

    form: Form
    candidate: Candidate
    packing: float

    @property
    def name(self) -> str:
        """Form and kernel: ``"merged 64: small-flat-8 x2"``."""
        return f"{self.form.name}: {self.candidate.times.name}"

    @property
    def seconds(self) -> float:
        """Planned time with packing and launches [s]."""
        return self.candidate.seconds + self.packing


def quick(conv: GroupedConv, times: TileTimes, units: int) -> float:
    """The knapsack's value and the launch: no placement is better [s]."""
    number, tau = times.variant.counts(conv), times.seconds(conv)
    return choose(number, tau, units * times.residency).value + times.begin + times.launch


def formed(
    conv: GroupedConv,
    coefficients: Sequence[TileTimes],
    units: int,
    packing: Packing,
    *,
    most: int = 6,
    each: int = 2,
) -> list[Formed]:
    """Forms with their kernels, fastest first.

    Every form and kernel is judged by its knapsack; the best ``most`` are placed, ``each`` of one
    form at most, and the layer as given always.
    """
    ranked: list[tuple[float, int, Form, TileTimes]] = []
    for form in forms(conv):
        names = {variant.name for variant in usable(form.conv)}
        extra = packing.seconds(form)
        for times in coefficients:
            if times.variant.name in names:
                ranked.append((quick(form.conv, times, units) + extra, len(ranked), form, times))
    ranked.sort(key=lambda one: one[:2])
    taken: dict[str, int] = {}
    chosen: list[tuple[Form, TileTimes]] = []
    for _, _, form, times in ranked:
        if taken.get(form.name, 0) < each and (
            len(chosen) < most or (form.name == "as given" and form.name not in taken)
        ):
            taken[form.name] = taken.get(form.name, 0) + 1
            chosen.append((form, times))
    placed = [
        Formed(form, candidate(form.conv, times, units), packing.seconds(form))
        for form, times in chosen
    ]
    return sorted(placed, key=lambda one: one.seconds)
