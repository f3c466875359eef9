"""Recurrent layers and cells as CUDA dispatches them.

On the meta device PyTorch takes a layer apart, step by step. On CUDA a layer is one call of cuDNN
(``ATen/native/cudnn/RNN.cpp``), and a cell is two products and a fused kernel for the gates
(``ATen/native/RNN.cpp``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch

_ATEN: Final = torch.ops.aten
_MODES: Final = {"rnn_relu": 0, "rnn_tanh": 1, "lstm": 2, "gru": 3}
_AUTOCAST: Final = "hpu"  # the device whose autocast stands for CUDA's, see autocast.py
_KEPT: Final = {0: 1, 1: 1, 2: 5, 3: 4}  # what a cell keeps for the backward pass, in its widths


def layers() -> dict[Any, Any]:
    """Composite operators of whole layers and of cells, with CUDA's branch."""
    found: dict[Any, Any] = {
        _ATEN.lstm.input: _lstm,
        _ATEN.lstm.data: _packed(_lstm),
        _ATEN.lstm_cell.default: _lstm_cell,
        _ATEN.gru_cell.default: _gru_cell,
        _ATEN._pack_padded_sequence.default: _pack,
    }
    for name in ("gru", "rnn_tanh", "rnn_relu"):
        layer = _layer(name)
        found |= {getattr(_ATEN, name).input: layer, getattr(_ATEN, name).data: _packed(layer)}
    return found


def run(func: Any, args: tuple[Any, ...]) -> Any:
    """Empty results of the operators below, which have no kernel on the meta device, else None."""
    kernel = _RUN.get(func)
    return None if kernel is None else kernel(*args)


def _lstm(
    x: torch.Tensor,
    hx: Sequence[torch.Tensor],
    params: Sequence[torch.Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
    batch_sizes: Sequence[int] = (),
) -> tuple[torch.Tensor, ...]:
    x, (h, c), params = _cast(x, hx, params)
    hidden, projected = h.shape[2], 0
    if c.shape[2] != hidden:
        hidden, projected = c.shape[2], hidden
    each = (4 if has_biases else 2) + (projected > 0)
    output, hy, cy, _, _ = _ATEN._cudnn_rnn(
        x, params, each, None, h, c, _MODES["lstm"], hidden, projected, num_layers, batch_first,
        dropout, train, bidirectional, list(batch_sizes), None,
    )  # fmt: skip
    return output, hy, cy


def _layer(name: str) -> Any:
    def layer(
        x: torch.Tensor,
        hx: torch.Tensor,
        params: Sequence[torch.Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
        batch_sizes: Sequence[int] = (),
    ) -> tuple[torch.Tensor, ...]:
        x, (h,), params = _cast(x, [hx], params)
        output, hy, _, _, _ = _ATEN._cudnn_rnn(
            x, params, 4 if has_biases else 2, None, h, None, _MODES[name], h.shape[2], 0,
            num_layers, batch_first, dropout, train, bidirectional, list(batch_sizes), None,
        )  # fmt: skip
        return output, hy

    return layer


def _packed(layer: Callable[..., Any]) -> Callable[..., Any]:
    """The same layer on sequences of different lengths, one step of all of them after another."""

    def packed(x: torch.Tensor, batch_sizes: torch.Tensor, *rest: Any) -> Any:
        return layer(x, *rest, False, batch_sizes.tolist())

    return packed


def _pack(
    x: torch.Tensor, lengths: torch.Tensor, batch_first: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``ATen/native/PackedSequence.cpp``: lengths are numbers, in falling order."""
    ends = (lengths.cpu() if lengths.is_meta else lengths).tolist()
    x = x.transpose(0, 1) if batch_first else x
    parts, sizes, begin = [], [], 0
    for place, end in enumerate(reversed(ends)):
        if end > begin:
            rows = len(ends) - place
            parts.append(x[begin:end, :rows].contiguous().view(-1, *x.shape[2:]))
            sizes += [rows] * (end - begin)
            begin = end
    return torch.cat(parts), torch.tensor(sizes, device="cpu")


def _cast(x: torch.Tensor, hx: Sequence[torch.Tensor], params: Sequence[torch.Tensor]) -> Any:
    """Under autocast cuDNN's layers run in half precision; weights are cast in each call."""
    if not torch.is_autocast_enabled(_AUTOCAST):
        return x, tuple(hx), list(params)
    half = torch.float16
    return x.to(half), tuple(h.to(half) for h in hx), [p.to(half) for p in params]


def _lstm_cell(
    x: torch.Tensor,
    hx: Sequence[torch.Tensor],
    w_ih: torch.Tensor,
    w_hh: torch.Tensor,
    b_ih: torch.Tensor | None = None,
    b_hh: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    h, c = hx
    gates = torch.matmul(x, w_ih.t()), torch.matmul(h, w_hh.t())
    hy, cy, _ = _ATEN._thnn_fused_lstm_cell(*gates, c, b_ih, b_hh)
    return hy, cy


def _gru_cell(
    x: torch.Tensor,
    hx: torch.Tensor,
    w_ih: torch.Tensor,
    w_hh: torch.Tensor,
    b_ih: torch.Tensor | None = None,
    b_hh: torch.Tensor | None = None,
) -> torch.Tensor:
    gates = torch.matmul(x, w_ih.t()), torch.matmul(hx, w_hh.t())
    out: torch.Tensor = _ATEN._thnn_fused_gru_cell(*gates, hx, b_ih, b_hh)[0]
    return out


def _rnn_results(x: Any, weight: Any, *rest: Any) -> tuple[torch.Tensor, ...]:
    _, _, hx, cx, mode, hidden, projected, layers_, first, _, train, both, sizes, _ = rest
    ways, width = (2 if both else 1), projected or hidden
    lead = x.shape[:-1]
    batch = sizes[0] if sizes else lead[0 if first else 1]
    states = (layers_ * ways, batch)
    reserve = 0
    if train:
        kept = _KEPT[mode] * hidden * layers_ + width * (layers_ - 1)
        reserve = math.prod(lead) * ways * kept * x.element_size()
    return (
        x.new_empty((*lead, ways * width)),
        hx.new_empty((*states, width)),
        x.new_empty(0) if cx is None else cx.new_empty((*states, hidden)),
        x.new_empty(reserve, dtype=torch.uint8),
        x.new_empty(0),
    )


def _rnn_gradients(x: Any, weight: Any, *rest: Any) -> tuple[Any, ...]:
    _, _, hx, cx, *_, mask = rest
    return (
        torch.empty_like(x) if mask[0] else x.new_empty(0),
        torch.empty_like(hx) if mask[1] else x.new_empty(0),
        x.new_empty(0) if cx is None or not mask[2] else torch.empty_like(cx),
        [torch.empty_like(one) for one in weight] if mask[3] else [],
    )


def _gru_results(gates: Any, again: Any, hx: Any, *biases: Any) -> tuple[torch.Tensor, ...]:
    return torch.empty_like(hx), hx.new_empty((*hx.shape[:-1], 5 * hx.shape[-1]))


def _gru_gradients(grad: Any, workspace: Any, has_bias: bool) -> tuple[torch.Tensor, ...]:
    width = grad.shape[-1]
    gates = [grad.new_empty((*grad.shape[:-1], 3 * width)) for _ in range(2)]
    biases = [grad.new_empty(3 * width if has_bias else 0) for _ in range(2)]
    return (*gates, torch.empty_like(grad), *biases)


_RUN: Final[Mapping[Any, Callable[..., Any]]] = {
    _ATEN._cudnn_rnn.default: _rnn_results,
    _ATEN._cudnn_rnn_backward.default: _rnn_gradients,
    _ATEN._thnn_fused_gru_cell.default: _gru_results,
    _ATEN._thnn_fused_gru_cell_backward.default: _gru_gradients,
}
