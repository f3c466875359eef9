"""The times of every pipeline device of one plan, for those who replay the step in order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost import Efficiency
from perfmodel.hardware import Cluster
from perfmodel.parallel import schedule, stage, step
from perfmodel.parallel.footprint import stage_memory
from perfmodel.parallel.grid import grid_of
from perfmodel.parallel.layout import even_layout
from perfmodel.parallel.plan import Plan, check
from perfmodel.parallel.tables import Tables
from perfmodel.parallel.training import tables_of
from perfmodel.workload.transformer import ModelConfig, Stack, layer_kinds, stack_of

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StageTimes:
    """What each device of one pipeline does: ``(pp,)`` arrays in pipeline order [s].

    Parameters
    ----------
    forward, backward : array
        One micro-batch through all chunks of the device, exposed collectives and recomputation
        included.
    weight : array
        The weight-gradient part of ``backward``.
    waits : array
        For the host, for gathered weights and for offloading, in one micro-batch.
    send : float
        Exposed sends and receives of one micro-batch.
    gradients, weights, optimizer : array
        Exposed, once a step, after the device's own last backward pass.
    activation_bytes, static_bytes : array
        Of one micro-batch; and held all the time [B].
    micro_batches : int
        Of one data parallel rank.
    """

    forward: Floats
    backward: Floats
    weight: Floats
    waits: Floats
    send: float
    gradients: Floats
    weights: Floats
    optimizer: Floats
    activation_bytes: Floats
    static_bytes: Floats
    micro_batches: int


def stage_times(
    model: ModelConfig,
    cluster: Cluster,
    plan: Plan,
    global_batch_size: int,
    seq_len: int,
    stack: Stack | str = "megatron",
    *,
    efficiency: Efficiency | None = None,
) -> StageTimes:
    """The device times that :func:`perfmodel.parallel.training.train` assembles into a step."""
    check(plan, model, cluster, global_batch_size, seq_len)
    stack = stack_of(stack)
    grid = grid_of([plan])
    tables = tables_of(model, cluster, grid, global_batch_size, seq_len, stack, efficiency)
    launch = 0.0 if stack.graph else stack.host_launch
    blocks = [
        stage.block_times(c, b, grid, tables, launch) for c, b in enumerate(tables.layers.blocks)
    ]
    kinds = tables.states.stages
    count = kinds.count.shape[1]
    stages = [stage.stage_kind_times(k, blocks, grid, tables, launch) for k in range(count)]
    once = [step.once_of(k, s, grid, tables) for k, s in enumerate(stages)]
    held = [stage_memory(k, grid, tables) for k in range(count)]
    li, place = int(tables.layer_of[0]), int(tables.state_of[0])
    weight_of = np.array([block.weight[li] for block in tables.layers.blocks])
    kind_of = _kinds_of_devices(plan, tables, model)

    def pick(values: list[Floats]) -> Floats:
        return np.array([float(values[k][0]) for k in kind_of])

    flying = [
        schedule.in_flight(
            plan.schedule,
            kinds.earliest[place, k],
            plan.pp,
            plan.virtual_stages,
            tables.micro_batches[0],
        )
        for k in range(count)
    ]
    return StageTimes(
        forward=pick([s.forward for s in stages]),
        backward=pick([s.backward for s in stages]),
        weight=np.array([float(kinds.layers[place, k] @ weight_of) for k in kind_of]),
        waits=pick([s.host + s.gather + s.offload for s in stages]),
        send=float(stage.send_seconds(grid, tables, np.max([s.total for s in stages], axis=0))[0]),
        gradients=pick([o.gradients for o in once]),
        weights=pick([o.weights for o in once]),
        optimizer=pick([o.optimizer + o.offload for o in once]),
        activation_bytes=pick([h[3] / f for h, f in zip(held, flying, strict=True)]),
        static_bytes=pick([sum(h[:3], h[4] + h[5]) for h in held]),
        micro_batches=int(tables.micro_batches[0]),
    )


def _kinds_of_devices(plan: Plan, tables: Tables, model: ModelConfig) -> list[int]:
    """The kind of stage of each device, in pipeline order."""
    kinds = layer_kinds(model)
    names = [number for number, kind in enumerate(kinds) for _ in kind.layers]
    where = [layer for kind in kinds for layer in kind.layers]
    kind_of_layer = dict(zip(where, names, strict=True))
    layout = plan.layers_per_stage or even_layout(len(where), plan.chunks)
    held = np.zeros((plan.pp, len(kinds) + 2))
    layer = 0
    for chunk, count in enumerate(layout):
        for _ in range(count):
            held[chunk % plan.pp, kind_of_layer[layer]] += 1
            layer += 1
    held[0, -2] = held[-1, -1] = 1
    place = int(tables.state_of[0])
    known = tables.states.stages
    rows = np.column_stack(
        [known.layers[place], known.embedding[place][:, None], known.head[place][:, None]]
    )
    return [int(np.flatnonzero((rows == device).all(axis=1))[0]) for device in held]
