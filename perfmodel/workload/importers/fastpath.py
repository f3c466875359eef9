"""The fused inference path of ``nn.MultiheadAttention`` and ``nn.TransformerEncoderLayer``.

In evaluation mode CUDA runs these modules as one operator each, whose C++ code calls others below
autograd. Those calls are made here, in the order of ``transformers/cuda/attention.cu`` and
``transformers/transformer.cpp``.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch.utils import backend_registration

from perfmodel.workload.importers.attention import attend, backend

_ATEN: Final = torch.ops.aten
FUSED: Final = (
    _ATEN._native_multi_head_attention.default,
    _ATEN._transformer_encoder_layer_fwd.default,
)


def fused(order: tuple[str, ...]) -> dict[Any, Any]:
    """The two operators with what they call."""
    attention = partial(_attention, order=order)
    return dict(zip(FUSED, (attention, partial(_encoder_layer, attention)), strict=True))


@contextlib.contextmanager
def offered() -> Iterator[None]:
    """Let the modules take the path on the meta device: they ask for the type of the device."""
    original = backend_registration._privateuse1_backend_name
    backend_registration._privateuse1_backend_name = "meta"
    try:
        yield
    finally:
        backend_registration._privateuse1_backend_name = original


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    embed_dim: int,
    num_head: int,
    qkv_weight: torch.Tensor,
    qkv_bias: torch.Tensor,
    proj_weight: torch.Tensor,
    proj_bias: torch.Tensor,
    mask: torch.Tensor | None = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
    *,
    order: tuple[str, ...],
) -> tuple[torch.Tensor, torch.Tensor | None]:
    batch, width = query.shape[0], embed_dim // num_head

    def heads(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view(tensor.shape[0], -1, num_head, width).transpose(1, 2)

    if query is key is value and width % 8 == 0 and not need_weights:
        trial = [heads(tensor) for tensor in (query, key, value)]
        q, k, v = trial
        chosen = backend(q, k, v, mask, 0.0, False, gqa=False, order=order)
        if mask is None and chosen != "math":
            parts = [heads(part) for part in F.linear(query, qkv_weight, qkv_bias).chunk(3, -1)]
            out = attend(parts[0], parts[1], parts[2], order=order)
            merged = out.transpose(1, 2).reshape(batch, -1, embed_dim)
            return F.linear(merged, proj_weight, proj_bias), None
    q, k, v = _projected(query, key, value, embed_dim, num_head, qkv_weight, qkv_bias)
    scores = torch.matmul(q, k.transpose(2, 3))
    if mask is None:
        weights = torch.softmax(scores, -1)
    else:
        weights = _ATEN._masked_softmax(scores, mask.to(torch.bool), 3, mask_type)
    context = torch.matmul(weights, v).permute(0, 2, 1, 3).contiguous()
    rows = context.view(-1, embed_dim)
    out = torch.addmm(proj_bias, rows, proj_weight.t()).view(batch, -1, embed_dim)
    if need_weights and average_attn_weights:
        return out, weights.sum(1).div_(num_head)
    return out, weights if need_weights else None


def _projected(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    width: int,
    heads: int,
    weight: torch.Tensor,
    bias: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """One product where query, key and value are one tensor, else one for each."""

    def product(tensor: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return torch.mm(tensor.view(-1, width), rows.t()).view(*tensor.shape[:2], -1)

    if query is key is value:
        joined = product(query, weight)
    elif key is value:
        q, kv = weight.split([width, 2 * width])
        joined = torch.cat([product(query, q), product(key, kv)], 2)
    else:
        parts = zip((query, key, value), weight.chunk(3), strict=True)
        joined = torch.cat([product(tensor, rows) for tensor, rows in parts], 2)
    three: tuple[torch.Tensor, ...] = _ATEN._transform_bias_rescale_qkv(joined, bias, heads)
    return three


def _encoder_layer(
    attention: Any,
    src: torch.Tensor,
    embed_dim: int,
    num_heads: int,
    qkv_weight: torch.Tensor,
    qkv_bias: torch.Tensor,
    proj_weight: torch.Tensor,
    proj_bias: torch.Tensor,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    *weights: Any,
) -> torch.Tensor:
    norm1, norm2, (up, up_bias, down, down_bias) = weights[:2], weights[2:4], weights[4:8]
    mask, mask_type = (*weights[8:], None, None)[:2]

    def normed(tensor: torch.Tensor, pair: Any) -> torch.Tensor:
        return F.layer_norm(tensor, (embed_dim,), pair[0], pair[1], eps)

    def product(tensor: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, act: bool) -> Any:
        rows = tensor.view(math.prod(tensor.shape[:2]), tensor.shape[2])
        if act:
            out = _ATEN._addmm_activation(bias, rows, weight.t(), use_gelu=use_gelu)
        else:
            out = torch.addmm(bias, rows, weight.t())
        return out.view(tensor.shape[0], -1, weight.shape[0])

    x = normed(src, norm1) if norm_first else src
    projections = (qkv_weight, qkv_bias, proj_weight, proj_bias)
    x = attention(x, x, x, embed_dim, num_heads, *projections, mask, False, True, mask_type)[0]
    x = x.add_(src)
    if not norm_first:
        x = normed(x, norm1)
    before = x
    x = normed(x, norm2) if norm_first else x
    x = product(product(x, up, up_bias, True), down, down_bias, False).add_(before)
    return x if norm_first else normed(x, norm2)
