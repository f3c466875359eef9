"""What one block, the embedding and the head cost, for every distinct shard of a grid.

The plans of a grid share few distinct shards (micro-batch, tp, cp, ep, expert_tp, sequence
parallel): each is priced once, and a plan gathers its numbers by index.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost import Efficiency
from perfmodel.hardware import Cluster
from perfmodel.parallel.grid import PlanGrid
from perfmodel.parallel.plan import Plan
from perfmodel.parallel.pricer import AXES, Pricer, Work
from perfmodel.workload.dtype import bytes_per_element
from perfmodel.workload.layer import expert_rows
from perfmodel.workload.transformer import (
    BlockActivations,
    Call,
    LayerKind,
    ModelConfig,
    Precision,
    Shard,
    Stack,
    block_activation_bytes,
    block_backward,
    block_forward,
    embedding_activation_bytes,
    embedding_backward,
    embedding_forward,
    end_collectives,
    head_activation_bytes,
    head_backward,
    head_forward,
    layer_collectives,
    load_precision,
    recompute_calls,
    stage_gradient_bytes,
)

__all__ = [
    "AXES",
    "SHARD_COLUMNS",
    "BlockCost",
    "EndCost",
    "LayerTable",
    "compute_precision",
    "layer_table",
    "recomputed",
]

Floats = NDArray[np.float64]

SHARD_COLUMNS: Final = ("micro_batch_size", "tp", "cp", "ep", "expert_tp", "sequence_parallel")
PASSES: Final = ("forward", "backward")


@dataclass(frozen=True, slots=True)
class BlockCost:
    """One kind of layer on every distinct shard; arrays over the u shards.

    ``again`` and the activations have one entry for each word of RECOMPUTE. ``exposed`` holds, for
    each pass and axis, the communication that nothing hides [s]; ``messages`` the whole of it.
    """

    kind: LayerKind
    forward: Work
    backward: Work
    weight: Floats
    again: tuple[Work, ...]
    again_exposed: tuple[dict[str, Floats], ...]
    exposed: dict[str, dict[str, Floats]]
    messages: dict[str, dict[str, Floats]]
    kept: tuple[Floats, ...]
    transient: tuple[Floats, ...]
    alive: Floats


@dataclass(frozen=True, slots=True)
class EndCost:
    """Embedding or output head on every distinct shard."""

    forward: Work
    backward: Work
    exposed: dict[str, Floats]
    kept: Floats


@dataclass(frozen=True, slots=True)
class LayerTable:
    """Everything a step needs to know about the blocks and the ends of a model."""

    blocks: tuple[BlockCost, ...]
    embedding: EndCost
    head: EndCost
    boundary: Floats
    """Bytes that one pipeline boundary carries for one micro-batch, per device [B]."""
    logits: Floats
    """Bytes of the logits in the activations' format, beside the loss's own copy [B]."""


def layer_table(
    model: ModelConfig,
    kinds: tuple[LayerKind, ...],
    cluster: Cluster,
    grid: PlanGrid,
    seq_len: int,
    stack: Stack,
    efficiency: Efficiency | None = None,
) -> LayerTable:
    """Price the blocks and ends of a model for a grid whose plans differ in their shards."""
    base = grid.base
    precision = compute_precision(base)
    shard = Shard(
        micro_batch=grid.micro_batch_size,
        seq_len=seq_len,
        tp=grid.tp,
        cp=grid.cp,
        ep=grid.ep,
        expert_tp=grid.expert_tp,
        sequence_parallel=grid.sequence_parallel,
        cp_kind=base.cp_method,
    )
    pricer = Pricer(cluster, grid, efficiency, stack.name)
    blocks = tuple(_block(model, kind, shard, stack, precision, base, pricer) for kind in kinds)
    ends = end_collectives(model, shard, precision=precision)
    size = len(grid)

    def whole(value: Any) -> Floats:
        return np.broadcast_to(np.asarray(value, float), size)

    embedding = EndCost(
        pricer.work(embedding_forward(model, shard, stack, precision=precision)),
        pricer.work(embedding_backward(model, shard, stack, precision=precision)),
        {phase: pricer.message_seconds(ends[0], phase)["tp"] for phase in PASSES},
        whole(embedding_activation_bytes(model, shard, stack, precision=precision)),
    )
    head = EndCost(
        pricer.work(head_forward(model, shard, stack, precision=precision)),
        pricer.work(head_backward(model, shard, stack, precision=precision)),
        {phase: pricer.message_seconds(ends[1], phase)["tp"] for phase in PASSES},
        whole(head_activation_bytes(model, shard, stack, precision=precision)),
    )
    tokens = np.asarray(shard.tokens, float)
    vocab = model.vocab or model.classes
    return LayerTable(
        blocks,
        embedding,
        head,
        # Megatron sends 1/tp of the activations from every tensor parallel rank
        whole(tokens * model.hidden * precision.element / grid.tp),
        # an unfused loss holds log-probabilities and their gradient in fp32 as well
        whole(
            tokens
            * np.ceil(vocab / grid.tp)
            * (precision.element + (0 if stack.fused_cross_entropy else 8))
        ),
    )


def compute_precision(plan: Plan) -> Precision:
    """The formats of a plan's precision."""
    return load_precision(plan.precision)


def _block(
    model: ModelConfig,
    kind: LayerKind,
    shard: Shard,
    stack: Stack,
    precision: Precision,
    base: Plan,
    pricer: Pricer,
) -> BlockCost:
    forward_calls = block_forward(model, kind, shard, stack, precision=precision)
    backward_calls = block_backward(model, kind, shard, stack, precision=precision)
    messages = layer_collectives(model, kind, shard, precision=precision)
    calls = {"forward": forward_calls, "backward": backward_calls}
    whole = {phase: pricer.message_seconds(messages, phase) for phase in PASSES}
    exposed = {
        phase: pricer.exposed_seconds(messages, phase, calls[phase], base) for phase in PASSES
    }
    zero = np.zeros(pricer.size)
    full = _repeatable(model, kind, shard, stack, precision, forward_calls)
    some = tuple(call for call in full if _repeated(call, base.recompute_modules))
    nothing = dict.fromkeys(AXES, zero)
    partial = nothing | {
        "cp": exposed["forward"]["cp"] if "core" in base.recompute_modules else zero,
        "ep": exposed["forward"]["ep"] if "experts" in base.recompute_modules else zero,
    }
    kept, transient = zip(
        *(
            _activations(model, kind, shard, stack, precision, base, recompute, pricer.size)
            for recompute in ("none", "selective", "full")
        ),
        strict=True,
    )
    weight = pricer.work([call for call in backward_calls if call.grad == "weight"]).times[0]
    return BlockCost(
        kind=kind,
        forward=pricer.work(forward_calls, messages, "forward"),
        backward=pricer.work(backward_calls, messages, "backward"),
        weight=weight,
        again=(pricer.work(()), pricer.work(some), pricer.work(full, messages, "forward")),
        again_exposed=(nothing, partial, exposed["forward"]),
        exposed=exposed,
        messages=whole,
        kept=kept,
        transient=transient,
        alive=np.broadcast_to(
            np.asarray(stage_gradient_bytes(model, kind, shard, precision=precision), float),
            pricer.size,
        ),
    )


def _repeatable(
    model: ModelConfig,
    kind: LayerKind,
    shard: Shard,
    stack: Stack,
    precision: Precision,
    forward: tuple[Call, ...],
) -> tuple[Call, ...]:
    """The forward calls that full recomputation runs again."""
    names = {
        call.name
        for call in recompute_calls(model, kind, shard, stack, "full", precision=precision)
    }
    return tuple(call for call in forward if call.name in names)


def recomputed(
    model: ModelConfig,
    kind: LayerKind,
    shard: Shard,
    stack: Stack,
    plan: Plan,
    precision: Precision,
) -> tuple[Call, ...]:
    """The forward calls of a block that a plan's recomputation runs again."""
    if plan.recompute == "none":
        return ()
    forward = block_forward(model, kind, shard, stack, precision=precision)
    full = _repeatable(model, kind, shard, stack, precision, forward)
    if plan.recompute == "full":
        return full
    return tuple(call for call in full if _repeated(call, plan.recompute_modules))


def _repeated(call: Call, modules: tuple[str, ...]) -> bool:
    """Whether selective recomputation of those modules runs a forward call again."""
    if call.core:
        return "core" in modules
    if call.name.startswith("residual"):
        return False
    if "activation" in modules and call.name.startswith(("act", "expert_act", "shared_act")):
        return True
    return call.module in modules or (call.module == "router" and "experts" in modules)


def _activations(
    model: ModelConfig,
    kind: LayerKind,
    shard: Shard,
    stack: Stack,
    precision: Precision,
    base: Plan,
    recompute: str,
    size: int,
) -> tuple[Floats, Floats]:
    """Bytes kept for the backward pass, and bytes that come back during it, for one block."""
    modules = base.recompute_modules
    word = recompute if recompute != "selective" or "core" in modules else "none"
    bytes_of = block_activation_bytes(
        model, kind, shard, stack, recompute=word, precision=precision
    )
    if recompute == "selective":
        own_input = shard.rows * model.hidden * precision.element
        width = -(-model.ffn // shard.tp) if not kind.moe else 0
        routed = -(-model.expert_ffn // shard.expert_tp) if kind.moe else 0
        element = bytes_per_element(precision.gemm)
        between = (
            shard.tokens * width * element,
            (expert_rows(model, shard) if kind.moe else 0) * routed * element,
        )
        bytes_of = _without(bytes_of, modules, own_input, between)
    kept, transient = (
        np.broadcast_to(np.asarray(value, float), size)
        for value in (bytes_of.kept, bytes_of.transient)
    )
    return kept, transient


def _without(
    bytes_of: BlockActivations,
    modules: tuple[str, ...],
    own_input: Any,
    between: tuple[Any, Any],
) -> BlockActivations:
    """The same block with the tensors of more modules repeated; an MLP still keeps its input."""
    transient: Any = bytes_of.transient
    values: dict[str, Any] = {}
    if "norm" in modules:
        # what a norm feeds is repeated from the norm's input, which stays
        values["attention"] = np.maximum(bytes_of.attention - own_input, 0)
        transient = transient + own_input
    if "activation" in modules:
        # what the second product reads is repeated from what the first one wrote
        values["mlp"] = np.maximum(bytes_of.mlp - between[0], 0)
        values["experts"] = np.maximum(bytes_of.experts - between[1], 0)
        transient = transient + between[0] + between[1]
    if "mlp" in modules:
        kept = np.minimum(bytes_of.mlp, own_input)
        values["mlp"] = kept
        transient = transient + bytes_of.mlp - kept
    if "experts" in modules:
        values["experts"] = 0 * np.asarray(bytes_of.experts)
        transient = transient + bytes_of.experts
    return replace(bytes_of, **values, transient=transient)
