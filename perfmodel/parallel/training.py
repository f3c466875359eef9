"""Training: the step time and memory of many plans at once, or of one with its reasons.

:func:`evaluate` is one array expression over a grid of plans; :func:`train` is the same expression
with one plan in it, plus the tree of its parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from perfmodel.cost import Efficiency
from perfmodel.errors import PlanError
from perfmodel.estimate import Estimate, leaf
from perfmodel.hardware import Cluster, Hardware, cluster_of
from perfmodel.parallel.breakdown import kernel_details
from perfmodel.parallel.footprint import memory as memory_of
from perfmodel.parallel.grid import PlanGrid, distinct, grid_of
from perfmodel.parallel.layers import SHARD_COLUMNS, layer_table
from perfmodel.parallel.levers import verdict
from perfmodel.parallel.plan import Plan, check, sizes_of_step
from perfmodel.parallel.result import PlanTable, TrainResult, class_bytes, part_seconds
from perfmodel.parallel.states import (
    DEGREE_COLUMNS,
    effective_stack,
    parameter_bytes,
    state_table,
)
from perfmodel.parallel.step import step_parts
from perfmodel.parallel.tables import Tables
from perfmodel.workload.model import model_of
from perfmodel.workload.transformer import (
    ModelConfig,
    Stack,
    hardware_flops,
    layer_kinds,
    model_flops,
    stack_of,
)

IDLE_POWER: Final = 0.25
"""Share of the design power that a device draws while it waits; a guess, not measured."""
_PEAK: Final = {"fp8": "fp8_e4m3"}
_BOUNDS: Final = {
    "host": "launch",
    "bubble": "dependency",
    "optimizer": "memory",
    "forward": "compute",
    "backward": "compute",
    "recompute": "compute",
}


def tables_of(
    model: ModelConfig,
    cluster: Cluster,
    grid: PlanGrid,
    global_batch_size: int,
    seq_len: int,
    stack: Stack,
    efficiency: Efficiency | None = None,
) -> Tables:
    """Price everything that the plans of a grid share."""
    kinds = layer_kinds(model)
    stack = effective_stack(grid.base, stack)
    first, layer_of = distinct(*(getattr(grid, name) for name in SHARD_COLUMNS))
    layers = layer_table(model, kinds, cluster, grid.take(first), seq_len, stack, efficiency)
    first, state_of = distinct(*(getattr(grid, name) for name in DEGREE_COLUMNS))
    states = state_table(model, kinds, cluster, grid.take(first), stack, efficiency)
    return Tables(
        cluster=cluster,
        stack=stack,
        layers=layers,
        layer_of=layer_of,
        states=states,
        state_of=state_of,
        width=parameter_bytes(grid.base, stack),
        micro_batches=(global_batch_size // (grid.dp * grid.micro_batch_size)).astype(float),
    )


def evaluate_grid(grid: PlanGrid, tables: Tables) -> PlanTable:
    """Step time and memory of every plan of a grid, from tables that are already priced."""
    parts = step_parts(grid, tables)
    held = memory_of(grid, tables)
    return PlanTable(
        grid=grid,
        step_time=parts.total,
        parts=parts,
        memory=held,
        peak_memory=held.peak,
        capacity=tables.cluster.accelerator.memory_capacity,
    )


def evaluate(
    model: ModelConfig | str | Path,
    cluster: Hardware,
    plans: Iterable[Plan] | PlanGrid,
    global_batch_size: int,
    seq_len: int,
    stack: Stack | str = "megatron",
    *,
    efficiency: Efficiency | None = None,
) -> PlanTable:
    """Step time and memory of many plans.

    Parameters
    ----------
    model : ModelConfig, str or Path
        What is trained: a value, a bundled name or the path of a ``config.json``.
    cluster : Cluster, str or Path
        On what: a value, or the name or file of a node or cluster.
    plans : iterable of Plan, or PlanGrid
        They may differ in the columns of a grid only.
    global_batch_size, seq_len : int
        Sequences in a step, tokens in a sequence.
    stack : Stack or str
        How the software runs the work.
    efficiency : Efficiency, optional
        Instead of the chip's own.

    Raises
    ------
    PlanError
        If a plan does not fit the model, the batch or the cluster, or differs from the first in
        something else. A grid is taken as it is.
    """
    model, cluster = model_of(model), cluster_of(cluster)
    stack = stack_of(stack)
    if isinstance(plans, PlanGrid):
        grid = plans
    else:
        global_batch_size, seq_len = sizes_of_step(global_batch_size, seq_len)
        grid = grid_of(plans)
        _check_each(grid, model, cluster, global_batch_size, seq_len)
    tables = tables_of(model, cluster, grid, global_batch_size, seq_len, stack, efficiency)
    return evaluate_grid(grid, tables)


def _check_each(
    grid: PlanGrid, model: ModelConfig, cluster: Cluster, global_batch_size: int, seq_len: int
) -> None:
    """Check the plans of a grid, of those that are split alike only the first."""
    split = sorted({*SHARD_COLUMNS, *DEGREE_COLUMNS})
    first, _ = distinct(*(getattr(grid, name) for name in split))
    for place in np.sort(first).tolist():
        try:
            check(grid.plan(place), model, cluster, global_batch_size, seq_len)
        except PlanError as error:
            raise error.inside(f"plans[{place}]") from None


def train(
    model: ModelConfig | str | Path,
    cluster: Hardware,
    plan: Plan,
    global_batch_size: int,
    seq_len: int,
    stack: Stack | str = "megatron",
    *,
    efficiency: Efficiency | None = None,
    levers: bool = True,
) -> TrainResult:
    """One training step of one plan: time with its reasons, memory, rates.

    Parameters
    ----------
    model, cluster, plan, global_batch_size, seq_len, stack, efficiency
        As for :func:`evaluate`.
    levers : bool
        If the plan does not fit, evaluate the changes that would help.

    Raises
    ------
    PlanError
        If the plan does not fit the model, the batch or the cluster.
    """
    chosen = stack_of(stack)
    return _trained(
        model_of(model),
        cluster_of(cluster),
        plan,
        global_batch_size,
        seq_len,
        chosen,
        efficiency,
        levers,
    )


def _trained(
    model: ModelConfig,
    cluster: Cluster,
    plan: Plan,
    global_batch_size: int,
    seq_len: int,
    stack: Stack,
    efficiency: Efficiency | None,
    levers: bool,
) -> TrainResult:
    global_batch_size, seq_len = sizes_of_step(global_batch_size, seq_len)
    check(plan, model, cluster, global_batch_size, seq_len)
    grid = grid_of([plan])
    tables = tables_of(model, cluster, grid, global_batch_size, seq_len, stack, efficiency)
    table = evaluate_grid(grid, tables)
    parts = part_seconds(table.parts, 0)
    details = kernel_details(model, grid, tables, seq_len, efficiency)
    step = _tree(parts, tables, table, details)
    seconds = step.seconds
    tokens = global_batch_size * seq_len
    peak = peak_rate(plan, cluster) * cluster.devices

    def needs(changed: Plan) -> float:
        held = evaluate(
            model, cluster, [changed], global_batch_size, seq_len, stack, efficiency=efficiency
        )
        return float(held.peak_memory[0])

    def valid(changed: Plan) -> bool:
        try:
            check(changed, model, cluster, global_batch_size, seq_len)
        except PlanError:
            return False
        return True

    held = class_bytes(table.memory, 0)
    needed = float(table.peak_memory[0])
    return TrainResult(
        plan=plan,
        step=step,
        memory=held,
        memory_stage=int(table.memory.stage[0]),
        peak_memory=needed,
        capacity=table.capacity,
        tokens_per_s_per_device=tokens / seconds / cluster.devices,
        mfu=float(model_flops(model, seq_len, global_batch_size)) / seconds / peak,
        hfu=float(hardware_flops(model, seq_len, global_batch_size, plan.recompute))
        / seconds
        / peak,
        bubble_fraction=parts["bubble"] / seconds,
        exposed_comm_s=float(table.parts.communication[0]),
        energy_j=_energy(parts, seconds, cluster),
        verdict=verdict(plan, needed, table.capacity, needs, valid if levers else None),
        parts=parts,
    )


def peak_rate(plan: Plan, cluster: Cluster) -> float:
    """Dense peak of the format of the plan's matrix products, one device [FLOP/s]."""
    return cluster.accelerator.peak(_PEAK.get(plan.precision, plan.precision))


def _energy(parts: dict[str, float], seconds: float, cluster: Cluster) -> float | None:
    """Design power while kernels run, a share of it while a device waits [J].

    Rough: kernels of an H100 back to back draw 0.8 to 1.1 of its design power (cost.power);
    what it draws while it waits was not measured. Unknown where the chip's design power is.
    """
    watts = cluster.accelerator.tdp
    if watts is None:
        return None
    busy = sum(parts[name] for name in ("forward", "backward", "recompute", "optimizer"))
    return watts * cluster.devices * (busy + IDLE_POWER * (seconds - busy))


def _tree(
    parts: dict[str, float],
    tables: Tables,
    table: PlanTable,
    details: dict[str, tuple[Estimate, ...]],
) -> Estimate:
    """The step as an Estimate whose parts add up to it, with the calls behind the kernels.

    The interval of the kernels is that of the blocks' own prices; parts that no measurement
    supports keep their prediction. The lower bound counts what the slowest stage must compute.
    """
    spread = _spread(tables)
    leaves = []
    for name, seconds in parts.items():
        if seconds <= 0.0:
            continue
        bound = _BOUNDS.get(name, "network")
        kernels = name in ("forward", "backward", "recompute", "optimizer")
        lower, low, high = spread if kernels else (0.0, 1.0, 1.0)
        part = leaf(
            name,
            seconds,
            bound=bound,
            lower=lower * seconds,
            low=low * seconds,
            high=high * seconds,
            calibrated=bool(details.get(name)) and all(d.calibrated for d in details[name]),
        )
        if details.get(name):
            part = replace(part, parts=details[name], relation="detail")
        leaves.append(part)
    total = Estimate(
        name="step",
        seconds=float(table.step_time[0]),
        lower=sum(part.lower for part in leaves),
        low=sum(part.low for part in leaves),
        high=sum(part.high for part in leaves),
        bound=max(leaves, key=lambda part: part.seconds).bound,
        calibrated=False,
        parts=tuple(leaves),
        relation="sum",
    )
    return replace(total, seconds=float(np.sum([part.seconds for part in leaves])))


def _spread(tables: Tables) -> tuple[float, float, float]:
    """Lower bound and ends of the interval of the blocks' kernels, over their prediction."""
    times = np.zeros(4)
    place = int(tables.layer_of[0])
    for block in tables.layers.blocks:
        for work in (block.forward, block.backward):
            times += work.times[:, place]
    lower, low, high = times[1:] / times[0]
    low = min(max(low, lower), 1.0)
    return float(min(lower, low)), float(low), float(max(high, 1.0))
