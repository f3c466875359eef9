"""Pictures of calibrated kernels: prediction against measurement, error against size, roofline."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from perfmodel.calibrate import Record, load_measurements
from perfmodel.hardware import load_accelerator
from perfmodel.report.figures import error_against_size, predicted_against_measured, roofline
from perfmodel.report.style import save
from perfmodel.workload.op import op_from_dict

GROUPS: Final = {
    "matrix products": ("gemm", "grouped_gemm"),
    "attention": ("attention",),
    "convolutions": ("conv",),
    "rows and elements": (
        "rmsnorm",
        "layernorm",
        "softmax",
        "elementwise",
        "fused",
        "rope",
        "embedding",
        "permute",
    ),
    "loss and optimizer": ("cross_entropy", "adamw", "sgd"),
}
"""Kernel names by their beginnings."""
REST: Final = "all others"


def kernel_figures(records: Iterable[Record], chip: str, folder: Path) -> list[Path]:
    """Draw the held-out predictions of one chip; returns the paths."""
    kept = list(records)
    series = {name: [one for one in kept if _group(one.kernel) == name] for name in (*GROUPS, REST)}
    measured = {name: np.array([one.measured_s for one in rows]) for name, rows in series.items()}
    predicted = {name: np.array([one.predicted_s for one in rows]) for name, rows in series.items()}
    drawn = {
        "predicted": predicted_against_measured(
            f"{chip}: held-out predictions",
            measured,
            predicted,
            unit="us",
            scale=1e6,
        ),
        "error": error_against_size(
            f"{chip}: error against duration, held-out folds",
            {name: times * 1e6 for name, times in measured.items()},
            {name: predicted[name] / times - 1.0 for name, times in measured.items()},
            xlabel="measured [us]",
        ),
    }
    return [save(figure, folder / f"{chip}-{name}.svg") for name, figure in drawn.items()]


def _group(kernel: str) -> str:
    return next((name for name, starts in GROUPS.items() if kernel.startswith(starts)), REST)


def measured_roofline(measurements: Path, chip: str) -> Figure:
    """The measured bf16 operators of a chip under its two roofs."""
    accelerator = load_accelerator(chip)
    # A group has the colour here that it has in the other pictures.
    intensity: dict[str, list[float]] = {name: [] for name in (*GROUPS, REST)}
    rate: dict[str, list[float]] = {name: [] for name in (*GROUPS, REST)}
    for row in load_measurements(measurements, chip).rows:
        if row.record.get("dtype") != "bf16":
            continue
        op = op_from_dict(row.record)
        if not op.flops or not op.bytes_moved:
            continue
        name = _group(op.family)
        intensity[name].append(float(op.flops) / float(op.bytes_moved))
        rate[name].append(float(op.flops) / row.seconds)
    return roofline(
        f"{chip}: {sum(map(len, rate.values())):,} measured bf16 operators",
        accelerator.peak("bf16"),
        accelerator.memory_bandwidth,
        intensity,
        rate,
    )
