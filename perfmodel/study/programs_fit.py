"""Fit the coefficients of programs on half of the measured models, and report on the other half.

``python -m perfmodel.study.programs_fit CHIP`` reads ``validate/measurements/CHIP/models`` and
``validate/programs`` and writes ``hardware_specs/efficiency/CHIP/program.toml``; the name of a
model decides its half.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from perfmodel.calibrate.programs import Measured, fit_programs, write_program_file
from perfmodel.calibrate.programs.rows import tables
from perfmodel.calibrate.programs.sound import check_models
from perfmodel.cost.efficiency import efficiency_folder
from perfmodel.cost.program.coefficients import ProgramCoefficients, load_program_coefficients
from perfmodel.errors import PerfmodelError
from perfmodel.hardware import Accelerator, load_accelerator
from perfmodel.study.programs import Record, time_scores
from perfmodel.study.programs_measured import measured_cases, part_of, records
from perfmodel.study.scores import REPORT, TUNE, Score


def fit_and_score(
    cases: Sequence[Measured], accelerator: Accelerator, start: ProgramCoefficients
) -> tuple[ProgramCoefficients, list[Record]]:
    """Coefficients from the tuning half, and records of all cases with them."""
    tuning = [one for one in cases if part_of(one.row) == TUNE]
    # Of the rows of a check, their probes alone: what paces hosts have.
    fitted = fit_programs(tuning, start, device=accelerator.name.lower(), hosts=cases)
    return fitted, records(cases, accelerator, coefficients=fitted)


def folders(root: Path, chip: str) -> tuple[Path, Path]:
    """Where measured models of a chip, and recorded programs, lie in a source tree."""
    return root / "validate" / "measurements" / chip / "models", root / "validate" / "programs"


def fit_chip(
    cases: Sequence[Measured], accelerator: Accelerator, measurements: Path
) -> list[Record]:
    """Fit a chip on the tuning half, write its file, answer records of all cases with it.

    Parameters
    ----------
    cases : sequence of Measured
        All measured steps.
    accelerator : Accelerator
        The chip.
    measurements : path
        The folder of the tables that they came from.
    """
    name = accelerator.name.lower()
    start = load_program_coefficients(name, accelerator.family, measured=False)
    fitted, found = fit_and_score(cases, accelerator, start)
    held = time_scores([one for one in found if one.split == REPORT], lambda one: one.mode)
    tuning = [one for one in cases if part_of(one.row) == TUNE]
    content = b"".join(one.read_bytes() for one in tables(measurements))
    write_program_file(
        efficiency_folder(),
        accelerator,
        fitted,
        rows=len(tuning),
        models=len({one.row.model for one in tuning}),
        sha256=hashlib.sha256(content).hexdigest(),
        held_out={mode: (one.count, one.mape) for mode, one in held.items()},
    )
    return found


def fit_folder(measurements: Path, programs: Path, chip: str) -> tuple[dict[str, Score], int, int]:
    """Fit a chip to a folder of measured models and write its file.

    Returns
    -------
    held : dict of str to Score
        Mode -> errors of the models that the fit did not read.
    priced, refused : int
        Rows with and without a price.
    """
    accelerator = load_accelerator(chip)
    check_models(measurements, accelerator.name.lower())
    cases, refused = measured_cases(measurements, programs, accelerator)
    found = fit_chip(cases, accelerator, measurements)
    held = time_scores([one for one in found if one.split == REPORT], lambda one: one.mode)
    return held, len(cases), len(refused)


def main(arguments: Sequence[str]) -> int:
    """Fit one chip; 0 when its file was written."""
    parser = argparse.ArgumentParser(
        prog="python -m perfmodel.study.programs_fit",
        description="Fit the coefficients of whole programs on half of a chip's measured models.",
    )
    parser.add_argument(
        "chip", nargs="?", default="h100-sxm5-80gb", help="whose models (default: %(default)s)"
    )
    root = Path(__file__).resolve().parents[2]
    chip = parser.parse_args(arguments).chip
    try:
        held, priced, refused = fit_folder(*folders(root, chip), chip)
    except PerfmodelError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{priced} rows; {refused} could not be priced\n")
    for mode, one in held.items():
        sys.stdout.write(f"  {mode}: {one.count} rows held out, {one.mape:.1%}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
