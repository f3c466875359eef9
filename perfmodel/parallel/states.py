"""Parameters of every stage of a pipeline: their bytes, their messages, their optimizer step.

A plan's degrees decide what a device holds and what it exchanges once a step; the micro-batch does
not. So the quantities here are computed for the distinct degrees of a grid, for each kind of stage,
as (u, k) arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost import Efficiency, price
from perfmodel.hardware import Cluster
from perfmodel.parallel import placement
from perfmodel.parallel.grid import PlanGrid, distinct
from perfmodel.parallel.layout import StageKinds, padded_stage_kinds, stage_kinds
from perfmodel.parallel.plan import Plan
from perfmodel.parallel.wire import wire_seconds
from perfmodel.workload.dtype import bytes_per_element
from perfmodel.workload.op import Fused
from perfmodel.workload.transformer import (
    Call,
    LayerKind,
    ModelConfig,
    Stack,
    clear_gradients,
    embedding_parameters,
    head_parameters,
    layer_parameters,
    load_precision,
    optimizer_calls,
)

Floats = NDArray[np.float64]

DEGREE_COLUMNS: Final = ("tp", "pp", "dp", "cp", "ep", "expert_tp", "virtual_stages", "zero_group")
# a quantised copy of a weight, and its transpose where the product needs one
_COPIES: Final = {"fp8": 2.0, "fp4": 1.125}


@dataclass(frozen=True, slots=True)
class ParameterBytes:
    """Bytes held for one parameter, by class [B]."""

    weight: float
    gradient: float
    optimizer: float
    moments: float
    copy: float
    message: float
    """What a gathered weight weighs on the wire and while it is used."""


def parameter_bytes(plan: Plan, stack: Stack) -> ParameterBytes:
    """Bytes of a parameter under a stack and a precision.

    Under fully sharded weights
    (``zero`` 3) the shard is the master copy and the low-precision weight exists only while it is
    used, which the caller accounts for.
    """
    weight = bytes_per_element(stack.weight_dtype)
    whole = plan.precision in ("fp32", "tf32")
    return ParameterBytes(
        weight=weight,
        gradient=bytes_per_element(stack.grad_dtype),
        optimizer=stack.optimizer_bytes,
        moments=2 * bytes_per_element(stack.moment_dtype),
        copy=_COPIES.get(plan.precision, 0.0),
        # fp32 weights are cast before they are sent and used
        message=weight if whole else min(weight, 2.0),
    )


def effective_stack(plan: Plan, stack: Stack) -> Stack:
    """The stack with the formats that the plan's precision brings: fp32 has no separate master."""
    if plan.precision not in ("fp32", "tf32"):
        return stack
    return stack.model_copy(
        update={"weight_dtype": "fp32", "grad_dtype": "fp32", "master_dtype": ""}
    )


@dataclass(frozen=True, slots=True)
class StateTable:
    """Parameters and their once-a-step costs, for u distinct degrees and k kinds of stage.

    Parameters
    ----------
    stages : StageKinds
        With a leading axis of u.
    dense, experts : (u, k) array
        Parameters of a device of each kind of stage.
    block_dense, block_experts : (c, u) array
        Parameters of one block of each kind of layer.
    dense_shards, expert_shards : (u,) array
        Devices that share one copy of sharded states.
    reduce_scatter, all_gather, all_reduce : (u, k) array
        Gradients scattered over the shard group (and reduced between its replicas), weights
        gathered in it, gradients reduced over all copies [s].
    block_gather, block_scatter : (c, u) array
        One block's weights gathered, gradients scattered and reduced [s].
    tied : (u,) array
        Sum of the two halves of a shared embedding between the first and the last stage [s].
    optimizer : (4, u, k, 2) array
        One optimizer step over all parameters (last axis 0) or over a shard (1): prediction, lower
        bound, interval [s].
    accumulation : (u, k) array
        One micro-batch's gradients added to those before, where the weight-gradient product does
        not do so itself [s].
    boundary_local : (u,) array
        2 where neighbouring stages share a domain, else 1.
    """

    stages: StageKinds
    dense: Floats
    experts: Floats
    block_dense: Floats
    block_experts: Floats
    dense_shards: Floats
    expert_shards: Floats
    reduce_scatter: Floats
    all_gather: Floats
    all_reduce: Floats
    block_gather: Floats
    block_scatter: Floats
    tied: Floats
    optimizer: Floats
    accumulation: Floats
    boundary_local: NDArray[np.int64]


def state_table(
    model: ModelConfig,
    kinds: tuple[LayerKind, ...],
    cluster: Cluster,
    grid: PlanGrid,
    stack: Stack,
    efficiency: Efficiency | None = None,
) -> StateTable:
    """Parameters and once-a-step costs for a grid whose plans differ in their degrees."""
    stages = stages_of(kinds, grid)
    width = parameter_bytes(grid.base, stack)
    block = [layer_parameters(model, kind, grid.tp, grid.ep, grid.expert_tp) for kind in kinds]
    size = len(grid)
    dense_block, expert_block = (
        np.stack([np.broadcast_to(np.asarray(pair[i], float), size) for pair in block])
        for i in (0, 1)
    )
    ends = [
        np.broadcast_to(np.asarray(count, float), size)[:, None]
        for count in (embedding_parameters(model, grid.tp), head_parameters(model, grid.tp))
    ]
    vocabulary = np.ceil(model.vocab / grid.tp) * model.hidden
    alone = grid.pp == 1
    second = np.where(model.tied & ~alone, vocabulary, 0.0)[:, None]
    dense = np.einsum("ukc,cu->uk", stages.layers, dense_block)
    dense = dense + stages.embedding * ends[0] + stages.head * (ends[1] + second)
    experts = np.einsum("ukc,cu->uk", stages.layers, expert_block)

    copies = grid.dp * grid.cp
    edp = grid.tp * copies // (grid.ep * grid.expert_tp)
    shards = grid.zero_group
    expert_shards = np.maximum(edp * shards // copies, 1)
    domain = placement.domain_devices(cluster)
    groups = _Groups(
        shard=placement.shard_group(grid, domain),
        replica=placement.replica_group(grid, domain),
        everyone=placement.data_group(grid, domain),
        expert_shard=placement.group(expert_shards, grid.ep * grid.expert_tp, domain),
        expert_replica=placement.group(
            edp // expert_shards, grid.ep * grid.expert_tp * expert_shards, domain
        ),
        expert_everyone=placement.expert_data_group(grid, domain),
    )
    network = _Network(cluster, groups, width, shards, expert_shards)
    states = dense[..., None] / np.stack([np.ones(size), shards], -1)[:, None, :]
    states = states + experts[..., None] / np.stack([np.ones(size), expert_shards], -1)[:, None, :]
    optimizer = _optimizer(states, cluster, grid, stack, efficiency)
    inside = np.where(placement.pipeline_local(grid, domain) == 2, 2, 1)
    tied = np.zeros(size)
    if model.tied and model.vocab:
        tied = wire_seconds(
            "all_reduce",
            vocabulary * width.gradient,
            np.where(alone, 1, 2),
            cluster,
            np.where(alone, 1, inside),
        )
    return StateTable(
        stages=stages,
        dense=dense,
        experts=experts,
        block_dense=dense_block,
        block_experts=expert_block,
        dense_shards=shards.astype(float),
        expert_shards=expert_shards.astype(float),
        reduce_scatter=network.scatter(dense, experts),
        all_gather=network.gather(dense, experts),
        all_reduce=network.reduce(dense, experts),
        block_gather=network.gather(dense_block.T, expert_block.T).T,
        block_scatter=network.scatter(dense_block.T, expert_block.T).T,
        tied=tied,
        optimizer=optimizer,
        accumulation=_accumulation(dense + experts, cluster, stack, efficiency),
        boundary_local=inside,
    )


def stages_of(kinds: tuple[LayerKind, ...], grid: PlanGrid) -> StageKinds:
    """Kinds of stage for every plan of a grid, with a leading axis over the plans."""
    first, group = distinct(grid.pp, grid.virtual_stages)
    tables = [
        stage_kinds(kinds, int(grid.pp[i]), int(grid.virtual_stages[i]), grid.base.layers_per_stage)
        for i in first
    ]
    padded = padded_stage_kinds(tables)
    return StageKinds(**{name: getattr(padded, name)[group] for name in StageKinds.__slots__})


@dataclass(frozen=True, slots=True)
class _Groups:
    shard: placement.Group
    replica: placement.Group
    everyone: placement.Group
    expert_shard: placement.Group
    expert_replica: placement.Group
    expert_everyone: placement.Group


@dataclass(frozen=True, slots=True)
class _Network:
    """Once-a-step messages of (u, k) parameters, dense and expert ones after one another."""

    cluster: Cluster
    groups: _Groups
    width: ParameterBytes
    shards: Any
    expert_shards: Any

    def _time(self, op: str, size: Floats, group: placement.Group) -> Floats:
        return wire_seconds(op, size, group.size[:, None], self.cluster, group.local[:, None]) * (
            size > 0
        )

    def gather(self, dense: Floats, experts: Floats) -> Floats:
        each = self.width.message
        return self._time("all_gather", dense * each, self.groups.shard) + self._time(
            "all_gather", experts * each, self.groups.expert_shard
        )

    def scatter(self, dense: Floats, experts: Floats) -> Floats:
        each, groups = self.width.gradient, self.groups
        time = self._time("reduce_scatter", dense * each, groups.shard)
        time = time + self._time("reduce_scatter", experts * each, groups.expert_shard)
        # HSDP: each shard is then summed over its replicas
        part = dense * each / self.shards[:, None]
        time = time + self._time("all_reduce", part, groups.replica)
        part = experts * each / self.expert_shards[:, None]
        return time + self._time("all_reduce", part, groups.expert_replica)

    def reduce(self, dense: Floats, experts: Floats) -> Floats:
        each = self.width.gradient
        return self._time("all_reduce", dense * each, self.groups.everyone) + self._time(
            "all_reduce", experts * each, self.groups.expert_everyone
        )


def _accumulation(
    numel: Floats, cluster: Cluster, stack: Stack, efficiency: Efficiency | None
) -> Floats:
    if stack.fused_wgrad_accumulation:
        return np.zeros(numel.shape)
    width = int(bytes_per_element(stack.grad_dtype))
    fresh = int(min(bytes_per_element(stack.weight_dtype), 2))
    whole = np.maximum(np.ceil(numel), 1.0).astype(np.int64)
    add = Fused("accumulate", whole, fresh + width, width, 1)
    return price(add, cluster.accelerator, efficiency=efficiency).seconds


def _optimizer(
    states: Floats,
    cluster: Cluster,
    grid: PlanGrid,
    stack: Stack,
    efficiency: Efficiency | None,
) -> Floats:
    """AdamW, clipping and clearing of gradients over ``states`` parameters [s]."""
    numel = np.maximum(np.ceil(states), 1.0).astype(np.int64)
    precision = load_precision(grid.base.precision)
    times = np.zeros((4, *numel.shape))
    calls = [*optimizer_calls(numel, stack, precision=precision), *clear_gradients(numel, stack)]
    narrow = int(bytes_per_element(stack.grad_dtype))
    if stack.master_dtype and narrow < 4:
        # 16-bit gradients are copied to fp32, then unscaled and checked for overflow
        calls.append(Call("gradient_copy", Fused("cast", numel, narrow, 4, 0), module="optimizer"))
        calls.append(Call("unscale", Fused("unscale", numel, 4, 4, 2), module="optimizer"))
    for call in calls:
        priced = price(call.op, cluster.accelerator, efficiency=efficiency)
        rows = (priced.seconds, priced.lower, priced.low, priced.high)
        times += np.stack([np.broadcast_to(row, numel.shape) for row in rows]) * call.count
    return times
