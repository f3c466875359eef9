"""How wide the interval of a step is: how far off models are that no fit knows the like of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Final

import numpy as np

from perfmodel.calibrate.programs.host import fit_host
from perfmodel.calibrate.programs.measured import Measured
from perfmodel.calibrate.programs.paces import behind_pace, hosts_of, row_pace
from perfmodel.cost.program.coefficients import ProgramCoefficients
from perfmodel.cost.program.step import step

FOLDS: Final = 4
"""Parts of the kin of models, and of the machines, each predicted by a fit of the others."""
FEWEST_ROWS: Final = 6
"""Rows that tell the width of an interval."""


def fit_interval(
    cases: Sequence[Measured], c: ProgramCoefficients, kernels: ProgramCoefficients
) -> dict[str, float]:
    """Half-width that holds 90 % of the rows of each mode, in the logarithm of time.

    At the pace of the host, where rows of the mode have a probe: what an unknown pace adds is the
    spread of paces. Steps with a host in them are predicted by coefficients whose host's part was
    fitted, from `kernels` on, without their model, its kin and their machine, and machines count
    alike: so far off is a model that is like none of these, on the next machine. Steps that page
    faults disturbed count only where there are few others. Of replayed steps, which have no such
    part, the quantile is taken at 95 % in exchange for a fit that has seen them.
    """
    hosts = hosts_of([one.row for one in cases])
    apart: dict[str, list[_Miss]] = {}
    for one, other in zip(cases, _strangers(cases, c, kernels, hosts), strict=True):
        if one.row.superseded:
            continue
        scalars = dict(other.scalars) | {"stream_gap": c["stream_gap"]}
        blind = replace(other, device=c.device, scalars=scalars)
        pace, behind = row_pace(one.row, blind), behind_pace(one.row, blind)
        done = step(one.prepared, blind, pace=pace, behind=behind, profiler=one.row.after_profiler)
        ratio = abs(float(np.log(done.seconds / one.row.step_s)))
        mode = one.prepared.mode
        doubts = 0 if mode == "graph" else (pace is None) + _disturbed(one)
        miss = _Miss(ratio, doubts, mode if mode == "graph" else hosts[one.row.run])
        apart.setdefault(mode, []).append(miss)
    widths = {}
    for mode, rows in apart.items():
        ranked = ([one for one in rows if one.doubts <= most] for most in range(3))
        chosen = next((some for some in ranked if len(some) >= FEWEST_ROWS), None)
        if chosen is not None:
            widths[mode] = _quantile(chosen, 0.95 if mode == "graph" else 0.9)
    return widths


def _disturbed(one: Measured) -> bool:
    """Whether pages were faulted in at every step, or may have been where generated code ran."""
    return one.row.faulted is True or (one.row.faulted is None and one.prepared.mode == "compile")


@dataclass(frozen=True, slots=True)
class _Miss:
    """How far off a row is, how many reasons there are to doubt it, and its machine."""

    ratio: float
    doubts: int
    host: str


def _quantile(rows: Sequence[_Miss], share: float) -> float:
    """What this share of rows stays below, where machines count alike."""
    many = Counter(one.host for one in rows)
    ratio = np.array([one.ratio for one in rows])
    weight = np.array([1.0 / many[one.host] for one in rows])
    order = np.argsort(ratio)
    below = np.cumsum(weight[order]) - 0.5 * weight[order]
    return float(np.interp(share * np.sum(weight), below, ratio[order]))


def _strangers(
    cases: Sequence[Measured],
    c: ProgramCoefficients,
    kernels: ProgramCoefficients,
    hosts: Mapping[str, str],
) -> list[ProgramCoefficients]:
    """For each row, coefficients whose host's part saw no model of its kin and not its machine.

    Where all rows are of one machine, or one kin, the other alone is left out; `c` where nothing
    would be left.
    """
    hosted = hosted_cases(cases)
    kin = _folds([_kin(one.row.model) for one in hosted])
    machine = _folds([hosts[one.row.run] for one in hosted])
    fitted: dict[tuple[int, int], ProgramCoefficients] = {}

    def without(one: Measured) -> ProgramCoefficients:
        mine = kin.get(_kin(one.row.model), -1), machine.get(hosts[one.row.run], -1)
        if mine not in fitted:
            strange = [x for x in hosted if kin[_kin(x.row.model)] != mine[0]]
            away = [x for x in hosted if machine[hosts[x.row.run]] != mine[1]]
            both = [x for x in strange if machine[hosts[x.row.run]] != mine[1]]
            chosen = both or strange or away
            fitted[mine] = fit_host(chosen, kernels) if chosen else c
        return fitted[mine]

    return [c if one.prepared.mode == "graph" else without(one) for one in cases]


def _kin(model: str) -> str:
    """The letters that the name of a model begins with: sizes of one design share them."""
    return "".join(takewhile(str.isalpha, model.lower()))


def _folds(names: Sequence[str]) -> dict[str, int]:
    """Name -> its part of :data:`FOLDS`, so that parts have about as many rows."""
    rows = [0] * FOLDS
    found = {}
    for name, count in sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])):
        found[name] = rows.index(min(rows))
        rows[found[name]] += count
    return found


def hosted_cases(cases: Sequence[Measured]) -> list[Measured]:
    """Steps that tell what a host takes: not replayed, and not held up by page faults."""
    return [one for one in cases if one.prepared.mode != "graph" and not one.row.faulted]
