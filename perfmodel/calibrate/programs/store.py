"""The file of fitted program coefficients: written whole, under another name first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from perfmodel.cost.program.coefficients import MEANINGS, ProgramCoefficients
from perfmodel.files import write_text
from perfmodel.hardware import Accelerator


def write_program_file(
    folder: Path,
    accelerator: Accelerator,
    fitted: ProgramCoefficients,
    *,
    rows: int,
    models: int,
    sha256: str,
    held_out: Mapping[str, tuple[int, float]],
) -> Path:
    """Write ``<folder>/<chip>/program.toml``.

    Parameters
    ----------
    folder : path
        ``hardware_specs/efficiency``.
    accelerator : Accelerator
        Whose models were measured.
    fitted : ProgramCoefficients
        The values.
    rows, models : int
        What the fit read.
    sha256 : str
        Of the measurement file.
    held_out : mapping
        Mode -> rows that the fit did not read, and their mean absolute percentage error.
    """
    lines = [
        "# Written by `python -m perfmodel.study.programs_fit`; do not edit.",
        "# Meanings: docs/models/programs_step.md",
        f'device = "{accelerator.name.lower()}"',
        f'architecture = "{accelerator.family}"',
        f"rows = {rows}",
        f"models = {models}",
        f'measurements_sha256 = "{sha256}"',
        "",
        "[held_out]  # of models that the fit did not read: [rows, mean absolute error in %]",
        *(f'"{mode}" = [{count}, {100 * error:.2f}]' for mode, (count, error) in held_out.items()),
        "",
        "[scalars]",
        *(f"{name} = {fitted.scalars[name]:.6g}" for name in MEANINGS),
        "",
        "[host]  # seconds of one call",
        *(f"{name} = {value:.6g}" for name, value in fitted.host.items()),
        "",
        "[pace]  # kernels inside a model over the same kernels alone",
        *(f'"{name}" = {value:.5g}' for name, value in sorted(fitted.pace.items())),
        "",
        "[floor]  # seconds of one kernel beyond the pace of its kind",
        *(f'"{name}" = {value:.5g}' for name, value in sorted(fitted.floor.items())),
        "",
        "[interval]  # half-width of 90 %, in the logarithm of the step time",
        *(f"{name} = {value:.4g}" for name, value in sorted(fitted.interval.items())),
    ]
    target = folder / accelerator.name.lower() / "program.toml"
    return write_text(target, "\n".join(lines) + "\n")
