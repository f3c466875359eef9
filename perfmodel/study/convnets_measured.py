"""Whole convolutional networks replayed as CUDA graphs, measured and predicted.

Two predictions stand beside each measurement, priced by one model
(:func:`perfmodel.study.own_model.estimate_program`): that of the network's recorded program, the
way of any PyTorch model, and that of the bundled network. Coefficients were fitted on the half of
the models that a hash of the name picks.

``python -m perfmodel.study.convnets_measured [CHIP...]`` writes
``docs/accuracy/convnets_graph.md``.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from perfmodel.calibrate.programs import ModelRow
from perfmodel.cost.program.coefficients import ProgramCoefficients
from perfmodel.errors import PerfmodelError
from perfmodel.files import write_text
from perfmodel.hardware import Accelerator, load_accelerator
from perfmodel.study.convnets import infer_convnet
from perfmodel.study.programs import Record
from perfmodel.study.programs_fit import folders
from perfmodel.study.programs_measured import measured_cases, records
from perfmodel.study.scores import REPORT, TUNE, Score, score

Bundled = tuple[str, int | tuple[int, ...] | None]
NETWORKS: Final[Mapping[str, Bundled]] = MappingProxyType(
    {
        "alexnet": ("alexnet", None),
        "vgg16": ("vgg16", None),
        "googlenet": ("googlenet", None),
        "resnet18": ("resnet18", None),
        "resnet50": ("resnet50", None),
        "resnet101": ("resnet101", None),
        "resnext50_32x4d": ("resnext50-32x4d", None),
        "wide_resnet50_2": ("wide-resnet50-2", None),
        "densenet121": ("densenet121", None),
        "condensenet": ("condensenet-74-whole-head", None),
        "condensenet_86": ("condensenet-142-whole-head", None),
        "condensenet_cifar86": ("condensenet-86", None),
        "shufflenet_v1": ("shufflenet-v1-g3", None),
        "shufflenet_v2_x1_0": ("shufflenet-v2-x1_0", None),
        "mobilenetv1_100": ("mobilenet-v1", None),
        "mobilenet_v2": ("mobilenet-v2", None),
        "mobilenet_v3_large": ("mobilenet-v3-large", None),
        "efficientnet_b0": ("efficientnet-b0", None),
        "efficientnet_b1": ("efficientnet-b1", None),
        "efficientnet_b2": ("efficientnet-b2", 288),
        "efficientnet_b3": ("efficientnet-b3", None),
        "efficientnet_b4": ("efficientnet-b4", None),
        "regnet_x_3_2gf": ("regnet-x_3_2gf", None),
        "regnety_040": ("regnet-y_4gf", None),
        "convnext_tiny": ("convnext-tiny", None),
        "unet2d": ("unet-2d-norm", None),
        "unet3d": ("unet-3d-norm", None),
        "espcn": ("espcn", (360, 640)),
        "resnet34": ("resnet34", None),
        "densenet201": ("densenet201", None),
        "resnext101_32x8d": ("resnext101-32x8d", None),
        "wide_resnet101_2": ("wide-resnet101-2", None),
        "shufflenet_v2_x1_5": ("shufflenet-v2-x1_5", None),
        "mobilenet_v3_small": ("mobilenet-v3-small", None),
        "regnet_y_1_6gf": ("regnet-y_1_6gf", None),
        "regnet_x_800mf": ("regnet-x_800mf", None),
        "convnext_small": ("convnext-small", None),
    }
)
"""Measured name -> bundled network of the same layers, and the side of its image."""
CHIPS: Final = ("h100-sxm5-80gb", "h200-sxm-141gb")
WORDS: Final = "## What is behind the errors"
FROZEN: Final = "convnets_frozen.csv"
"""Predictions of the coefficients of the runs before, written down when networks came in."""
FITS: Final = MappingProxyType(
    {
        1: "by the first fit, which knew nothing of groups without a kernel",
        2: "by the fit before groups and copies were profiled at batch 64",
        3: "by the last fit",
    }
)
"""The fits that networks were first predicted by."""


@dataclass(frozen=True, slots=True)
class NetworkRow:
    """A network at a batch size.

    Parameters
    ----------
    network : str
        Its measured name.
    batch : int
        Images.
    dtype, layout : str
        Formats.
    split : str
        ``"tune"`` where the coefficients of programs may have seen the network.
    measured_s, program_s : float
        A replay as measured, and as predicted from the recorded program [s].
    bundled_s : float
        As predicted from the bundled network [s].
    """

    network: str
    batch: int
    dtype: str
    layout: str
    split: str
    measured_s: float
    program_s: float
    bundled_s: float

    @property
    def error(self) -> float:
        """Of the program, signed, as a fraction."""
        return self.program_s / self.measured_s - 1.0

    @property
    def bundled_error(self) -> float:
        """Of the bundled network, signed, as a fraction."""
        return self.bundled_s / self.measured_s - 1.0


def is_convnet(row: ModelRow) -> bool:
    """Whether a measured row is a convolutional network's inference, replayed as a graph."""
    return row.model in NETWORKS and row.kind == "infer" and row.mode == "graph"


def network_rows(
    measurements: Path,
    programs: Path,
    accelerator: Accelerator,
    *,
    coefficients: ProgramCoefficients | None = None,
) -> list[NetworkRow]:
    """Measured networks with both predictions, by name and batch.

    Parameters
    ----------
    measurements, programs : path
        Folders of measured models and of recorded programs.
    accelerator : Accelerator
        The device.
    coefficients : ProgramCoefficients, optional
        Of programs; the shipped ones by default.

    Raises
    ------
    CalibrationError
        If there is no table of measured models, or a row cannot be read.
    """
    cases, _ = measured_cases(measurements, programs, accelerator, chosen=is_convnet)
    found = records(cases, accelerator, coefficients=coefficients)
    rows = [_row(case.row, record, accelerator) for case, record in zip(cases, found, strict=True)]
    return sorted(rows, key=lambda row: (row.network, row.dtype, row.layout, row.batch))


def _row(row: ModelRow, record: Record, accelerator: Accelerator) -> NetworkRow:
    layout = row.case.split("/")[6]
    name, size = NETWORKS[row.model]
    step = infer_convnet(
        name, accelerator, row.batch, image_size=size, dtype=row.dtype, layout=layout
    )
    return NetworkRow(
        row.model, row.batch, row.dtype, layout, record.split, row.step_s, record.predicted_s,
        step.step_seconds,
    )  # fmt: skip


def network_scores(rows: Iterable[NetworkRow]) -> dict[tuple[str, str], Score]:
    """Errors by prediction (``"program"``, ``"bundled"``) and half."""
    rows = list(rows)
    table = {}
    for half in (REPORT, TUNE):
        mine = [row for row in rows if row.split == half]
        for name, predicted in (
            ("program", [row.program_s for row in mine]),
            ("bundled", [row.bundled_s for row in mine]),
        ):
            one = score(predicted, [row.measured_s for row in mine])
            if one is not None:
                table[name, half] = one
    return table


@dataclass(frozen=True, slots=True)
class First:
    """Errors of the program and of the bundled network when a row came in, and by which fit."""

    program: float
    bundled: float | None
    fit: int


def frozen_errors(path: Path) -> dict[tuple[str, str, int], First]:
    """Errors as first predicted, by chip, network and batch."""
    with path.open(encoding="utf-8", newline="") as file:
        return {
            (row["chip"], row["network"], int(row["batch"])): First(
                float(row["program_us"]) / float(row["measured_us"]) - 1.0,
                float(row["bundled_us"]) / float(row["measured_us"]) - 1.0
                if row["bundled_us"]
                else None,
                int(row["fit"]),
            )
            for row in csv.DictReader(file)
        }


def markdown(
    found: Mapping[str, Sequence[NetworkRow]],
    words: str = "",
    frozen: Mapping[tuple[str, str, int], First] | None = None,
) -> str:
    """A page with the tables of all chips; `words` stands behind them."""
    frozen = frozen or {}
    lines = [
        "# Accuracy: convolutional networks replayed as CUDA graphs",
        "",
        "Latency of one inference step, PyTorch's eager kernels captured as a CUDA graph",
        "(`validate/bench/models`, protocol in the sidecars), beside two predictions. *Program*:",
        "the network recorded by `perfmodel.trace`. *Bundled*: the network of the same name that",
        "is shipped, written as the operators that PyTorch dispatches. One model prices both, and",
        "both have the same kernels but for sums and activations that are in place or not.",
        "Coefficients were fitted on models marked `tune`, networks and others, not on `report`.",
        "*First*: the program's error when the network was first measured, with the coefficients",
        f"of the runs before ([{FROZEN}]({FROZEN})): no fit had seen these networks then.",
        "Reproduce with `python -m perfmodel.study.convnets_measured`.",
        "",
    ]
    seen = {REPORT: "networks that no fit read", TUNE: "networks of the fit"}
    for chip, rows in found.items():
        lines += [f"## {chip}", "", "| prediction | rows | MAPE % | bias % | p90 % | worst % |"]
        lines += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
        for (name, half), one in network_scores(rows).items():
            lines.append(_line(f"{name}, {seen[half]}", one))
        lines += _first_lines([one for (on, _, _), one in frozen.items() if on == chip])
        lines += ["", "| network | half | batch | measured us | first % | program % | bundled % |"]
        lines += ["| --- | --- | ---: | ---: | ---: | ---: | ---: |"]
        for row in rows:
            before = frozen.get((chip, row.network, row.batch))
            first_error = "" if before is None else f"{100 * before.program:+.1f}"
            formats = "" if (row.dtype, row.layout) == ("bf16", "nhwc") else (
                f" {row.dtype} {row.layout}"
            )  # fmt: skip
            lines.append(
                f"| {row.network}{formats} | {row.split} | {row.batch} |"
                f" {row.measured_s * 1e6:.1f} | {first_error} | {100 * row.error:+.1f} |"
                f" {100 * row.bundled_error:+.1f} |"
            )
        lines.append("")
    return "\n".join([*lines, words]).rstrip() + "\n"


def _first_lines(first: Sequence[First]) -> list[str]:
    """A row for each fit that networks were first predicted by, and for either prediction."""
    lines = []
    for fit, words in FITS.items():
        mine = [one for one in first if one.fit == fit]
        for name, errors in (
            ("program", [one.program for one in mine]),
            ("bundled", [one.bundled for one in mine if one.bundled is not None]),
        ):
            found = score([1.0 + error for error in errors], [1.0] * len(errors))
            if found is not None:
                lines.append(_line(f"{name}, first, {words}", found))
    return lines


def _line(name: str, one: Score) -> str:
    return (
        f"| {name} | {one.count} | {100 * one.mape:.1f} | {100 * one.bias:+.1f} |"
        f" {100 * one.p90:.1f} | {100 * one.worst:+.0f} |"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; 0 when it was written."""
    parser = argparse.ArgumentParser(prog="perfmodel.study.convnets_measured", description=__doc__)
    parser.add_argument("chips", nargs="*", default=CHIPS, metavar="CHIP")
    chips = parser.parse_args(arguments).chips
    root = Path(__file__).resolve().parents[2]
    page = root / "docs" / "accuracy" / "convnets_graph.md"
    found = {}
    try:
        for chip in chips:
            measurements, programs = folders(root, chip)
            found[chip] = network_rows(measurements, programs, load_accelerator(chip))
    except PerfmodelError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    kept = page.read_text(encoding="utf-8").partition(WORDS) if page.is_file() else ("", "", "")
    first = page.with_name(FROZEN)
    frozen = frozen_errors(first) if first.is_file() else {}
    write_text(page, markdown(found, "".join(kept[1:]), frozen))
    for chip, rows in found.items():
        for (name, half), one in network_scores(rows).items():
            sys.stdout.write(f"{chip} {name} {half}: {one.count} rows, {one.mape:.1%}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
