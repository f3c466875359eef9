"""Device memory of many plans, by class, on the stage that needs most of it.

Weights, gradients and optimizer states follow from the parameters of a stage and what is sharded;
activations from the micro-batches that the schedule holds at its worst moment; the rest is what
libraries take: communication buffers, workspaces, the context of the driver and what the caching
allocator cannot use.

References
----------
Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054), section 3; Korthikanti et al. 2022 (arXiv
2205.05198), section 4 and appendix C; NCCL 2 documentation, ``NCCL_BUFFSIZE``; cuBLAS 12
documentation, ``cublasSetWorkspace``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.parallel import schedule
from perfmodel.parallel.grid import PlanGrid
from perfmodel.parallel.tables import Tables

Floats = NDArray[np.float64]

CONTEXT: Final = 0.45 * 2**30
"""Driver context and loaded kernels of a PyTorch process [B]: 414 to 520 MiB reported by
nvidia-smi for CUDA 11 and 12 on A100 and H100, outside the allocator's account."""
PROGRAM: Final = 0.25 * 2**30
"""Program, constants and reserve of a compiled TPU step [B]; an assumption."""
NCCL_CHANNEL: Final = 4 * 2**20
"""Buffer of one channel and direction: the default of NCCL_BUFFSIZE [B]."""
NCCL_CHANNELS: Final = 16
"""Channels of a communicator: what NCCL opens on NVSwitch machines, up to 32."""
LIVE_PARAMETERS: Final = 1e9
"""Parameters gathered ahead of their use, or whose gradients wait: DeepSpeed's default of
stage3_max_live_parameters; FSDP holds one block ahead, which is less for most models."""
GEMM_WORKSPACE: Final = 32 * 2**20
"""Workspace of the matrix library [B], as recommended for Hopper."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of device memory by class: (n,) arrays, on the stage with the highest total [B]."""

    weights: Floats
    gradients: Floats
    optimizer: Floats
    activations: Floats
    communication: Floats
    workspace: Floats
    slack: Floats
    stage: NDArray[np.int64]

    @property
    def peak(self) -> Floats:
        """All classes together [B]."""
        return np.asarray(np.sum([getattr(self, name) for name in CLASSES], axis=0))


CLASSES: Final = tuple(field.name for field in fields(Memory) if field.name != "stage")


def memory(grid: PlanGrid, tables: Tables) -> Memory:
    """Device memory of every plan of a grid."""
    earliest = tables.states.stages.earliest[tables.state_of]
    best = stage_memory(0, grid, tables)
    peak = np.asarray(np.sum(best, axis=0))
    stage = earliest[:, 0]
    for k in range(1, earliest.shape[1]):
        classes = stage_memory(k, grid, tables)
        total = np.asarray(np.sum(classes, axis=0))
        more = total > peak
        best = [np.where(more, new, old) for new, old in zip(classes, best, strict=True)]
        peak = np.where(more, total, peak)
        stage = np.where(more, earliest[:, k], stage)
    weights, gradients, optimizer, activations, communication, workspace = best
    return Memory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        communication=communication,
        workspace=workspace,
        slack=_slack(grid, tables.cluster.accelerator.family),
        stage=stage,
    )


def stage_memory(k: int, grid: PlanGrid, tables: Tables) -> list[Floats]:
    """Bytes of one kind of stage by class, in the order of :class:`Memory`, slack left out [B]."""
    states, di, width = tables.states, tables.state_of, tables.width
    offload = grid.base.offload
    dense, experts = states.dense[di, k], states.experts[di, k]
    whole = dense + experts
    shard = dense / states.dense_shards[di] + experts / states.expert_shards[di]
    full = grid.zero == 3
    held = [np.where(grid.zero >= least, shard, whole) for least in (3, 2, 1)]
    # the shard of fully sharded weights is the master copy itself
    master = width.optimizer - width.moments if width.optimizer > width.moments else 0.0
    weights = held[0] * np.where(full & (master > 0), master, width.weight)
    # quantised copies live as long as the weights that they are made from
    weights = weights + np.where(full, 0.0, whole * width.copy)
    optimizer = held[2] * np.where(full & (master > 0), width.moments, width.optimizer)
    gradients = held[1] * width.gradient
    if "weights" in offload:
        weights = np.zeros(len(grid))
    if "optimizer" in offload:
        optimizer = np.zeros(len(grid))
    activations, workspace = _activations(k, grid, tables)
    li = tables.layer_of
    boundary = tables.layers.boundary[li] * grid.tp / np.where(grid.sequence_parallel, grid.tp, 1)
    communication = np.where(grid.pp > 1, 4.0 * boundary, 0.0)
    block = np.max(
        [
            states.block_dense[c][di] + states.block_experts[c][di]
            for c in range(len(tables.layers.blocks))
        ],
        axis=0,
    )
    # a gathered block in use, more on its way, and gradients, as computed, before their exchange
    ahead = np.minimum(block, LIVE_PARAMETERS)
    gathered = np.minimum(block, 2 * ahead) * (width.message + width.copy)
    gathered = gathered + ahead * 2 * width.message
    communication = communication + np.where(full | ("weights" in offload), gathered, 0.0)
    bucket = np.minimum(grid.base.bucket_parameters, whole) * width.gradient
    communication = communication + np.where(grid.zero == 2, 2 * bucket, 0.0)
    return [weights, gradients, optimizer, activations, communication, workspace]


def _activations(k: int, grid: PlanGrid, tables: Tables) -> tuple[Floats, Floats]:
    """Activations at the schedule's worst moment, and what works beside them [B].

    Logits and loss are gone before the first block's backward pass brings its own tensors back, so
    the larger of the two counts.
    """
    states, di, li = tables.states, tables.state_of, tables.layer_of
    base = grid.base
    flying = schedule.in_flight(
        base.schedule,
        states.stages.earliest[di, k],
        grid.pp,
        grid.virtual_stages,
        tables.micro_batches,
    )
    held = states.stages.layers[di, k]
    first, last = states.stages.embedding[di, k], states.stages.head[di, k]
    one = first * tables.layers.embedding.kept[li]
    working = np.zeros(len(grid))
    transient = np.zeros(len(grid))
    for c, block in enumerate(tables.layers.blocks):
        kept = np.stack(block.kept)[grid.recompute, li]
        back = np.stack(block.transient)[grid.recompute, li]
        there = held[:, c] > 0
        if "activations" in base.offload:
            # two blocks at work: one computing, one on its way
            transient = np.maximum(transient, np.where(there, 2 * kept + back, 0.0))
        else:
            one = one + held[:, c] * kept
            transient = np.maximum(transient, np.where(there, back, 0.0))
        working = np.maximum(working, np.where(there, block.alive[li], 0.0))
    # the loss follows the last block at once: one micro-batch of it, unless GPipe keeps them all
    ends = last * tables.layers.head.kept[li]
    logits = last * tables.layers.logits[li]
    waiting = ends * (tables.micro_batches - 1.0 if base.schedule == "gpipe" else 0.0)
    loss = ends + logits > transient + working
    held_now = np.where(loss, ends, transient)
    return one * flying + waiting + held_now, GEMM_WORKSPACE + np.where(loss, logits, working)


def _slack(grid: PlanGrid, family: str) -> Floats:
    """Driver context and the buffers of every communicator that the plan opens [B].

    A TPU's program reserves its buffers when it is compiled; they are counted with its classes.
    """
    if family == "tpu":
        return np.full(len(grid), PROGRAM)
    copies = grid.dp * grid.cp
    groups = (
        (grid.tp > 1).astype(float) + (grid.cp > 1) + (copies > 1) + (grid.ep > 1) + (grid.pp > 1)
    )
    return CONTEXT + groups * NCCL_CHANNELS * 2 * NCCL_CHANNEL
