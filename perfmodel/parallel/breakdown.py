"""What the kernels of a step consist of: the calls of its slowest stage, by name.

The same calls at the same prices as in the step, so the details add up to the parts that they
explain.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from perfmodel.cost import Efficiency, price
from perfmodel.estimate import Estimate, leaf
from perfmodel.hardware import Accelerator
from perfmodel.parallel.grid import PlanGrid
from perfmodel.parallel.layers import compute_precision, recomputed
from perfmodel.parallel.pace import pace, paced
from perfmodel.parallel.plan import shard_of
from perfmodel.parallel.stage import accumulation, block_times, stage_kind_times
from perfmodel.parallel.tables import Tables
from perfmodel.workload.transformer import (
    Call,
    ModelConfig,
    block_backward,
    block_forward,
    embedding_backward,
    embedding_forward,
    head_backward,
    head_forward,
    layer_kinds,
)

SHOWN: Final = 12
"""Calls named in each part; the rest is one line."""


@dataclass(slots=True)
class _Line:
    """Sums over one call: prediction, lower bound, interval [s]; time by bound."""

    times: np.ndarray[tuple[int], np.dtype[np.float64]]
    bounds: dict[str, float]
    calibrated: bool


def kernel_details(
    model: ModelConfig,
    grid: PlanGrid,
    tables: Tables,
    seq_len: int,
    efficiency: Efficiency | None = None,
) -> dict[str, tuple[Estimate, ...]]:
    """The calls behind ``forward``, ``backward`` and ``recompute`` of a grid of one plan."""
    plan = grid.plan(0)
    precision, stack = compute_precision(plan), tables.stack
    shard = shard_of(plan, seq_len)
    held, first, last, accumulate = _slowest(grid, tables)
    steps = float(tables.micro_batches[0])
    calls: dict[str, list[tuple[Call, float]]] = {"forward": [], "backward": [], "recompute": []}
    for kind, count in zip(layer_kinds(model), held, strict=True):
        forward = block_forward(model, kind, shard, stack, precision=precision)
        backward = block_backward(model, kind, shard, stack, precision=precision)
        again = recomputed(model, kind, shard, stack, plan, precision)
        for part, some in (("forward", forward), ("backward", backward), ("recompute", again)):
            calls[part] += [(call, steps * count) for call in some]
    ends = (
        ("forward", first, embedding_forward),
        ("backward", first, embedding_backward),
        ("forward", last, head_forward),
        ("backward", last, head_backward),
    )
    for part, count, make in ends:
        calls[part] += [
            (call, steps * count) for call in make(model, shard, stack, precision=precision)
        ]
    device = tables.cluster.accelerator
    factor = pace(stack.name, device.family)
    details = {part: _leaves(some, device, efficiency, factor) for part, some in calls.items()}
    if accumulate > 0:
        adding = leaf("gradient accumulation", steps * accumulate, bound="memory", lower=0.0)
        details["backward"] = (*details["backward"], adding)
    return details


def _slowest(grid: PlanGrid, tables: Tables) -> tuple[list[float], float, float, float]:
    """Of the slowest stage: layers of each kind, embedding, head, gradient accumulation [s]."""
    launch = 0.0 if tables.stack.graph else tables.stack.host_launch
    blocks = [block_times(c, b, grid, tables, launch) for c, b in enumerate(tables.layers.blocks)]
    stages, place = tables.states.stages, int(tables.state_of[0])
    kinds = stages.count.shape[1]
    totals = [
        float(stage_kind_times(k, blocks, grid, tables, launch).total[0]) for k in range(kinds)
    ]
    k = int(np.argmax(totals))
    held = [float(count) for count in stages.layers[place, k]]
    ends = float(stages.embedding[place, k]), float(stages.head[place, k])
    return held, *ends, float(accumulation(k, tables)[0])


def _leaves(
    calls: Iterable[tuple[Call, float]],
    device: Accelerator,
    efficiency: Efficiency | None,
    factor: float,
) -> tuple[Estimate, ...]:
    """One leaf a call name, longest first; the short ones together."""
    lines: dict[str, _Line] = {}
    for call, repeats in calls:
        if repeats == 0:
            continue
        priced = price(call.op, device, efficiency=efficiency)
        rows = paced(priced, factor)
        times = np.array([float(row) for row in rows]) * float(np.asarray(call.count)) * repeats
        line = lines.setdefault(call.name, _Line(np.zeros(4), {}, True))
        line.times = line.times + times
        bound = str(priced.bound)
        line.bounds[bound] = line.bounds.get(bound, 0.0) + float(times[0])
        line.calibrated = line.calibrated and bool(priced.calibrated)
    ordered = sorted(lines.items(), key=lambda item: -item[1].times[0])
    shown = [_leaf(name, line) for name, line in ordered[:SHOWN]]
    rest = ordered[SHOWN:]
    if rest:
        bounds: dict[str, float] = {}
        for _, line in rest:
            for bound, seconds in line.bounds.items():
                bounds[bound] = bounds.get(bound, 0.0) + seconds
        total = np.sum([line.times for _, line in rest], axis=0)
        known = all(line.calibrated for _, line in rest)
        shown.append(_leaf(f"{len(rest)} others", _Line(total, bounds, known)))
    return tuple(shown)


def _leaf(name: str, line: _Line) -> Estimate:
    seconds, lower, low, high = (float(value) for value in line.times)
    low = min(low, seconds)
    return leaf(
        name,
        seconds,
        bound=max(line.bounds, key=lambda bound: line.bounds[bound]),
        lower=min(lower, low),
        low=low,
        high=max(high, seconds),
        calibrated=line.calibrated,
    )
