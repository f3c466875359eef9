"""Coefficients of whole programs from measured models."""

from perfmodel.calibrate.programs.fit import Measured, fit_programs
from perfmodel.calibrate.programs.rows import ModelRow, program_path, read_model_rows
from perfmodel.calibrate.programs.store import write_program_file

__all__ = [
    "Measured",
    "ModelRow",
    "fit_programs",
    "program_path",
    "read_model_rows",
    "write_program_file",
]
