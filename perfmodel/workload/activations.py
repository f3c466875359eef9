"""Memory of activations: what a forward pass keeps for its backward pass, byte by byte.

Every tensor that some gradient needs is counted once, in the format it is stored in. Row statistics
of norms (4 B a row) and biases are left out.

References
----------
Korthikanti et al., Reducing Activation Recomputation in Large Transformer Models (arXiv
2205.05198), section 4: ``s b h (34 + 5 a s / h)`` bytes for a GPT block with dropout and stored
scores, and its tensor and sequence parallel forms (equations 1 to 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perfmodel.workload.blocks import RECOMPUTE
from perfmodel.workload.layer import (
    LayerKind,
    Shard,
    ceil_div,
    expert_rows,
    heads_on_rank,
)
from perfmodel.workload.model import ModelConfig
from perfmodel.workload.ops.base import Size, check_choice
from perfmodel.workload.precision import BF16, Precision
from perfmodel.workload.stack import Stack


@dataclass(frozen=True, slots=True)
class BlockActivations:
    """Bytes of one block's activations for one micro-batch on one rank.

    Parameters
    ----------
    norm, attention, core, mlp, experts : int or array
        Kept until the backward pass, by class [B]: norm inputs; inputs of projections, queries,
        keys, values; scores and their softmax and masks; MLP; routed experts and router.
    checkpoint : int or array
        The block's input, kept instead of everything else under full recomputation [B].
    transient : int or array
        What recomputation brings back for the time of this block's backward pass [B].
    """

    norm: Size = 0
    attention: Size = 0
    core: Size = 0
    mlp: Size = 0
    experts: Size = 0
    checkpoint: Size = 0
    transient: Size = 0

    @property
    def kept(self) -> Size:
        """Bytes held from forward to backward [B]."""
        return self.norm + self.attention + self.core + self.mlp + self.experts + self.checkpoint


def block_activation_bytes(
    model: ModelConfig,
    kind: LayerKind,
    shard: Shard,
    stack: Stack,
    *,
    recompute: str = "none",
    precision: Precision = BF16,
) -> BlockActivations:
    """What one block keeps.

    ``recompute`` is ``"none"``, ``"selective"`` (core attention is repeated, so its inner tensors
    are not kept) or ``"full"`` (only the block's input is kept).
    """
    check_choice(recompute, RECOMPUTE, "recompute")
    e, mask = precision.element, int(stack.dropout)
    rows, hidden = shard.rows, model.hidden
    stream = rows * hidden
    norms = 1 if model.parallel_block else 2 + int(kind.cross)
    # an unfused RMS norm keeps an fp32 copy and the normalised tensor instead of its input
    unfused = model.norm == "rmsnorm" and not stack.fused_norm
    norm = norms * stream * (4 + e if unfused else e)
    inner, core = _attention(model, shard, stack, precision)
    attention = stream * (e + mask) + inner
    if kind.cross:
        # queries and encoder output are read by two more projections
        attention, core = attention + stream * (2 * e + mask) + inner, 2 * core
    mlp, experts = _mlp(model, kind, shard, stack, precision)
    if recompute == "full":
        whole = norm + attention + core + mlp + experts
        return BlockActivations(checkpoint=stream * e, transient=whole)
    if recompute == "selective":
        zero = 0 * core
        return BlockActivations(norm, attention, zero, mlp, experts, transient=core)
    return BlockActivations(norm, attention, core, mlp, experts)


def _attention(
    model: ModelConfig, shard: Shard, stack: Stack, precision: Precision
) -> tuple[Size, Size]:
    """Queries, keys, values and the input of the output projection; then the core's tensors."""
    heads, kv_heads = heads_on_rank(model, shard)
    tokens, e = shard.tokens, precision.element
    d, dv = model.qk_head_dim, model.v_head_dim
    if model.is_mla:
        kv_heads = heads
    qkv = tokens * ((heads + kv_heads) * d + kv_heads * dv) * e
    out = tokens * heads * dv * e
    extra: Size = 0
    if model.is_mla:
        # latents, before and after their norm
        extra = shard.rows * 2 * (model.q_lora_rank + model.kv_lora_rank) * e
    elif model.qk_norm:
        extra = tokens * (heads + kv_heads) * d * e
    pairs = shard.micro_batch * heads * shard.local_len * shard.seq_len
    if stack.attention == "flash":
        # one fp32 log-sum-exp for each query and head
        return qkv + out + extra, 4 * tokens * heads
    core = pairs * e
    if stack.dropout:
        core = core + pairs * (e + 1)
    if not stack.fused_softmax:
        core = core + pairs * e
    return qkv + out + extra, core


def _mlp(
    model: ModelConfig, kind: LayerKind, shard: Shard, stack: Stack, precision: Precision
) -> tuple[Size, Size]:
    e, mask = precision.element, int(stack.dropout)
    stream = shard.rows * model.hidden
    # a parallel block's MLP reads the tensor that attention's projections already keep
    own_input = 0 if model.parallel_block else e
    if not kind.moe:
        inside = shard.tokens * ceil_div(model.ffn, shard.tp) * _inner(model, stack) * e
        return stream * (own_input + mask) + inside, 0
    rows = expert_rows(model, shard)
    width = ceil_div(model.expert_ffn, shard.expert_tp)
    own = ceil_div(shard.tokens, shard.tp)
    routed = rows * (model.hidden + width * _inner(model, stack)) * e
    router = own * model.experts * 8 + own * model.experts_per_token * 8
    shared: Size = 0
    if model.shared_ffn:
        shared = shard.tokens * ceil_div(model.shared_ffn, shard.tp) * _inner(model, stack) * e
    return stream * (own_input + mask) + shared, routed + router


def _inner(model: ModelConfig, stack: Stack) -> int:
    """Tensors of the inner width that an MLP keeps: around the activation."""
    if not model.gated:
        return 2
    return 3 if stack.fused_activation else 4


def embedding_activation_bytes(
    model: ModelConfig, shard: Shard, stack: Stack, *, precision: Precision = BF16
) -> Size:
    """Token indices and dropout mask [B]."""
    indices = 8 * shard.tokens
    norm = shard.rows * model.hidden * precision.element * int(model.embedding_norm)
    return indices + norm + shard.rows * model.hidden * int(stack.dropout)


def head_activation_bytes(
    model: ModelConfig, shard: Shard, stack: Stack, *, precision: Precision = BF16
) -> Size:
    """Input and output of the final norm, and the logits in fp32 [B].

    An unfused loss also keeps the logits as computed. With Korthikanti et al. the fp32 logits are
    ``4 s b v / t``, and norm and projection input ``4 s b h``.
    """
    stream = shard.rows * model.hidden * precision.element
    local = ceil_div(model.vocab, shard.tp) if model.vocab else model.classes
    tokens = shard.tokens if model.vocab else shard.micro_batch
    width = 4 + (0 if stack.fused_cross_entropy else precision.element)
    norms = 2 + 3 * int(model.mlm_head)
    return norms * stream + tokens * local * width


def stage_gradient_bytes(
    model: ModelConfig, kind: LayerKind, shard: Shard, *, precision: Precision = BF16
) -> Size:
    """Gradients alive at once inside one block's backward pass: the widest pair of tensors [B]."""
    e = precision.element
    stream = shard.rows * model.hidden
    gate = 2 if model.gated else 1
    if kind.moe:
        width = ceil_div(model.expert_ffn, shard.expert_tp)
        inner: Size = expert_rows(model, shard) * (width * (1 + gate))
    else:
        inner = shard.tokens * ceil_div(model.ffn, shard.tp) * (1 + gate)
    heads, kv_heads = heads_on_rank(model, shard)
    attention = shard.tokens * (2 * heads + 2 * kv_heads) * model.qk_head_dim
    widest: Size = np.maximum(inner, attention)
    if isinstance(inner, int) and isinstance(attention, int):
        widest = int(widest)
    return (stream + widest) * e
