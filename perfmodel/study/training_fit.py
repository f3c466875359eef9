"""Fit the pace of every stack and architecture on the tuning half of the published steps.

``python -m perfmodel.study.training_fit`` writes ``hardware_specs/efficiency/stacks.toml``. With
``C`` the predicted kernel time of a step and ``R`` the rest of it, the pace of one row is
``(measured - R) / C``; that of a group is the median of its rows. Groups of fewer than four rows,
and those whose rows do not agree (the middle four fifths of them hold 1), keep a pace of 1.
"""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from perfmodel.cost.efficiency import efficiency_folder
from perfmodel.errors import PerfmodelError
from perfmodel.files import write_text
from perfmodel.hardware import load_accelerator
from perfmodel.parallel.pace import pace
from perfmodel.study.scores import TUNE
from perfmodel.study.training_cluster import accelerator_name
from perfmodel.study.training_convnet import network_of
from perfmodel.study.training_csv import read_rows
from perfmodel.study.training_report import Record
from perfmodel.study.training_rows import published_path, score_training
from perfmodel.workload.stack import bundled_stacks

FEWEST: Final = 4
AGREEING: Final = (0.1, 0.9)
"""Quantiles between which 1 must not lie."""
KERNELS: Final = ("forward", "backward", "recompute")


def fit_pace(
    records: Iterable[Record], architecture: Mapping[str, str]
) -> dict[str, dict[str, tuple[float, int]]]:
    """Pace and number of rows, by stack and architecture.

    Parameters
    ----------
    records : iterable of Record
        Scored rows; only the tuning half is read.
    architecture : mapping of str to str
        Row identifier -> family of its chip.
    """
    groups: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for one in records:
        family = architecture.get(one.row_id)
        if one.split != TUNE or one.quality.startswith("C") or not one.parts or family is None:
            continue
        if one.measured_s is None or one.step_time_s is None:
            continue
        kernels = sum(one.parts.get(name, 0.0) for name in KERNELS)
        rest = one.step_time_s - kernels
        if kernels > 0.5 * one.step_time_s and one.measured_s > rest:
            alone = kernels / pace(one.stack, family)
            groups[one.stack, family].append((one.measured_s - rest) / alone)
    found: dict[str, dict[str, tuple[float, int]]] = {}
    for (stack, family), values in sorted(groups.items()):
        middle = float(np.median(values))
        low, high = np.quantile(values, AGREEING)
        if len(values) >= FEWEST and not low <= 1.0 <= high and stack in bundled_stacks():
            found.setdefault(stack, {})[family] = (middle, len(values))
    return found


def architectures(path: Path) -> dict[str, str]:
    """Row identifier -> family of its chip, for the rows whose chip is known.

    Convolutional networks are priced kernel by kernel in their own way and take no stack's pace.
    """
    found = {}
    for row in read_rows(path):
        if network_of(row) is not None:
            continue
        try:
            found[row.text("row_id")] = load_accelerator(accelerator_name(row)).family
        except PerfmodelError:
            continue
    return found


def main() -> int:
    """Fit, write, and show what was found."""
    path = published_path()
    found = fit_pace(score_training(path).records, architectures(path))
    lines = [
        "# Written by `python -m perfmodel.study.training_fit`; do not edit.",
        "# Kernel time inside a step over kernel time alone; rows of the tuning half behind it.",
        f'rows_sha256 = "{hashlib.sha256(path.read_bytes()).hexdigest()}"',
    ]
    for stack, row in found.items():
        lines += ["", f'[pace."{stack}"]']
        lines += [f"{family} = {value:.3f}  # {rows} rows" for family, (value, rows) in row.items()]
    write_text(efficiency_folder() / "stacks.toml", "\n".join(lines) + "\n")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
