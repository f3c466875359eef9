"""Teaches the network of :mod:`perfmodel.cost.layers` by gradient descent.

Rows of many kernels, each with features of its own; what a kernel lacks stands at its mean. Errors
are relative ones, as they are reported, and large ones pull no harder than others.

References
----------
Loshchilov and Hutter, "Decoupled weight decay regularization", 2019. Smith and Topin,
"Super-convergence", 2018 (one cycle of the rate).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from perfmodel.cost.layers import Net, Pooled, Singles, least, standard, words_of
from perfmodel.cost.parts import Floats

BETAS, TINY = (0.9, 0.99), 1e-8
"""Of Adam."""
SMALLEST_SCALE = 1e-6
LOWEST, HIGHEST = -2.0, 1.5
"""A residual's exponential weighs no more (and no less) than that of these."""


@dataclass(frozen=True, slots=True)
class Descent:
    """How a network is taught.

    Parameters
    ----------
    nets : int
        Networks, whose mean answers.
    widths : tuple of int
        Of the layers between features and answers.
    answers : int
        Whose soft minimum is what a network says.
    epochs, batch : int
        Passes over the rows, and rows of a step.
    rate : float
        Largest step size; it rises over the first ``warm`` of the steps and falls to nothing.
    decay : float
        Share of the weights that a step of size one takes away.
    outlier : float
        Relative errors beyond this pull no harder.
    """

    nets: int = 2
    widths: tuple[int, ...] = (160, 112, 80, 64)
    answers: int = 16
    epochs: int = 50
    batch: int = 512
    rate: float = 4e-3
    warm: float = 0.3
    decay: float = 1e-3
    outlier: float = 0.1


@dataclass(frozen=True, slots=True)
class Lesson:
    """Rows of one kernel: names of the features (F,), values (N, F), what is to be said (N,)."""

    kernel: str
    names: tuple[str, ...]
    values: Floats | Singles
    target: Floats


Table = tuple[Singles, Singles, Singles]
"""Features (N, F) in standard deviations, words (N, W; 0 or 1) and targets (N,) of all rows."""


def teach(
    lessons: Sequence[Lesson],
    rng: np.random.Generator,
    settings: Descent | None = None,
) -> Pooled:
    """Networks that answer the lessons of all kernels.

    Parameters
    ----------
    lessons : sequence of Lesson
        At least one row in all.
    rng : numpy.random.Generator
        Draws the beginning and the order of the rows.
    settings : Descent, optional
        How it is taught.
    """
    settings = settings or Descent()
    inputs = tuple(dict.fromkeys(name for one in lessons for name in one.names))
    words = tuple(sorted({word for one in lessons for word in words_of(one.kernel)}))
    center, scale = _moments(lessons, inputs)
    told = _told(lessons, inputs, words, center, scale)
    sizes = (len(inputs), *settings.widths, settings.answers)
    nets = tuple(
        descend(begin(sizes, len(words), rng), told, rng, settings) for _ in range(settings.nets)
    )
    return Pooled(inputs, words, center, scale, nets)


def teach_further(
    pooled: Pooled,
    lessons: Sequence[Lesson],
    rng: np.random.Generator,
    settings: Descent,
) -> tuple[Net, ...]:
    """Networks that begin as the shared ones and learn from some kernels' lessons alone.

    Parameters
    ----------
    pooled : Pooled
        Taught on these lessons, among others.
    lessons : sequence of Lesson
        At least one row in all.
    rng : numpy.random.Generator
        Draws the order of the rows.
    settings : Descent
        How they are taught; they stay as many and as wide as they are.
    """
    told = _told(lessons, pooled.inputs, pooled.words, pooled.center, pooled.scale)
    return tuple(descend(net, told, rng, settings) for net in pooled.nets)


def _told(
    lessons: Sequence[Lesson],
    inputs: Sequence[str],
    words: Sequence[str],
    center: Singles,
    scale: Singles,
) -> Table:
    """Features, words and targets of all rows as the networks take them."""
    count = sum(one.target.size for one in lessons)
    rows = np.zeros((count, len(inputs)), np.float32)
    said = np.zeros((count, len(words)), np.float32)
    start = 0
    for one in lessons:
        mine = slice(start, start + one.target.size)
        at = [inputs.index(name) for name in one.names]
        rows[mine, at] = standard(one.values, center[at], scale[at])
        said[mine, [words.index(word) for word in words_of(one.kernel)]] = 1.0
        start = mine.stop
    return rows, said, np.concatenate([one.target for one in lessons]).astype(np.float32)


def begin(sizes: Sequence[int], words: int, rng: np.random.Generator) -> Net:
    """A network at random; every layer hears the words."""
    tensors = [
        (rng.uniform(-1.0, 1.0, shape) / np.sqrt(wide + words)).astype(np.float32)
        for wide, out in pairwise(sizes)
        for shape in ((wide + words, out), (out,))
    ]
    return Net(tuple(tensors[::2]), tuple(tensors[1::2]))


def _moments(lessons: Sequence[Lesson], inputs: Sequence[str]) -> tuple[Singles, Singles]:
    """Mean and standard deviation of each feature over the rows that have it."""
    found = []
    for name in inputs:
        values = np.concatenate(
            [one.values[:, one.names.index(name)] for one in lessons if name in one.names]
        )
        found.append((values.mean(), values.std() + SMALLEST_SCALE))
    center, scale = np.array(found).T.astype(np.float32)
    return center, scale


def tensors_of(net: Net) -> list[Singles]:
    """Matrix and vector of every layer in turn, as :func:`net_of` takes them."""
    return [t for pair in zip(net.weights, net.biases, strict=True) for t in pair]


def net_of(tensors: Sequence[Singles]) -> Net:
    """A network as files keep it: half precision moves an answer by less than a thousandth."""
    weights = tuple(tensor.astype(np.float16).astype(np.float32) for tensor in tensors[::2])
    return Net(weights, tuple(tensor.copy() for tensor in tensors[1::2]))


def descend(begun: Net, told: Table, rng: np.random.Generator, settings: Descent) -> Net:
    """The network after all epochs; every layer hears the words (``said``) again.

    Parameters
    ----------
    begun : Net
        Where it begins; its matrices have a row more for each word.
    told : Table
        All rows.
    rng : numpy.random.Generator
        Draws their order.
    settings : Descent
        Epochs, batch and rate.
    """
    rows, said, target = told
    given = tensors_of(begun)
    flat, tensors = _views([tensor.shape for tensor in given])
    slope, slopes = _views([tensor.shape for tensor in given])
    for tensor, value in zip(tensors, given, strict=True):
        tensor[...] = value
    mean, square = np.zeros_like(flat), np.zeros_like(flat)
    batch = min(settings.batch, target.size)
    steps = settings.epochs * (target.size // batch)
    for step in range(steps):
        if step * batch % (target.size // batch * batch) == 0:
            order = rng.permutation(target.size)
        at = step % (target.size // batch) * batch
        taken = order[at : at + batch]
        _slopes(rows[taken], said[taken], target[taken], tensors, slopes, settings.outlier)
        rate = np.float32(settings.rate * cycle((step + 1) / steps, settings.warm))
        mean += np.float32(1.0 - BETAS[0]) * (slope - mean)
        square += np.float32(1.0 - BETAS[1]) * (slope * slope - square)
        fair, fair_square = (np.float32(1.0 - beta ** (step + 1)) for beta in BETAS)
        flat *= np.float32(1.0 - rate * settings.decay)
        flat -= rate / fair * mean / (np.sqrt(square / fair_square) + np.float32(TINY))
    return net_of(tensors)


def _views(shapes: Sequence[tuple[int, ...]]) -> tuple[Singles, list[Singles]]:
    """One flat array, and the tensors that lie in it one after another."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    flat = np.zeros(int(ends[-1]), dtype=np.float32)
    parts = np.split(flat, ends[:-1])
    return flat, [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _slopes(
    rows: Singles,
    said: Singles,
    target: Singles,
    tensors: Sequence[Singles],
    slopes: Sequence[Singles],
    outlier: float,
) -> None:
    """Gradient of the mean loss at a batch, written into ``slopes``."""
    weights, biases = tensors[::2], tensors[1::2]
    layers, bends = [np.concatenate([rows, said], axis=1)], []
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = layers[-1] @ weight
        x += bias
        less = np.float32(1.0) / (np.float32(1.0) + np.abs(x))
        share = x * less
        share += np.float32(1.0)
        # Half of both: x share and its derivative, share + x less^2.
        bends.append(np.float32(0.5) * (share + x * less * less))
        layers.append(np.concatenate([np.float32(0.5) * x * share, said], axis=1))
    answer, shares = least(layers[-1] @ weights[-1] + biases[-1])
    over = answer - target
    near = np.clip(over, LOWEST, HIGHEST)
    pull = np.clip(np.expm1(near) / np.float32(outlier), -1.0, 1.0) * np.exp(near)
    back = (pull * (over == near) / np.float32(target.size))[:, None] * shares
    for at in range(len(weights) - 1, -1, -1):
        np.matmul(layers[at].T, back, out=slopes[2 * at])
        np.sum(back, axis=0, out=slopes[2 * at + 1])
        if at:
            back = back @ weights[at][: -said.shape[1] or None].T
            back *= bends[at - 1]


def cycle(done: float, warm: float) -> float:
    """Share of the largest rate after ``done`` of the steps: half a cosine up, half one down."""
    part = done / warm if done < warm else 1.0 - (done - warm) / (1.0 - warm)
    return float(0.5 - 0.5 * np.cos(np.pi * part))
