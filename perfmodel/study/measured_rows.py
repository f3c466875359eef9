"""Measured operators of a user, row by row: JSON lines, or a table as the harness writes it."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from perfmodel.calibrate.harness import FLAGS, TEXT, to_record
from perfmodel.calibrate.labels import ROUTED
from perfmodel.errors import WorkloadError
from perfmodel.workload.op import lines_of_jsonl, record_of_line

HARNESS_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {"spmm": "density", "topk": "tokens", "permute": "tokens", "conv3d": "depth"}
)
"""Operators whose measured rows have keys of their own, and one that tells."""
HARNESS_KINDS: Final = ("fft2", "rfft2", "irfft2", "irfft_unscaled", "rnn_tanh")
"""Words that only measured rows have."""


def measured_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """``("file:line", row)`` of every row; the error itself where a line cannot be read.

    Raises
    ------
    WorkloadError
        If the file is missing, or no text.
    """
    if path.suffix.lower() == ".csv":
        yield from _table(path)
        return
    for where, line in lines_of_jsonl(path):
        try:
            yield where, record_of_line(where, line)
        except WorkloadError as error:
            yield where, error


def as_operator(where: str, record: dict[str, Any]) -> dict[str, Any]:
    """A record with the keys of its operator, whichever of both ways it was written.

    Raises
    ------
    WorkloadError
        If a size is missing, or no operator describes what was measured.
    """
    op = record.get("op")
    own = op in ROUTED or record.get("kind") in HARNESS_KINDS
    if not own and HARNESS_KEYS.get(str(op)) not in record:
        return record
    try:
        found, reason = to_record(record)
    except KeyError as missing:
        raise WorkloadError(
            f"{where}: {op}",
            f"<no {missing.args[0]}>",
            "every size and word that the operator was measured with",
            repair=f"add {missing.args[0]}",
        ) from None
    if found is None:
        raise WorkloadError(
            f"{where}: {op}",
            f"<a {reason}>",
            "an operator that runs on the device",
            repair="leave the row out",
        )
    return found


def _table(path: Path) -> Iterator[tuple[str, Any]]:
    if not path.is_file():
        raise WorkloadError(
            str(path), "<no such file>", "a table of measured operators", repair="check the path"
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            table = csv.DictReader(handle, strict=True)
            for number, cells in enumerate(table, start=2):
                where = f"{path.name}:{number}"
                if None in cells or None in cells.values():
                    yield where, _uneven(where)
                else:
                    yield where, {k: _value(k, text) for k, text in cells.items() if text}
    except (ValueError, csv.Error) as error:
        raise WorkloadError(
            path.name, f"<{error}>", "comma-separated text in UTF-8", repair="export it again"
        ) from None


def _uneven(where: str) -> WorkloadError:
    return WorkloadError(
        where,
        "<more or fewer cells than the header>",
        "one cell a column",
        repair="restore the row",
    )


def _value(name: str, text: str) -> Any:
    """A cell as JSON would hold it; what is no number stays text, and is refused as one."""
    if name in FLAGS and text.lower() in ("true", "false", "0", "1"):
        return text.lower() in ("true", "1")
    if name in TEXT:
        return text
    try:
        value = float(text)
        return int(value) if value == int(value) else value
    except (ValueError, OverflowError):
        return text
