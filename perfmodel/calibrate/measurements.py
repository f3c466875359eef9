"""Measured operators: read, checked and turned into operators, or refused with a reason.

A folder holds ``*.csv`` files, each with a TOML sidecar of the same name whose ``sha256`` (and
``rows``, where it says) must agree. The order of rows and of columns means nothing. What can be
seen to be wrong is an error, never a row left out in silence: a file that was cut short, a row that
stands twice, a number that is none, a row of another chip, a time that physics forbids.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from perfmodel.calibrate.harness import ABOUT_RUN, FLAGS, TEXT, to_record
from perfmodel.calibrate.labels import check_table, check_words, same_chip
from perfmodel.calibrate.process import fresh_share, settled
from perfmodel.errors import CalibrationError, nearest_name

REQUIRED = ("op", "device", "latency_us")
MODES = ("graph", "eager")
_TELLING = 2
MOST_POWER, MOST_CLOCK = 1e4, 1e4  # of any board [W], [MHz]
Mark = TypeVar("Mark", int, NDArray[np.uint64])
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Row:
    """One measured operator.

    Parameters
    ----------
    record : dict
        The operator as ``op_from_dict`` takes it.
    seconds, fastest, slowest : float
        Median, 10th and 90th percentile [s], in a process that has run everything
        (:mod:`perfmodel.calibrate.process`).
    mode : str
        ``graph`` or ``eager``.
    key : str
        Identity of the operator; the fixed hash that splits the rows is taken of it.
    file : str
        Where it stands.
    power, clock : float or None
        Board power [W] and clock [Hz] while it ran, where they were read.
    """

    record: dict[str, Any]
    seconds: float
    fastest: float
    slowest: float
    mode: str
    key: str
    file: str
    power: float | None = None
    clock: float | None = None

    def fold(self, folds: int) -> int:
        """The part of a split that the row belongs to, by a hash of the operator alone."""
        return fold_of(mark_of(self.key), folds)


def mark_of(key: str) -> int:
    """The first 64 bits of the hash of an operator's key."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:16], 16)


def fold_of(mark: Mark, folds: int) -> Mark:
    """The part of a split that an operator of that mark, or each of an array, belongs to."""
    return mark // 2**32 % folds


@dataclass(frozen=True, slots=True)
class Measurements:
    """Rows of one device, in the order of their keys, with the hash of their files."""

    device: str
    rows: tuple[Row, ...]
    refused: tuple[tuple[str, str], ...]
    sha256: str


def load_measurements(folder: str | Path, device: str) -> Measurements:
    """Every measured operator of a folder.

    Parameters
    ----------
    folder : path
        Holds CSV files with sidecars.
    device : str
        Name of the chip's description, e.g. ``"h100-sxm5-80gb"``; rows must come from that chip.

    Raises
    ------
    CalibrationError
        If a file or a row cannot be trusted.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.csv")) if folder.is_dir() else []
    if not files:
        raise CalibrationError(
            str(folder),
            "<no CSV files>" if folder.is_dir() else "<no such folder>",
            "a folder with CSV files of measured operators and their TOML sidecars",
            repair="measure with `python3 -m validate.bench`, then name the folder of the device",
        )
    _check_lost(folder)
    rows: list[Row] = []
    refused: list[tuple[str, str]] = []
    digest = hashlib.sha256()
    for path in files:
        data = path.read_bytes()
        about = _check_sidecar(path, data)
        if _other_table(data):
            refused.append((path.name, "a table of something other than operators"))
            continue
        digest.update(hashlib.sha256(data).digest())
        fresh = fresh_share(f"{path.stem}.toml", about.get("fresh"))
        before = len(rows)
        _read_file(path, data, device, rows, refused)
        rows[before:] = [settled(row, fresh) for row in rows[before:]]
    _no_twins(rows)
    rows.sort(key=lambda row: row.key)
    return Measurements(device, tuple(rows), tuple(refused), digest.hexdigest())


def _other_table(data: bytes) -> bool:
    """Whether a file has a proper header of names, few of which a table of operators has."""
    names = data.split(b"\n", 1)[0].decode("utf-8-sig", "replace").strip().split(",")
    if "op" in names or len(ABOUT_RUN & set(names)) >= _TELLING:
        return False
    return all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)


def _check_lost(folder: Path) -> None:
    """A sidecar whose table is gone would take a family of operators with it, in silence."""
    for sidecar in sorted(folder.glob("*.toml")):
        if all(path == sidecar for path in folder.glob(f"{sidecar.stem}.*")):
            raise CalibrationError(
                f"{sidecar.stem}.csv",
                "<no such file>",
                f"the table that {sidecar.name} describes",
                repair="restore the table, or remove its sidecar too",
            )


def _check_sidecar(path: Path, data: bytes) -> dict[str, Any]:
    """What the sidecar says, once it agrees with the file."""
    sidecar = path.with_suffix(".toml")
    if not sidecar.is_file():
        raise CalibrationError(
            path.name,
            "<no sidecar>",
            f"{sidecar.name} beside it, with the file's sha256",
            repair="copy the sidecar that the harness wrote, or measure again",
        )
    try:
        about = tomllib.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CalibrationError(
            sidecar.name, f"<{error}>", "a TOML file", repair="restore the sidecar"
        ) from None
    expected = _find(about, "sha256")
    actual = hashlib.sha256(data).hexdigest()
    if not isinstance(expected, str):
        raise CalibrationError(
            sidecar.name,
            "<no sha256>",
            "the file's sha256 among its keys",
            repair="copy the sidecar that the harness wrote, or measure again",
        )
    if expected != actual:
        raise CalibrationError(
            path.name,
            f"<sha256 {actual[:12]}...>",
            f"the file that its sidecar describes, sha256 {expected[:12]}...",
            repair="the file was cut short or changed after it was measured: restore it",
        )
    counted = _find(about, "rows")
    lines = len([line for line in data.decode("utf-8", "replace").splitlines() if line.strip()])
    if isinstance(counted, int) and counted != lines - 1:
        raise CalibrationError(
            path.name,
            f"<{lines - 1} rows>",
            f"{counted} rows, as its sidecar says",
            repair="the file was cut short or added to: restore it",
        )
    return about


def _find(table: Mapping[str, Any], key: str) -> Any:
    if key in table:
        return table[key]
    for value in table.values():
        if isinstance(value, Mapping) and (found := _find(value, key)) is not None:
            return found
    return None


def _read_file(
    path: Path, data: bytes, device: str, rows: list[Row], refused: list[tuple[str, str]]
) -> None:
    try:
        text = data.decode("utf-8-sig")
        lines = list(csv.reader(io.StringIO(text), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise CalibrationError(
            path.name, f"<{error}>", "comma-separated text", repair="restore the file"
        ) from None
    header = lines[0] if lines else []
    missing = [name for name in REQUIRED if name not in header]
    if missing or len(set(header)) != len(header):
        raise CalibrationError(
            f"{path.name}: header",
            header,
            f"distinct columns, among them {', '.join(REQUIRED)}",
            repair="restore the first line of the file",
        )
    if len(lines) == 1:
        raise CalibrationError(
            path.name,
            "<a header alone>",
            "one row or more",
            repair="restore the rows, or remove the file and its sidecar",
        )
    for number, cells in enumerate(lines[1:], start=2):
        where = f"{path.name}:{number}"
        if len(cells) != len(header):
            raise CalibrationError(
                where,
                f"<{len(cells)} cells>",
                f"{len(header)} cells, as the header has",
                repair="the file was cut short or edited: restore it",
            )
        row = _row(where, dict(zip(header, cells, strict=True)), device, refused)
        if row is not None:
            rows.append(row)


def _row(
    where: str, cells: dict[str, str], device: str, refused: list[tuple[str, str]]
) -> Row | None:
    if not same_chip(cells["device"], device):
        raise CalibrationError(
            f"{where}: device",
            cells["device"],
            f"the chip that is being calibrated, {device}",
            repair="name the device that was measured, or move the rows to its own folder",
        )
    times = {}
    for name in ("latency_us", "p10_us", "p90_us"):
        text = cells.get(name, "") or (cells["latency_us"] if name != "latency_us" else "")
        times[name] = _number(f"{where}: {name}", text, positive=True) * 1e-6
    if not times["p10_us"] <= times["latency_us"] * 1.001 <= times["p90_us"] * 1.003:
        raise CalibrationError(
            f"{where}: latency_us",
            cells["latency_us"],
            "a median between its 10th and 90th percentile",
            repair="columns were mixed up: restore the file",
        )
    raw = {name: _cell(where, name, text) for name, text in cells.items()
           if text != "" and name not in ABOUT_RUN}  # fmt: skip
    try:
        check_words(where, raw)
        check_table(where.rpartition(":")[0].removesuffix(".csv"), where, raw)
        record, reason = to_record(raw)
    except KeyError as absent:
        raise CalibrationError(
            where,
            f"<{raw['op']} without {absent.args[0]}>",
            "every size and word that the operator was measured with",
            repair="restore the column or the cell",
        ) from None
    if record is None:
        refused.append((where, reason))
        return None
    mode = cells.get("mode", "") or MODES[0]
    if mode not in MODES:
        raise CalibrationError(
            f"{where}: mode",
            mode,
            ", ".join(MODES),
            nearest=nearest_name(mode, MODES),
            repair="say how the row was measured; times taken another way are no latencies",
        )
    return Row(
        record,
        times["latency_us"],
        times["p10_us"],
        times["p90_us"],
        mode,
        json.dumps(record, sort_keys=True),
        where,
        _optional(f"{where}: power_w", cells.get("power_w", ""), MOST_POWER),
        (_optional(f"{where}: clock_mhz", cells.get("clock_mhz", ""), MOST_CLOCK) or 0.0) * 1e6
        or None,
    )


def _cell(where: str, name: str, text: str) -> Any:
    if name in TEXT:
        return text
    if name not in FLAGS and len(text) < 16 and text.isascii() and text.isdigit():  # a size
        return int(text)
    if name in FLAGS:
        if text.lower() not in ("true", "false", "0", "1"):
            raise CalibrationError(
                f"{where}: {name}", text, "true or false", repair="restore the row"
            )
        return text.lower() in ("true", "1")
    value = _number(f"{where}: {name}", text)
    return int(value) if value == int(value) else value


def _number(where: str, text: str, *, positive: bool = False) -> float:
    value = float(text) if _NUMBER.fullmatch(text.strip()) else math.nan
    if not math.isfinite(value) or (positive and value <= 0):
        raise CalibrationError(
            where,
            text,
            "a finite number above zero" if positive else "a finite number",
            repair="measure the row again, or remove it and write a new sidecar",
        )
    return value


def _optional(where: str, text: str, most: float) -> float | None:
    value = None if text == "" else _number(where, text, positive=True)
    if value is not None and value > most:
        raise CalibrationError(
            where, text, f"at most {most:g}", repair="check the unit, or leave the cell empty"
        )
    return value


def _no_twins(rows: Iterable[Row]) -> None:
    seen: dict[str, str] = {}
    for row in rows:
        if row.key in seen:
            raise CalibrationError(
                row.file,
                f"<the operator of {seen[row.key]} again>",
                "every operator once",
                repair="remove the copy, and write a new sidecar",
            )
        seen[row.key] = row.file
