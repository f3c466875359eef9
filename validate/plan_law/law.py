r"""Networks of plans: what each proposed plan takes, and which of them a search keeps.

Of operator :math:`o` with features :math:`x_o` and plan :math:`p` with embedding :math:`e_p`, the
sum of those of the words of its name,

.. math::

    h_1 = \sigma\left(2\,(A x_o) \odot \mathrm{sigmoid}(G e_p) + B e_p + C f_{op}\right), \quad
    h_{i+1} = \sigma(L_i h_i + M_i e_p), \quad
    \log \frac{t_{op}}{m_o} = w^\top h, \quad
    \log l_{op} = u^\top e_p + v_{\mathrm{place}} + \tanh(K x_o)^\top k

where :math:`f_{op}` is what the plan's tile does to the operator (:func:`tiled`), or its blocks
where that is depth-wise (:func:`~validate.plan_law.depthwise.native`), :math:`m_o` the
mechanism's time, :math:`l` the launch and :math:`\sigma` the SiLU. A single trial takes
:math:`t + l`; the plan of the least is kept, softly:

.. math::

    q_{op} \propto (t_{op} + l_{op})^{-1/\tau}, \quad t_o = \sum_p q_{op} t_{op} .
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from perfmodel.cost.answers import UNITS
from validate.plan_law.depthwise import NATIVE, fill, table

TILED: Final = 18
_LAUNCH_S: Final = 10e-6
_WIDEST: Final = 6.0
"""Of a logarithm: no plan is further from the mechanism."""
_AT_ONCE: Final = (132, 132, 66, 39, 30, 22, 17, 15, 15, 12, 11, 10, 9, 8, 7, 7, 7)
"""Clusters of 0 to 16 blocks that run at once: the largest grids of kernels that stay resident."""


def tiled(product: Tensor, tiles: Tensor, clusters: Tensor, loops: Tensor) -> Tensor:
    """What a tile does to an operator, shape (..., P, 18), in logarithms of base 2.

    A tile takes as many groups side by side as its columns hold, where a kernel takes all groups at
    once: so 96 to 99 % of the grids of kernels of Hopper's tensor units are told, with the clusters
    that run at once. Other plans launch a kernel for each group.

    Parameters
    ----------
    product : Tensor, shape (..., 5)
        :func:`validate.plan_law.table.product_of`.
    tiles, clusters, loops : Tensor, shapes (..., P, 3), (..., P, 2) and (..., P)
        Of the proposed plans, as :class:`~validate.plan_law.table.Plans` has them.
    """
    m, n, depth, repeats, groups = (product[..., None, i] for i in range(5))
    has = (tiles[..., 0] > 0).float()
    rows, cols, step = (
        torch.where(has > 0, tiles[..., i], torch.full_like(has, usual))
        for i, usual in enumerate((128.0, 128.0, 32.0))
    )
    along, across = clusters[..., 0], clusters[..., 1]
    turns = torch.where(loops > 0, groups, 1.0)
    beside = torch.minimum(torch.floor(cols / n).clamp(min=1.0), groups / turns)
    sets = torch.ceil(groups / turns / beside)
    high, wide = torch.ceil(m / rows), torch.ceil(n * beside / cols)
    sets_high, sets_wide = torch.ceil(high / along), torch.ceil(wide / across)
    waves = high * wide * sets / UNITS
    at_once = table(_AT_ONCE, product.device)
    size = (along * across).long().clamp(max=len(_AT_ONCE) - 1)
    rounds = sets_high * sets_wide * sets / at_once[size]
    steps = torch.ceil(depth * beside / step) * repeats
    log = torch.log2
    columns = [
        has,
        log(waves) / 4,
        *(fill(waves / share) for share in (1.0, 2.0, 3.0)),
        fill(rounds),
        log(m / (high * rows)),
        log(n * beside / (wide * cols)),
        log(depth * beside / (torch.ceil(depth * beside / step) * step)),
        (log(steps) - 6) / 3,
        log(high / (sets_high * along)),
        log(wide / (sets_wide * across)),
        (log(torch.ceil(rounds) * turns * steps * rows * cols * step) - 24) / 4,
        log(rows) - 6.5,
        log(cols) - 6.5,
        log(rows * cols * waves.clamp(max=1.0)) / 2 - 6,
        log(turns) / 4,
        log(beside) / 4,
    ]
    return torch.stack(columns, -1) * torch.where(has[..., None] > 0, 1.0, 0.3)


class Law(nn.Module):
    """Several networks of plans, side by side: every array has their number E in front.

    Parameters
    ----------
    inputs : int
        Columns of an operator, F.
    words : array, shape (P, W)
        How often each word is in the name of each plan.
    widths : sequence of int
        Of the layers :math:`h_i`.
    nets : int
        E.
    """

    def __init__(
        self, inputs: int, words: Tensor, *, widths: Sequence[int] = (224, 128, 96), nets: int = 6
    ) -> None:
        super().__init__()
        told, first = 32, widths[0]
        self.register_buffer("words", words)
        self.told = nn.Parameter(0.3 * torch.randn(nets, words.shape[1], told))
        self.seen = _Linear(nets, inputs, first)
        self.gate = _Linear(nets, told, first)
        self.moved = _Linear(nets, told, first)
        self.tile = _Linear(nets, TILED + NATIVE, first)
        self.layers = nn.ModuleList(_Linear(nets, *pair) for pair in itertools.pairwise(widths))
        self.told_again = nn.ModuleList(_Linear(nets, told, w) for w in widths[1:])
        self.out = _Linear(nets, widths[-1], 1)
        self.launch = _Linear(nets, told, 1)
        self.place = nn.Parameter(torch.zeros(nets, 10))
        self.launch_seen = _Linear(nets, inputs, 24)
        self.launch_out = _Linear(nets, 24, 1)
        self.sharpness = nn.Parameter(torch.full((nets,), math.log(0.05)))

    def forward(self, seen: Tensor, tile: Tensor, plans: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of the times over the mechanism's and of the launches [s], (E, B, 10).

        ``seen`` (E, B, F), ``tile`` (E, B, 10, 35), ``plans`` (E, B, 10).
        """
        every = self.words @ self.told  # (E, P, told)
        begin = torch.arange(len(every), device=plans.device) * every.shape[1]
        at = (plans + begin[:, None, None]).flatten()
        told = every.flatten(0, 1).index_select(0, at).unflatten(0, plans.shape)
        gate = torch.sigmoid(self.gate(told))
        x = self.moved(told) + self.tile(tile)
        x = nn.functional.silu(torch.addcmul(x, self.seen(seen)[:, :, None], gate, value=2.0))
        for layer, again in zip(self.layers, self.told_again, strict=True):
            x = nn.functional.silu(layer(x) + again(told))
        launch = self.launch(told)[..., 0] + self.place[:, None, : plans.shape[2]]
        launch = launch + self.launch_out(torch.tanh(self.launch_seen(seen)))
        return self.out(x)[..., 0].clamp(-_WIDEST, _WIDEST), math.log(_LAUNCH_S) + launch

    def kept(self, times: Tensor, launches: Tensor, offset: Tensor, plans: Tensor) -> Tensor:
        """Logarithm of the time over the mechanism's of what a search keeps, (E, B).

        ``times`` and ``launches`` (E, B, 10) are :meth:`forward`'s, ``offset`` (E, B) is the
        logarithm of the mechanism's seconds, ``plans`` (E, B, 10) are 0 where there is none.
        """
        trial = torch.log((times + offset[..., None]).exp() + launches.exp())
        near = (-trial / self.sharpness.exp()[:, None, None]).masked_fill(plans == 0, -1e4)
        return torch.log((torch.softmax(near, -1) * times.exp()).sum(-1))


class _Linear(nn.Module):
    """One linear map for each network, on (E, ..., inputs)."""

    def __init__(self, nets: int, inputs: int, outputs: int) -> None:
        super().__init__()
        reach = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(nets, inputs, outputs).uniform_(-reach, reach))
        self.bias = nn.Parameter(torch.empty(nets, 1, outputs).uniform_(-reach, reach))

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.baddbmm(self.bias, x.flatten(1, -2), self.weight)
        return flat.unflatten(1, x.shape[1:-1])
