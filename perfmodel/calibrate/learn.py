"""From samples to a fit: mechanism, correction, and an interval that held-out rows vouch for.

The rows are split into folds by a hash of the operator. Every fold is predicted by a mechanism and
a correction that never saw it; those predictions are the reported accuracy, and the quantiles of
their errors are the interval (cross-conformal). What is shipped is then fitted on all rows.

References
----------
Vovk, "Cross-conformal predictors", 2015. Lei et al., "Distribution-free predictive inference for
regression", 2018 (split conformal).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from perfmodel.calibrate.coefficients import fit_coefficients, log_mechanism
from perfmodel.calibrate.descent import Descent, Lesson, teach
from perfmodel.calibrate.gaussian import fit_smooth
from perfmodel.calibrate.profiled import trust_of, without_offset
from perfmodel.calibrate.samples import FOLDS, Samples
from perfmodel.calibrate.together import Together
from perfmodel.calibrate.trees import Boosting, fit_trees
from perfmodel.cost.correction import Smooth, Trees
from perfmodel.cost.device import Device
from perfmodel.cost.features import extent, features, tiled
from perfmodel.cost.fitted import EVEN_SHARES, Fitted
from perfmodel.cost.layers import Layers
from perfmodel.cost.mechanism import mechanism
from perfmodel.cost.parts import Floats
from perfmodel.cost.tasks import POINT, Task

COVERAGE = 0.90
# Rows of another board, or of another day, are further off than those of one run: 100 products that
# an H100 repeated differ by 4 % in the mean. Where there are rows enough to tell, intervals hold so
# much of them; the largest error of a few rows is wide already.
_HELD, _ENOUGH_TO_TELL = 0.92, 200
SIZE_EDGES = np.array([10e-6, 100e-6, 1000e-6])
_FEWEST_FOR_TREES = 40
_FEWEST_FOR_SMOOTH = 24
_FEWEST_IN_CLASS = 60
_MOST_POINTS = 1600
# Rows that tell a mechanism well, and hardly more than it has coefficients. Between the two a
# sibling with more rows would lead: corrected, an H200's recurrent stacks came out 1 % further off.
_ENOUGH_FOR_MECHANISM, _FEW_FOR_MECHANISM = 60, 12
# What a sparse product finds in the cache has no mechanism, and differs between siblings.
_ALONE = ("spmm",)
# Products and convolutions jump from kernel to kernel: with so many rows the trees need no help
# from a process there, whose points each cost time in pricing, and with fewer not much. Beside
# networks, which are smooth between shapes too, it had a share of 9 % and half of the price.
_ENOUGH_FOR_TREES, _ENOUGH_OF_CONVOLUTIONS = 350, 700
_POINTS_OF_PRODUCTS = 400
_FEWEST_FOR_SHARES = 60
# Measured products outnumber the convolutions that are products by far.
_MOST_OF_A_TEACHER = 800
NETWORKS = Descent(
    nets=2, widths=(96, 96), answers=8, epochs=35, outlier=0.03, decay=1e-2, warm=0.1, rate=6e-3
)
"""Beside the trees of products with many rows: smooth between shapes, where trees have steps."""
_BATCHES, _SMALLEST_BATCH = 110, 64  # of an epoch, about; of fewer rows smaller ones
CONVOLUTIONS = Boosting(rounds=400, rate=0.1, relative=1.0, outlier=2.0)
"""As close as twice as many trees at half the rate, in half the time."""
PRODUCTS = Boosting(rounds=1000, depth=7, rate=0.04, columns=0.6, relative=1.0)
"""Of products with many rows, cheap ones included: deeper than others, and with more features to
choose from, since a kernel's work is told in several. Against depth 6 and a third of the features
fp32 comes 2 % closer, others 1 %."""
_ENOUGH_FOR_DEEP, _ENOUGH_FOR_NETWORKS = 2000, 10_000
_EVEN = 0.5  # share of the networks where no held-out row tells it
# Shares of the trees' and of the process's answer that are tried; what is left is the mechanism's.
SHARES = tuple(
    (round(part * whole, 3), round((1.0 - part) * whole, 3))
    for whole in (1.0, 0.85, 0.7)
    for part in (0.5, 0.65, 0.8, 1.0, 0.35, 0.2, 0.0)
)
# Shares of the shared networks' answer that are tried beside both; the first where rows are few.
NETWORK_SHARES = (0.6, 0.7, 0.8, 0.9, 0.5, 1.0, 0.4, 0.2, 0.0)


@dataclass(frozen=True, slots=True)
class Learned:
    """A fit and what its held-out predictions were.

    ``predicted`` and ``plain`` (the mechanism alone) are of shape (N,) in the order of the samples,
    each from the fold that did not see the row [s].
    """

    fitted: Fitted
    predicted: Floats
    plain: Floats


@dataclass(frozen=True, slots=True)
class Helper:
    """Rows that help to teach a correction.

    ``coefficients`` are those of the helping kernel's own mechanism; ``None`` takes the taught
    kernel's, for the same kernel on a sibling chip. ``profiled`` rows are cheap ones, whose times
    are no latencies: operators that were timed as well teach how far they are from them, the taught
    kernel's own rows or those in ``timed``, where the cheap ones are of a sibling chip; unless
    ``offset``, shape (FOLDS + 1, N), says it without each fold in turn and of all rows
    (:mod:`perfmodel.calibrate.offsets`).
    """

    samples: Samples
    coefficients: Mapping[str, float] | None
    profiled: bool = False
    timed: Samples | None = None
    offset: Floats | None = None


@dataclass(frozen=True, slots=True)
class _Model:
    coefficients: dict[str, float]
    trees: Trees | None
    smooth: Smooth | None
    names: tuple[str, ...]
    network: Layers | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """What one training gives: of a fold, what is said of its rows, or the model of all rows.

    Parameters
    ----------
    held : array of bool, shape (N,)
        Rows of the fold, H of them.
    plain : array, shape (H,)
        The mechanism alone [s].
    answers : array, shape (2, H)
        Of trees and process.
    networks : array, shape (H,), or None
        Of networks, if there are any.
    model : object or None
        Of all rows.
    """

    held: NDArray[np.bool_]
    plain: Floats
    answers: Floats
    networks: Floats | None
    model: _Model | None = None


def learn(
    samples: Samples,
    device: str,
    start: Mapping[str, float],
    *,
    support: Sequence[Helper] = (),
    together: Together | None = None,
    seed: int = 0,
) -> Learned:
    """Fit one kernel.

    Parameters
    ----------
    samples : Samples
        Measured rows of the kernel.
    device : str
        Name of the chip.
    start : mapping
        Coefficients to begin from.
    support : sequence of Helper
        Rows of kernels that work alike, or of a sibling chip. They teach the correction too, and
        are never scored.
    together : Together, optional
        What networks that it shares with other kernels say; their coefficients are taken as well.
    seed : int
        Of the random draws of the learners.
    """
    given = None if together is None else together.coefficients
    parts = [train(samples, start, support, fold, seed, given) for fold in folds_of(samples)]
    return assemble(samples, device, parts, together)


def folds_of(samples: Samples) -> list[int]:
    """Folds that hold rows, and -1, which leaves out none: what has to be trained."""
    return [*sorted({row.fold(FOLDS) for row in samples.rows}), -1]


def train(
    samples: Samples,
    start: Mapping[str, float],
    support: Sequence[Helper],
    fold: int,
    seed: int,
    given: Sequence[Mapping[str, float]] | None = None,
) -> Part:
    """One of the trainings of a kernel, which know nothing of each other.

    Parameters
    ----------
    samples, start, support, seed
        As for :func:`learn`.
    fold : int
        Whose rows are left out and predicted; -1 for none.
    given : sequence of mapping, optional
        Coefficients of each fold in turn, and of all rows, which are not fitted then.
    """
    held = np.array([row.fold(FOLDS) == fold for row in samples.rows])
    model = _train(samples, held, start, support, fold, seed + max(fold, 0), given)
    if fold < 0:
        return Part(held, np.zeros(0), np.zeros((2, 0)), None, model)
    plain = np.exp(log_mechanism(samples.blocks, model.coefficients))[held]
    answers, networks = _answers(model, samples, held)
    return Part(held, plain, answers, None if model.network is None else networks, None)


def assemble(
    samples: Samples, device: str, parts: Sequence[Part], together: Together | None = None
) -> Learned:
    """The fit of a kernel, of what :func:`train` gave for each of :func:`folds_of`.

    Raises
    ------
    ValueError
        If the last part is that of a fold.
    """
    folds = np.array([row.fold(FOLDS) for row in samples.rows])
    answers, networks = np.zeros((2, len(folds))), np.zeros(len(folds))
    plain, alone = np.empty(len(folds)), True
    others, final = parts[:-1], parts[-1].model
    if final is None:
        raise ValueError("no part of all rows")
    for one in others:
        plain[one.held], answers[:, one.held] = one.plain, one.answers
        if one.networks is not None:
            networks[one.held], alone = one.networks, False
    if together is not None:
        networks, alone = together.held_out, False
    wanted = np.log(samples.seconds / plain)
    predicted = np.empty(len(folds))
    for fold in range(FOLDS):
        # The shares come from the other folds' held-out answers.
        held = folds == fold
        said = shares_of(answers[:, ~held], wanted[~held]) @ answers
        if not alone:
            part = network_share(said[~held], networks[~held], wanted[~held])
            said = (1.0 - part) * said + part * networks
        predicted[held] = plain[held] * np.exp(said[held])
    shares = shares_of(answers, wanted)
    pooled, part, network = None, 0.0, final.network
    if not alone:
        part = network_share(shares @ answers, networks, wanted)
    if together is not None:
        pooled = together.pooled.of(samples.kernel, final.names)
        if together.apart:
            pooled, network = None, pooled
    error = np.abs(np.log(predicted / samples.seconds))
    fitted = Fitted(
        samples.kernel,
        device,
        final.coefficients,
        final.names,
        *_asked(final, shares, part),
        (float(shares[0]), float(shares[1])),
        _extent(samples),
        SIZE_EDGES,
        spread_of(error, predicted),
        float(np.quantile(np.abs(np.log(plain / samples.seconds)), _HELD)) * 1.5,
        part,
        pooled,
        network if part > 0.0 else None,
    )
    return Learned(fitted, predicted, plain)


def fit_only(
    samples: Samples,
    device: str,
    start: Mapping[str, float],
    *,
    support: Sequence[Helper] = (),
    seed: int = 0,
) -> Fitted:
    """A fit on all rows without held-out predictions, for judging it on another chip's rows.

    Its interval is that of its own mechanism.
    """
    nothing = np.zeros(len(samples.rows), dtype=bool)
    model = _train(samples, nothing, start, support, -1, seed)
    plain = np.exp(log_mechanism(samples.blocks, model.coefficients))
    wide = float(np.quantile(np.abs(np.log(plain / samples.seconds)), _HELD))
    return Fitted(
        samples.kernel,
        device,
        model.coefficients,
        model.names,
        model.trees,
        model.smooth,
        EVEN_SHARES,
        _extent(samples),
        SIZE_EDGES,
        np.full(len(SIZE_EDGES) + 1, wide),
        wide * 1.5,
        0.0 if model.network is None else _EVEN,
        network=model.network,
    )


def spread_of(error: Floats, predicted: Floats) -> Floats:
    """Conformal half-width in each size class; classes with few rows take that of all rows."""
    classes = np.searchsorted(SIZE_EDGES, predicted)
    whole = _conformal(error)
    return np.array(
        [
            _conformal(error[classes == index])
            if np.count_nonzero(classes == index) >= _FEWEST_IN_CLASS
            else whole
            for index in range(len(SIZE_EDGES) + 1)
        ]
    )


def _conformal(error: Floats) -> float:
    """The smallest width that holds the wanted share of ``n + 1`` exchangeable errors."""
    wanted = _HELD if error.size >= _ENOUGH_TO_TELL else COVERAGE
    level = min(1.0, np.ceil((error.size + 1) * wanted) / error.size)
    return float(np.quantile(error, level, method="higher"))


def tables(
    samples: Samples, coefficients: Mapping[str, float], like: str = ""
) -> tuple[tuple[str, ...], Floats, NDArray[np.bool_]]:
    """Feature names, values (N, F) and which of them the smooth learner sees.

    ``like`` tells, as in :func:`~perfmodel.cost.features.features`, of what kernel.
    """
    found = [
        features(task, device, mechanism(task, device, coefficients), like)
        for task, device in samples.blocks
    ]
    return found[0][0], np.concatenate([values for _, values, _ in found]), found[0][2]


def _train(
    samples: Samples,
    held: NDArray[np.bool_],
    start: Mapping[str, float],
    helpers: Sequence[Helper],
    fold: int,
    seed: int,
    given: Sequence[Mapping[str, float]] | None = None,
) -> _Model:
    rng = np.random.default_rng(seed)
    known = np.where(held, np.nan, samples.seconds)
    first = samples.blocks[0][0]
    # Another beginning never came closer on held-out convolutions.
    starts = 1 if first.convolution else 2
    blocks, known = _with_sibling(samples, known, helpers, fold)
    coefficients = (
        fit_coefficients(blocks, known, start, rng, starts=starts)
        if given is None
        else dict(given[fold])
    )
    names, values, _ = tables(samples, coefficients)
    target = np.log(samples.seconds) - log_mechanism(samples.blocks, coefficients)
    values, target = values[~held], target[~held]
    own = target.size
    trust = np.ones(own)
    for helper in helpers:
        mine = coefficients if helper.coefficients is None else helper.coefficients
        _, more, _ = tables(helper.samples, mine, tiled(first))
        extra = np.log(helper.samples.seconds) - log_mechanism(helper.samples.blocks, mine)
        if helper.offset is not None:
            extra = extra - helper.offset[fold]
        elif helper.profiled:
            timed = samples if helper.timed is None else helper.timed
            seen = [row.fold(FOLDS) != fold for row in timed.rows]
            extra = without_offset(timed, seen, helper.samples, more, extra)
        # A helper's row of a held-out operator is held out too.
        free = np.array([row.fold(FOLDS) != fold for row in helper.samples.rows])
        taken = np.flatnonzero(free & np.isfinite(extra))
        if first.family == POINT and taken.size > _MOST_OF_A_TEACHER:
            taken = np.sort(rng.choice(taken, _MOST_OF_A_TEACHER, replace=False))
        values = np.concatenate([values, more[taken]])
        target = np.concatenate([target, extra[taken]])
        trust = np.concatenate([trust, trust_of(helper.samples.rows)[taken]])
    trees = smooth = network = None
    if target.size >= _FEWEST_FOR_TREES:
        settings = Boosting()
        if first.convolution or first.family == POINT:
            settings = CONVOLUTIONS
        elif first.product and target.size >= _ENOUGH_FOR_DEEP:
            settings = PRODUCTS
            if target.size >= _ENOUGH_FOR_NETWORKS:
                draws = rng.spawn(1)[0]
                network = _network(samples.kernel, names, values, target, trust, draws)
        trees = fit_trees(values, target, settings, rng, trust if np.any(trust < 1.0) else None)
    jumpy = first.product or first.convolution
    enough = _ENOUGH_OF_CONVOLUTIONS if first.convolution else _ENOUGH_FOR_TREES
    alone = jumpy and (len(samples.rows) >= enough or (given is not None and trees is not None))
    if target.size >= _FEWEST_FOR_SMOOTH and not alone:
        # Own rows first; helpers fill what room is left.
        points = np.concatenate([rng.permutation(own), own + rng.permutation(target.size - own)])
        points = points[: _POINTS_OF_PRODUCTS if jumpy else _MOST_POINTS]
        every = np.arange(values.shape[1], dtype=np.int32)
        smooth = fit_smooth(values[points], target[points], every, rng)
    return _Model(coefficients, trees, smooth, names, network)


def _with_sibling(
    samples: Samples, known: Floats, helpers: Sequence[Helper], fold: int
) -> tuple[tuple[tuple[Task, Device], ...], Floats]:
    """What a mechanism is fitted to: of few rows, those of the same kernel on a sibling chip too.

    Its units are the same and its memory is not, which tells the one from the other. Operators of
    the fold that is left out stay out there as well.
    """
    blocks, own = samples.blocks, len(samples.rows)
    if own >= _ENOUGH_FOR_MECHANISM or blocks[0][0].base in _ALONE:
        return blocks, known
    for helper in helpers:
        leads = len(helper.samples.rows) > own >= _FEW_FOR_MECHANISM
        if leads or helper.profiled or helper.coefficients is not None:
            continue
        there = np.array([row.fold(FOLDS) == fold for row in helper.samples.rows])
        blocks = blocks + helper.samples.blocks
        known = np.append(known, np.where(there, np.nan, helper.samples.seconds))
    return blocks, known


def _network(
    kernel: str,
    names: tuple[str, ...],
    values: Floats,
    target: Floats,
    trust: Floats,
    rng: np.random.Generator,
) -> Layers:
    """Networks of a kernel's own; of rows that are trusted in part, a part is shown."""
    shown = rng.random(target.size) < trust
    batch = int(np.clip(np.count_nonzero(shown) // _BATCHES, _SMALLEST_BATCH, NETWORKS.batch))
    lesson = Lesson(kernel, names, values[shown], target[shown])
    return teach([lesson], rng, replace(NETWORKS, batch=batch)).of(kernel, names)


def _asked(model: _Model, shares: Floats, pooled: float) -> tuple[Trees | None, Smooth | None]:
    """Trees and process that a price asks: what has no share is not kept."""
    if pooled >= 1.0:
        return None, None
    if model.trees is None or model.smooth is None:
        return model.trees, model.smooth
    return (model.trees if shares[0] > 0.0 else None, model.smooth if shares[1] > 0.0 else None)


def _answers(model: _Model, samples: Samples, held: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """What trees and process say, shape (2, N), and networks, (N,), of the rows that are ``held``.

    Where trees or the process are missing the other stands for it.
    """
    _, values, _ = tables(samples, model.coefficients)
    values = values[held]
    learners = (model.trees or model.smooth, model.smooth or model.trees)
    none = np.zeros(len(values))
    said = np.stack([none if learner is None else learner(values) for learner in learners])
    return said, none if model.network is None else model.network(values)


def shares_of(answers: Floats, wanted: Floats) -> Floats:
    """Shares of both learners that come closest to ``wanted`` (N,) on rows that neither saw."""
    if wanted.size < _FEWEST_FOR_SHARES:
        return np.asarray(EVEN_SHARES)
    errors = [float(np.mean(np.abs(np.expm1(np.array(s) @ answers - wanted)))) for s in SHARES]
    return np.asarray(SHARES[int(np.argmin(errors))])


def network_share(beside: Floats, said: Floats, wanted: Floats) -> float:
    """Share of the networks' answer (N,) that comes closest to ``wanted``, the rest ``beside``."""
    if wanted.size < _FEWEST_FOR_SHARES:
        return NETWORK_SHARES[0]
    errors = [
        float(np.mean(np.abs(np.expm1((1.0 - part) * beside + part * said - wanted))))
        for part in NETWORK_SHARES
    ]
    return NETWORK_SHARES[int(np.argmin(errors))]


def _extent(samples: Samples) -> dict[str, tuple[float, float]]:
    sizes = [extent(task) for task, _ in samples.blocks]
    return {
        name: (
            float(min(block[name].min() for block in sizes)),
            float(max(block[name].max() for block in sizes)),
        )
        for name in sizes[0]
    }
