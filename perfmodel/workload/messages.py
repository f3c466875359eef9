"""Collectives of one block: who sends what to whom, forward and backward.

Buffers are counted as nccl-tests does (see :class:`~perfmodel.workload.ops.streams.Collective`). A
message that a plan of the grid does not need has count 0 or world 1.

References
----------
Shoeybi et al., Megatron-LM (arXiv 1909.08053), section 3; Korthikanti et al. (arXiv 2205.05198),
section 4.2.2, for sequence parallelism; Liu et al., Ring Attention (arXiv 2310.01889); Jacobs et
al., DeepSpeed Ulysses (arXiv 2309.14509).
"""

from __future__ import annotations

from dataclasses import dataclass

from perfmodel.workload.layer import LayerKind, Shard, ceil_div, heads_on_rank, where
from perfmodel.workload.model import ModelConfig
from perfmodel.workload.ops.base import Size
from perfmodel.workload.ops.streams import Collective
from perfmodel.workload.precision import BF16, Precision


@dataclass(frozen=True, slots=True)
class Message:
    """``count`` runs of one collective.

    Parameters
    ----------
    name : str
        Which one.
    op : Collective
        Kind, buffer and world.
    count : int or array
        How often in one pass of one block.
    axis : str
        Whose group: ``"tp"``, ``"cp"``, ``"ep"`` or ``"etp"``.
    phase : str
        ``"forward"`` or ``"backward"``. Full recomputation repeats the forward ones.
    overlaps : str
        Name of the call that can hide it (``""``: nothing can, it is exposed).
    """

    name: str
    op: Collective
    count: Size
    axis: str
    phase: str
    overlaps: str = ""


def layer_collectives(
    model: ModelConfig, kind: LayerKind, shard: Shard, *, precision: Precision = BF16
) -> tuple[Message, ...]:
    """The tensor, context and expert parallel messages of one block on one rank."""
    return (
        *_tensor(model, kind, shard, precision),
        *_context(model, kind, shard, precision),
        *(_expert(model, shard, precision) if kind.moe else ()),
    )


def _tensor(
    model: ModelConfig, kind: LayerKind, shard: Shard, precision: Precision
) -> tuple[Message, ...]:
    """One exchange around attention and one around a dense or shared MLP, each way.

    Without sequence parallelism an all-reduce of tokens x hidden; with it an all-gather before and
    a reduce-scatter after, the same volume. Its backward pass also gathers each input again for the
    weight gradient, behind the input gradient. Latent attention gathers its latents instead of the
    hidden state.
    """
    first = "qkv"
    if model.is_mla:
        first = "q_up" if model.q_lora_rank else "q"
    messages = list(_site("attention", first, _input_width(model), model, shard, precision))
    if kind.cross:
        messages += _site("cross", "cross_q", model.hidden, model, shard, precision)
    if not model.parallel_block and (not kind.moe or model.shared_ffn):
        first = "shared_fc1" if kind.moe else "fc1"
        messages += _site("mlp", first, model.hidden, model, shard, precision)
    return tuple(messages)


def _input_width(model: ModelConfig) -> int:
    """Width of what tensor parallel ranks of an attention layer gather."""
    if model.is_mla and model.q_lora_rank:
        return model.q_lora_rank + model.kv_lora_rank + model.qk_rope_head_dim
    return model.hidden


def _site(
    name: str, first: str, width: int, model: ModelConfig, shard: Shard, precision: Precision
) -> tuple[Message, ...]:
    """Messages around the layers from ``first`` to the one that leaves a partial sum."""
    plain = where(shard.sequence_parallel, 0, 1)
    split = where(shard.sequence_parallel, 1, 0)
    entering = shard.tokens * width * precision.element
    leaving = shard.tokens * model.hidden * precision.element

    def message(op: str, buffer: Size, count: Size, phase: str, overlaps: str = "") -> Message:
        collective = Collective(op, buffer, shard.tp)
        return Message(f"tp_{name}_{op}", collective, count, "tp", phase, overlaps)

    return (
        message("all_gather", entering, split, "forward"),
        message("all_reduce", leaving, plain, "forward"),
        message("reduce_scatter", leaving, split, "forward"),
        message("all_gather", leaving, split, "backward"),
        message("all_gather", entering, split, "backward", f"{first}_input_grad"),
        message("all_reduce", entering, plain, "backward"),
        message("reduce_scatter", entering, split, "backward"),
    )


def _context(
    model: ModelConfig, kind: LayerKind, shard: Shard, precision: Precision
) -> tuple[Message, ...]:
    heads, kv_heads = heads_on_rank(model, shard)
    if model.is_mla:
        kv_heads = heads
    e, d, dv = precision.element, model.qk_head_dim, model.v_head_dim
    own_kv = shard.tokens * kv_heads * (d + dv) * e
    cp = shard.cp
    if shard.cp_kind == "ring":
        # forward passes keys and values on; backward passes them and their gradients on
        ring = Collective("p2p", own_kv, 2)
        back = Collective("p2p", 2 * own_kv, 2)
        return (
            Message("cp_ring", ring, cp - 1, "cp", "forward", overlaps="core"),
            Message("cp_ring", back, cp - 1, "cp", "backward", overlaps="core_input_grad"),
        )
    needed = where(cp > 1, 1, 0)
    if shard.cp_kind == "all_gather":
        gather = Collective("all_gather", own_kv * cp, cp)
        scatter = Collective("reduce_scatter", own_kv * cp, cp)
        return (
            Message("cp_all_gather", gather, needed, "cp", "forward"),
            Message("cp_all_gather", gather, needed, "cp", "backward"),
            Message("cp_reduce_scatter", scatter, needed, "cp", "backward"),
        )
    sent = Collective("all_to_all", shard.tokens * heads * d * e + own_kv, cp)
    back = Collective("all_to_all", shard.tokens * heads * dv * e, cp)
    return (
        Message("cp_all_to_all_qkv", sent, needed, "cp", "forward"),
        Message("cp_all_to_all_out", back, needed, "cp", "forward"),
        Message("cp_all_to_all_out", back, needed, "cp", "backward"),
        Message("cp_all_to_all_qkv", sent, needed, "cp", "backward"),
    )


def _expert(model: ModelConfig, shard: Shard, precision: Precision) -> tuple[Message, ...]:
    """Dispatch and combine of ``experts_per_token`` copies of this rank's own tokens.

    The tokens of a tensor parallel group are shared out over its ranks, so the buffer is divided by
    tp. Ranks of one expert (``expert_tp``) gather each other's rows and scatter the sums.
    """
    own = ceil_div(shard.tokens, shard.tp) * model.experts_per_token
    buffer = own * model.hidden * precision.element
    exchange = Collective("all_to_all", buffer, shard.ep)
    gathered = buffer * shard.expert_tp
    gather = Collective("all_gather", gathered, shard.expert_tp)
    scatter = Collective("reduce_scatter", gathered, shard.expert_tp)
    messages = []
    for phase in ("forward", "backward"):
        messages += [
            Message("ep_dispatch", exchange, 1, "ep", phase),
            Message("etp_all_gather", gather, 1, "etp", phase),
            Message("etp_reduce_scatter", scatter, 1, "etp", phase),
            Message("ep_combine", exchange, 1, "ep", phase),
        ]
    return tuple(messages)


def end_collectives(
    model: ModelConfig, shard: Shard, *, precision: Precision = BF16
) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """Messages of the embedding and of the output head, whose tables are split over tp.

    The look-up sums partial rows; the loss reduces a maximum, a sum and the target's logit for each
    token (4 B each); the head's input gradient is summed.
    """
    buffer = shard.tokens * model.hidden * precision.element
    plain = where(shard.sequence_parallel, 0, 1)
    split = where(shard.sequence_parallel, 1, 0)
    reduce = Collective("all_reduce", buffer, shard.tp)
    gather = Collective("all_gather", buffer, shard.tp)
    scatter = Collective("reduce_scatter", buffer, shard.tp)
    embedding = (
        Message("tp_all_reduce", reduce, plain, "tp", "forward"),
        Message("tp_reduce_scatter", scatter, split, "tp", "forward"),
        Message("tp_all_gather", gather, split, "tp", "backward"),
    )
    loss = Collective("all_reduce", 4 * shard.tokens, shard.tp)
    head = (
        Message("tp_all_gather", gather, split, "tp", "forward"),
        Message("tp_loss", loss, 3, "tp", "forward"),
        Message("tp_all_reduce", reduce, plain, "tp", "backward"),
        Message("tp_reduce_scatter", scatter, split, "tp", "backward"),
        Message("tp_regather", gather, split, "tp", "backward"),
    )
    return embedding, head


def messages_bytes(messages: tuple[Message, ...], axis: str) -> Size:
    """Sum of buffer times count over one axis [B]."""
    total: Size = 0
    for message in messages:
        if message.axis == axis:
            total = total + message.op.bytes * message.count
    return total
