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

from dataclasses import dataclass, replace

import numpy as np

from perfmodel.workload.adapter import Adapter
from perfmodel.workload.blocks import head_tokens
from perfmodel.workload.dtype import bytes_per_element
from perfmodel.workload.layer import (
    LayerKind,
    Shard,
    ceil_div,
    expert_rows,
    heads_on_rank,
)
from perfmodel.workload.model import ModelConfig
from perfmodel.workload.ops.base import Size
from perfmodel.workload.precision import BF16, Precision
from perfmodel.workload.recompute import recompute_modules
from perfmodel.workload.stack import Stack

# the linear layers that read each norm's output
_READS = (("qkv", "q", "q_down", "kv_down"), ("fc1", "shared_fc1"))


@dataclass(frozen=True, slots=True)
class BlockActivations:
    """Bytes of one block's activations for one micro-batch on one rank.

    Parameters
    ----------
    norm, attention, core, mlp, experts : int or array
        Kept until the backward pass, by class [B]: inputs and outputs of norms; queries, keys,
        values, input of the output projection, dropout masks; scores and their softmax and masks;
        inside of the MLP; routed experts and router.
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
    adapter: Adapter | None = None,
) -> BlockActivations:
    """What one block keeps.

    ``recompute`` is ``"none"``, ``"selective"`` (core attention is repeated, so its inner tensors
    are not kept), ``"full"`` (only the block's input is kept), or a list of modules (see
    :mod:`perfmodel.workload.recompute`). With an adapter the inputs of frozen layers beside no
    adapter are not kept.
    """
    modules = recompute_modules(recompute)
    e, mask = precision.element, int(stack.dropout)
    stream = shard.rows * model.hidden
    norms = 1 if model.parallel_block else 2 + int(kind.cross)
    # an unfused RMS norm keeps an fp32 copy and the normalised tensor instead of its input
    unfused = model.norm == "rmsnorm" and not stack.fused_norm
    norm = norms * stream * (4 + e if unfused else e)
    outputs = norms * _operand(stream, precision)
    masks = norms * stream * mask
    heads_bytes, latents = _projected(model, shard, precision)
    core = _core(model, shard, stack, precision)
    context = shard.tokens * heads_on_rank(model, shard)[0] * model.v_head_dim
    # a quantised product keeps its own copy; attention's backward pass needs the original
    out = context * e + (_operand(context, precision) if precision.quantised else 0)
    attention = masks + heads_bytes + latents + out
    if kind.cross:
        # queries and keys of the second attention, whose keys come from the encoder's output
        attention, core = attention + heads_bytes + out + stream * e, 2 * core
    mlp, mlp_act = _mlp(model, kind, shard, stack, precision)
    experts, expert_act = _experts(model, kind, shard, stack, precision)
    if adapter is not None:
        one = _operand(stream, precision)
        rank_bytes = shard.tokens * adapter.rank * precision.element
        outputs = sum(one for name in _READS if adapter.targets_any(name)) + 0 * one
        mlp = mlp - (0 if adapter.targets_any(("fc2", "shared_fc2")) else mlp_act)
        attention = attention + rank_bytes * len(adapter.targets)
    norm = norm + outputs
    whole = norm + attention + core + mlp + experts
    if "full" in modules:
        return BlockActivations(checkpoint=stream * e, transient=whole)
    kept = BlockActivations(
        norm=norm - (outputs if "layernorm" in modules else 0),
        attention=attention - (heads_bytes if "mla_up_proj" in modules and model.is_mla else 0),
        core=0 * core if "core_attn" in modules else core,
        mlp=mlp - _dropped(kind.moe, mlp, mlp_act, modules),
        experts=experts - _dropped_experts(experts, expert_act, modules),
    )
    return replace(kept, transient=whole - kept.kept)


def _dropped(moe: bool, whole: Size, act: Size, modules: frozenset[str]) -> Size:
    """Bytes of a dense or shared MLP that recomputation frees."""
    if ("shared_experts" if moe else "mlp") in modules:
        return whole
    return act if "mlp_act" in modules else 0


def _dropped_experts(whole: Size, act: Size, modules: frozenset[str]) -> Size:
    if "moe" in modules:
        return whole
    return act if "moe_act" in modules else 0


def _projected(model: ModelConfig, shard: Shard, precision: Precision) -> tuple[Size, Size]:
    """Queries, keys and values of this rank's heads; what they were made from besides the input."""
    heads, kv_heads = heads_on_rank(model, shard)
    tokens, e = shard.tokens, precision.element
    if model.is_mla:
        width = heads * (2 * model.qk_head_dim + model.v_head_dim)
        # latents, before and after their norm
        latents = shard.rows * 2 * (model.q_lora_rank + model.kv_lora_rank) * e
        return tokens * width * e, latents
    width = (heads + kv_heads) * model.head_dim + kv_heads * model.v_head_dim
    before = (heads + kv_heads) * model.head_dim if model.qk_norm else 0
    return tokens * width * e, tokens * before * e


def _core(model: ModelConfig, shard: Shard, stack: Stack, precision: Precision) -> Size:
    """Scores, probabilities and masks, or with a fused kernel one fp32 number a query and head."""
    heads, _ = heads_on_rank(model, shard)
    if stack.attention == "flash":
        return 4 * shard.tokens * heads
    e = precision.element
    pairs = shard.micro_batch * heads * shard.local_len * shard.seq_len
    width = e + (e + 1) * int(stack.dropout) + e * int(not stack.fused_softmax)
    return pairs * width


def _mlp(
    model: ModelConfig, kind: LayerKind, shard: Shard, stack: Stack, precision: Precision
) -> tuple[Size, Size]:
    """Inside of a dense or shared MLP, and of that the input of its last product."""
    width = ceil_div(model.shared_ffn if kind.moe else model.ffn, shard.tp)
    numel = shard.tokens * width
    one = _operand(numel, precision)
    return numel * (_inner(model, stack) - 1) * precision.element + one, one


def _experts(
    model: ModelConfig, kind: LayerKind, shard: Shard, stack: Stack, precision: Precision
) -> tuple[Size, Size]:
    """Dispatched rows, inside of the routed experts and router state; input of the last product."""
    if not kind.moe:
        return 0, 0
    e = precision.element
    rows = expert_rows(model, shard)
    numel = rows * ceil_div(model.expert_ffn, shard.expert_tp)
    one = _operand(numel, precision)
    inside = numel * (_inner(model, stack) - 1) * e + one
    own = ceil_div(shard.tokens, shard.tp)
    # fp32 logits and probabilities; probability and place of each copy
    router = own * (model.experts + model.experts_per_token) * 8
    return _operand(rows * model.hidden, precision) + inside + router, one


def _operand(numel: Size, precision: Precision) -> Size:
    """Bytes of a tensor kept as the operand of a weight gradient: in the products' format."""
    width = bytes_per_element(precision.gemm) if precision.quantised else precision.element
    return numel * int(width) if width >= 1 else ceil_div(numel, 2)


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
    tokens = head_tokens(model, shard)
    width = 4 + (0 if stack.fused_cross_entropy else precision.element)
    transform = 3 * tokens * model.hidden * precision.element * int(model.mlm_head)
    return 2 * stream + transform + tokens * local * width


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
