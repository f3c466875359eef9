"""Read measured steps, of training or of answering, from a CSV: one frozen :class:`Row` a line.

Cells are forgiving (blanks, ``n/a``, thousands separators, any case); a cell that cannot be a size
is kept as a fault of its row, so that one bad row never hides the others.
"""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from perfmodel.errors import WorkloadError, nearest_name

MODEL_COUNTS: Final = (
    "layers",
    "hidden",
    "heads",
    "kv_heads",
    "head_dim",
    "ffn",
    "vocab",
    "experts",
    "topk",
    "moe_ffn",
)
COUNTS: Final = (
    *MODEL_COUNTS,
    "seq_len",
    "global_batch",
    "grad_accum",
    "tp",
    "pp",
    "vpp",
    "dp",
    "cp",
    "ep",
    "chips_total",
    "chips_per_node",
)
"""Columns of whole numbers."""
NUMBERS: Final = (
    "params_b",
    "micro_batch",
    "chip_mem_gb",
    "step_time_s",
    "tflops_per_chip",
    "mfu_pct",
    "hfu_pct",
    "tokens_per_s_per_chip",
    "samples_per_s",
    "peak_mem_gb",
    "time_to_train_min",
)
"""Columns of other numbers; a micro-batch may be a fraction where a sequence is split."""
TEXTS: Final = (
    "row_id",
    "source_id",
    "model",
    "arch",
    "seq_parallel",
    "zero_fsdp",
    "recompute",
    "dtype",
    "flash_attn",
    "chip",
    "interconnect",
    "software",
    "tflops_def",
    "quality",
    "inferred_fields",
    "source",
    "url",
    "notes",
)
LENGTHS: Final = ("seq_len", "input_len", "output_len")
"""Columns in which k means 1,024."""


@dataclass(frozen=True, slots=True)
class Columns:
    """What a table may hold.

    Parameters
    ----------
    what : str
        Its rows are, for errors.
    texts, counts, numbers : tuple of str
        Columns of words, of whole numbers, and of others.
    needed : tuple of str
        Without which nothing can be said, beside the model.
    zeros : tuple of str
        Counts in which 0 is a number.
    """

    what: str
    texts: tuple[str, ...]
    counts: tuple[str, ...]
    numbers: tuple[str, ...]
    needed: tuple[str, ...]
    zeros: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Every column."""
        return (*self.texts, *self.counts, *self.numbers)


TRAINING: Final = Columns("training steps", TEXTS, COUNTS, NUMBERS, ("chip", "chips_total"))
LARGEST_FILE: Final = 64 * 2**20
"""A table above this is refused unread [B]."""
LARGEST_NUMBER: Final = 1e12

_BLANK: Final = frozenset(
    ("", "-", "--", "n/a", "na", "nan", "none", "null", "?", "unknown", "tbd")
)


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured, as its table states it; what is absent is ``None`` or ``""``.

    Parameters
    ----------
    row_id : str
        The table's own, or ``line-<n>``.
    line : int
        In the file.
    texts : dict of str to str
        Columns of words, stripped.
    numbers : dict of str to float
        Columns of numbers that are there.
    faults : tuple of WorkloadError
        Cells that cannot be read.
    """

    row_id: str
    line: int
    texts: dict[str, str] = field(repr=False)
    numbers: dict[str, float] = field(repr=False)
    faults: tuple[WorkloadError, ...] = ()

    def text(self, column: str) -> str:
        """A word, ``""`` where absent."""
        return self.texts.get(column, "")

    def lower(self, column: str) -> str:
        """A word in lower case."""
        return self.text(column).lower()

    def number(self, column: str) -> float | None:
        """A number, ``None`` where absent."""
        return self.numbers.get(column)

    def count(self, column: str) -> int | None:
        """A whole number, ``None`` where absent or a fraction."""
        value = self.numbers.get(column)
        return int(value) if value is not None and value == int(value) else None

    @property
    def where(self) -> str:
        """For errors."""
        return f"row {self.row_id} (line {self.line})"


def read_rows(path: str | Path, columns: Columns = TRAINING) -> tuple[Row, ...]:
    """Every row of a table of measured steps.

    Raises
    ------
    WorkloadError
        If the file is missing, too large, not UTF-8 CSV, empty, or lacks the columns that say what
        ran where. Cells that cannot be read are faults of their row instead.
    """
    file = Path(path)
    if not file.is_file():
        raise WorkloadError(
            str(file), "<no such file>", f"a CSV of {columns.what}", repair="correct the path"
        )
    if (size := file.stat().st_size) > LARGEST_FILE:
        raise WorkloadError(
            str(file),
            f"<{size} bytes>",
            f"a CSV of at most {LARGEST_FILE} bytes",
            repair="split the table",
        )
    try:
        text = file.read_text(encoding="utf-8-sig")
        if "\0" in text:
            raise ValueError("a NUL byte")
        table = list(csv.reader(io.StringIO(text), strict=True))
    except (ValueError, csv.Error) as error:
        raise WorkloadError(
            str(file), f"<{error}>", "a CSV in UTF-8 with a header", repair="correct the file"
        ) from None
    table_lines = [
        (i, cells) for i, cells in enumerate(table, start=1) if any(map(str.strip, cells))
    ]
    if not table_lines:
        raise WorkloadError(
            str(file), "<an empty file>", "a header and rows", repair="export the table again"
        )
    header = _header(table_lines[0][1], str(file), columns)
    return tuple(_row(header, cells, line, columns) for line, cells in table_lines[1:])


def _header(cells: list[str], where: str, columns: Columns) -> list[str]:
    header = [re.sub(r"[\s\-]+", "_", cell.strip().lower()) for cell in cells]
    for name in (*columns.needed, "model"):
        if name in header or (name == "model" and "layers" in header):
            continue
        raise WorkloadError(
            f"{where}: header",
            f"<no column {name}>",
            f"the columns {', '.join(columns.all)}; needed are model (or its sizes), "
            + ", ".join(columns.needed),
            nearest=nearest_name(name, header),
            repair=f"add the column {name}, or correct its name",
        )
    for name in sorted({name for name in header if name in columns.all and header.count(name) > 1}):
        raise WorkloadError(
            f"{where}: header",
            f"<column {name} twice>",
            "each column once",
            repair=f"remove one of the columns {name}",
        )
    return header


def _row(header: list[str], cells: list[str], line: int, columns: Columns) -> Row:
    values = dict(zip(header, (cell.strip() for cell in cells), strict=False))
    row_id = values.get("row_id") or f"line-{line}"
    texts = {
        name: values[name]
        for name in columns.texts
        if values.get(name, "").lower() not in ("", "nan")
    }
    numbers: dict[str, float] = {}
    faults: list[WorkloadError] = []
    if len(cells) > len(header):
        faults.append(
            WorkloadError(
                f"row {row_id} (line {line})",
                f"<{len(cells)} cells>",
                f"{len(header)} cells, one a column",
                repair="quote cells that hold a comma",
            )
        )
    for name in (*columns.counts, *columns.numbers):
        try:
            thousand = 1024.0 if name in LENGTHS else 1e3
            value = _number(values.get(name, ""), thousand, whole=name in columns.counts)
        except ValueError as error:
            faults.append(
                WorkloadError(
                    f"row {row_id} (line {line}): {name}",
                    values[name],
                    str(error),
                    repair=f"correct {name}, or leave it blank where it is not known",
                )
            )
            continue
        if value or (value is not None and name in columns.zeros):
            numbers[name] = value
    return Row(row_id, line, texts, numbers, tuple(faults))


def _number(cell: str, thousand: float, *, whole: bool) -> float | None:
    """The number in a cell, which may be zero."""
    accepted = "a whole number above 0, or blank" if whole else "a number above 0, or blank"
    text = cell.strip().lower().replace("_", "").lstrip("~")
    if text in _BLANK:
        return None
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    scale = {"k": thousand, "m": 1e6, "b": 1e9}.get(text[-1:], 1.0)
    try:
        value = float(text[:-1] if scale != 1.0 else text.removesuffix("%")) * scale
    except ValueError:
        raise ValueError(accepted) from None
    if not math.isfinite(value) or value < 0 or value > LARGEST_NUMBER:
        raise ValueError(accepted)
    if whole and value != int(value):
        raise ValueError(accepted)
    return value
