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

from perfmodel.parallel import overlap as hiding
from perfmodel.parallel import schedule
from perfmodel.parallel.grid import PlanGrid
from perfmodel.parallel.pricer import AXES
from perfmodel.parallel.stage import (
    StageKindTimes,
    accumulation,
    block_times,
    send_seconds,
    stage_kind_times,
)
from perfmodel.parallel.tables import Tables, host_rate

Floats = NDArray[np.float64]


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


def step_parts(grid: PlanGrid, tables: Tables) -> StepParts:
    """The parts of a step of every plan of a grid."""
    layers, states = tables.layers, tables.states
    li, di = tables.layer_of, tables.state_of
    base = grid.base
    m, v, p = tables.micro_batches, grid.virtual_stages, grid.pp
    launch = 0.0 if tables.stack.graph else tables.stack.host_launch
    blocks = [block_times(c, block, grid, tables, launch) for c, block in enumerate(layers.blocks)]
    shape = states.stages.count[di]
    kinds = shape.shape[1]
    stages = [stage_kind_times(k, blocks, grid, tables, launch) for k in range(kinds)]

    totals = np.stack([stage.total for stage in stages], axis=1)
    slowest = np.argmax(totals, axis=1)
    row = np.arange(len(grid))
    send = send_seconds(grid, tables, totals[row, slowest])
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
    once = _last_once(stages, grid, tables)
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
        + m * accumulation(slowest, tables),
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


@dataclass(frozen=True, slots=True)
class Once:
    """What one kind of stage does once a step, after its last backward pass [s]."""

    gradients: Floats
    weights: Floats
    optimizer: Floats
    offload: Floats

    @property
    def total(self) -> Floats:
        """All of it, one after another [s]."""
        return self.gradients + self.weights + self.optimizer + self.offload


def once_of(k: int, stage: StageKindTimes, grid: PlanGrid, tables: Tables) -> Once:
    """Exposed exchanges and the optimizer of one kind of stage.

    Gradients hide behind the backward pass of the last micro-batch, all but the last bucket; the
    gather of weights behind the forward pass of the first, all but the first bucket.
    """
    states, di = tables.states, tables.state_of
    zero, overlap = grid.zero, grid.base.overlap
    share = hiding.stolen_share(tables.cluster.accelerator)
    held = states.dense[di, k] + states.experts[di, k]
    tail = np.minimum(grid.base.bucket_parameters / held, 1.0)
    reduce = np.where(zero == 0, states.all_reduce[di, k], states.reduce_scatter[di, k])
    gather = states.all_gather[di, k]
    if "gradients" in overlap:
        reduce = reduce * tail + hiding.exposed(reduce * (1 - tail), stage.backward, share)
    if "weights" in overlap:
        gather = gather * tail + hiding.exposed(gather * (1 - tail), stage.forward, share)
    offload = np.zeros(len(grid))
    if "optimizer" in grid.base.offload:
        # gradients go to the host, new weights come back
        parts = states.dense[di, k] / np.where(zero > 0, states.dense_shards[di], 1.0)
        parts = parts + states.experts[di, k] / np.where(zero > 0, states.expert_shards[di], 1.0)
        offload = parts * (tables.width.gradient + tables.width.weight) / host_rate(tables)
    return Once(
        gradients=np.where(zero <= 1, reduce, 0.0) + states.tied[di],
        weights=np.where((zero == 1) | (zero == 2), gather, 0.0),
        optimizer=states.optimizer[0][di, k, (zero > 0).astype(int)],
        offload=offload,
    )


def _last_once(stages: list[StageKindTimes], grid: PlanGrid, tables: Tables) -> Once:
    """What remains once a step on the device that finishes last.

    Stage ``i`` ends its last backward pass ``i`` backward passes before stage 0 does: that head
    start counts against what it still has to do.
    """
    states, di = tables.states, tables.state_of
    best = np.full(len(grid), -np.inf)
    out = [np.zeros(len(grid)) for _ in range(4)]
    for k, stage in enumerate(stages):
        once = once_of(k, stage, grid, tables)
        done = once.total
        later = done - states.stages.earliest[di, k] * stage.backward / grid.virtual_stages
        better = (later > best) & (states.stages.count[di, k] > 0)
        best = np.where(better, later, best)
        left = np.divide(np.maximum(later, 0.0), done, out=np.zeros(len(grid)), where=done > 0)
        for i, value in enumerate((once.gradients, once.weights, once.optimizer, once.offload)):
            out[i] = np.where(better, value * left, out[i])
    return Once(*out)


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
