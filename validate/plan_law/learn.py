"""How networks of plans learn, and what they say afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perfmodel.calibrate.descent import BETAS, HIGHEST, LOWEST, TINY
from validate.plan_law.depthwise import native
from validate.plan_law.law import Law, tiled
from validate.plan_law.table import Floats, Operators, Plans, product_of


@dataclass(frozen=True, slots=True)
class Schedule:
    """Of the descent.

    Parameters
    ----------
    nets, epochs, batch : int
        Networks side by side, each with batches of its own; turns over all rows; rows of a step.
    rate : float
        Highest, reached after ``warm`` of the way and left along a cosine.
    decay : float
        Of the weights.
    near : float
        Share of an error below which it counts squared.
    late : float
        By how much less a plan teaches for each e-fold that it is slower than the one kept.
    alone : float
        What a steady time counts where nothing else is known of an operator; 0.5 elsewhere.
    """

    nets: int = 6
    epochs: int = 60
    batch: int = 512
    rate: float = 3e-3
    warm: float = 0.25
    decay: float = 1e-2
    near: float = 0.1
    late: float = 0.3
    alone: float = 1.0


USUAL = Schedule()


def device_of() -> str:
    """Where networks learn: the first device that PyTorch sees, else the processor."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class Told:
    """Operators as tensors on a device.

    Parameters
    ----------
    ones : Operators
        N of them.
    seen : array, shape (N, F)
        Their columns, as :class:`~validate.plan_law.inputs.Inputs` makes them.
    plans : Plans
        What is known of all P plans.
    device : str
        As PyTorch names it.
    """

    def __init__(self, ones: Operators, seen: Floats, plans: Plans, device: str) -> None:
        def put(values: NDArray[np.generic]) -> Tensor:
            return torch.as_tensor(np.ascontiguousarray(values), device=device)

        self.seen = put(seen)
        self.product, self.offset = put(product_of(ones.sizes, ones.cell)), put(ones.offset)
        self.way, self.plans = put(ones.cell // 8), put(ones.plans)
        self.kept, self.steady = put(ones.kept_s), put(ones.steady_s)
        self.trial, self.launch = put(ones.trial_s), put(ones.launch_s)
        tried = torch.where(self.trial.isfinite(), self.trial, torch.inf)
        self.best = torch.where(tried.isfinite().any(-1), tried.argmin(-1), -1)
        self.tiles, self.clusters = put(plans.tiles), put(plans.clusters)
        self.sizes, self.cell = put(ones.sizes.astype(np.float32)), put(ones.cell)
        self.loops, self.native = put(plans.loops), put(plans.native)

    def asked(self, law: Law, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What a law says of rows (E, B): :meth:`~validate.plan_law.law.Law.forward`'s answers.

        Both of shape (E, B, 10): a number for each plan.
        """
        plans = self.plans[rows]
        way = self.way[rows][..., None]
        tile = tiled(
            self.product[rows], self.tiles[way, plans], self.clusters[plans], self.loops[way, plans]
        )
        blocks = native(self.sizes[rows], self.cell[rows], self.native[plans])
        times, launches = law(self.seen[rows], torch.cat([tile, blocks], -1), plans)
        return times, launches


def error_of(over: Tensor, near: float) -> Tensor:
    r"""Share :math:`|e^x - 1|` by which a time is missed, squared below ``near`` (Huber, 1964).

    ``over`` is :math:`x`, the logarithm of said over true, of any shape, as is the answer.
    """
    share = torch.expm1(over.clamp(LOWEST, HIGHEST)).abs()
    return torch.where(share < near, share**2 / (2 * near), share - near / 2)


def loss(law: Law, told: Told, rows: Tensor, how: Schedule) -> Tensor:
    """Mean over the rows (E, B), summed over the networks.

    Of what a search keeps; half as much of steady times, and a third of single trials, of launches
    and of the plan with the least trial. Of an operator with a single steady time alone, that.
    """
    times, launches = told.asked(law, rows)
    offset, plans = told.offset[rows], told.plans[rows]

    def known(values: Tensor) -> tuple[Tensor, Tensor]:
        there = values.isfinite()
        return there, torch.where(there, values, torch.ones_like(values)).log()

    searched, kept = known(told.kept[rows])
    wanted = kept - offset
    off = error_of(law.kept(times, launches, offset, plans) - wanted, how.near)
    total = (off * searched).sum()
    there, steady = known(told.steady[rows])
    timed = there.any(-1)
    steady = steady - offset[..., None]
    late = torch.where(searched[..., None], steady - wanted[..., None], 0.0).clamp(0.0, 6.0)
    weight = there * torch.exp(-how.late * late)
    weight = weight * torch.where(searched, 0.5, how.alone)[..., None]
    total = total + (error_of(times - steady, how.near) * weight).sum()
    there, trial = known(told.trial[rows])
    least = trial.masked_fill(~there, torch.inf).amin(-1, keepdim=True)
    late = (trial - torch.where(least.isfinite(), least, trial)).clamp(0.0, 6.0)
    mine = torch.log((times + offset[..., None]).exp() + launches.exp())
    weight = there * torch.exp(-how.late * late)
    total = total + 0.3 * (error_of(mine - trial, how.near) * weight).sum()
    there, launch = known(told.launch[rows])
    total = total + 0.1 * (error_of(launches - launch, how.near) * there).sum()
    best = told.best[rows]
    one = times.gather(-1, best.clamp(min=0)[..., None])[..., 0]
    total = total + (error_of(one - wanted, how.near) * ((best >= 0) & ~timed)).sum()
    return total / rows.shape[1]


def learn(
    told: Told, taken: NDArray[np.int64], plans: Plans, *, how: Schedule = USUAL, seed: int = 0
) -> Law:
    """Networks that learn from some rows.

    Parameters
    ----------
    told : Told
        All operators.
    taken : array of int, shape (M,)
        Those that may be looked at, as many as a batch at least.
    plans : Plans
        What is known of the plans.
    how : Schedule
        Of the descent, AdamW (Loshchilov and Hutter, 2019).
    seed : int
        Of the first weights and of the order of rows.
    """
    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("high")
    device = told.seen.device
    words = torch.as_tensor(plans.words, device=device)
    law = Law(told.seen.shape[1], words, nets=how.nets).to(device)
    rows = torch.as_tensor(taken, device=device)
    turns = len(rows) // how.batch
    descent, pace = adam(law.parameters(), how.rate / 25, how.decay, device)
    batch = rows[: how.batch].expand(how.nets, -1).clone()

    def step() -> None:
        descent.zero_grad(set_to_none=True)
        loss(law, told, batch, how).backward()
        descent.step()

    again = captured(step, device)
    for epoch in range(how.epochs):
        mixed = [rows[torch.randperm(len(rows), device=device)] for _ in range(how.nets)]
        order = torch.stack(mixed)[:, : turns * how.batch].unflatten(1, (turns, how.batch))
        for turn in range(turns):
            pace(_rate((epoch * turns + turn) / (how.epochs * turns), how))
            batch.copy_(order[:, turn])
            again()
    return law


def says(law: Law, told: Told, *, batch: int = 2048) -> Floats:
    """Logarithm of the seconds that the plan kept by a search takes, the networks' mean, (N,)."""
    found = []
    nets, rows = len(law.sharpness), torch.arange(len(told.seen), device=told.seen.device)
    with torch.no_grad():
        for some in rows.split(batch):
            ones = some.expand(nets, -1)
            times, launches = told.asked(law, ones)
            kept = law.kept(times, launches, told.offset[ones], told.plans[ones])
            found.append(kept.mean(0) + told.offset[some])
    return torch.cat(found).cpu().numpy()


def _rate(way: float, how: Schedule) -> float:
    if way < how.warm:
        return how.rate * (1 + 24 * (1 - math.cos(math.pi * way / how.warm)) / 2) / 25
    return how.rate * (1 + math.cos(math.pi * (way - how.warm) / (1 - how.warm))) / 2


def adam(
    parameters: Iterable[Tensor], first: float, decay: float, device: torch.device
) -> tuple[torch.optim.Optimizer, Callable[[float], None]]:
    """The descent of networks, and what sets its rate, which is ``first`` to begin with."""
    fast = device.type == "cuda"
    rate = torch.tensor(first, device=device)  # a graph that is captured reads it anew
    descent = torch.optim.AdamW(
        parameters,
        lr=rate if fast else first,
        betas=BETAS,
        eps=TINY,
        weight_decay=decay,
        fused=fast,
        capturable=fast,
    )

    def pace(now: float) -> None:
        if fast:
            rate.fill_(now)
        else:
            descent.param_groups[0]["lr"] = now

    return descent, pace


def captured(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """The step as one graph of the device's, which spares its launches; a processor has none."""
    if device.type != "cuda":
        return step
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
