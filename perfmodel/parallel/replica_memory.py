"""Device memory of one inference replica: weights, cache, activations."""

from __future__ import annotations

import numpy as np

from perfmodel.parallel.footprint import CONTEXT, GEMM_WORKSPACE, NCCL_CHANNEL, NCCL_CHANNELS
from perfmodel.workload.dtype import bytes_per_element, canonical_dtype
from perfmodel.workload.transformer import (
    ModelConfig,
    Precision,
    embedding_parameters,
    head_parameters,
    layer_kinds,
    layer_parameters,
)


def kv_cache_bytes(
    model: ModelConfig, batch_size: int, tokens: int, tp: int = 1, kv_dtype: str = "bf16"
) -> float:
    """Keys and values of a batch on one device [B].

    Latent attention keeps one latent a token, whole on every device; windowed layers keep no more
    than their window.

    Examples
    --------
    >>> from perfmodel.workload.transformer import load_model
    >>> kv_cache_bytes(load_model("llama-3-8b"), 1, 1)  # 2 x 8 x 128 x 32 x 2 bytes
    131072.0
    """
    width = bytes_per_element(canonical_dtype(kv_dtype, where="kv_dtype"))
    heads = -(-model.kv_heads // tp)
    each = heads * (model.qk_head_dim + model.v_head_dim)
    if model.is_mla:
        each = model.kv_lora_rank + model.qk_rope_head_dim
    total_bytes = 0.0
    for kind in layer_kinds(model):
        kept = min(tokens, kind.window) if kind.window else tokens
        total_bytes += kind.count * batch_size * kept * each * width
    return total_bytes


def weight_bytes(model: ModelConfig, tp: int, precision: Precision) -> float:
    """Weights on one device [B]: blocks in the products' format, the ends in the activations'."""
    blocks = sum(
        kind.count
        * sum(float(np.asarray(part)) for part in layer_parameters(model, kind, tp, 1, tp))
        for kind in layer_kinds(model)
    )
    ends = float(np.asarray(embedding_parameters(model, tp))) + float(
        np.asarray(head_parameters(model, tp))
    )
    return blocks * bytes_per_element(precision.gemm) + ends * precision.element


def replica_memory(
    model: ModelConfig,
    batch: int,
    prompt: int,
    output: int,
    tp: int,
    precision: Precision,
    kv_dtype: str,
) -> dict[str, float]:
    """Bytes by class on one device [B]; activations are those of the widest block at work."""
    tokens = batch * prompt
    widest = 2 * model.hidden + max(model.ffn, model.expert_ffn) * (2 + model.gated) / tp
    logits = batch * np.ceil(model.vocab / tp) * (4 + precision.element)
    slack = CONTEXT + (tp > 1) * NCCL_CHANNELS * 2 * NCCL_CHANNEL
    return {
        "weights": weight_bytes(model, tp, precision),
        "kv_cache": kv_cache_bytes(model, batch, prompt + output, tp, kv_dtype),
        "activations": float(tokens * widest * precision.element + logits),
        "workspace": float(GEMM_WORKSPACE),
        "slack": float(slack),
    }
