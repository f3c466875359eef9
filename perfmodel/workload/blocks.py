"""Forward pass of one block, of the embedding and of the output head, on one rank."""

from __future__ import annotations

from perfmodel.workload.adapter import Adapter, adapted
from perfmodel.workload.attention import attention_forward, cross_forward
from perfmodel.workload.kernels import (
    activation,
    linear,
    norm,
    quantise,
    residual,
    residual_norm,
)
from perfmodel.workload.layer import Call, LayerKind, Shard, ceil_div, expert_rows
from perfmodel.workload.model import ModelConfig
from perfmodel.workload.ops.base import Size
from perfmodel.workload.ops.dense import Gemm, GroupedGemm
from perfmodel.workload.ops.rowwise import CrossEntropy, Embedding, Permute, Softmax, TopK
from perfmodel.workload.ops.streams import Fused
from perfmodel.workload.precision import BF16, Precision, unquantised
from perfmodel.workload.stack import Stack


def block_forward(
    model: ModelConfig,
    kind: LayerKind,
    shard: Shard,
    stack: Stack,
    *,
    precision: Precision = BF16,
    adapter: Adapter | None = None,
) -> tuple[Call, ...]:
    """Every operator of one block's forward pass on one rank, in order.

    Parameters
    ----------
    model, kind : ModelConfig, LayerKind
        One of :func:`~perfmodel.workload.layer.layer_kinds`.
    shard : Shard
        Micro-batch, sequence and degrees; arrays give calls whose sizes are arrays.
    stack : Stack
        Which chains are fused.
    precision : Precision
        Formats; quantised linear layers add casts.
    adapter : Adapter, optional
        LoRA or QLoRA fine-tuning.

    Notes
    -----
    Collectives are not operators of the device: see
    :func:`~perfmodel.workload.messages.layer_collectives`.
    """
    rows, hidden = shard.rows, model.hidden
    numel = rows * hidden
    halves = (max(1, model.norms_per_layer // 2), model.norms_per_layer // 2)
    calls: list[Call] = []
    for _ in range(halves[0]):
        calls += residual_norm("norm1", model.norm, rows, hidden, stack, precision)
    calls += attention_forward(model, kind, shard, stack, precision)
    if model.parallel_block:
        for _ in range(model.norms_per_layer - 1):
            calls += norm("norm2", model.norm, rows, hidden, stack, precision)
        calls += _mlp(model, kind, shard, stack, precision)
        calls += residual("residual", numel, "mlp", stack, precision, branches=2)
        return adapted(tuple(calls), adapter, precision)
    calls += residual("residual1", numel, "attention", stack, precision)
    if kind.cross:
        calls += residual_norm("cross_norm", model.norm, rows, hidden, stack, precision)
        calls += cross_forward(model, shard, stack, precision)
        calls += residual("cross_residual", numel, "attention", stack, precision)
    for _ in range(halves[1]):
        calls += residual_norm("norm2", model.norm, rows, hidden, stack, precision)
    calls += _mlp(model, kind, shard, stack, precision)
    calls += residual("residual2", numel, "mlp", stack, precision)
    return adapted(tuple(calls), adapter, precision)


def _mlp(
    model: ModelConfig, kind: LayerKind, shard: Shard, stack: Stack, precision: Precision
) -> tuple[Call, ...]:
    if kind.moe:
        return _experts(model, shard, stack, precision)
    return _dense("", model, model.ffn, shard, stack, precision, "mlp")


def _dense(
    prefix: str,
    model: ModelConfig,
    width: int,
    shard: Shard,
    stack: Stack,
    precision: Precision,
    module: str,
) -> tuple[Call, ...]:
    """Two or three matrices of total width ``width``, split over tp."""
    local = ceil_div(width, shard.tp)
    tokens, hidden = shard.tokens, model.hidden
    cast = not stack.fused_quantise
    up: Size = local * (2 if model.gated else 1)
    return (
        *linear(f"{prefix}fc1", tokens, up, hidden, module, precision, cast=cast),
        *activation(
            f"{prefix}act",
            tokens * local,
            model.gated,
            model.activation,
            module,
            stack,
            precision,
        ),
        *linear(f"{prefix}fc2", tokens, hidden, local, module, precision, cast=cast),
    )


def _experts(
    model: ModelConfig, shard: Shard, stack: Stack, precision: Precision
) -> tuple[Call, ...]:
    """Router, dispatch, routed experts as grouped products, combine, shared experts."""
    hidden, e = model.hidden, precision.element
    own = ceil_div(shard.tokens, shard.tp)
    copies = own * model.experts_per_token
    rows = expert_rows(model, shard)
    groups = ceil_div(model.experts, shard.ep)
    m = ceil_div(rows, groups)
    width = ceil_div(model.expert_ffn, shard.expert_tp)
    up: Size = width * (2 if model.gated else 1)
    gemm = precision.gemm
    calls = [
        Call("router", Gemm(own, model.experts, hidden, dtype=precision.compute), module="router"),
        Call("router_softmax", Softmax(own, model.experts, dtype="fp32"), module="router"),
        Call("router_topk", TopK(own, model.experts, model.experts_per_token), module="router"),
        Call(
            "dispatch",
            Permute(copies, hidden, dtype=precision.compute, source=own),
            module="router",
        ),
    ]
    if precision.quantised:
        calls.append(Call("expert_cast", quantise(rows * hidden, precision), module="experts"))
    calls += [
        Call(
            "expert_fc1",
            GroupedGemm(groups, m, up, hidden, rows=rows, dtype=gemm),
            module="experts",
        ),
        *activation(
            "expert_act", rows * width, model.gated, model.activation, "experts", stack, precision
        ),
        Call(
            "expert_fc2",
            GroupedGemm(groups, m, hidden, width, rows=rows, dtype=gemm),
            module="experts",
        ),
        Call(
            "combine",
            Fused("weighted_sum", copies * hidden, e, e, 2, precision.compute),
            module="router",
        ),
    ]
    if model.shared_ffn:
        calls += _dense("shared_", model, model.shared_ffn, shard, stack, precision, "experts")
    return tuple(calls)


def embedding_forward(
    model: ModelConfig, shard: Shard, stack: Stack, *, precision: Precision = BF16
) -> tuple[Call, ...]:
    """Look-up (vocabulary split over tp) or patch projection, positions, norm, dropout."""
    tokens, rows, hidden = shard.tokens, shard.rows, model.hidden
    compute, e = precision.compute, precision.element
    calls: list[Call] = []
    if model.patch:
        depth = model.patch**2 * model.channels
        # the class token is no patch
        patches = shard.micro_batch * ceil_div(model.image_tokens - 1, shard.cp)
        op_patch = Gemm(patches, hidden, depth, dtype=compute)
        calls.append(Call("patches", op_patch, module="embedding"))
    if model.vocab:
        local = ceil_div(model.vocab, shard.tp)
        op = Embedding(tokens, local, hidden, dtype=compute)
        count = 2 if model.encoder_layers else 1
        calls.append(Call("lookup", op, count, "embedding"))
    extra = int(model.positions == "learned") + int(model.token_types > 0)
    if extra:
        op_add = Fused("positions", rows * hidden, (1 + extra) * e, e, extra)
        calls.append(Call("positions", op_add, module="embedding"))
    if model.embedding_norm:
        calls += norm("embedding_norm", model.norm, rows, hidden, stack, precision)
    if stack.dropout:
        drop = Fused("dropout", rows * hidden, e, e + 1, 2)
        calls.append(Call("embedding_dropout", drop, module="embedding"))
    return tuple(calls)


def head_forward(
    model: ModelConfig,
    shard: Shard,
    stack: Stack,
    *,
    precision: Precision = BF16,
    loss: bool = True,
) -> tuple[Call, ...]:
    """Final norm, logits with the vocabulary split over tp, and cross-entropy on that split."""
    rows, tokens, hidden = shard.rows, head_tokens(model, shard), model.hidden
    compute = precision.compute
    calls: list[Call] = []
    if model.final_norm:
        calls += residual_norm("final_norm", model.norm, rows, hidden, stack, precision)
    if model.mlm_head:
        calls += linear(
            "transform", tokens, hidden, hidden, "head", unquantised(precision), cast=False
        )
        calls += activation(
            "transform_act", tokens * hidden, False, model.activation, "head", stack, precision
        )
        calls += norm("transform_norm", model.norm, tokens, hidden, stack, precision)
    local: Size = ceil_div(model.vocab, shard.tp) if model.vocab else model.classes
    if isinstance(local, int) and local == 0:
        return tuple(calls)
    calls.append(Call("logits", Gemm(tokens, local, hidden, dtype=compute), module="head"))
    if loss and stack.fused_cross_entropy:
        calls.append(Call("loss", CrossEntropy(tokens, local, dtype=compute), module="loss"))
    elif loss:
        cast = Fused("cast_up", tokens * local, precision.element, 4, 0)
        calls.append(Call("logits_cast", cast, module="loss"))
        calls.append(Call("loss", CrossEntropy(tokens, local, dtype="fp32"), module="loss"))
    return tuple(calls)


def head_tokens(model: ModelConfig, shard: Shard) -> Size:
    """Positions that the output head sees: all, those predicted, or one of each image."""
    if not model.vocab:
        return shard.micro_batch
    if model.predictions:
        return shard.micro_batch * ceil_div(model.predictions, shard.cp)
    return shard.tokens
