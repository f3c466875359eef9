"""Parameters: of a layer on one rank, of the embedding, of the head, of a whole model."""

from __future__ import annotations

from perfmodel.workload.layer import LayerKind, ceil_div, layer_kinds
from perfmodel.workload.model import ModelConfig
from perfmodel.workload.ops.base import Size


def layer_parameters(
    model: ModelConfig, kind: LayerKind, tp: Size = 1, ep: Size = 1, expert_tp: Size = 1
) -> tuple[Size, Size]:
    """Parameters of one block on one rank: ``(dense, routed experts)``.

    Matrices are split over ``tp``; norms, output biases, the router and latent down projections are
    whole on every rank; routed experts are split over ``ep`` and their width over ``expert_tp``,
    never over ``tp``.
    """
    dense: Size = _attention(model, tp) + model.norms_per_layer * _norm(model, model.hidden)
    if kind.cross:
        dense = dense + _attention(model, tp) + _norm(model, model.hidden)
    if not kind.moe:
        return dense + _mlp(model, ceil_div(model.ffn, tp), model.mlp_bias), 0
    router = model.hidden * model.experts + model.experts * model.router_bias
    dense = dense + router
    if model.shared_ffn:
        dense = dense + _mlp(model, ceil_div(model.shared_ffn, tp), model.mlp_bias)
        dense = dense + model.hidden * model.shared_gate
    width = ceil_div(model.expert_ffn, expert_tp)
    return dense, ceil_div(model.experts, ep) * _mlp(model, width, model.expert_bias)


def _attention(model: ModelConfig, tp: Size) -> Size:
    hidden, d, dv = model.hidden, model.head_dim, model.v_head_dim
    heads, kv_heads = ceil_div(model.heads, tp), ceil_div(model.kv_heads, tp)
    proj = heads * dv * hidden + hidden * model.output_bias
    if model.is_mla:
        q = d + model.qk_rope_head_dim
        if model.q_lora_rank:
            query = model.q_lora_rank * (hidden + heads * q) + _norm(model, model.q_lora_rank)
        else:
            query = hidden * heads * q
        rank = model.kv_lora_rank
        down = hidden * (rank + model.qk_rope_head_dim) + _norm(model, rank)
        return query + down + rank * heads * (d + dv) + proj
    width = (heads + kv_heads) * d + kv_heads * dv
    qk_norm = 2 * d * model.qk_norm
    sinks = heads * int(model.attention_sinks)
    return width * (hidden + int(model.qkv_bias)) + qk_norm + sinks + proj


def _mlp(model: ModelConfig, width: Size, bias: bool) -> Size:
    matrices = 3 if model.gated else 2
    size = matrices * model.hidden * width
    return size + ((matrices - 1) * width + model.hidden) * int(bias)


def _norm(model: ModelConfig, cols: int) -> int:
    return cols * (2 if model.norm == "layernorm" and model.norm_bias else 1)


def embedding_parameters(model: ModelConfig, tp: Size = 1) -> Size:
    """The input side of a model on one rank: table over ``tp``, positions and norm whole."""
    hidden = model.hidden
    size: Size = ceil_div(model.vocab, tp) * hidden
    if model.patch:
        size = size + model.patch**2 * model.channels * hidden + 2 * hidden
        return size + model.image_tokens * hidden
    if model.positions == "learned":
        size = size + model.max_positions * hidden
    size = size + model.token_types * hidden
    return size + _norm(model, hidden) * int(model.embedding_norm)


def head_parameters(model: ModelConfig, tp: Size = 1) -> Size:
    """The output side on one rank: final norm, and the output matrix unless it is tied."""
    hidden = model.hidden
    size: Size = 0
    if model.final_norm:
        size = _norm(model, hidden) * (2 if model.encoder_layers else 1)
    if model.mlm_head:
        size = size + hidden * (hidden + 1) + _norm(model, hidden)
    if not model.vocab:
        return size + model.classes * (hidden + 1)
    rows = ceil_div(model.vocab, tp)
    return size + rows * (hidden * (not model.tied) + int(model.head_bias))


def parameters(model: ModelConfig) -> int:
    """All parameters; a tied table counts once.

    Examples
    --------
    >>> from perfmodel.workload.model import load_model
    >>> parameters(load_model("llama-3-8b"))
    8030261248
    """
    blocks = sum(sum(_whole(model, kind)) * kind.count for kind in layer_kinds(model))
    ends = embedding_parameters(model) + head_parameters(model)
    return int(blocks + ends) + model.extra_parameters


def active_parameters(model: ModelConfig) -> int:
    """Parameters that one token meets: of the routed experts, ``experts_per_token``."""
    idle = 0
    for kind in layer_kinds(model):
        if kind.moe:
            _, experts = _whole(model, kind)
            used = experts // model.experts * model.experts_per_token
            idle += (experts - used) * kind.count
    return parameters(model) - idle


def adapter_parameters(
    model: ModelConfig, kind: LayerKind, rank: int, targets: tuple[str, ...], tp: Size = 1
) -> Size:
    """Trainable parameters of LoRA adapters on one block on one rank.

    Layers split by columns keep A whole and split B; layers split by rows the other way round.
    """
    hidden = model.hidden
    heads, kv_heads = ceil_div(model.heads, tp), ceil_div(model.kv_heads, tp)
    q = model.head_dim + model.qk_rope_head_dim * model.is_mla
    gate = 2 if model.gated else 1
    ffn, shared = ceil_div(model.ffn, tp), ceil_div(model.shared_ffn, tp)
    latent = model.kv_lora_rank + model.qk_rope_head_dim
    shapes: dict[str, tuple[Size, Size]] = {"proj": (heads * model.v_head_dim, hidden)}
    if model.is_mla:
        shapes |= {
            "kv_down": (hidden, latent),
            "kv_up": (model.kv_lora_rank, heads * (model.head_dim + model.v_head_dim)),
        }
        if model.q_lora_rank:
            shapes |= {
                "q_down": (hidden, model.q_lora_rank),
                "q_up": (model.q_lora_rank, heads * q),
            }
        else:
            shapes |= {"q": (hidden, heads * q)}
    else:
        width = (heads + kv_heads) * model.head_dim + kv_heads * model.v_head_dim
        shapes |= {"qkv": (hidden, width)}
    if not kind.moe:
        shapes |= {"fc1": (hidden, gate * ffn), "fc2": (ffn, hidden)}
    elif model.shared_ffn:
        shapes |= {"shared_fc1": (hidden, gate * shared), "shared_fc2": (shared, hidden)}
    total: Size = 0
    for target in targets:
        if target in shapes:
            k, n = shapes[target]
            total = total + rank * (k + n)
    return total


def _whole(model: ModelConfig, kind: LayerKind) -> tuple[int, int]:
    dense, experts = layer_parameters(model, kind)
    return int(dense), int(experts)
