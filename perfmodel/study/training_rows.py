"""Predict measured training steps: a table in, one record a row out.

:func:`express` turns a row into a model, a cluster and the plans it may mean;
:func:`score_training` prices every row that can be expressed and compares. Rows that share a model,
a cluster and a stack are evaluated together, as one grid of plans.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np

from perfmodel.errors import PerfmodelError, WorkloadError
from perfmodel.hardware import Cluster
from perfmodel.parallel.grid import grid_of
from perfmodel.parallel.plan import Plan
from perfmodel.parallel.result import PlanTable
from perfmodel.parallel.training import evaluate
from perfmodel.study.training_cluster import machine_of, unplaced
from perfmodel.study.training_csv import Row, read_rows
from perfmodel.study.training_measured import Measured, measured_of
from perfmodel.study.training_model import model_of
from perfmodel.study.training_plan import layout_of, precision_of
from perfmodel.study.training_report import Record, TrainingReport
from perfmodel.study.training_words import recomputation, sharding, software, switch
from perfmodel.workload.transformer import ModelConfig, Stack, load_stack

TOKENS: Final = 2**22
"""Tokens in a step whose batch a table leaves out: large batches all run at about one rate."""
PUBLISHED: Final = "training_published.csv"
_MASKED: Final = {128: 20, 384: 60, 512: 80}
"""Positions that BERT pre-training predicts in a sequence: max_predictions_per_seq."""
_KERNELS: Final = ("forward", "backward", "recompute", "tensor", "context", "expert", "host")


@dataclass(frozen=True, slots=True)
class TrainingCase:
    """A row that can be predicted.

    Parameters
    ----------
    row : Row
        As read.
    model : ModelConfig
        What was trained.
    cluster : Cluster
        On what.
    plans : tuple of Plan
        What the row may mean; several where it leaves something open.
    batch, seq_len : int
        Sequences in the modelled step, tokens in a sequence.
    share : float
        The row's batch over the modelled one: 1 unless it does not divide.
    stack : Stack
        How the software runs it.
    scope : str
        ``"step"``, ``"passes"`` (forward and backward only) or ``"layer"`` (those of one block).
    measured : Measured
        What to compare with.
    assumed : tuple of str
        Columns that were filled in.
    """

    row: Row
    model: ModelConfig
    cluster: Cluster
    plans: tuple[Plan, ...]
    batch: int
    seq_len: int
    share: float
    stack: Stack
    scope: str
    measured: Measured
    assumed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that cannot be predicted, and why."""

    row: Row
    error: PerfmodelError


def express(row: Row) -> TrainingCase | Refused:
    """A row as a model, a cluster and plans; or the reason why not."""
    try:
        return _expressed(row)
    except PerfmodelError as error:
        return Refused(row, error)


def _expressed(row: Row) -> TrainingCase:
    if row.faults:
        raise row.faults[0]
    assumed: list[str] = []
    model, filled = model_of(row, row.count("seq_len"))
    assumed += filled
    try:
        machine = machine_of(row)
    except PerfmodelError as error:
        raise (error if error.where.startswith("row ") else unplaced(row, error)) from None
    assumed += machine.assumed
    seq_len = _sequence(row, model, assumed)
    batch = _batch(row, seq_len, machine.cluster.devices, assumed)
    precision, filled = precision_of(row, machine.cluster.accelerator)
    assumed += filled
    flash = switch(row.text("flash_attn"))
    how = software(row, flash)
    if not how.known:
        assumed.append("software")
    shards = sharding(row.text("zero_fsdp"))
    layout = layout_of(
        row,
        model,
        machine.cluster.devices,
        batch,
        seq_len,
        recomputation(row.text("recompute")),
        shards,
        how,
        precision,
        flash,
    )
    assumed += layout.assumed
    model = _predictions(row, model, seq_len)
    measured = measured_of(row, model, machine.cluster.accelerator, batch, seq_len)
    return TrainingCase(
        row=row,
        model=model,
        cluster=machine.cluster,
        plans=layout.plans,
        batch=layout.batch,
        seq_len=seq_len,
        share=batch / layout.batch,
        stack=_stack(how.stack, flash),
        scope=_scope(row),
        measured=measured,
        assumed=tuple(dict.fromkeys((*assumed, *measured.assumed))),
    )


def _sequence(row: Row, model: ModelConfig, assumed: list[str]) -> int:
    given = row.count("seq_len")
    if given is None:
        if model.patch:
            return model.image_tokens
        raise WorkloadError(
            f"{row.where}: seq_len",
            "<blank>",
            "tokens in a sequence",
            repair="fill in seq_len",
        )
    if "unpadded" in row.lower("notes") or ("lddl" in row.lower("notes") and given > 256):
        # padding removed, or sequences binned by length: the mean is about half
        assumed.append("seq_len")
        return max(given // 2, 1)
    return given


def _batch(row: Row, seq_len: int, devices: int, assumed: list[str]) -> int:
    given = row.count("global_batch")
    if given is not None:
        return given
    micro, steps, dp = (row.count(name) for name in ("micro_batch", "grad_accum", "dp"))
    rates = ("tokens_per_s_per_chip", "tflops_per_chip", "mfu_pct", "hfu_pct")
    if micro and dp:
        if steps is None:
            assumed.append("grad_accum")
        assumed.append("global_batch")
        return micro * dp * (steps or 1)
    if not any(row.number(name) for name in rates):
        raise WorkloadError(
            f"{row.where}: global_batch",
            "<blank>",
            "sequences in a step, or a rate in tokens or FLOPs that hardly depends on them",
            repair="fill in global_batch",
        )
    assumed.append("global_batch")
    return devices * max(round(TOKENS / seq_len / devices), 1)


def _predictions(row: Row, model: ModelConfig, seq_len: int) -> ModelConfig:
    """BERT as NVIDIA's examples and MLPerf train it: the head sees the masked positions only."""
    gathers = re.search(r"dle|ngc|mlperf", f"{row.lower('software')} {row.lower('source_id')}")
    if model.architecture != "encoder" or not gathers:
        return model
    stated = row.count("seq_len") or seq_len
    return replace(model, predictions=min(_MASKED.get(stated, max(stated // 6, 1)), seq_len))


def _stack(name: str, flash: bool | None) -> Stack:
    stack = load_stack(name)
    if flash is not None:
        kind = "flash" if flash else "materialised"
        if stack.attention != kind:
            stack = stack.model_copy(update={"attention": kind})
    return stack


def _scope(row: Row) -> str:
    notes = row.lower("notes")
    if "per-layer" in notes or "one layer" in row.lower("model"):
        return "layer"
    return "passes" if re.search(r"no optimizer|without optimizer", notes) else "step"


def published_path() -> Path:
    """The table of published training steps that comes with the project."""
    packaged = Path(str(resources.files("perfmodel"))) / "_published" / PUBLISHED
    return (
        packaged
        if packaged.is_file()
        else (Path(__file__).resolve().parents[2] / "validate" / "published" / PUBLISHED)
    )


def score_training(path: str | Path | None = None) -> TrainingReport:
    """Predict every row of a table of measured training steps.

    Parameters
    ----------
    path : str or Path, optional
        A CSV with the columns of ``validate/published/training_published.csv``, in any order, any
        of them missing but what says what ran where; the published table itself by default.

    Raises
    ------
    WorkloadError
        If the file is no such table. A row that cannot be predicted is refused with the reason,
        and the others go on.
    """
    rows = read_rows(published_path() if path is None else path)
    records: list[Record | None] = [None] * len(rows)
    cases: list[tuple[int, TrainingCase]] = []
    for place, row in enumerate(rows):
        case = express(row)
        if isinstance(case, Refused):
            records[place] = Record.refusal(row, case.error)
        else:
            cases.append((place, case))
    for members in _batches([case for _, case in cases]):
        part = [cases[i] for i in members]
        for (place, _), record in zip(part, _predicted([c for _, c in part]), strict=True):
            records[place] = record
    return TrainingReport(tuple(record for record in records if record is not None))


def _batches(cases: Sequence[TrainingCase]) -> list[list[int]]:
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


def _predicted(cases: Sequence[TrainingCase]) -> list[Record]:
    """Records of cases that share a grid; one that fails takes no other with it."""
    try:
        return _evaluated(cases)
    except PerfmodelError as error:
        if len(cases) == 1:
            return [Record.refusal(cases[0].row, error)]
        return [record for case in cases for record in _predicted([case])]


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
        place = _chosen(case, places, seconds, table)
        if not table.fits[place] and (other := _otherwise(case, table, place)) is not None:
            found = _evaluated([other])
            if found[0].fits:
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
                    name: float(getattr(table.parts, name)[place]) * case.share
                    for name in ("forward", "backward", "recompute", "optimizer", "bubble", "host")
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

    A layout whose weights, gradients and optimizer alone exceed the device cannot have run: then
    they are sharded fully. Recomputation that a row calls custom, or that is not stated, may keep
    activations in host memory.
    """
    memory = table.memory
    states = memory.weights[place] + memory.gradients[place] + memory.optimizer[place]
    if states > table.capacity and all(plan.zero < 3 for plan in case.plans):
        plans = {replace(plan, zero=3, zero_group=None) for plan in case.plans}
        return replace(
            case,
            plans=tuple(sorted(plans, key=repr)),
            assumed=tuple(dict.fromkeys((*case.assumed, "zero_fsdp"))),
        )
    if "recompute" in case.assumed and not any(plan.offload for plan in case.plans):
        plans = {replace(plan, recompute="full", offload=("activations",)) for plan in case.plans}
        return replace(
            case, plans=tuple(sorted(plans, key=repr)), assumed=(*case.assumed, "offload")
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
    found = re.match(r"[a-z]+(?:-oss)?", row.lower("model"))
    return found[0] if found else row.lower("arch") or "unnamed"
