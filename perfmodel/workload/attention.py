"""The attention half of a block: projections, rotation, and the core, on one rank."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from perfmodel.workload.kernels import linear, norm, rotation, softmax
from perfmodel.workload.layer import Call, LayerKind, Shard, ceil_div, heads_on_rank, where
from perfmodel.workload.model import ModelConfig
from perfmodel.workload.ops.base import Size
from perfmodel.workload.ops.dense import Attention, Gemm, attention_pairs
from perfmodel.workload.ops.streams import Fused
from perfmodel.workload.precision import Precision
from perfmodel.workload.stack import Stack


def attention_forward(
    model: ModelConfig, kind: LayerKind, shard: Shard, stack: Stack, precision: Precision
) -> tuple[Call, ...]:
    """Self-attention of one block, norm and residual left out."""
    heads, _ = heads_on_rank(model, shard)
    project = _latent_projections if model.is_mla else _projections
    return (
        *project(model, shard, stack, precision),
        *core_forward(model, kind, shard, stack, precision),
        *linear(
            "proj",
            shard.tokens,
            model.hidden,
            heads * model.v_head_dim,
            "attention",
            precision,
            cast=True,
        ),
    )


def _projections(
    model: ModelConfig, shard: Shard, stack: Stack, precision: Precision
) -> tuple[Call, ...]:
    heads, kv_heads = heads_on_rank(model, shard)
    width = (heads + kv_heads) * model.head_dim + kv_heads * model.v_head_dim
    calls = list(
        linear(
            "qkv",
            shard.tokens,
            width,
            model.hidden,
            "attention",
            precision,
            cast=not stack.fused_quantise,
        )
    )
    if model.qk_norm:
        rows = shard.tokens * (heads + kv_heads)
        calls += norm("qk_norm", "rmsnorm", rows, model.head_dim, stack, precision)
    if model.positions == "rope":
        calls += rotation(shard.tokens, heads + kv_heads, model.head_dim, stack, precision)
    return tuple(calls)


def _latent_projections(
    model: ModelConfig, shard: Shard, stack: Stack, precision: Precision
) -> tuple[Call, ...]:
    """Multi-head latent attention: down to a latent, norm, up to heads.

    Down projections are whole on every tensor parallel rank and run on its own rows.
    """
    heads, _ = heads_on_rank(model, shard)
    rope = model.qk_rope_head_dim
    tokens, rows = shard.tokens, shard.rows
    q_width = heads * (model.head_dim + rope)
    calls: list[Call] = []
    if model.q_lora_rank:
        rank = model.q_lora_rank
        calls += linear("q_down", rows, rank, model.hidden, "attention", precision, cast=True)
        calls += norm("q_norm", model.norm, rows, rank, stack, precision)
        calls += linear("q_up", tokens, q_width, rank, "attention", precision, cast=True)
    else:
        calls += linear("q", tokens, q_width, model.hidden, "attention", precision, cast=True)
    rank = model.kv_lora_rank
    calls += linear("kv_down", rows, rank + rope, model.hidden, "attention", precision, cast=False)
    calls += norm("kv_norm", model.norm, rows, rank, stack, precision)
    kv_width = heads * (model.head_dim + model.v_head_dim)
    calls += linear("kv_up", tokens, kv_width, rank, "attention", precision, cast=True)
    calls += rotation(tokens, heads + 1, rope, stack, precision)
    e = precision.element
    keys = tokens * heads * (model.head_dim + rope)
    calls.append(Call("join_keys", Fused("concatenate", keys, e, e, 0), module="attention"))
    return tuple(calls)


def core_forward(
    model: ModelConfig, kind: LayerKind, shard: Shard, stack: Stack, precision: Precision
) -> tuple[Call, ...]:
    """Core attention: what selective recomputation repeats."""
    if stack.attention == "materialised":
        return _materialised(model, shard, stack, precision)
    return flash(model, kind, shard, precision)


def flash(
    model: ModelConfig, kind: LayerKind, shard: Shard, precision: Precision
) -> tuple[Call, ...]:
    """Fused attention, its pieces under context parallelism included.

    With cp ranks and n = seq_len / cp own tokens, in the zig-zag order that balances a causal mask:
    ring attention is one causal n x n product and cp - 1 products of half that square; all-gather
    sees its mean number of keys; Ulysses has all tokens and 1/cp of the heads. Every form keeps the
    query-key pairs of the whole sequence.
    """
    heads, kv_heads = heads_on_rank(model, shard)
    if model.is_mla:
        kv_heads = heads
    own: Size = shard.local_len
    total: Size = shard.seq_len + shard.past

    def core(name: str, q: Size, kv: Size, causal: Any, window: Size, count: Size = 1) -> Call:
        op = Attention(
            batch=shard.micro_batch,
            q_heads=heads,
            kv_heads=kv_heads,
            q_len=q,
            kv_len=kv,
            head_dim=model.qk_head_dim,
            causal=causal,
            dtype=precision.compute,
            window=window,
            v_head_dim=model.v_head_dim,
        )
        return Call(name, op, count, "attention", core=True)

    if shard.cp_kind == "ulysses":
        heads, kv_heads = ceil_div(heads, shard.cp), ceil_div(kv_heads, shard.cp)
        return (core("core", shard.seq_len, total, kind.causal, kind.window),)
    if kind.window or shard.cp_kind == "all_gather":
        pairs: Any = attention_pairs(shard.seq_len, total, kind.causal, kind.window)
        mean: Any = -(-pairs // shard.seq_len)
        mean = mean if isinstance(mean, int) else mean.astype(np.int64)
        alone = shard.cp == 1
        return (
            core(
                "core",
                own,
                where(alone, total, mean),
                where(alone, kind.causal, False),
                where(alone, kind.window, 0),
            ),
        )
    first = core("core", own, own + shard.past, kind.causal, 0)
    if isinstance(shard.cp, int) and shard.cp == 1:
        return (first,)
    keys = ceil_div(own, 2) if kind.causal else own
    return first, core("core_ring", own, keys, False, 0, shard.cp - 1)


def _materialised(
    model: ModelConfig, shard: Shard, stack: Stack, precision: Precision
) -> tuple[Call, ...]:
    """Scores, softmax, dropout and context as separate kernels; the mask saves no work."""
    heads, _ = heads_on_rank(model, shard)
    batch = shard.micro_batch * heads
    q, kv = shard.local_len, shard.seq_len + shard.past
    e = precision.element
    calls = [
        Call(
            "scores",
            Gemm(q, kv, model.qk_head_dim, batch=batch, dtype=precision.compute),
            module="attention",
            core=True,
        ),
        *softmax(batch * q, kv, stack, precision),
    ]
    if stack.dropout:
        op = Fused("dropout", batch * q * kv, e, e + 1, 2)
        calls.append(Call("core_dropout", op, module="attention", core=True))
    context = Gemm(q, model.v_head_dim, kv, batch=batch, dtype=precision.compute)
    calls.append(Call("context", context, module="attention", core=True))
    return tuple(calls)


def cross_forward(
    model: ModelConfig, shard: Shard, stack: Stack, precision: Precision
) -> tuple[Call, ...]:
    """Attention of a decoder to an encoder output of the same number of tokens."""
    heads, kv_heads = heads_on_rank(model, shard)
    d, dv = model.head_dim, model.v_head_dim
    tokens, hidden = shard.tokens, model.hidden
    calls = [
        *linear("cross_q", tokens, heads * d, hidden, "attention", precision, cast=True),
        *linear("cross_kv", tokens, kv_heads * (d + dv), hidden, "attention", precision, cast=True),
        *cross_core(model, shard, stack, precision),
        *linear("cross_proj", tokens, hidden, heads * dv, "attention", precision, cast=True),
    ]
    return tuple(calls)


def cross_core(
    model: ModelConfig, shard: Shard, stack: Stack, precision: Precision
) -> tuple[Call, ...]:
    """Core attention over the encoder's output."""
    kind = LayerKind("cross", (), causal=False)
    calls = core_forward(model, kind, shard, stack, precision)
    return tuple(replace(call, name=f"cross_{call.name}") for call in calls)
