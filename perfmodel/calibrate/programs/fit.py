r"""Fit the coefficients of programs, one mechanism at a time.

1. The device: in graphs nothing but kernels runs, and a profiler tells the kernels of other steps
   apart. Both give the cache's share and rate, the start of a graph, what an extra launch takes,
   what of a kernel's time lies between kernels, and pace and floor of every kind of kernel.
2. The host: the time in which an idle-queue step is issued is a sum of counts, linear in the cost
   of each class of call.
3. The queue between them: steps that the device bounds give the gap between kernels of a stream.

Every fit is a robust least-squares problem in relative errors, pulled towards the values it starts
from: a coefficient about which the rows say nothing stays where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from perfmodel.calibrate.programs.profile import word_sums
from perfmodel.calibrate.programs.rows import ModelRow
from perfmodel.cost.parts import Floats
from perfmodel.cost.program.coefficients import ProgramCoefficients
from perfmodel.cost.program.host import column_seconds
from perfmodel.cost.program.price_kernels import LIBRARY
from perfmodel.cost.program.step import Prepared, device_times, profiled_kernels, step
from perfmodel.workload.lowering.kernel import HOST_CLASSES

PULL: Final = 0.05
"""Cost of moving a coefficient by a factor of e, in rows that are wrong by 100 %: for coefficients
of the device, for paces, and for the host, whose measured time scatters by tens of per cent."""
PACE_PULL: Final = 0.15
HOST_PULL: Final = 1.0
HOST_SCALARS: Final = ("step_host", "module_call", "autograd", "tensor")
SMALLEST_SHARE: Final = 0.003
"""Profiled words below this share of a step say nothing."""
FEWEST_GAPS: Final = 3
_FLOOR_START: Final = 1e-7
_FLOOR_LIMITS: Final = (1e-9, 5e-6)
LIMITS: Final = {
    "cache_share": (0.05, 1.0),
    "cache_rate": (1.1, 5.0),
    "kernel_gap": (1e-8, 3e-6),
    "extra_launch": (2e-7, 5e-6),
    "graph_launch": (1e-7, 4e-5),
    "stream_gap": (1e-8, 4e-6),
    "step_host": (1e-7, 5e-4),
    "module_call": (1e-8, 2e-5),
    "autograd": (1e-8, 4e-5),
    "backward_share": (0.1, 3.0),
    "tensor": (1e-8, 2e-5),
}
_PACE_LIMITS: Final = (0.33, 3.0)
_HOST_LIMITS: Final = (2e-7, 4e-4)


@dataclass(frozen=True, slots=True)
class Measured:
    """A measured step beside its program, lowered and priced.

    Parameters
    ----------
    row : ModelRow
        What was measured.
    prepared : Prepared
        The program of that row on the stack of that row.
    profile : dict
        Profiled kernels summed by word (:mod:`perfmodel.calibrate.programs.profile`) [s].
    words : tuple of str
        The word of each predicted kernel.
    """

    row: ModelRow
    prepared: Prepared
    profile: Mapping[str, float] = field(default_factory=dict)
    words: tuple[str, ...] = ()


def fit_programs(
    cases: Sequence[Measured], start: ProgramCoefficients, *, device: str
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
    """
    found = fit_device(cases, start)
    found = fit_host([one for one in cases if one.prepared.mode != "graph"], found)
    found = fit_gap([one for one in cases if one.prepared.mode != "graph"], found)
    return replace(found, interval=fit_interval(cases, found), device=device)


def fit_device(cases: Sequence[Measured], start: ProgramCoefficients) -> ProgramCoefficients:
    """Cache, graph start, extra launches and paces, from replayed and from profiled steps."""
    replayed = [one for one in cases if one.prepared.mode == "graph"]
    profiled = [one for one in cases if one.row.kernel_s is not None]
    if not replayed:
        return start
    scalars = ["cache_share", "cache_rate", "extra_launch", "graph_launch"]
    scalars += ["kernel_gap"] if profiled else []
    goals = [_goal(one) for one in profiled]
    target = np.array([one.row.step_s for one in replayed] + [x for g in goals for x in g.seconds])
    weight = np.array([1.0] * len(replayed) + [x for g in goals for x in g.weight])

    def predicted(c: ProgramCoefficients) -> Floats:
        whole = [float(np.sum(device_times(one.prepared, c)[1])) for one in replayed]
        parts = [_by_word(one, goal, c) for one, goal in zip(profiled, goals, strict=True)]
        return np.concatenate([whole, *parts])

    classes = _common_classes([*replayed, *profiled])
    paces = tuple(sorted({name for names in classes for name in names}))
    floors = tuple(sorted({names[0] for names in classes if not names[0].startswith(LIBRARY)}))
    return _fit(predicted, target, start, weight, scalars=scalars, pace=paces, floor=floors)


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


def _by_word(one: Measured, goal: _Goal, c: ProgramCoefficients) -> Floats:
    seconds = profiled_kernels(one.prepared, c)
    return np.append(word_sums(one.words, seconds, goal.places), seconds.sum())


def fit_host(cases: Sequence[Measured], start: ProgramCoefficients) -> ProgramCoefficients:
    """Costs of host calls, from the time in which a step is issued to an idle device."""
    cases = [one for one in cases if one.row.host_s is not None]
    if not cases:
        return start
    counts = np.array([one.prepared.work.counts.sum(axis=0) for one in cases])
    target = np.array([one.row.host_s for one in cases], dtype=float)
    width = len(HOST_CLASSES)
    both = counts[:, :width] + counts[:, width : 2 * width]
    kinds = [kind for k, kind in enumerate(HOST_CLASSES) if np.count_nonzero(both[:, k]) >= 2]
    scalars = ["step_host", "module_call"]
    training = counts[:, width : 2 * width].sum(axis=1) > 0
    if np.count_nonzero(training) >= 2:
        scalars += ["autograd", "backward_share", "tensor"]

    def predicted(c: ProgramCoefficients) -> Floats:
        return np.asarray(counts @ column_seconds(c) + c["step_host"])

    # Processors differ first of all by a factor; only then by what they are slow at.
    factor = float(np.exp(np.median(np.log(target / predicted(start)))))
    paced = replace(
        start,
        scalars=dict(start.scalars) | {name: factor * start[name] for name in HOST_SCALARS},
        host={kind: factor * value for kind, value in start.host.items()},
    )
    return _fit(predicted, target, paced, pull=HOST_PULL, scalars=scalars, host=kinds)


def fit_gap(cases: Sequence[Measured], start: ProgramCoefficients) -> ProgramCoefficients:
    """The gap between kernels of a stream: what a step that the device holds up takes beyond them.

    The median over profiled steps of (step - kernels) / number of kernels, less what a calibrated
    kernel's time holds already; no prediction is in it.
    """
    found = [
        (one.row.step_s - one.row.kernel_s) / one.row.kernels
        for one in cases
        if one.row.kernel_s is not None
        and one.row.kernels
        and one.row.host_s is not None
        and one.row.host_s < 0.7 * one.row.step_s
    ]
    if len(found) < FEWEST_GAPS:
        return start
    low, high = LIMITS["stream_gap"]
    gap = float(np.clip(np.median(found) - start["kernel_gap"], low, high))
    return replace(start, scalars=dict(start.scalars) | {"stream_gap": gap})


def fit_interval(cases: Sequence[Measured], c: ProgramCoefficients) -> dict[str, float]:
    """Half-width that holds 90 % of the rows of each mode, in the logarithm of time.

    A fit that has seen its rows is too sure of itself by about the share of free coefficients in
    them; the quantile is taken at 95 % in exchange.
    """
    apart: dict[str, list[float]] = {}
    for one in cases:
        ratio = step(one.prepared, c).seconds / one.row.step_s
        apart.setdefault(one.prepared.mode, []).append(abs(float(np.log(ratio))))
    return {
        mode: float(np.quantile(values, 0.95)) for mode, values in apart.items() if len(values) >= 8
    }


def _common_classes(cases: Sequence[Measured]) -> set[tuple[str, ...]]:
    """What shares a pace, where at least two models run it."""
    found: dict[tuple[str, ...], set[str]] = {}
    for one in cases:
        for names in one.prepared.priced.ops.classes:
            found.setdefault(names, set()).add(one.row.model)
    return {names for names, models in found.items() if len(models) >= 2}


class _Free:
    """Free coefficients as a vector of logarithms, and back."""

    def __init__(
        self,
        start: ProgramCoefficients,
        scalars: Sequence[str],
        host: Sequence[str],
        pace: Sequence[str],
        floor: Sequence[str],
        pull: float,
    ) -> None:
        self.start = start
        self.names = (tuple(scalars), tuple(host), tuple(pace), tuple(floor))
        values = [start[name] for name in scalars]
        values += [start.host[name] for name in host]
        values += [start.pace.get(name, 1.0) for name in pace]
        values += [start.floor.get(name, _FLOOR_START) for name in floor]
        limits = [LIMITS[name] for name in scalars]
        limits += [_HOST_LIMITS] * len(host) + [_PACE_LIMITS] * len(pace)
        limits += [_FLOOR_LIMITS] * len(floor)
        self.low, self.high = (np.log([pair[side] for pair in limits]) for side in (0, 1))
        self.first = np.clip(np.log(values), self.low + 1e-3, self.high - 1e-3)
        pulls = [pull] * (len(scalars) + len(host)) + [PACE_PULL] * len(pace)
        self.pull = np.array(pulls + [PULL] * len(floor))

    def coefficients(self, theta: Floats) -> ProgramCoefficients:
        """The start with the free values of ``theta``."""
        values = iter(np.exp(theta).tolist())
        scalars, host, pace, floor = (
            {name: next(values) for name in names} for names in self.names
        )
        return replace(
            self.start,
            scalars=dict(self.start.scalars) | scalars,
            host=dict(self.start.host) | host,
            pace=dict(self.start.pace) | pace,
            floor=dict(self.start.floor) | floor,
        )


def _fit(
    predicted: Callable[[ProgramCoefficients], Floats],
    target: Floats,
    start: ProgramCoefficients,
    weight: Floats | float = 1.0,
    *,
    pull: float = PULL,
    scalars: Sequence[str] = (),
    host: Sequence[str] = (),
    pace: Sequence[str] = (),
    floor: Sequence[str] = (),
) -> ProgramCoefficients:
    free = _Free(start, scalars, host, pace, floor, pull)
    goal = np.log(target)

    def distance(theta: Floats) -> NDArray[np.float64]:
        apart = weight * (np.log(predicted(free.coefficients(theta))) - goal)
        return np.append(apart, free.pull * (theta - free.first))

    found = least_squares(
        distance,
        free.first,
        bounds=(free.low, free.high),
        loss="soft_l1",
        f_scale=0.05,
        diff_step=[1e-3] * free.first.size,
        max_nfev=30,
    )
    return free.coefficients(found.x)


def moved(before: ProgramCoefficients, after: ProgramCoefficients) -> Mapping[str, float]:
    """Factor by which each coefficient moved; those that did not are left out."""
    found = {}
    for table, old, new in (
        ("scalars", before.scalars, after.scalars),
        ("host", before.host, after.host),
        ("pace", before.pace, after.pace),
        ("floor", before.floor, after.floor),
    ):
        for name, value in new.items():
            factor = value / old.get(name, 1.0)
            if abs(factor - 1.0) > 1e-6:
                found[f"{table}.{name}"] = factor
    return found
