"""Coefficients of whole programs from measured models."""

from perfmodel.calibrate.programs.fit import fit_programs
from perfmodel.calibrate.programs.measured import Measured
from perfmodel.calibrate.programs.paces import (
    assumed_paces,
    behind_pace,
    hosts_of,
    issue_pace,
    row_pace,
)
from perfmodel.calibrate.programs.rows import ModelRow, program_path, read_model_rows
from perfmodel.calibrate.programs.store import write_program_file

__all__ = [
    "Measured",
    "ModelRow",
    "assumed_paces",
    "behind_pace",
    "fit_programs",
    "hosts_of",
    "issue_pace",
    "program_path",
    "read_model_rows",
    "row_pace",
    "write_program_file",
]
