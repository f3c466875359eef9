"""A measured answer of a decoder, read from a row, as a question that :func:`infer` answers.

One batch on one replica: what waits in a queue, is spread over pipeline stages or is answered by
several replicas is refused with the reason, and so is what the model of inference does not know.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from perfmodel.errors import PerfmodelError, WorkloadError, nearest_name
from perfmodel.hardware import Accelerator, Cluster, load_accelerator
from perfmodel.study.training_cluster import accelerator_name, machine_of, unplaced
from perfmodel.study.training_csv import MODEL_COUNTS, Columns, Row
from perfmodel.study.training_model import model_of
from perfmodel.study.training_words import precisions
from perfmodel.workload.transformer import ModelConfig

INFERENCE: Final = Columns(
    what="answers of a batch",
    texts=(
        "row_id", "source_id", "model", "arch", "phase", "weight_dtype", "act_dtype", "kv_dtype",
        "chip", "interconnect", "software", "quality", "inferred_fields", "source", "url", "notes",
    ),
    counts=(
        *MODEL_COUNTS, "batch", "concurrency", "input_len", "output_len", "beam", "tp", "pp", "dp",
        "ep", "chips_total",
    ),
    numbers=(
        "params_b", "chip_mem_gb", "latency_ms", "ttft_ms", "tpot_ms", "tok_s_total",
        "tok_s_per_chip", "samples_s", "mfu_pct", "peak_mem_gb", "avg_power_frac_tdp",
    ),
    needed=("chip", "batch"),
    zeros=("input_len", "output_len"),
)  # fmt: skip
PHASES: Final = ("prefill", "decode", "prefill+decode")
_ALONE: Final = {
    "concurrency": "requests that are answered as they come",
    "beam": "beams that share a prompt",
    "pp": "stages that a batch passes",
    "dp": "replicas beside each other",
    "ep": "experts apart from the rest",
}
"""Columns that say more than one batch on one replica where they are above 1."""
_FORMATS: Final = {
    "fp8": "fp8_e4m3", "int8": "int8", "bf16": "bf16", "fp16": "fp16", "fp32": "fp32",
    "tf32": "fp32",
}  # fmt: skip
"""Of a cache, by the words of tables."""


@dataclass(frozen=True, slots=True)
class InferenceCase:
    """A row as a question.

    Parameters
    ----------
    row : Row
        Where it comes from.
    model : ModelConfig
        What answers.
    device : Accelerator or Cluster
        The devices of its replica.
    asked : dict
        Further arguments of :func:`~perfmodel.parallel.inference.infer`.
    quantity : str
        Field of the answer that was measured: ``ttft_s``, ``tpot_s`` or ``e2e_s``.
    measured_s : float or None
        The measurement [s]; ``measured_from`` names its column.
    assumed : tuple of str
        Columns that were filled in.
    """

    row: Row
    model: ModelConfig
    device: Accelerator | Cluster
    asked: dict[str, Any]
    quantity: str
    measured_s: float | None
    measured_from: str
    assumed: tuple[str, ...]


def express(row: Row) -> InferenceCase:
    """A row as a model, the devices of a replica, and a batch.

    Raises
    ------
    PerfmodelError
        If it is no batch that is answered on its own, or says too little.
    """
    if row.faults:
        raise row.faults[0]
    phase = _phase(row)
    for column, what in _ALONE.items():
        if (row.count(column) or 1) > 1:
            raise _refused(row, column, row.count(column), f"1 or blank: {what} are not priced")
    batch = _needed(row, "batch")
    prompt = _needed(row, "input_len", zero=phase == "decode")
    steps = 1 if phase == "prefill" else _needed(row, "output_len")
    model, assumed = model_of(row, prompt + steps)
    if model.architecture != "decoder":
        raise _refused(row, "model", row.text("model"), "a decoder, which answers token by token")
    device, filled = _replica(row)
    words, formats = _formats(row)
    if not row.text("software"):
        words = (*words, "software")
    measured, source = _measured(row, phase, batch, prompt, steps)
    return InferenceCase(
        row,
        model,
        device,
        {
            "batch_size": batch,
            "prompt_len": max(prompt, 1),
            # Every token of a decoding phase is a step; a prompt yields the first on its own.
            "output_len": steps + 1 if phase == "decode" else steps,
            "tp": row.count("tp") or 1,
            "stack": "torch-eager" if "eager" in row.lower("software") else "vllm-like",
        }
        | formats,
        _quantity(phase, source),
        measured,
        source,
        tuple(dict.fromkeys((*assumed, *filled, *words))),
    )


def _phase(row: Row) -> str:
    phase = row.lower("phase").replace(" ", "")
    if not phase:
        return "prefill+decode" if row.count("output_len") else "prefill"
    if phase not in PHASES:
        raise WorkloadError(
            f"{row.where}: phase",
            row.text("phase"),
            ", ".join(PHASES),
            nearest=nearest_name(phase, PHASES),
            repair="correct it, or leave the row out: other phases are no batch of a decoder",
        )
    return phase


def _needed(row: Row, column: str, *, zero: bool = False) -> int:
    value = row.count(column)
    if value is None or (value == 0 and not zero):
        raise _refused(row, column, "<blank>" if value is None else 0, "a whole number above 0")
    return value


def _replica(row: Row) -> tuple[Accelerator | Cluster, tuple[str, ...]]:
    """The devices that share a replica."""
    tp = row.count("tp") or 1
    stated = row.count("chips_total")
    if stated is not None and stated != tp:
        raise _refused(row, "chips_total", stated, f"tp = {tp}, the devices of one replica")
    if tp == 1:
        return load_accelerator(accelerator_name(row)), ()
    try:
        machine = machine_of(replace(row, numbers=row.numbers | {"chips_total": float(tp)}))
    except PerfmodelError as error:
        raise (error if error.where.startswith("row ") else unplaced(row, error)) from None
    return machine.cluster, machine.assumed


def _formats(row: Row) -> tuple[tuple[str, ...], dict[str, str]]:
    """Arguments of the number formats, and the columns that were filled in."""
    weights = precisions(row.text("weight_dtype"))
    if row.text("weight_dtype") and len(weights) != 1:
        raise _refused(row, "weight_dtype", row.text("weight_dtype"), "one format of products")
    wide = precisions(row.text("act_dtype")) or weights
    if wide != weights:
        raise _refused(
            row,
            "act_dtype",
            row.text("act_dtype"),
            f"{row.text('weight_dtype') or 'blank'}: products unpack no weights here",
        )
    cache = precisions(row.text("kv_dtype"))
    if cache and cache[0] not in _FORMATS:
        raise _refused(row, "kv_dtype", row.text("kv_dtype"), ", ".join(_FORMATS))
    narrow = weights and weights[0] in ("fp8", "fp4", "int8")
    usual = weights[0] if weights and not narrow else "bf16"
    blank = [name for name in ("weight_dtype", "kv_dtype") if not row.text(name)]
    kept = _FORMATS[cache[0] if cache else usual]
    return tuple(blank), {"precision": weights[0] if weights else "bf16", "kv_dtype": kept}


def _measured(
    row: Row, phase: str, batch: int, prompt: int, steps: int
) -> tuple[float | None, str]:
    """What the row timed [s], and the column that says so."""
    rate = row.number("tok_s_total") or 0.0
    each = {"prefill": batch * prompt, "decode": batch, "prefill+decode": batch * steps}[phase]
    latency = row.number("latency_ms")
    if phase == "decode" and latency is not None:
        latency /= steps
    tried = {
        "prefill": (("ttft_ms", row.number("ttft_ms")), ("latency_ms", latency)),
        "decode": (("tpot_ms", row.number("tpot_ms")), ("latency_ms", latency)),
        "prefill+decode": (
            ("latency_ms", latency),
            ("ttft_ms", row.number("ttft_ms")),
            ("tpot_ms", row.number("tpot_ms")),
        ),
    }[phase]
    for column, value in tried:
        if value is not None:
            return value * 1e-3, column
    return (each / rate, "tok_s_total") if rate else (None, "")


def _quantity(phase: str, source: str) -> str:
    if phase == "prefill+decode" and source in ("ttft_ms", "tpot_ms"):
        return source.replace("_ms", "_s")
    return {"prefill": "ttft_s", "decode": "tpot_s", "prefill+decode": "e2e_s"}[phase]


def _refused(row: Row, column: str, got: object, accepted: str) -> WorkloadError:
    return WorkloadError(
        f"{row.where}: {column}", got, accepted, repair=f"correct {column}, or leave the row out"
    )
