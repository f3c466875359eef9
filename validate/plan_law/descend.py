"""The descent of networks that prices ask, on a device: the steps of
:func:`perfmodel.calibrate.descent.descend` with other draws of the rows' order.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from perfmodel.calibrate.descent import Descent, Table, cycle, net_of, tensors_of
from perfmodel.cost.layers import SHARPNESS, Net
from validate.plan_law.learn import adam, captured, device_of, error_of


def descend(begun: Net, told: Table, rng: np.random.Generator, settings: Descent) -> Net:
    """The network after all epochs; arguments and answer as of the one that it stands for."""
    torch.set_float32_matmul_precision("high")
    device = torch.device(device_of())
    rows, said, target = (torch.as_tensor(table, device=device) for table in told)
    tensors = [torch.tensor(one, device=device, requires_grad=True) for one in tensors_of(begun)]
    descent, pace = adam(tensors, 0.0, settings.decay, device)
    draws = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
    count = len(target)
    batch = min(settings.batch, count)
    taken = torch.arange(batch, device=device)

    def step() -> None:
        descent.zero_grad(set_to_none=True)
        off = answer(tensors, rows[taken], said[taken]) - target[taken]
        error_of(off, settings.outlier).mean().backward()
        descent.step()

    again = captured(step, device)
    turns = count // batch
    for epoch in range(settings.epochs):
        order = torch.randperm(count, device=device, generator=draws)
        for turn in range(turns):
            done = (epoch * turns + turn + 1) / (settings.epochs * turns)
            pace(settings.rate * cycle(done, settings.warm))
            taken.copy_(order[turn * batch : (turn + 1) * batch])
            again()
    return net_of([one.detach().cpu().numpy() for one in tensors])


def answer(tensors: list[Tensor], rows: Tensor, said: Tensor) -> Tensor:
    """What the network of :mod:`perfmodel.cost.layers` answers, (B,); every layer hears words."""
    weights, biases = tensors[::2], tensors[1::2]
    x = rows
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = torch.addmm(bias, torch.cat([x, said], 1), weight)
        x = 0.5 * x * (1.0 + x / (1.0 + x.abs()))
    x = torch.addmm(biases[-1], torch.cat([x, said], 1), weights[-1])
    return -SHARPNESS * torch.logsumexp(-x / SHARPNESS, 1)
