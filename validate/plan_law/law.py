r"""Networks of plans: what each proposed plan takes, and which of them a search keeps.

Of operator :math:`o` with features :math:`x_o` and plan :math:`p` with embedding :math:`e_p`, the
sum of those of the words of its name,

.. math::

    h_1 = \sigma\left(2\,(A x_o) \odot \mathrm{sigmoid}(G e_p) + B e_p + C f_{op}\right), \quad
    h_{i+1} = \sigma(L_i h_i + M_i e_p), \quad
    \log \frac{t_{op}}{m_o} = w^\top h, \quad
    \log l_{op} = u^\top e_p + v_{\mathrm{place}} + \tanh(K x_o)^\top k

where :math:`f_{op}` is what the plan's tile does to the operator (:func:`tiled`), :math:`m_o` the
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

TILED: Final = 16
_LAUNCH_S: Final = 10e-6
_WIDEST: Final = 6.0
"""Of a logarithm: no plan is further from the mechanism."""


def tiled(product: Tensor, tiles: Tensor, clusters: Tensor) -> Tensor:
    """What a tile does to an operator, shape (..., P, 16), in logarithms of base 2.

    ``product`` (..., 5) is :func:`validate.plan_law.table.product_of`; ``tiles`` (..., P, 3) and
    ``clusters`` (..., P, 2) are of the proposed plans.
    """
    m, n, depth, repeats, groups = (product[..., None, i] for i in range(5))
    has = (tiles[..., 0] > 0).float()
    rows, cols, step = (
        torch.where(has > 0, tiles[..., i], torch.full_like(has, usual))
        for i, usual in enumerate((128.0, 128.0, 32.0))
    )
    along, across = clusters[..., 0], clusters[..., 1]
    high, wide = torch.ceil(m / rows), torch.ceil(n / cols)
    blocks_high, blocks_wide = torch.ceil(high / along) * along, torch.ceil(wide / across) * across
    waves = high * wide * groups / UNITS
    block_waves = blocks_high * blocks_wide * groups / UNITS
    steps = torch.ceil(depth / step) * repeats
    log = torch.log2
    columns = [
        has,
        log(waves) / 4,
        *(_fill(waves / share) for share in (1.0, 2.0, 3.0)),
        _fill(block_waves),
        log(m / (high * rows)),
        log(n / (wide * cols)),
        log(depth / (torch.ceil(depth / step) * step)),
        (log(steps) - 6) / 3,
        log(high / blocks_high),
        log(wide / blocks_wide),
        (log(torch.ceil(block_waves) * steps * rows * cols * step) - 24) / 4,
        log(rows) - 6.5,
        log(cols) - 6.5,
        log(rows * cols * waves.clamp(max=1.0)) / 2 - 6,
    ]
    return torch.stack(columns, -1) * torch.where(has[..., None] > 0, 1.0, 0.3)


def _fill(waves: Tensor) -> Tensor:
    """Logarithm of how full the waves are; of very many, no matter."""
    return torch.log2(torch.where(waves > 64, torch.ones_like(waves), waves / torch.ceil(waves)))


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
        self.tile = _Linear(nets, TILED, first)
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

        ``seen`` (E, B, F), ``tile`` (E, B, 10, 16), ``plans`` (E, B, 10).
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
