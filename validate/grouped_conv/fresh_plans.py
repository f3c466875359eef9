"""The schedules that a fresh layer is run with: forms of the layer, and the ladder of the best.

No GPU, and no torch, so that other processes can plan while one measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perfmodel.optimize.grouped.candidates import Candidate, candidates
from perfmodel.optimize.grouped.form_choice import Formed, formed
from perfmodel.optimize.grouped.forms import Form, Packing
from perfmodel.optimize.grouped.problem import GroupedConv
from perfmodel.optimize.grouped.tables import Tables, tables_in_order
from perfmodel.optimize.grouped.tiles import TileTimes
from validate.grouped_conv.plans import ladder


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """One schedule of one form; ``packing`` is what the packing before it should take [s]."""

    label: str
    form: Form
    candidate: Candidate
    tables: Tables
    packing: float


def plan(
    conv: GroupedConv,
    times: Sequence[TileTimes],
    units: int,
    packing: Packing,
    *,
    whole: bool = True,
) -> list[Planned]:
    """Schedules to run; only the best few of the forms unless ``whole``."""
    found = formed(conv, times, units, packing)
    best = found[0]
    ranked: list[Planned] = []
    if whole:
        others = candidates(best.form.conv, times, units)
        order = [best.candidate, *(o for o in others if o.times.name != best.candidate.times.name)]
        ranked = [
            Planned(label, best.form, one, made, best.packing)
            for label, one, made in ladder(best.form.conv, order, units)
        ]
    else:
        ranked.append(_placed("knapsack+lpt", best))
    seen = {(one.form.name, one.candidate.times.name) for one in ranked}
    for one in found[1:]:
        if (one.form.name, one.candidate.times.name) not in seen:
            seen.add((one.form.name, one.candidate.times.name))
            ranked.append(_placed("form+lpt", one))
    given = next(one for one in found if one.form.name == "as given")
    if whole and given is not best:
        made = given.candidate
        naive = tables_in_order(conv, made.times.variant, made.pick, made.slots)
        ranked.append(Planned("given+round-robin", given.form, made, naive, 0.0))
    return ranked


def _placed(label: str, one: Formed) -> Planned:
    return Planned(label, one.form, one.candidate, one.candidate.tables(), one.packing)
