"""One training step of many plans, as one array expression.

Every device of a stage computes ``m`` micro-batches; the slowest stage sets the rhythm, the others
show up as fill and drain. What is exchanged once a step (gradients, weights, the optimizer) follows
the last backward pass of the stage that finishes last.

``step = m (forward + backward) + bubble + gradients + optimizer + weights``

References
----------
Narayanan et al. 2021 (arXiv 2104.04473), section 2; Korthikanti et al. 2022 (arXiv 2205.05198),
section 4; Zhao et al. 2023, PyTorch FSDP (arXiv 2304.11277), section 3.3 for prefetching.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import SpecError
from perfmodel.hardware import Cluster
from perfmodel.network import collective_seconds
from perfmodel.parallel import overlap as hiding
from perfmodel.parallel import placement, schedule
from perfmodel.parallel.grid import PlanGrid
from perfmodel.parallel.layers import AXES, BlockCost, LayerTable
from perfmodel.parallel.states import ParameterBytes, StateTable
from perfmodel.workload.transformer import Stack

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Tables:
    """Prices shared by the plans of a grid, and where each plan finds its own.

    Parameters
    ----------
    layers : LayerTable
        By distinct shard; ``layer_of`` is the place of each plan.
    states : StateTable
        By distinct degrees; ``state_of`` is the place of each plan.
    width : ParameterBytes
        Bytes of a parameter.
    micro_batches : (n,) array
        Of one data parallel rank.
    """

    cluster: Cluster
    stack: Stack
    layers: LayerTable
    layer_of: Ints
    states: StateTable
    state_of: Ints
    width: ParameterBytes
    micro_batches: Floats

    def take(self, index: Any) -> Tables:
        """The same tables for some of the plans."""
        return Tables(
            self.cluster,
            self.stack,
            self.layers,
            self.layer_of[index],
            self.states,
            self.state_of[index],
            self.width,
            self.micro_batches[index],
        )


@dataclass(frozen=True, slots=True)
class StepParts:
    """What a step consists of: (n,) arrays that add up to its time [s].

    ``tensor``, ``context`` and ``expert`` are exposed communication inside the layers; ``gather``
    is the exposed communication of fully sharded weights; ``gradients`` and ``weights`` what is
    exposed of the exchanges once a step; ``host`` the waits for launches; ``offload`` those for the
    host link.
    """

    forward: Floats
    backward: Floats
    recompute: Floats
    tensor: Floats
    context: Floats
    expert: Floats
    gather: Floats
    pipeline: Floats
    bubble: Floats
    gradients: Floats
    weights: Floats
    optimizer: Floats
    host: Floats
    offload: Floats

    @property
    def total(self) -> Floats:
        """The step [s]."""
        return np.asarray(np.sum([getattr(self, name) for name in PARTS], axis=0))

    @property
    def communication(self) -> Floats:
        """All exposed communication [s]."""
        return np.asarray(np.sum([getattr(self, name) for name in COMMUNICATION], axis=0))


PARTS: Final = tuple(field.name for field in fields(StepParts))
COMMUNICATION: Final = (
    "tensor",
    "context",
    "expert",
    "gather",
    "pipeline",
    "gradients",
    "weights",
)


@dataclass(frozen=True, slots=True)
class _Block:
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

    @property
    def backward_all(self) -> Floats:
        return self.backward + self.again + self.again_exposed


@dataclass(frozen=True, slots=True)
class _Stage:
    """One kind of stage for n plans [s], per micro-batch."""

    forward: Floats
    backward: Floats
    host: Floats
    gather: Floats
    offload: Floats

    @property
    def total(self) -> Floats:
        return self.forward + self.backward + self.host + self.gather + self.offload


def step_parts(grid: PlanGrid, tables: Tables) -> StepParts:
    """The parts of a step of every plan of a grid."""
    layers, states = tables.layers, tables.states
    li, di = tables.layer_of, tables.state_of
    base = grid.base
    m, v, p = tables.micro_batches, grid.virtual_stages, grid.pp
    launch = 0.0 if tables.stack.graph else tables.stack.host_launch
    blocks = [_block(c, block, grid, tables, launch) for c, block in enumerate(layers.blocks)]
    shape = states.stages.count[di]
    kinds = shape.shape[1]
    stages = [_stage(k, blocks, grid, tables, launch) for k in range(kinds)]
    send = _send_seconds(grid, tables)

    totals = np.stack([stage.total for stage in stages], axis=1)
    slowest = np.argmax(totals, axis=1)
    row = np.arange(len(grid))
    top = totals[row, slowest] + send
    every = np.sum(totals * shape, axis=1) + send * p
    held = states.stages.layers[di, slowest]
    first = states.stages.embedding[di, slowest]
    last = states.stages.head[di, slowest]
    weight = sum(
        (held[:, c] * layers.blocks[c].weight[li] for c in range(len(blocks))), np.zeros(len(grid))
    )
    bubble = np.where(p > 1, schedule.fill_and_drain(base.schedule, every, top, p, v, weight), 0.0)

    def mix(values: Any, ends: tuple[Floats, Floats]) -> Floats:
        total = first * ends[0] + last * ends[1]
        for c, value in enumerate(values):
            total = total + held[:, c] * value
        return np.asarray(m * total, dtype=np.float64)

    none = np.zeros(len(grid))
    empty = (none, none)
    embedding, head = layers.embedding, layers.head
    ends_tp = tuple(
        (end.exposed["forward"] + end.exposed["backward"])[li] for end in (embedding, head)
    )
    once = _once(stages, grid, tables)
    picked = [
        np.stack([getattr(s, name) for s in stages], 1)[row, slowest]
        for name in ("host", "gather", "offload")
    ]
    recompute = grid.recompute
    axis = {
        name: mix(
            [
                block.exposed["forward"][name][li]
                + block.exposed["backward"][name][li]
                + np.stack([again[name] for again in block.again_exposed])[recompute, li]
                for block in layers.blocks
            ],
            (ends_tp[0], ends_tp[1]) if name == "tp" else empty,
        )
        for name in AXES
    }
    return StepParts(
        forward=mix(
            [block.forward for block in blocks],
            (embedding.forward.times[0][li], head.forward.times[0][li]),
        ),
        backward=mix(
            [block.backward for block in blocks],
            (embedding.backward.times[0][li], head.backward.times[0][li]),
        )
        + m * _accumulation(slowest, tables),
        recompute=mix([block.again for block in blocks], empty),
        tensor=axis["tp"],
        context=axis["cp"],
        expert=axis["ep"] + axis["etp"],
        gather=m * picked[1],
        pipeline=m * send,
        bubble=bubble,
        gradients=once.gradients,
        weights=once.weights,
        optimizer=once.optimizer,
        host=m * picked[0],
        offload=m * picked[2] + once.offload,
    )


def _block(c: int, block: BlockCost, grid: PlanGrid, tables: Tables, launch: float) -> _Block:
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
    return _Block(
        forward=forward,
        backward=backward,
        again=again,
        exposed=forward_comm + backward_comm,
        again_exposed=again_comm,
        host_forward=launch * block.forward.launches[li],
        host_backward=launch * (block.backward.launches[li] + again_launches),
        gather=np.where(grid.zero == 3, gather, 0.0),
    )


def _stage(k: int, blocks: list[_Block], grid: PlanGrid, tables: Tables, launch: float) -> _Stage:
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
    backward = backward + _accumulation(k, tables)
    host = np.maximum(host_forward - forward, 0.0) + np.maximum(host_backward - backward, 0.0)
    gather = gather + np.where(grid.zero == 3, _ends_gather(k, held, tables), 0.0)
    if "gradients" in grid.base.overlap:
        share = hiding.stolen_share(tables.cluster.accelerator)
        each = hiding.exposed(states.reduce_scatter[di, k], backward, share)
    else:
        each = states.reduce_scatter[di, k]
    gather = gather + np.where(grid.zero == 2, each, 0.0)
    return _Stage(
        forward, backward, host, gather, _offload_each(k, forward, backward, kept, grid, tables)
    )


def _accumulation(k: Any, tables: Tables) -> Floats:
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
    return gather + scatter


def _send_seconds(grid: PlanGrid, tables: Tables) -> Floats:
    """Exposed sends between stages for one micro-batch: activations on, gradients back [s].

    Each of the ``v`` chunks sends and receives once each way. The interleaved schedule hides them
    behind the other chunks where ``pipeline`` overlap is on; plain 1F1B waits for its neighbour.
    """
    if int(grid.pp.max()) == 1:
        return np.zeros(len(grid))
    li, di = tables.layer_of, tables.state_of
    local = tables.states.boundary_local
    seconds = collective_seconds(
        "p2p",
        tables.layers.boundary[li],
        np.where(grid.pp > 1, 2, 1),
        tables.cluster,
        ranks_per_node=np.where(grid.pp > 1, local[di], 1),
    )
    # without a split sequence every tensor parallel rank gathers the pieces it was not sent
    whole = (grid.pp > 1) & ~grid.sequence_parallel
    domain = placement.domain_devices(tables.cluster)
    seconds = seconds + collective_seconds(
        "all_gather",
        tables.layers.boundary[li] * grid.tp,
        np.where(whole, grid.tp, 1),
        tables.cluster,
        ranks_per_node=np.where(whole, np.minimum(grid.tp, domain), 1),
    )
    each = 2.0 * grid.virtual_stages * seconds
    if "pipeline" in grid.base.overlap:
        each = np.where(grid.virtual_stages > 1, 0.0, each)
    return each


@dataclass(frozen=True, slots=True)
class _Once:
    gradients: Floats
    weights: Floats
    optimizer: Floats
    offload: Floats


def _once(stages: list[_Stage], grid: PlanGrid, tables: Tables) -> _Once:
    """Exchanges and the optimizer, once a step, on the stage that finishes last.

    Stage ``i`` ends its last backward pass ``i`` backward passes before stage 0 does: that head
    start counts against what it still has to do.
    """
    states, di = tables.states, tables.state_of
    n = len(grid)
    best = np.full(n, -np.inf)
    out = [np.zeros(n) for _ in range(4)]
    for k, stage in enumerate(stages):
        own = _once_of(k, stage, grid, tables)
        values = (own.gradients, own.weights, own.optimizer, own.offload)
        done = own.gradients + own.weights + own.optimizer + own.offload
        early = states.stages.earliest[di, k] * stage.backward / grid.virtual_stages
        later = done - early
        better = (later > best) & (states.stages.count[di, k] > 0)
        best = np.where(better, later, best)
        scale = np.where(done > 0, np.maximum(later, 0.0) / np.where(done > 0, done, 1.0), 0.0)
        for i, value in enumerate(values):
            out[i] = np.where(better, value * scale, out[i])
    return _Once(*out)


def _once_of(k: int, stage: _Stage, grid: PlanGrid, tables: Tables) -> _Once:
    """What one kind of stage does once a step, after its own last backward pass."""
    states, di = tables.states, tables.state_of
    zero, overlap, bytes_each = grid.zero, grid.base.overlap, tables.width
    share = hiding.stolen_share(tables.cluster.accelerator)
    held = states.dense[di, k] + states.experts[di, k]
    tail = np.minimum(grid.base.bucket_parameters / held, 1.0)
    reduce = np.where(zero == 0, states.all_reduce[di, k], states.reduce_scatter[di, k])
    gather = states.all_gather[di, k]
    if "gradients" in overlap:
        reduce = reduce * tail + hiding.exposed(reduce * (1 - tail), stage.backward, share)
    if "weights" in overlap:
        gather = gather * tail + hiding.exposed(gather * (1 - tail), stage.forward, share)
    gradients = np.where(zero <= 1, reduce, 0.0) + states.tied[di]
    weights = np.where((zero == 1) | (zero == 2), gather, 0.0)
    offload = np.zeros(len(grid))
    shard = (zero > 0).astype(int)
    optimizer = states.optimizer[0][di, k, shard]
    if "optimizer" in grid.base.offload:
        parts = states.dense[di, k] / np.where(zero > 0, states.dense_shards[di], 1.0)
        parts = parts + states.experts[di, k] / np.where(zero > 0, states.expert_shards[di], 1.0)
        offload = parts * (bytes_each.gradient + bytes_each.weight) / _host_rate(tables)
    return _Once(gradients, weights, optimizer, offload)


def _offload_each(
    k: int, forward: Floats, backward: Floats, kept: Floats, grid: PlanGrid, tables: Tables
) -> Floats:
    """Waits for the host link in one micro-batch: weights in, activations out and in [s]."""
    offload = grid.base.offload
    if not {"weights", "activations"} & set(offload):
        return np.zeros(len(grid))
    states, di = tables.states, tables.state_of
    rate = _host_rate(tables)
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


def _host_rate(tables: Tables) -> float:
    """Rate between a device and host memory, one way [B/s]."""
    link = tables.cluster.host_link
    if link is None:
        raise SpecError(
            f"{tables.cluster.name}: host_link",
            None,
            "the link to host memory, which offloading needs",
            repair="add host_link to the node's file, or plan without offloading",
        )
    return link.bandwidth_per_direction


def compute_bound(grid: PlanGrid, tables: Tables) -> Floats:
    """A time that no arrangement of a plan's own kernels can beat [s].

    Blocks and ends at the bound of every kernel, without recomputation, communication or idling,
    spread evenly over the stages.
    """
    li, di = tables.layer_of, tables.state_of
    layers, stages = tables.layers, tables.states.stages
    each = np.zeros(len(grid))
    for end in (layers.embedding, layers.head):
        each = each + (end.forward.times[1] + end.backward.times[1])[li]
    for c, block in enumerate(layers.blocks):
        count = np.sum(stages.layers[0, :, c] * stages.count[0])
        each = each + count * (block.forward.times[1] + block.backward.times[1])[li]
    return np.asarray(tables.micro_batches * each / grid.pp + 0.0 * di)
