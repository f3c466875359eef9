"""Price rows: those that share a model, a cluster and a stack as one grid of plans."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from perfmodel.errors import PerfmodelError, PlanError
from perfmodel.hardware import load_link
from perfmodel.parallel.grid import grid_of
from perfmodel.parallel.result import PlanTable
from perfmodel.parallel.training import evaluate
from perfmodel.study.training_case import TrainingCase
from perfmodel.study.training_convnet import ConvnetCase, convnet_step
from perfmodel.study.training_csv import Row
from perfmodel.study.training_report import Record

_KERNELS: Final = ("forward", "backward", "recompute", "tensor", "context", "expert", "host")
_SHOWN: Final = ("forward", "backward", "recompute", "optimizer", "bubble", "host")


def convnet_record(case: ConvnetCase) -> Record:
    """A predicted row of a convolutional network."""
    try:
        step = convnet_step(case)
        return Record.prediction(
            case.row,
            seconds=step.seconds,
            peak_memory=step.peak_memory,
            capacity=case.cluster.accelerator.memory_capacity,
            plan=case.plan,
            parts=step.parts,
            measured=case.measured,
            family=family_of(case.row),
            stack="graph" if case.compiled else "torch-eager",
            cluster=case.cluster.name,
            assumed=case.assumed,
        )
    except PerfmodelError as error:
        return Record.refusal(case.row, error)


def batches(cases: Sequence[TrainingCase]) -> list[list[int]]:
    """Places of cases that one grid of plans can hold."""
    found: dict[Any, list[int]] = {}
    for place, case in enumerate(cases):
        key: Any = place
        if case.scope != "layer":
            shared = case.plans[0]
            key = (
                case.model,
                id(case.cluster),
                case.seq_len,
                case.stack.model_dump_json(),
                (shared.schedule, shared.recompute_modules, shared.offload, shared.precision),
                (shared.cp_method, shared.overlap, shared.bucket_parameters),
                shared.layers_per_stage,
            )
        found.setdefault(key, []).append(place)
    return list(found.values())


def predicted(cases: Sequence[TrainingCase]) -> list[Record]:
    """Records of cases that share a grid; one that fails takes no other with it."""
    try:
        return _evaluated(cases)
    except (PerfmodelError, ArithmeticError, ValueError) as error:
        if len(cases) > 1:
            return [record for case in cases for record in predicted([case])]
        known = error if isinstance(error, PerfmodelError) else _beyond(cases[0].row, error)
        return [Record.refusal(cases[0].row, known)]


def _beyond(row: Row, error: Exception) -> PlanError:
    """Sizes that make sense one by one and overflow together."""
    return PlanError(
        f"{row.where}: sizes",
        f"<{type(error).__name__}: {error}>",
        "sizes whose step time is a finite number",
        repair="correct the sizes of the row",
    )


def _evaluated(cases: Sequence[TrainingCase]) -> list[Record]:
    first = cases[0]
    plans = [plan for case in cases for plan in case.plans]
    batches: Any = np.array([case.batch for case in cases for _ in case.plans], dtype=np.int64)
    table = evaluate(
        first.model, first.cluster, grid_of(plans), batches, first.seq_len, first.stack
    )
    seconds = _scoped(first, table, batches)
    records = []
    start = 0
    for case in cases:
        places = np.arange(start, start + len(case.plans))
        start += len(case.plans)
        if not np.isfinite(seconds[places]).all():
            raise ArithmeticError("a step time that is not finite")
        place = _chosen(case, places, seconds, table)
        other = None if table.fits[place] else _otherwise(case, table, place)
        if other is not None and (found := _evaluated([other]))[0].fits:
            records += found
            continue
        records.append(
            Record.prediction(
                case.row,
                seconds=float(seconds[place]) * case.share,
                peak_memory=_held(case, table, place),
                capacity=table.capacity,
                plan=plans[place],
                parts={
                    name: float(getattr(table.parts, name)[place]) * case.share for name in _SHOWN
                }
                | {"communication": float(table.parts.communication[place]) * case.share},
                measured=case.measured,
                family=family_of(case.row),
                stack=case.stack.name,
                cluster=case.cluster.name,
                assumed=case.assumed,
            )
        )
    return records


def _otherwise(case: TrainingCase, table: PlanTable, place: int) -> TrainingCase | None:
    """What else the row may mean, where nothing it can mean fits: it did run.

    Only what the row leaves open is read another way. Where it does not state the sharding and
    weights, gradients and optimizer alone exceed the device, they are sharded fully. Recomputation
    that a row calls custom, or that is not stated, may keep activations in host memory.
    """
    memory = table.memory
    states = memory.weights[place] + memory.gradients[place] + memory.optimizer[place]
    unsharded = all(plan.zero < 3 for plan in case.plans)
    if states > table.capacity and unsharded and "zero_fsdp" in case.assumed:
        plans = {replace(plan, zero=3, zero_group=None) for plan in case.plans}
        return replace(case, plans=tuple(sorted(plans, key=repr)))
    if "recompute" in case.assumed and not any(plan.offload for plan in case.plans):
        plans = {replace(plan, recompute="full", offload=("activations",)) for plan in case.plans}
        cluster = case.cluster
        if cluster.host_link is None:
            cluster = replace(cluster, host_link=load_link("pcie4"))
        return replace(
            case,
            cluster=cluster,
            plans=tuple(sorted(plans, key=repr)),
            assumed=(*case.assumed, "offload"),
        )
    return None


def _held(case: TrainingCase, table: PlanTable, place: int) -> float | None:
    """Peak memory of what the row ran [B]."""
    if case.scope == "layer":
        return None
    peak = float(table.peak_memory[place])
    return peak - float(table.memory.optimizer[place]) if case.scope == "passes" else peak


def _chosen(
    case: TrainingCase, places: np.ndarray[Any, Any], seconds: Any, table: PlanTable
) -> int:
    """The plan of a row: of those that fit, the simplest sharding, then the fastest."""
    if len(places) == 1:
        return int(places[0])
    fits = table.fits[places]
    if not fits.any():
        return int(places[np.argmin(table.peak_memory[places])])
    zero = table.grid.zero[places] if "zero_fsdp" in case.assumed else np.zeros(len(places))
    order = np.lexsort((seconds[places], zero, ~fits))
    return int(places[order[0]])


def _scoped(case: TrainingCase, table: PlanTable, batches: Any) -> Any:
    """Step times, or only what the row timed of them [s]."""
    if case.scope == "step":
        return table.step_time
    if case.scope == "passes":
        parts = table.parts
        return table.step_time - parts.optimizer - parts.gradients - parts.weights
    # one block is what a second one adds
    deeper = replace(case.model, layers=case.model.layers + 1)
    more = evaluate(deeper, case.cluster, grid_of(case.plans), batches, case.seq_len, case.stack)
    return np.sum(
        [getattr(more.parts, name) - getattr(table.parts, name) for name in _KERNELS], axis=0
    )


def family_of(row: Row) -> str:
    """A word for the model's family: ``gpt``, ``llama``, ``mpt``, ``bert`` ..."""
    found = re.match(r"t5|mt-nlg|[a-z]+(?:-oss)?", row.lower("model"))
    return found[0] if found else row.lower("arch").removeprefix("cnn ") or "unnamed"
