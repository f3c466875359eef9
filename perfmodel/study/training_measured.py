"""What a row measured, as the time of one step and a peak of memory.

A step time is taken as it stands; otherwise it follows from a rate, in the convention that the row
itself names: tokens or samples a second, FLOP/s by its own count of FLOPs, MFU, HFU.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from perfmodel.errors import PerfmodelError
from perfmodel.hardware import Accelerator
from perfmodel.study.training_csv import Row
from perfmodel.workload.transformer import ModelConfig, hardware_flops, model_flops


@dataclass(frozen=True, slots=True)
class Measured:
    """A measured step.

    Parameters
    ----------
    step_time_s : float or None
        One step of the row's own batch [s].
    source : str
        Which column it comes from.
    peak_memory : float or None
        Of one device [B].
    memory_unit : float
        Bytes in the row's "GB": some tables print GiB and say so.
    assumed : tuple of str
        Conventions that were filled in.
    """

    step_time_s: float | None
    source: str
    peak_memory: float | None
    memory_unit: float
    assumed: tuple[str, ...] = ()


def measured_of(
    row: Row, model: ModelConfig, accelerator: Accelerator, batch: int, seq_len: int
) -> Measured:
    """The measured step of a row, for a batch of that many sequences."""
    unit = 2.0**30 if re.search(r"\bgib\b", row.lower("notes")) else 1e9
    memory = row.number("peak_mem_gb")
    peak = None if memory is None else memory * unit
    seconds, source, assumed = _seconds(row, model, accelerator, batch, seq_len)
    return Measured(seconds, source, peak, unit, assumed)


def _seconds(
    row: Row, model: ModelConfig, accelerator: Accelerator, batch: int, seq_len: int
) -> tuple[float | None, str, tuple[str, ...]]:
    chips = row.count("chips_total") or 1
    if (seconds := row.number("step_time_s")) is not None:
        return seconds, "step_time_s", ()
    if (tokens := row.number("tokens_per_s_per_chip")) is not None:
        return (
            batch * (row.count("seq_len") or seq_len) / (tokens * chips),
            ("tokens_per_s_per_chip"),
            (),
        )
    if (samples := row.number("samples_per_s")) is not None:
        return batch / samples, "samples_per_s", ()
    words = row.lower("tflops_def")
    again = re.search(r"recompute|hardware", words) is not None and not re.search(
        r"no recompute|without recompute|recompute not|recompute likely|no recompute", words
    )
    assumed = (
        () if words and "not re" not in words and "as printed" not in words else ("tflops_def",)
    )
    causal = "counted half" in words or ("causal" in words and "non-causal" not in words)
    if (rate := row.number("tflops_per_chip")) is not None:
        flops = _flops(model, seq_len, batch, again=again, causal=causal)
        return flops / (rate * 1e12 * chips), "tflops_per_chip", assumed
    stated = re.search(r"(\d+(?:\.\d+)?) ?tflop", words)
    try:
        peak = float(stated[1]) * 1e12 if stated else accelerator.peak("bf16")
    except PerfmodelError:
        peak = accelerator.peak("fp16")
    for column, counts_again in (("mfu_pct", False), ("hfu_pct", True)):
        share = row.number(column)
        if share is not None:
            flops = _flops(model, seq_len, batch, again=counts_again, causal=causal)
            return flops / (share / 100 * peak * chips), column, assumed
    return None, "", ()


def _flops(model: ModelConfig, seq_len: int, batch: int, *, again: bool, causal: bool) -> float:
    if again:
        return float(hardware_flops(model, seq_len, batch, "full", causal=causal))
    return float(model_flops(model, seq_len, batch, causal=causal))
