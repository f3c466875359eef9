"""Networks that learn from the rows of many kernels, for the correction of each.

Every fold has networks of its own, which saw no row of it, neither in their lessons nor in the
coefficients of the mechanisms that the lessons are compared with. Many networks learn what was
measured; the few that prices ask learn from those, on crossed operators too, first all kernels
together, then each kind by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from perfmodel.calibrate.coefficients import fit_coefficients, log_mechanism
from perfmodel.calibrate.descent import Descent, Lesson, teach, teach_further
from perfmodel.calibrate.samples import FOLDS, Samples
from perfmodel.calibrate.spread import Spread, in_turn
from perfmodel.cost.features import features
from perfmodel.cost.layers import Pooled, kind_of
from perfmodel.cost.mechanism import mechanism
from perfmodel.cost.parts import Floats

Coefficients = Mapping[str, float]
SHARED = "conv"
"""Kernels whose names begin with this share networks: each has few rows, and all work alike."""
TEACHERS = Descent(nets=8)
PUPILS = Descent(nets=1, widths=(176, 112, 80, 64), epochs=24)
OWN = Descent(nets=1, epochs=12, batch=128, rate=2e-3, warm=0.15)
"""Of networks that learn from measured rows, of those that learn from them, and of these further,
for kernels of one kind."""


@dataclass(frozen=True, slots=True)
class Together:
    """What the shared networks say about one kernel.

    Parameters
    ----------
    coefficients : sequence of dict
        Of the mechanism: of each fold, fitted without its rows, and last of all rows.
    held_out : array, shape (N,)
        Answers for every row by networks that saw nothing of its fold.
    pooled : Pooled
        Networks that saw all rows.
    """

    coefficients: Sequence[Coefficients]
    held_out: Floats
    pooled: Pooled


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
    seed: int = 0,
    spread: Spread = in_turn,
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
    seed : int
        Of the networks' draws.
    spread : Spread
        Makes the calls of the folds, which know nothing of each other.
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
    kernels: Sequence[tuple[Samples, Sequence[Coefficients]]],
    fold: int,
    seed: int,
    crossed: Sequence[tuple[Samples, Sequence[Coefficients]]] = (),
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


def _lessons(kernels: Sequence[tuple[Samples, Sequence[Coefficients]]], fold: int) -> list[Lesson]:
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


def _lesson(samples: Samples, coefficients: Coefficients, fold: int) -> Lesson:
    names, values = _table(samples, coefficients)
    target = np.log(samples.seconds) - log_mechanism(samples.blocks, coefficients)
    free = np.array([row.fold(FOLDS) != fold for row in samples.rows])
    return Lesson(samples.kernel, names, values[free], target[free])


def _table(samples: Samples, coefficients: Coefficients) -> tuple[tuple[str, ...], Floats]:
    found = [
        features(task, device, mechanism(task, device, coefficients))
        for task, device in samples.blocks
    ]
    return found[0][0], np.concatenate([values for _, values, _ in found])
