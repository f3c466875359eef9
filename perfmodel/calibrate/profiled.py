"""Durations that a profiler gave beside the names of kernels: cheap rows that teach a correction.

One profiled call is no steady stream of calls: it starts cold and ends with the last kernel, and it
is another quantity than a latency. How the two differ is smooth in the sizes of an operator; what
decides a latency beyond the mechanism, such as the kernel that a library chose, is the same in
both. Operators that have both therefore teach the difference, and the rest teach the correction, at
a fifth of a timing's cost. No profiled row is ever scored.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from perfmodel.calibrate.measurements import ABOUT_RUN, FLAGS, TEXT, Row, to_record
from perfmodel.calibrate.samples import Samples
from perfmodel.calibrate.trees import Boosting, fit_trees
from perfmodel.cost.correction import Trees
from perfmodel.cost.parts import Floats
from perfmodel.errors import CalibrationError

FOLDER, MODE = "kernels", "profiled"
_BESIDE = ABOUT_RUN | {
    "call", "position", "name", "grid", "block", "registers", "shared", "duration_us",
}  # fmt: skip
_OPERATORS = {"gemm"}
_FEWEST_WITH_BOTH = 60
_OFFSET = Boosting(rounds=300, depth=4)


def load_profiled(folder: str | Path) -> tuple[Row, ...]:
    """Products whose kernels' names and durations stand in ``folder/kernels``, in order of keys.

    Raises
    ------
    CalibrationError
        If a table disagrees with its sidecar.
    """
    found: dict[str, Row] = {}
    for path in sorted((Path(folder) / FOLDER).glob("*.csv.gz")):
        for row in _rows_of(path):
            found.setdefault(row.key, row)
    return tuple(found[key] for key in sorted(found))


def _rows_of(path: Path) -> Iterable[Row]:
    data = path.read_bytes()
    about = path.with_name(path.name.split(".")[0] + ".toml")
    said = tomllib.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
    if said.get("sha256") != hashlib.sha256(data).hexdigest():
        raise CalibrationError(
            path.name,
            "<a table that its sidecar does not describe>",
            f"{about.name} beside it, with the table's sha256",
            repair="restore both files, or measure the names again",
        )
    table = io.StringIO(gzip.decompress(data).decode("utf-8"))
    spent: dict[tuple[tuple[str, str], ...], float] = {}
    for cells in csv.DictReader(table):
        if cells["op"] in _OPERATORS and cells["call"] == "call":
            op = tuple((name, text) for name, text in cells.items() if text and name not in _BESIDE)
            spent[op] = spent.get(op, 0.0) + float(cells["duration_us"]) * 1e-6
    for op, seconds in spent.items():
        record, _ = to_record({name: _value(name, text) for name, text in op})
        if record is not None and seconds > 0.0:
            key = json.dumps(record, sort_keys=True)
            yield Row(record, seconds, seconds, seconds, MODE, key, path.name)


def _value(name: str, text: str) -> object:
    if name in TEXT:
        return text
    if name in FLAGS:
        return text == "true"
    return float(text) if "." in text else int(text)


def offset_of(
    samples: Samples, taught: Sequence[bool], profiled: Samples, values: Floats
) -> Trees | None:
    """Logarithm of profiled over timed, learned on operators that have both; ``None`` for few.

    Parameters
    ----------
    samples : Samples
        Timed rows.
    taught : sequence of bool
        Which of them may be looked at.
    profiled : Samples
        Profiled rows, of any operators of the kernel.
    values : array, shape (N, F)
        Features of the profiled rows.
    """
    timed = {row.key: row.seconds for row, seen in zip(samples.rows, taught, strict=True) if seen}
    both = [i for i, row in enumerate(profiled.rows) if row.key in timed]
    if len(both) < _FEWEST_WITH_BOTH:
        return None
    apart = np.array([np.log(profiled.rows[i].seconds / timed[profiled.rows[i].key]) for i in both])
    return fit_trees(values[both], apart, _OFFSET, np.random.default_rng(0))
