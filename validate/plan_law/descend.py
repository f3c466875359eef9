"""The descent of networks that prices ask, on a device, those of all folds side by side.

The steps are those of :func:`perfmodel.calibrate.descent.descend`, with other draws of the rows'
order. Networks of one shape take a step together: a hundred thousand of them take minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from perfmodel.calibrate.descent import (
    SMALLEST_SCALE,
    Descent,
    Lesson,
    begin,
    cycle,
    net_of,
    tensors_of,
)
from perfmodel.calibrate.spread import Spread
from perfmodel.calibrate.together import (
    BY_ESTIMATES,
    OWN_BY_ESTIMATES,
    Estimates,
    Known,
    lessons_of,
)
from perfmodel.cost.layers import FARTHEST, SHARPNESS, Net, Pooled, kind_of, words_of
from perfmodel.cost.parts import Floats
from validate.plan_law.learn import adam, captured, device_of, error_of

SHARED = replace(BY_ESTIMATES, epochs=8, batch=1024)
OWN = replace(OWN_BY_ESTIMATES, epochs=55, rate=4e-3)


@dataclass(frozen=True, slots=True)
class Teaching:
    """Teaches as :func:`perfmodel.calibrate.together.by_estimates` does, on a device, for longer.

    Parameters
    ----------
    shared, own : Descent
        Of the networks of all kernels, and of those of each kind.
    """

    shared: Descent = SHARED
    own: Descent = OWN

    def __call__(
        self,
        measured: Known,
        estimates: Estimates,
        pairs: Sequence[tuple[int, int]],
        seed: int,
        spread: Spread,
    ) -> list[Pooled]:
        """See :class:`perfmodel.calibrate.together.Teaches`."""
        calls = [(measured, estimates, fold, column) for fold, column in pairs]
        return self.pupils(list(spread(lessons_of, calls)), seed)

    def pupils(self, folds: Sequence[Sequence[Lesson]], seed: int) -> list[Pooled]:
        """Networks of the lessons of each of some folds.

        Every fold has a row at least.
        """
        side = Side(folds)
        rng = np.random.default_rng(seed)
        sizes = (len(side.inputs), *self.shared.widths, self.shared.answers)
        begun = [begin(sizes, len(side.words), rng) for _ in folds]
        taught = descend(begun, side, side.kernels, seed, self.shared)
        kinds: dict[str, list[str]] = {}
        for kernel in side.kernels:
            kinds.setdefault(kind_of(kernel), []).append(kernel)
        own = {kind: descend(taught, side, some, seed, self.own) for kind, some in kinds.items()}
        return [
            Pooled(
                side.inputs,
                side.words,
                *side.middles[at],
                (net,),
                {kind: (nets[at],) for kind, nets in own.items()},
            )
            for at, net in enumerate(taught)
        ]


class Side:
    """Lessons of several folds on a device, R rows in all.

    Parameters
    ----------
    folds : sequence of sequence of Lesson
        Of each fold.
    """

    def __init__(self, folds: Sequence[Sequence[Lesson]]) -> None:
        device = torch.device(device_of())
        every = [(at, one) for at, told in enumerate(folds) for one in told]
        self.inputs = tuple(dict.fromkeys(name for _, one in every for name in one.names))
        self.kernels = tuple(sorted({one.kernel for _, one in every}))
        self.words = tuple(sorted({word for one in self.kernels for word in words_of(one)}))
        said = [[word in words_of(kernel) for word in self.words] for kernel in self.kernels]
        self.said = torch.tensor(said, dtype=torch.float32, device=device)
        self.middles = [_middle(told, self.inputs, device) for told in folds]
        count = sum(one.target.size for _, one in every)
        self.rows = torch.zeros((count, len(self.inputs)), device=device)
        self.target = torch.empty(count, device=device)
        self.kernel = torch.empty(count, dtype=torch.int64, device=device)
        self.fold = torch.empty(count, dtype=torch.int64, device=device)
        start = 0
        for fold, one in every:
            mine = slice(start, start + one.target.size)
            at = [self.inputs.index(name) for name in one.names]
            center, scale = (torch.as_tensor(m[at], device=device) for m in self.middles[fold])
            x = torch.as_tensor(one.values, device=device, dtype=torch.float32)
            self.rows[mine, at] = ((x - center) / scale).clamp(-FARTHEST, FARTHEST)
            self.target[mine] = torch.as_tensor(one.target, device=device, dtype=torch.float32)
            self.kernel[mine], self.fold[mine] = self.kernels.index(one.kernel), fold
            start = mine.stop


def _middle(
    told: Sequence[Lesson], inputs: Sequence[str], device: torch.device
) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each feature over a fold's rows that have it."""
    sums = torch.zeros((3, len(inputs)), dtype=torch.float64, device=device)
    for one in told:
        at = torch.tensor([inputs.index(name) for name in one.names], device=device)
        x = torch.as_tensor(one.values, device=device, dtype=torch.float64)
        sums[:, at] += torch.stack([torch.ones_like(x).sum(0), x.sum(0), (x * x).sum(0)])
    mean, square = sums[1:] / sums[0].clamp(min=1.0)
    scale = (square - mean * mean).clamp(min=0.0).sqrt() + SMALLEST_SCALE
    return mean.float().cpu().numpy(), scale.float().cpu().numpy()


def descend(
    begun: Sequence[Net], side: Side, kernels: Sequence[str], seed: int, settings: Descent
) -> list[Net]:
    """The network of each fold after all epochs on its rows of some kernels.

    Those of a fold without such rows stay as they have ``begun``.
    """
    torch.set_float32_matmul_precision("high")
    device = side.rows.device
    some = torch.tensor([kernel in kernels for kernel in side.kernels], device=device)
    among = some[side.kernel]
    rows = [torch.nonzero(among & (side.fold == fold))[:, 0] for fold in range(len(begun))]
    folds = [fold for fold, mine in enumerate(rows) if len(mine)]
    if not folds:
        return list(begun)
    rows = [rows[fold] for fold in folds]
    fewest = min(map(len, rows))
    batch = min(settings.batch, fewest)
    turns = fewest // batch
    tensors = [
        torch.tensor(np.stack(each), device=device, requires_grad=True)
        for each in zip(*(tensors_of(begun[fold]) for fold in folds), strict=True)
    ]
    descent, pace = adam(tensors, 0.0, settings.decay, device)
    taken = torch.stack([mine[:batch] for mine in rows])

    def step() -> None:
        descent.zero_grad(set_to_none=True)
        said = side.said[side.kernel[taken]]
        off = answer(tensors, side.rows[taken], said) - side.target[taken]
        error_of(off, settings.outlier).mean(1).sum().backward()
        descent.step()

    again = captured(step, device)
    draws = torch.Generator(device).manual_seed(seed)
    for epoch in range(settings.epochs):
        mixed = [
            mine[torch.randperm(len(mine), device=device, generator=draws)[: turns * batch]]
            for mine in rows
        ]
        order = torch.stack(mixed).unflatten(1, (turns, batch))
        for turn in range(turns):
            done = (epoch * turns + turn + 1) / (settings.epochs * turns)
            pace(settings.rate * cycle(done, settings.warm))
            taken.copy_(order[:, turn])
            again()
    found = list(begun)
    for at, fold in enumerate(folds):
        found[fold] = net_of([one[at].detach().cpu().numpy() for one in tensors])
    return found


def answer(tensors: Sequence[Tensor], rows: Tensor, said: Tensor) -> Tensor:
    """What networks as those of :mod:`perfmodel.cost.layers` answer, (G, B).

    ``tensors`` are matrices and vectors of G networks, ``rows`` (G, B, F) and ``said`` (G, B, W);
    every layer hears the words.
    """
    weights, biases = tensors[::2], tensors[1::2]
    x = rows
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = torch.baddbmm(bias[:, None], torch.cat([x, said], 2), weight)
        x = 0.5 * x * (1.0 + x / (1.0 + x.abs()))
    x = torch.baddbmm(biases[-1][:, None], torch.cat([x, said], 2), weights[-1])
    return -SHARPNESS * torch.logsumexp(-x / SHARPNESS, 2)
