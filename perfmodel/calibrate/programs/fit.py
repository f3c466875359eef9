r"""Fit the coefficients of programs, one mechanism at a time.

1. The device: in graphs nothing but kernels runs, and a profiler tells the kernels of other steps
   apart. Both give the cache's share and rate, the start of a graph, what an extra launch takes,
   what of a kernel's time lies between kernels, and pace and floor of every kind of kernel.
2. The host: the time in which an idle-queue step is issued is a sum of counts, linear in the cost
   of each class of call, times the pace that a probe beside it tells.
3. The queue between them: steps that the device bounds give the gap between kernels of a stream.

Every fit is a robust least-squares problem in relative errors, pulled towards the values it starts
from: a coefficient about which the rows say nothing stays where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.calibrate.programs.host import fit_host
from perfmodel.calibrate.programs.interval import fit_interval, hosted_cases
from perfmodel.calibrate.programs.joined import join
from perfmodel.calibrate.programs.least import LIMITS, fit_values
from perfmodel.calibrate.programs.measured import Measured
from perfmodel.calibrate.programs.paces import assumed_paces
from perfmodel.cost.parts import Floats
from perfmodel.cost.program.coefficients import ProgramCoefficients
from perfmodel.cost.program.price_kernels import LIBRARY

SMALLEST_SHARE: Final = 0.003
"""Profiled words below this share of a step say nothing."""
FEWEST_GAPS: Final = 3
DEVICE_BOUND: Final = 0.8
"""A step that the host issues in this share of its time is the device's."""


def fit_programs(
    cases: Sequence[Measured],
    start: ProgramCoefficients,
    *,
    device: str,
    hosts: Sequence[Measured] = (),
) -> ProgramCoefficients:
    """Coefficients that bring predicted steps closest to measured ones.

    Parameters
    ----------
    cases : sequence of Measured
        Only rows that may be fitted; a caller keeps the others for its report.
    start : ProgramCoefficients
        Where to begin.
    device : str
        Name that the result carries.
    hosts : sequence of Measured
        Rows whose probes tell what paces hosts have, and of which nothing else is read; by default
        those of `cases`.
    """
    kernels = fit_device(cases, start)
    found = fit_host(hosted_cases(cases), kernels)
    paces = assumed_paces([one.row for one in hosts], found)
    found = replace(found, scalars=dict(found.scalars) | paces)
    found = fit_gap([one for one in cases if one.prepared.mode != "graph"], found)
    return replace(found, interval=fit_interval(cases, found, kernels), device=device)


def fit_device(cases: Sequence[Measured], start: ProgramCoefficients) -> ProgramCoefficients:
    """Cache, graph start, extra launches and paces, from replayed and from profiled steps."""
    replayed = [one for one in cases if one.prepared.mode == "graph"]
    profiled = [one for one in cases if one.row.kernel_s is not None]
    if not replayed:
        return start
    scalars = ["cache_share", "cache_rate", "extra_launch", "graph_launch"]
    scalars += ["turn", "turn_cast", "turn_cold"]
    scalars += ["kernel_gap"] if profiled else []
    goals = [_goal(one) for one in profiled]
    target = np.array([one.row.step_s for one in replayed] + [x for g in goals for x in g.seconds])
    weight = np.array([1.0] * len(replayed) + [x for g in goals for x in g.weight])

    graphs = len(replayed)
    every = join([one.prepared.priced for one in (*replayed, *profiled)])
    places, wholes = _places(profiled, goals)
    size, gaps = target.size - graphs, 1.0 + every.priced.extra
    first = int(every.starts[graphs])

    def predicted(c: ProgramCoefficients) -> Floats:
        seconds = every.seconds(c)
        seen = np.maximum(seconds - c["kernel_gap"] * gaps, 0.3 * seconds)
        parts = np.bincount(places, seen[first:], size + 1)[:size]
        parts[wholes] = every.sums(seen)[graphs:]
        return np.concatenate([every.sums(seconds)[:graphs] + c["graph_launch"], parts])

    classes = _common_classes([*replayed, *profiled])
    paces = tuple(sorted({name for names in classes for name in names}))
    floors = tuple(sorted({names[0] for names in classes if not names[0].startswith(LIBRARY)}))
    # A kernel that is mispriced by a factor must not bend the paces of the others.
    return fit_values(
        predicted, target, start, weight, loss="cauchy", scalars=scalars, pace=paces, floor=floors
    )


@dataclass(frozen=True, slots=True)
class _Goal:
    """What a profile says: seconds by word, the whole last, each with its weight."""

    places: dict[str, int]
    seconds: list[float]
    weight: list[float]


def _goal(one: Measured) -> _Goal:
    whole = one.row.kernel_s or 0.0
    known = set(one.words)
    kept = [w for w, x in one.profile.items() if w in known and x > SMALLEST_SHARE * whole]
    seconds = [one.profile[word] for word in kept]
    weight = [float(np.sqrt(x / whole)) for x in seconds]
    places = {word: place for place, word in enumerate(kept)}
    return _Goal(places, [*seconds, whole], [*weight, 0.5])


def _places(
    profiled: Sequence[Measured], goals: Sequence[_Goal]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which goal each profiled kernel counts for, one behind the last for none; and the wholes."""
    ends = np.cumsum([len(goal.seconds) for goal in goals], dtype=np.intp)
    none = int(ends[-1]) if ends.size else 0
    found: list[int] = []
    for one, goal, end in zip(profiled, goals, ends.tolist(), strict=True):
        first, places = end - len(goal.seconds), goal.places
        words = one.words or ("",) * one.prepared.priced.count
        found += [first + places[word] if word in places else none for word in words]
    return np.array(found, dtype=np.intp), ends - 1


def fit_gap(cases: Sequence[Measured], start: ProgramCoefficients) -> ProgramCoefficients:
    """The gap between kernels of a stream: what a step that the device holds up takes beyond them.

    The median over steps of (step - profiled kernels) / number of kernels, less what a calibrated
    kernel's time holds already; no predicted time is in it. The step is that of the row that stands
    for its case, the kernels of any row of the case that was profiled: a profiler slows the host
    down and not the device.
    """
    profiled = {one.row.case: one.row.kernel_s for one in cases if one.row.kernel_s is not None}
    found = []
    for one in cases:
        row, kernels = one.row, profiled.get(one.row.case)
        if row.superseded or kernels is None or row.host_s is None:
            continue
        if row.host_s < DEVICE_BOUND * row.step_s:
            count = float(np.sum(1.0 + one.prepared.priced.extra))
            found.append((row.step_s - kernels) / count)
    if len(found) < FEWEST_GAPS:
        return start
    low, high = LIMITS["stream_gap"]
    gap = float(np.clip(np.median(found) - start["kernel_gap"], low, high))
    return replace(start, scalars=dict(start.scalars) | {"stream_gap": gap})


def _common_classes(cases: Sequence[Measured]) -> set[tuple[str, ...]]:
    """What shares a pace, where at least two models run it."""
    found: dict[tuple[str, ...], set[str]] = {}
    for one in cases:
        for names in one.prepared.priced.ops.classes:
            found.setdefault(names, set()).add(one.row.model)
    return {names for names, models in found.items() if len(models) >= 2}
