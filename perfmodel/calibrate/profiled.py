"""Cheap rows that teach a correction: a profiler's durations, and timings in passing.

One profiled call is no steady stream of calls: it starts cold and ends with the last kernel, and it
is another quantity than a latency. A timing in passing is a short stream, with other clocks. How
either differs from a latency is smooth in the sizes of an operator; what decides a latency beyond
the mechanism, such as the kernel that a library chose, is the same. Operators that have both
therefore teach the difference, and the rest teach the correction, at a tenth of a latency's cost.
No such row is ever scored.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perfmodel.calibrate.measurements import ABOUT_RUN, FLAGS, TEXT, Row, to_record
from perfmodel.calibrate.samples import Samples
from perfmodel.calibrate.trees import Boosting, fit_trees
from perfmodel.cost.correction import Trees
from perfmodel.cost.parts import Floats
from perfmodel.errors import CalibrationError

FOLDER, MODE = "kernels", "profiled"
QUICK_FOLDER, QUICK_MODE = "quick", "quick"
_BESIDE = ABOUT_RUN | {
    "call", "position", "name", "grid", "block", "registers", "shared", "duration_us",
}  # fmt: skip
_OPERATORS = {"gemm"}
# Operators with both that tell a median, and how it differs with their sizes.
_FEWEST_WITH_BOTH, _FEWEST_FOR_SHAPE = 10, 60
_OFFSET = Boosting(rounds=300, depth=4)
_PROFILED_TRUST = 0.5


def load_profiled(folder: str | Path) -> tuple[Row, ...]:
    """Products whose kernels' names and durations stand in ``folder/kernels``, and those that were
    timed in passing, in ``folder/quick``; each in order of keys.

    Raises
    ------
    CalibrationError
        If a table disagrees with its sidecar.
    """
    profiled = _first_of_each(Path(folder) / FOLDER, _profiled_rows)
    return (*profiled, *_first_of_each(Path(folder) / QUICK_FOLDER, _quick_rows))


def _first_of_each(folder: Path, rows_of: Callable[[Path], Iterable[Row]]) -> list[Row]:
    found: dict[str, Row] = {}
    for path in sorted(folder.glob("*.csv.gz")):
        for row in rows_of(path):
            found.setdefault(row.key, row)
    return [found[key] for key in sorted(found)]


def _cells_of(path: Path) -> Iterable[dict[str, str]]:
    data = path.read_bytes()
    about = path.with_name(path.name.split(".")[0] + ".toml")
    said = tomllib.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
    if said.get("sha256") != hashlib.sha256(data).hexdigest():
        raise CalibrationError(
            path.name,
            "<a table that its sidecar does not describe>",
            f"{about.name} beside it, with the table's sha256",
            repair="restore both files, or measure the operators again",
        )
    yield from csv.DictReader(io.StringIO(gzip.decompress(data).decode("utf-8")))


def _quick_rows(path: Path) -> Iterable[Row]:
    for cells in _cells_of(path):
        if cells["op"] in _OPERATORS:
            seconds = float(cells["latency_us"]) * 1e-6
            yield from _row_of(_operator(cells), seconds, QUICK_MODE, path)


def _profiled_rows(path: Path) -> Iterable[Row]:
    spent: dict[tuple[tuple[str, str], ...], float] = {}
    for cells in _cells_of(path):
        if cells["op"] in _OPERATORS and cells["call"] == "call":
            op = _operator(cells)
            spent[op] = spent.get(op, 0.0) + float(cells["duration_us"]) * 1e-6
    for op, seconds in spent.items():
        yield from _row_of(op, seconds, MODE, path)


def _operator(cells: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, text) for name, text in cells.items() if text and name not in _BESIDE)


def _row_of(
    op: tuple[tuple[str, str], ...], seconds: float, mode: str, path: Path
) -> Iterable[Row]:
    record, _ = to_record({name: _value(name, text) for name, text in op})
    if record is not None and seconds > 0.0:
        key = json.dumps(record, sort_keys=True)
        yield Row(record, seconds, seconds, seconds, mode, key, path.name)


def _value(name: str, text: str) -> object:
    if name in TEXT:
        return text
    if name in FLAGS:
        return text == "true"
    return float(text) if "." in text else int(text)


def trust_of(rows: Sequence[Row]) -> Floats:
    """Share of its draws that every row comes to, shape (N,): one profiled call is a rough answer.

    Between a quarter and all of them, half came closest to held-out products.
    """
    return np.array([_PROFILED_TRUST if row.mode == MODE else 1.0 for row in rows])


def without_offset(
    samples: Samples, taught: Sequence[bool], profiled: Samples, values: Floats, residual: Floats
) -> Floats:
    """Residuals of cheap rows as latencies would have them, shape (N,); NaN where nobody can tell.

    Parameters
    ----------
    samples : Samples
        Timed rows.
    taught : sequence of bool
        Which of them may be looked at.
    profiled : Samples
        Cheap rows, of any operators of the kernel.
    values : array, shape (N, F)
        Features of the cheap rows.
    residual : array, shape (N,)
        Logarithm of their time over the mechanism's.
    """
    timed = {row.key: row.seconds for row, seen in zip(samples.rows, taught, strict=True) if seen}
    modes = np.array([row.mode for row in profiled.rows])
    answer = np.full(residual.shape, np.nan)
    for mode in (MODE, QUICK_MODE):
        mine = np.flatnonzero(modes == mode)
        offset = _offset(timed, profiled, mine, values)
        if offset is not None:
            answer[mine] = residual[mine] - offset(values[mine])
    return answer


def _offset(
    timed: Mapping[str, float], profiled: Samples, mine: NDArray[np.intp], values: Floats
) -> Trees | None:
    """Logarithm of cheap over timed, learned on operators that have both; ``None`` for few."""
    both = np.array([i for i in mine if profiled.rows[i].key in timed], dtype=np.intp)
    if len(both) < _FEWEST_WITH_BOTH:
        return None
    apart = np.array([np.log(profiled.rows[i].seconds / timed[profiled.rows[i].key]) for i in both])
    settings = _OFFSET if len(both) >= _FEWEST_FOR_SHAPE else Boosting(rounds=0, depth=1)
    return fit_trees(values[both], apart, settings, np.random.default_rng(0))
