r"""Networks that learn from the rows of many kernels, for the correction of each.

Every fold has networks of its own, which saw no row of it, neither in their lessons nor in the
coefficients of the mechanisms that the lessons are compared with. Many networks learn what was
measured; the few that prices ask learn from those, on crossed operators too, first all kernels
together, then each kind by itself. Where a chip comes with estimates of others
(:mod:`perfmodel.calibrate.taught`), those are the teachers.

A lesson's target is the logarithm of a time over the mechanism's, :math:`\ln (t / m)`, with the
coefficients of its fold: what is learned is a correction, without a unit.

References
----------
Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from perfmodel.calibrate.coefficients import fit_coefficients, log_mechanism
from perfmodel.calibrate.descent import Descent, Lesson, teach, teach_further
from perfmodel.calibrate.samples import FOLDS, Samples
from perfmodel.calibrate.spread import Spread, in_turn
from perfmodel.calibrate.taught import EVERY, Taught, marks_of
from perfmodel.cost.features import features
from perfmodel.cost.layers import Net, Pooled, kind_of
from perfmodel.cost.mechanism import mechanism
from perfmodel.cost.parts import Floats

Coefficients = Mapping[str, float]
Known = Sequence[tuple[Samples, Sequence[Coefficients]]]
Estimates = Sequence[tuple[Taught, Sequence[Coefficients]]]
_NONE = np.zeros(0, np.uint64)
OneKernel = TypeVar("OneKernel", Samples, Taught)
SHARED = "conv"
"""Kernels whose names begin with this share networks: each has few rows, and all work alike."""
TEACHERS = Descent(nets=8)
PUPILS = Descent(nets=1, widths=(176, 112, 80, 64), epochs=24)
OWN = Descent(nets=1, epochs=12, batch=128, rate=2e-3, warm=0.15)
"""Of networks that learn from measured rows, of those that learn from them, and of these further,
for kernels of one kind."""
BY_ESTIMATES = replace(PUPILS, epochs=2)
OWN_BY_ESTIMATES = replace(OWN, epochs=16, rate=3e-3, batch=512)
"""Of those that learn from many estimates, and further for kernels of one kind."""


@dataclass(frozen=True, slots=True)
class Together:
    """What the shared networks say about one kernel.

    Parameters
    ----------
    coefficients : sequence of dict
        Of the mechanism: of each fold, fitted without its rows, and last of all rows.
    held_out : array, shape (N,)
        Logarithms of time over the mechanism's for every row, by networks that saw nothing of its
        fold.
    pooled : Pooled
        Networks that saw all rows.
    apart : bool
        Whether others that share networks had no part: then the kernel keeps them as its own.
    """

    coefficients: Sequence[Coefficients]
    held_out: Floats
    pooled: Pooled
    apart: bool = False


class Teaches(Protocol):
    """Teaches the networks that learn from estimates: on this processor or not."""

    def __call__(
        self,
        measured: Known,
        estimates: Estimates,
        pairs: Sequence[tuple[int, int]],
        seed: int,
        spread: Spread,
        /,
    ) -> list[Pooled]:
        """See :func:`by_estimates`."""
        ...


def is_shared(kernel: str) -> bool:
    """Whether a kernel has part in the shared networks."""
    return kernel.startswith(SHARED)


def coefficients_of(samples: Samples, start: Coefficients, seed: int) -> list[dict[str, float]]:
    """Coefficients without each fold in turn, and at last with all rows."""
    folds = np.array([row.fold(FOLDS) for row in samples.rows])
    found: list[dict[str, float]] = []
    for fold in (*range(FOLDS), -1):
        held = folds == fold
        if fold >= 0 and not held.any():
            found.append({})  # nothing will be asked of it
            continue
        known = np.where(held, np.nan, samples.seconds)
        rng = np.random.default_rng(seed + max(fold, 0))
        # Another beginning never came closer on held-out convolutions.
        found.append(fit_coefficients(samples.blocks, known, start, rng, starts=1))
    return found


def learn_together(
    kernels: Mapping[str, Samples],
    coefficients: Mapping[str, Sequence[Coefficients]],
    beside: Sequence[Mapping[str, Samples]] = (),
    crossed: Mapping[str, Samples] = MappingProxyType({}),
    *,
    estimates: Sequence[Mapping[str, Taught]] = (),
    seed: int = 0,
    spread: Spread = in_turn,
    teaching: Teaches | None = None,
) -> dict[str, Together]:
    """Teach networks for every fold and for all rows.

    Parameters
    ----------
    kernels : mapping
        Kernel -> measured rows.
    coefficients : mapping
        Kernel -> what :func:`coefficients_of` gave.
    beside : sequence of mappings
        Kernel -> rows of a sibling chip, or whose plan is estimated, which teach too and are never
        scored.
    crossed : mapping
        Kernel -> operators of unknown times (:func:`perfmodel.calibrate.crossed.crossed`).
    estimates : sequence of mappings
        Kernel -> operators whose times others estimated; with them, ``crossed`` is not needed.
    seed : int
        Of the networks' draws.
    spread : Spread
        Makes the calls of the folds, which know nothing of each other.
    teaching : Teaches, optional
        Of networks that learn from ``estimates``; :func:`by_estimates` unless another is given.
    """
    taught = [
        (samples, coefficients[kernel])
        for chip in (kernels, *beside)
        for kernel, samples in chip.items()
        if kernel in kernels
    ]
    unknown = [
        (samples, coefficients[kernel]) for kernel, samples in crossed.items() if kernel in kernels
    ]
    told = [
        (one, coefficients[kernel])
        for chip in estimates
        for kernel, one in chip.items()
        if kernel in kernels
    ]
    if told:
        pairs = list(zip((*range(FOLDS), -1), (*range(FOLDS), EVERY), strict=True))
        found = (teaching or by_estimates)(taught, told, pairs, seed, spread)
    else:
        calls = [(taught, fold, seed, unknown) for fold in (*range(FOLDS), -1)]
        found = list(spread(without_fold, calls))
    return {
        kernel: Together(
            coefficients[kernel],
            _held_out(samples, coefficients[kernel], found),
            found[-1],
        )
        for kernel, samples in kernels.items()
    }


def without_fold(
    kernels: Known,
    fold: int,
    seed: int,
    crossed: Known = (),
) -> Pooled:
    """Networks that saw nothing of a fold, or everything for fold -1.

    Parameters
    ----------
    kernels : sequence of (Samples, sequence of dict)
        Measured rows of a kernel, and coefficients by fold as :func:`coefficients_of` gives them.
    fold : int
        Which.
    seed : int
        Of the networks' draws.
    crossed : sequence of (Samples, sequence of dict)
        Operators of unknown times, alike; with them, networks learn from other networks.
    """
    rng = np.random.default_rng(seed + fold + 1)
    lessons = _lessons(kernels, fold)
    if not crossed:
        return teach(lessons, rng)
    teachers = teach(lessons, rng, TEACHERS)
    told = [
        replace(one, target=teachers.of(one.kernel, one.names)(one.values))
        for one in (*lessons, *_lessons(crossed, fold))
    ]
    pupils = teach(told, rng, PUPILS)
    kinds: dict[str, list[Lesson]] = {}
    for one in told:
        kinds.setdefault(kind_of(one.kernel), []).append(one)
    own = {kind: teach_further(pupils, mine, rng, OWN) for kind, mine in kinds.items()}
    return replace(pupils, own=own)


def by_estimates(
    measured: Known,
    estimates: Estimates,
    pairs: Sequence[tuple[int, int]],
    seed: int,
    spread: Spread = in_turn,
) -> list[Pooled]:
    """Networks that learn from what others say of operators, of each pair.

    Parameters
    ----------
    measured : sequence of (Samples, sequence of dict)
        As for :func:`without_fold`; rows among the estimates are known by those.
    estimates : sequence of (Taught, sequence of dict)
        Operators whose times others estimated, alike.
    pairs : sequence of (int, int)
        Folds whose measured operators are left out, -1 for none, and columns of the estimates:
        by others that saw no more than these networks may. Of operators that nobody measured,
        nothing is left out.
    seed : int
        Of the networks' draws.
    spread : Spread
        Makes the calls of the folds and kinds.
    """
    calls = [(measured, estimates, fold, column, seed) for fold, column in pairs]
    shared = list(spread(_shared, calls))
    kinds = _kinds(measured, estimates)
    further = [
        (_of_kind(measured, kind), _of_kind(estimates, kind), fold, column, seed, pupils)
        for (fold, column), pupils in zip(pairs, shared, strict=True)
        for kind in kinds
    ]
    nets = iter(spread(_further, further))
    return [replace(pupils, own={kind: next(nets) for kind in kinds}) for pupils in shared]


def _shared(measured: Known, estimates: Estimates, fold: int, column: int, seed: int) -> Pooled:
    rng = np.random.default_rng(seed + fold + 1)
    return teach(lessons_of(measured, estimates, fold, column), rng, BY_ESTIMATES)


def _further(
    measured: Known,
    estimates: Estimates,
    fold: int,
    column: int,
    seed: int,
    pupils: Pooled,
) -> tuple[Net, ...]:
    """Networks of one kind; as they are where nothing teaches them."""
    rng = np.random.default_rng(seed + fold + 1)
    told = lessons_of(measured, estimates, fold, column)
    if not sum(one.target.size for one in told):
        return pupils.nets
    return teach_further(pupils, told, rng, OWN_BY_ESTIMATES)


def _kinds(measured: Known, estimates: Estimates) -> list[str]:
    names = {one.kernel for one, _ in measured} | {one.kernel for one, _ in estimates}
    return sorted({kind_of(name) for name in names})


def _of_kind(
    ones: Sequence[tuple[OneKernel, Sequence[Coefficients]]], kind: str
) -> list[tuple[OneKernel, Sequence[Coefficients]]]:
    return [pair for pair in ones if kind_of(pair[0].kernel) == kind]


def lessons_of(measured: Known, estimates: Estimates, fold: int, column: int) -> list[Lesson]:
    """What a pair of :func:`by_estimates` learns from, a lesson a kernel and source."""
    rows = [row for samples, _ in measured for row in samples.rows if row.fold(FOLDS) == fold]
    held = marks_of(rows)
    told = [
        _estimated(one, coefficients[fold], held, column)
        for one, coefficients in estimates
        if coefficients[fold]
    ]
    known = [one.marks[np.isfinite(one.says[:, column])] for one, _ in estimates]
    marks = [marks_of(samples.rows) for samples, _ in measured]
    # Asked of all at once: the marks of millions are put in order for every question.
    fresh = np.isin(np.hstack([_NONE, *marks]), np.hstack([_NONE, *known]), invert=True)
    ends = np.cumsum([one.size for one in marks])
    for (samples, coefficients), new in zip(measured, np.split(fresh, ends)[:-1], strict=True):
        if coefficients[fold] and new.any():
            told.append(_lesson(samples, coefficients[fold], fold, new))
    return told


def _lessons(kernels: Known, fold: int) -> list[Lesson]:
    return [
        _lesson(samples, coefficients[fold], fold)
        for samples, coefficients in kernels
        if coefficients[fold]
    ]


def _held_out(
    samples: Samples, coefficients: Sequence[Coefficients], found: Sequence[Pooled]
) -> Floats:
    folds = np.array([row.fold(FOLDS) for row in samples.rows])
    answer = np.zeros(folds.size)
    for fold in range(FOLDS):
        held = folds == fold
        if held.any():
            names, values = _table(samples, coefficients[fold])
            answer[held] = found[fold].of(samples.kernel, names)(values[held])
    return answer


def _lesson(
    samples: Samples,
    coefficients: Coefficients,
    fold: int,
    among: NDArray[np.bool_] | None = None,
) -> Lesson:
    names, values = _table(samples, coefficients)
    target = np.log(samples.seconds) - log_mechanism(samples.blocks, coefficients)
    free = np.array([row.fold(FOLDS) != fold for row in samples.rows])
    if among is not None:
        free &= among
    return Lesson(samples.kernel, names, values[free], target[free])


def _estimated(
    one: Taught, coefficients: Coefficients, held: NDArray[np.uint64], column: int
) -> Lesson:
    """What others say of operators that are not held out."""
    names, values = _table(one, coefficients)
    target = one.says[:, column] - log_mechanism(one.blocks, coefficients)
    free = np.isfinite(target) & np.isin(one.marks, held, invert=True)
    # Networks work in single precision; of so many operators, half the memory counts.
    return Lesson(one.kernel, names, values[free].astype(np.float32), target[free])


def _table(samples: Samples | Taught, coefficients: Coefficients) -> tuple[tuple[str, ...], Floats]:
    found = [
        features(task, device, mechanism(task, device, coefficients))
        for task, device in samples.blocks
    ]
    return found[0][0], np.concatenate([values for _, values, _ in found])
