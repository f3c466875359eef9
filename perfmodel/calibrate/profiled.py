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
import io
import json
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perfmodel.calibrate.harness import ABOUT_RUN, FLAGS, TEXT, to_record
from perfmodel.calibrate.measurements import Row
from perfmodel.calibrate.samples import Samples
from perfmodel.calibrate.sidecar import check_sidecar
from perfmodel.calibrate.trees import Boosting, fit_trees
from perfmodel.cost.correction import Trees
from perfmodel.cost.parts import Floats
from perfmodel.errors import CalibrationError

FOLDER, MODE = "kernels", "profiled"
QUICK_FOLDER, QUICK_MODE = "quick", "quick"
PLANS_FOLDER, PLANS_MODE = "plans", "plan"
CHEAP_MODES = (MODE, QUICK_MODE)
_BESIDE = ABOUT_RUN | {
    "call", "position", "name", "grid", "block", "registers", "shared", "duration_us",
}  # fmt: skip
_OPERATORS = {"gemm"}
Rows: TypeAlias = Iterable[Row]
# Operators with both that tell a median, and how it differs with their sizes.
_FEWEST_WITH_BOTH, _FEWEST_FOR_SHAPE = 10, 60
_OFFSET = Boosting(rounds=300, depth=4)
_PROFILED_TRUST = 0.5


def load_profiled(folder: str | Path, device: str | None = None) -> tuple[Row, ...]:
    """Products whose kernels' names and durations stand in ``folder/kernels``, and operators that
    were timed in passing, in ``folder/quick``; each in order of keys.

    Parameters
    ----------
    folder : path
        Measurements of one device.
    device : str, optional
        Name of the chip's description; where a sidecar names its device, it must be that one.

    Raises
    ------
    CalibrationError
        If a table disagrees with its sidecar, is of another chip, or holds what is no time.
    """
    profiled = _first_of_each(Path(folder) / FOLDER, device, _profiled_rows)
    return (
        *profiled,
        *_first_of_each(Path(folder) / QUICK_FOLDER, device, _timed_rows(QUICK_MODE)),
    )


def load_planned(folder: str | Path, device: str | None = None) -> tuple[Row, ...]:
    """Convolutions of ``folder/plans``: the time of the plan that a search would keep.

    The choice is estimated, and about 5 % off in the mean (``validate/kept_plans.py``); such rows
    teach the networks that convolutions share, and are never scored. Parameters and errors are
    those of :func:`load_profiled`.
    """
    return tuple(_first_of_each(Path(folder) / PLANS_FOLDER, device, _timed_rows(PLANS_MODE)))


def _first_of_each(
    folder: Path, device: str | None, rows_of: Callable[[Iterable[dict[str, str]], Path], Rows]
) -> list[Row]:
    found: dict[str, Row] = {}
    for path in sorted(folder.glob("*.csv.gz")):
        try:
            for row in rows_of(_cells_of(path, device), path):
                found.setdefault(row.key, row)
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise _damaged(path, repr(error)) from None
    return [found[key] for key in sorted(found)]


def _cells_of(path: Path, device: str | None) -> Iterable[dict[str, str]]:
    data = path.read_bytes()
    check_sidecar(
        path,
        data,
        device,
        repair="restore both files, or measure the operators again",
        damaged=_damaged,
    )
    try:
        text = gzip.decompress(data).decode("utf-8")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise _damaged(path, error) from None
    lines = csv.reader(io.StringIO(text))
    header = next(lines, [])
    for number, cells in enumerate(lines, start=2):
        if len(cells) != len(header):
            message = f"line {number} has more or fewer cells than the header"
            raise ValueError(message)
        yield dict(zip(header, cells, strict=True))


def _damaged(path: Path, error: object) -> CalibrationError:
    return CalibrationError(
        path.name,
        f"<{error}>",
        "a table or sidecar as the harness wrote it",
        repair="restore the file, or measure the operators again",
    )


def _seconds(text: str) -> float:
    value = float(text) * 1e-6
    if not 0.0 < value < math.inf:
        message = f"{text} us, which is no time"
        raise ValueError(message)
    return value


def _timed_rows(mode: str) -> Callable[[Iterable[dict[str, str]], Path], Rows]:
    def rows(table: Iterable[dict[str, str]], path: Path) -> Rows:
        for cells in table:
            yield from _row_of(_operator(cells), _seconds(cells["latency_us"]), mode, path)

    return rows


def _profiled_rows(table: Iterable[dict[str, str]], path: Path) -> Rows:
    spent: dict[tuple[tuple[str, str], ...], float] = {}
    for cells in table:
        if cells["op"] in _OPERATORS and cells["call"] == "call":
            op = _operator(cells)
            spent[op] = spent.get(op, 0.0) + _seconds(cells["duration_us"])
    for op, seconds in spent.items():
        yield from _row_of(op, seconds, MODE, path)


def _operator(cells: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, text) for name, text in cells.items() if text and name not in _BESIDE)


def _row_of(op: tuple[tuple[str, str], ...], seconds: float, mode: str, path: Path) -> Rows:
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
    for mode in CHEAP_MODES:
        mine = np.flatnonzero(modes == mode)
        offset = apart(timed, profiled.rows, mine, values)
        if offset is not None:
            answer[mine] = residual[mine] - offset(values[mine])
    return answer


def apart(
    timed: Mapping[str, float], cheap: Sequence[Row], mine: NDArray[np.intp], values: Floats
) -> Trees | None:
    """Logarithm of cheap over timed, learned on operators that have both; ``None`` for few.

    Parameters
    ----------
    timed : mapping
        Key of an operator -> its latency [s].
    cheap : sequence of Row
        N rows.
    mine : array of int
        Places of those of one sort.
    values : array, shape (N, F)
        Their features.
    """
    both = np.array([i for i in mine if cheap[i].key in timed], dtype=np.intp)
    if len(both) < _FEWEST_WITH_BOTH:
        return None
    ratios = np.array([np.log(cheap[i].seconds / timed[cheap[i].key]) for i in both])
    settings = _OFFSET if len(both) >= _FEWEST_FOR_SHAPE else Boosting(rounds=0, depth=1)
    return fit_trees(values[both], ratios, settings, np.random.default_rng(0))
