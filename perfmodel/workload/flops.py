"""Model and hardware FLOPs of a training step: the numerators of MFU and HFU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from perfmodel.workload.blocks import block_forward, embedding_forward, head_forward
from perfmodel.workload.layer import Call, Shard, layer_kinds
from perfmodel.workload.model import ModelConfig
from perfmodel.workload.ops.base import Count, Size
from perfmodel.workload.ops.dense import Attention, Gemm, GroupedGemm
from perfmodel.workload.recompute import recompute_calls
from perfmodel.workload.stack import load_stack


def matmul_flops(calls: tuple[Call, ...]) -> Count:
    """FLOPs of the products and of attention among the calls [FLOP]."""
    total: Any = 0
    for call in calls:
        if isinstance(call.op, Gemm | GroupedGemm | Attention):
            total = total + call.op.flops * call.count
    return total  # type: ignore[no-any-return]


def forward_flops(model: ModelConfig, seq_len: Size, batch: Size, *, causal: bool = False) -> Count:
    """Products of a whole model's forward pass, output head included [FLOP].

    ``causal`` false counts the full square of query-key pairs, as the usual definitions of MFU do;
    sliding windows count either way.
    """
    shard, stack = Shard(batch, seq_len), load_stack("megatron")
    total: Any = matmul_flops(head_forward(model, shard, stack, loss=False))
    total = total + matmul_flops(embedding_forward(model, shard, stack))
    for kind in layer_kinds(model):
        seen = kind if causal else replace(kind, causal=False)
        total = total + kind.count * matmul_flops(block_forward(model, seen, shard, stack))
    return total  # type: ignore[no-any-return]


def model_flops(model: ModelConfig, seq_len: Size, batch: Size, *, causal: bool = False) -> Count:
    """FLOPs that a training step needs whatever is recomputed: three forward passes [FLOP].

    For a dense model this is the ``6 N D`` rule with N the parameters in matrix products, plus
    attention ``12 L H Q T`` a token.

    References
    ----------
    Chowdhery et al., PaLM (arXiv 2204.02311), appendix B.
    """
    total: Any = 3 * forward_flops(model, seq_len, batch, causal=causal)
    if model.patch:
        # an image needs no gradient
        ends = embedding_forward(model, Shard(batch, seq_len), load_stack("megatron"))
        total = total - matmul_flops(ends)
    return total  # type: ignore[no-any-return]


def hardware_flops(
    model: ModelConfig, seq_len: Size, batch: Size, recompute: str = "none", *, causal: bool = False
) -> Count:
    """:func:`model_flops` plus what ``recompute`` repeats; the output head is never repeated.

    References
    ----------
    Narayanan et al. (arXiv 2104.04473), section 5.1, equation 3:
    ``96 B s l h**2 (1 + s / 6h + V / 16 l h)`` for full recomputation.
    """
    total: Any = model_flops(model, seq_len, batch, causal=causal)
    shard, stack = Shard(batch, seq_len), load_stack("megatron")
    for kind in layer_kinds(model):
        seen = kind if causal else replace(kind, causal=False)
        again = recompute_calls(model, seen, shard, stack, recompute)
        total = total + kind.count * matmul_flops(again)
    return total  # type: ignore[no-any-return]
