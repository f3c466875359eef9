"""One micro-batch on one kind of stage, for many plans.

A stage is a row of blocks, with the embedding on the first device and the head on the last. Beside
its kernels and their collectives it may wait for the host to launch them, for gathered weights and
for the host link.

References
----------
Zhao et al. 2023, PyTorch FSDP (arXiv 2304.11277), section 3.3, for prefetching.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.parallel import overlap as hiding
from perfmodel.parallel import placement
from perfmodel.parallel.grid import PlanGrid
from perfmodel.parallel.layers import BlockCost
from perfmodel.parallel.pricer import AXES
from perfmodel.parallel.tables import Tables, host_rate
from perfmodel.parallel.wire import wire_seconds

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BlockTimes:
    """One kind of layer for n plans [s], per micro-batch."""

    forward: Floats
    backward: Floats
    again: Floats
    exposed: Floats
    again_exposed: Floats
    host_forward: Floats
    host_backward: Floats
    gather: Floats
    """Exposed communication of fully sharded weights, both passes."""


@dataclass(frozen=True, slots=True)
class StageKindTimes:
    """One kind of stage for n plans [s], per micro-batch."""

    forward: Floats
    backward: Floats
    host: Floats
    gather: Floats
    offload: Floats

    @property
    def total(self) -> Floats:
        """All of it, one after another [s]."""
        return self.forward + self.backward + self.host + self.gather + self.offload


def block_times(
    c: int, block: BlockCost, grid: PlanGrid, tables: Tables, launch: float
) -> BlockTimes:
    """One block of the ``c``-th kind of layer."""
    li, di = tables.layer_of, tables.state_of
    recompute = grid.recompute
    exposed = {
        phase: np.sum([block.exposed[phase][axis] for axis in AXES], axis=0)
        for phase in ("forward", "backward")
    }
    again_exposed = np.stack(
        [np.sum([again[axis] for axis in AXES], axis=0) for again in block.again_exposed]
    )
    forward = block.forward.times[0][li]
    backward = block.backward.times[0][li]
    again = np.stack([work.times[0] for work in block.again])[recompute, li]
    again_launches = np.stack([work.launches for work in block.again])[recompute, li]
    forward_comm, backward_comm = exposed["forward"][li], exposed["backward"][li]
    again_comm = again_exposed[recompute, li]
    # fully sharded weights: gathered for each pass, gradients scattered after the backward one
    collect = tables.states.block_gather[c][di]
    scatter = tables.states.block_scatter[c][di]
    behind_forward = forward + forward_comm
    behind_backward = backward + backward_comm + again + again_comm
    if "weights" in grid.base.overlap:
        share = hiding.stolen_share(tables.cluster.accelerator)
        gather = hiding.exposed(collect, behind_forward, share)
        gather = gather + hiding.exposed(collect + scatter, behind_backward, share)
    else:
        gather = 2 * collect + scatter
    return BlockTimes(
        forward=forward,
        backward=backward,
        again=again,
        exposed=forward_comm + backward_comm,
        again_exposed=again_comm,
        host_forward=launch * block.forward.launches[li],
        host_backward=launch * (block.backward.launches[li] + again_launches),
        gather=np.where(grid.zero == 3, gather, 0.0),
    )


def stage_kind_times(
    k: int, blocks: list[BlockTimes], grid: PlanGrid, tables: Tables, launch: float
) -> StageKindTimes:
    """One kind of stage: blocks, ends, waits for the host, sharded weights, offloading."""
    layers, states = tables.layers, tables.states
    li, di = tables.layer_of, tables.state_of
    first, last = states.stages.embedding[di, k], states.stages.head[di, k]
    held = states.stages.layers[di, k]
    embedding, head = layers.embedding, layers.head
    forward = first * (embedding.forward.times[0] + embedding.exposed["forward"])[li]
    forward = forward + last * (head.forward.times[0] + head.exposed["forward"])[li]
    backward = first * (embedding.backward.times[0] + embedding.exposed["backward"])[li]
    backward = backward + last * (head.backward.times[0] + head.exposed["backward"])[li]
    host_forward = launch * (
        first * embedding.forward.launches[li] + last * head.forward.launches[li]
    )
    host_backward = launch * (
        first * embedding.backward.launches[li] + last * head.backward.launches[li]
    )
    gather = np.zeros(len(grid))
    kept = first * embedding.kept[li] + last * head.kept[li]
    for c, (block, cost) in enumerate(zip(blocks, layers.blocks, strict=True)):
        count = held[:, c]
        split = cost.exposed["backward"]
        comm_backward = np.sum([split[axis] for axis in AXES], axis=0)[li]
        forward = forward + count * (block.forward + block.exposed - comm_backward)
        backward = backward + count * (
            block.backward + comm_backward + block.again + block.again_exposed
        )
        host_forward = host_forward + count * block.host_forward
        host_backward = host_backward + count * block.host_backward
        gather = gather + count * block.gather
        kept = kept + count * np.stack(cost.kept)[grid.recompute, li]
    backward = backward + accumulation(k, tables)
    host = np.maximum(host_forward - forward, 0.0) + np.maximum(host_backward - backward, 0.0)
    gather = gather + np.where(grid.zero == 3, _ends_gather(k, held, tables), 0.0)
    if "gradients" in grid.base.overlap:
        share = hiding.stolen_share(tables.cluster.accelerator)
        each = hiding.exposed(states.reduce_scatter[di, k], backward, share)
    else:
        each = states.reduce_scatter[di, k]
    gather = gather + np.where(grid.zero == 2, each, 0.0)
    return StageKindTimes(
        forward, backward, host, gather, _offload_each(k, forward, backward, kept, grid, tables)
    )


def accumulation(k: Any, tables: Tables) -> Floats:
    """Adding a micro-batch's gradients to the earlier ones [s]; the only one needs no adding."""
    seconds = tables.states.accumulation[tables.state_of, k]
    return np.asarray(np.where(tables.micro_batches > 1, seconds, 0.0))


def _ends_gather(k: int, held: Floats, tables: Tables) -> Floats:
    """Embedding and head of fully sharded weights: gathered before, scattered after everything."""
    states, di = tables.states, tables.state_of
    blocks_gather = sum(
        (held[:, c] * states.block_gather[c][di] for c in range(held.shape[1])), np.zeros(len(di))
    )
    blocks_scatter = sum(
        (held[:, c] * states.block_scatter[c][di] for c in range(held.shape[1])), np.zeros(len(di))
    )
    gather = np.maximum(states.all_gather[di, k] - blocks_gather, 0.0)
    scatter = np.maximum(states.reduce_scatter[di, k] - blocks_scatter, 0.0)
    return np.asarray(gather + scatter)


def send_seconds(grid: PlanGrid, tables: Tables, cover: Floats) -> Floats:
    """Exposed sends between stages for one micro-batch: activations on, gradients back [s].

    Each of the ``v`` chunks sends and receives once each way. The interleaved schedule hides them
    behind the other chunks (``cover``: a micro-batch on the slowest stage) where ``pipeline``
    overlap is on; plain 1F1B waits for its neighbour.
    """
    if int(grid.pp.max()) == 1:
        return np.zeros(len(grid))
    li, di = tables.layer_of, tables.state_of
    local = tables.states.boundary_local
    seconds = wire_seconds(
        "p2p",
        tables.layers.boundary[li],
        np.where(grid.pp > 1, 2, 1),
        tables.cluster,
        np.where(grid.pp > 1, local[di], 1),
    )
    # without a split sequence every tensor parallel rank gathers the pieces it was not sent
    whole = (grid.pp > 1) & ~grid.sequence_parallel
    domain = placement.domain_devices(tables.cluster)
    seconds = seconds + wire_seconds(
        "all_gather",
        tables.layers.boundary[li] * grid.tp,
        np.where(whole, grid.tp, 1),
        tables.cluster,
        np.where(whole, np.minimum(grid.tp, domain), 1),
    )
    each = 2.0 * grid.virtual_stages * seconds
    if "pipeline" in grid.base.overlap:
        share = hiding.stolen_share(tables.cluster.accelerator)
        hidden = hiding.exposed(each, cover, share)
        each = np.where(grid.virtual_stages > 1, hidden, each)
    return each


def _offload_each(
    k: int, forward: Floats, backward: Floats, kept: Floats, grid: PlanGrid, tables: Tables
) -> Floats:
    """Waits for the host link in one micro-batch: weights in, activations out and in [s]."""
    offload = grid.base.offload
    if not {"weights", "activations"} & set(offload):
        return np.zeros(len(grid))
    states, di = tables.states, tables.state_of
    rate = host_rate(tables)
    out = np.zeros(len(grid))
    into = np.zeros(len(grid))
    if "weights" in offload:
        held = states.dense[di, k] + states.experts[di, k]
        shards = np.where(grid.zero == 3, states.dense_shards[di], 1.0)
        out = out + held / shards * tables.width.message / rate
        into = into + held / shards * tables.width.message / rate
    if "activations" in offload:
        out = out + kept / rate
        into = into + kept / rate
    return np.maximum(out - forward, 0.0) + np.maximum(into - backward, 0.0)
