"""Whether tables of measured models can be trusted, before anything is fitted to them."""

from __future__ import annotations

import csv
import hashlib
import tomllib
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

from perfmodel.calibrate.labels import same_chip
from perfmodel.calibrate.programs.rows import (
    ABOUT,
    KERNEL_TABLE,
    STACKS,
    read_kernel_rows,
    read_model_rows,
    tables,
)
from perfmodel.errors import CalibrationError


def check_models(folder: Path, device: str) -> None:
    """Read every table of a folder of measured models, and refuse what cannot be true.

    Parameters
    ----------
    folder : path
        Holds ``cases.csv`` tables, each beside the ``about.toml`` that the harness wrote.
    device : str
        Name of the chip's description; the runs must come from that chip.

    Raises
    ------
    CalibrationError
        If a table is not the one that its sidecar describes, is of another chip, names a case
        twice, or holds a cell that is no number, or none that a step or kernel can have.
    """
    for path in tables(folder):
        about = _about(path.with_name(ABOUT))
        _check_chip(path, about, device)
        for one in (path, path.with_name(KERNEL_TABLE)):
            if one.is_file():
                _check_hash(one, about)
        _check_cases(path)
    read_model_rows(folder)
    _check_kernels(folder)


def _about(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CalibrationError(
            _named(path),
            f"<{error}>",
            "the sidecar that the harness wrote beside the table",
            repair="restore it, or measure again",
        ) from None


def _check_chip(path: Path, about: dict[str, Any], device: str) -> None:
    board = about.get("board")
    said = str(board.get("name", "")) if isinstance(board, dict) else ""
    if not same_chip(said, device):
        raise CalibrationError(
            f"{_named(path.with_name(ABOUT))}: board.name",
            said,
            f"the chip that is being calibrated, {device}",
            repair="name the device that was measured, or move the run to its own folder",
        )


def _check_hash(path: Path, about: dict[str, Any]) -> None:
    said = about.get("sha256")
    expected = said.get(path.name) if isinstance(said, dict) else None
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if expected != actual:
        raise CalibrationError(
            _named(path),
            f"<sha256 {actual[:12]}...>",
            f"the file that {ABOUT} describes, sha256 {str(expected)[:12]}...",
            repair="the file was cut short or changed after it was measured: restore it",
        )


def _check_cases(path: Path) -> None:
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle, strict=True))
    except (ValueError, csv.Error) as error:
        raise CalibrationError(
            _named(path), f"<{error}>", "comma-separated text", repair="restore the file"
        ) from None
    for number, row in enumerate(rows, start=2):
        where = f"{_named(path)}:{number}"
        if None in row or None in row.values():
            raise CalibrationError(
                where,
                "<more or fewer cells than the header>",
                "one cell a column",
                repair="the file was cut short or edited: restore it",
            )
        if row.get("step_us") and row.get("mode") not in STACKS:
            raise CalibrationError(
                f"{where}: mode",
                row.get("mode"),
                ", ".join(STACKS),
                repair="restore the word",
            )
    needed = ("case", "mode", "step_us")
    missing = [name for name in needed if not rows or name not in rows[0]]
    if missing:
        raise CalibrationError(
            f"{_named(path)}: header",
            f"<no {', '.join(missing)}>" if rows else "<no rows>",
            "the columns that validate/bench/models writes",
            repair="restore the first line of the file",
        )
    for case, count in Counter(row["case"] for row in rows).items():
        if count > 1:
            raise CalibrationError(
                _named(path),
                f"<{case} {count} times>",
                "every case once a run",
                repair="remove the copies, and write a new sidecar",
            )


def _check_kernels(folder: Path) -> None:
    try:
        for row in read_kernel_rows(folder):
            if not (row.count > 0 and 0.0 <= row.total_s < 1e4):
                raise ValueError(f"{row.case}: {row.count} kernels of {row.total_s} s")
    except (OSError, EOFError, zlib.error, KeyError, ValueError, TypeError, csv.Error) as error:
        raise CalibrationError(
            _named(folder / KERNEL_TABLE),
            f"<{error}>",
            "compressed tables of profiled kernels, as validate/bench/models writes them",
            repair="restore the table, or measure again",
        ) from None


def _named(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
