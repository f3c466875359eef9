"""Whole convolutional networks replayed as CUDA graphs on an H100, measured and predicted.

Two predictions stand beside each measurement: that of the network's recorded program, the way of
any PyTorch model (:mod:`perfmodel.study.programs`), and that of the bundled network, whose kernels
are added up (:mod:`perfmodel.study.convnets_graph`). Coefficients of both were fitted on the half
of the models that a hash of the name picks.

``python -m perfmodel.study.convnets_measured [CHIP]`` writes ``docs/accuracy/convnets_graph.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perfmodel.calibrate.programs import ModelRow
from perfmodel.cost.program.coefficients import ProgramCoefficients
from perfmodel.errors import PerfmodelError
from perfmodel.files import write_text
from perfmodel.hardware import Accelerator, load_accelerator
from perfmodel.study.convnets import infer_convnet
from perfmodel.study.convnets_graph_fit import NETWORKS
from perfmodel.study.programs import Record, measured_cases, records
from perfmodel.study.programs_fit import folders
from perfmodel.study.scores import REPORT, TUNE, Score, score

OTHERS: Final = ("googlenet", "unet2d", "unet3d", "espcn", "condensenet", "shufflenet_v1")
"""Measured networks whose bundled namesake differs in some layers: their programs alone."""
WORDS: Final = "## What is behind the errors"


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
    bundled_s : float or None
        The sum of the kernels of the bundled network [s].
    """

    network: str
    batch: int
    dtype: str
    layout: str
    split: str
    measured_s: float
    program_s: float
    bundled_s: float | None

    @property
    def error(self) -> float:
        """Of the program, signed, as a fraction."""
        return self.program_s / self.measured_s - 1.0

    @property
    def bundled_error(self) -> float | None:
        """Of the bundled network, signed, as a fraction."""
        return None if self.bundled_s is None else self.bundled_s / self.measured_s - 1.0


def is_convnet(row: ModelRow) -> bool:
    """Whether a measured row is a convolutional network's inference, replayed as a graph."""
    known = row.model in NETWORKS or row.model in OTHERS
    return known and row.kind == "infer" and row.mode == "graph"


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
    name, bundled = NETWORKS.get(row.model), None
    if name is not None:
        step = infer_convnet(name, accelerator, row.batch, dtype=row.dtype, layout=layout)
        bundled = step.step_seconds
    return NetworkRow(
        row.model, row.batch, row.dtype, layout, record.split, row.step_s, record.predicted_s,
        bundled,
    )  # fmt: skip


def network_scores(rows: Iterable[NetworkRow]) -> dict[tuple[str, str], Score]:
    """Errors by prediction (``"program"``, ``"bundled"``) and half."""
    rows = list(rows)
    table = {}
    for half in (REPORT, TUNE):
        mine = [row for row in rows if row.split == half]
        summed = [row for row in mine if row.bundled_s is not None]
        for name, kept, predicted in (
            ("program", mine, [row.program_s for row in mine]),
            ("bundled", summed, [row.bundled_s or 0.0 for row in summed]),
        ):
            one = score(predicted, [row.measured_s for row in kept])
            if one is not None:
                table[name, half] = one
    return table


def markdown(found: Mapping[str, Sequence[NetworkRow]], words: str = "") -> str:
    """A page with the tables of all chips; `words` stands behind them."""
    lines = [
        "# Accuracy: convolutional networks replayed as CUDA graphs",
        "",
        "Latency of one inference step, PyTorch's eager kernels captured as a CUDA graph",
        "(`validate/bench/models`, protocol in the sidecars), beside two predictions. *Program*:",
        "the network recorded by `perfmodel.trace`. *Bundled*: the network of the same name that",
        "is shipped, its kernels added up. Coefficients of both were fitted on the networks marked",
        "`tune` (programs: on other kinds of models too), none on those marked `report`. Reproduce",
        "with `python -m perfmodel.study.convnets_measured`.",
        "",
    ]
    seen = {REPORT: "networks that no fit read", TUNE: "networks of the fit"}
    for chip, rows in found.items():
        lines += [f"## {chip}", "", "| prediction | rows | MAPE % | bias % | p90 % | worst % |"]
        lines += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
        for (name, half), one in network_scores(rows).items():
            lines.append(
                f"| {name}, {seen[half]} | {one.count} | {100 * one.mape:.1f} |"
                f" {100 * one.bias:+.1f} | {100 * one.p90:.1f} | {100 * one.worst:+.0f} |"
            )
        lines += ["", "| network | half | batch | measured us | program % | bundled % |"]
        lines += ["| --- | --- | ---: | ---: | ---: | ---: |"]
        for row in rows:
            bundled = "" if row.bundled_error is None else f"{100 * row.bundled_error:+.1f}"
            formats = "" if (row.dtype, row.layout) == ("bf16", "nhwc") else (
                f" {row.dtype} {row.layout}"
            )  # fmt: skip
            lines.append(
                f"| {row.network}{formats} | {row.split} | {row.batch} |"
                f" {row.measured_s * 1e6:.1f} | {100 * row.error:+.1f} | {bundled} |"
            )
        lines.append("")
    return "\n".join([*lines, words]).rstrip() + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the page; 0 when it was written."""
    root = Path(__file__).resolve().parents[2]
    page = root / "docs" / "accuracy" / "convnets_graph.md"
    found = {}
    try:
        for chip in arguments or ("h100-sxm5-80gb",):
            measurements, programs = folders(root, chip)
            found[chip] = network_rows(measurements, programs, load_accelerator(chip))
    except PerfmodelError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    kept = page.read_text(encoding="utf-8").partition(WORDS) if page.is_file() else ("", "", "")
    write_text(page, markdown(found, "".join(kept[1:])))
    for chip, rows in found.items():
        for (name, half), one in network_scores(rows).items():
            sys.stdout.write(f"{chip} {name} {half}: {one.count} rows, {one.mape:.1%}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
