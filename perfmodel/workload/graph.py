"""A whole model as one list of calls: what one rank without pipeline parallelism runs in a step."""

from __future__ import annotations

from dataclasses import replace

from perfmodel.workload.adapter import Adapter
from perfmodel.workload.backward import (
    block_backward,
    embedding_backward,
    head_backward,
    optimizer_calls,
)
from perfmodel.workload.blocks import block_forward, embedding_forward, head_forward
from perfmodel.workload.layer import Call, LayerKind, Shard, layer_kinds
from perfmodel.workload.model import ModelConfig
from perfmodel.workload.ops.base import Size
from perfmodel.workload.precision import BF16, Precision
from perfmodel.workload.recompute import recompute_calls
from perfmodel.workload.stack import Stack
from perfmodel.workload.weights import (
    adapter_parameters,
    embedding_parameters,
    head_parameters,
    layer_parameters,
)


def forward_calls(
    model: ModelConfig,
    shard: Shard,
    stack: Stack,
    *,
    precision: Precision = BF16,
    adapter: Adapter | None = None,
    loss: bool = True,
) -> tuple[Call, ...]:
    """Embedding, every block and the head, forward; a call counts all layers of its kind."""
    calls = list(embedding_forward(model, shard, stack, precision=precision))
    for kind in layer_kinds(model):
        block = block_forward(model, kind, shard, stack, precision=precision, adapter=adapter)
        calls += _repeated(kind, block)
    calls += head_forward(model, shard, stack, precision=precision, loss=loss)
    return tuple(calls)


def training_calls(
    model: ModelConfig,
    shard: Shard,
    stack: Stack,
    *,
    micro_batches: Size = 1,
    recompute: str = "none",
    precision: Precision = BF16,
    adapter: Adapter | None = None,
) -> tuple[Call, ...]:
    """Every operator of a training step of one rank that holds the whole depth of the model.

    Forward, recomputed and backward calls run once for each of ``micro_batches``; the optimizer
    runs once. Pipeline stages, data parallelism and collectives are the planner's business.
    """
    calls = list(forward_calls(model, shard, stack, precision=precision, adapter=adapter))
    calls += head_backward(model, shard, stack, precision=precision)
    for kind in reversed(layer_kinds(model)):
        again = recompute_calls(
            model, kind, shard, stack, recompute, precision=precision, adapter=adapter
        )
        calls += _repeated(kind, tuple(replace(c, name=f"{c.name}_again") for c in again))
        block = block_backward(model, kind, shard, stack, precision=precision, adapter=adapter)
        calls += _repeated(kind, block)
    if adapter is None:
        calls += embedding_backward(model, shard, stack, precision=precision)
    each = [replace(call, count=call.count * micro_batches) for call in calls]
    numel = trainable_parameters(model, shard, adapter)
    return (*each, *optimizer_calls(numel, stack, precision=precision))


def trainable_parameters(model: ModelConfig, shard: Shard, adapter: Adapter | None = None) -> Size:
    """Parameters of the whole depth that one rank updates: all it holds, or only its adapters."""
    total: Size = 0
    for kind in layer_kinds(model):
        if adapter is None:
            dense, experts = layer_parameters(model, kind, shard.tp, shard.ep, shard.expert_tp)
            total = total + (dense + experts) * kind.count
        else:
            own = adapter_parameters(model, kind, adapter.rank, adapter.targets, shard.tp)
            total = total + own * kind.count
    if adapter is None:
        ends = embedding_parameters(model, shard.tp) + head_parameters(model, shard.tp)
        total = total + ends + model.extra_parameters
    return total


def _repeated(kind: LayerKind, calls: tuple[Call, ...]) -> list[Call]:
    return [
        replace(call, name=f"{kind.name}.{call.name}", count=call.count * kind.count)
        for call in calls
    ]
