"""A row of measured training as a model, a cluster and the plans it may mean."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from perfmodel.errors import PerfmodelError, WorkloadError
from perfmodel.hardware import Cluster
from perfmodel.parallel.plan import Plan
from perfmodel.study.training_cluster import machine_of, unplaced
from perfmodel.study.training_convnet import ConvnetCase, express_convnet, network_of
from perfmodel.study.training_csv import Row
from perfmodel.study.training_measured import Measured, measured_of
from perfmodel.study.training_model import model_of
from perfmodel.study.training_plan import layout_of, precision_of
from perfmodel.study.training_words import recomputation, sharding, software, switch
from perfmodel.workload.transformer import ModelConfig, Stack, load_stack

TOKENS: Final = 2**22
"""Tokens in a step whose batch a table leaves out: large batches all run at about one rate."""
_MASKED: Final = {128: 20, 384: 60, 512: 80}
"""Positions that BERT pre-training predicts in a sequence: max_predictions_per_seq."""


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


def express(row: Row) -> TrainingCase | ConvnetCase | Refused:
    """A row as a model, a cluster and plans; or the reason why not."""
    try:
        if row.faults:
            raise row.faults[0]
        network = network_of(row)
        if network is not None and row.count("layers") is None:
            return express_convnet(row, network)
        return _expressed(row)
    except PerfmodelError as error:
        return Refused(row, error)


def _expressed(row: Row) -> TrainingCase:
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
