"""How well a chip is predicted that no fit has seen: leave one chip out.

Published tables of many chips are pooled by kernel. For each chip in turn the mechanism's
coefficients are fitted to all the others, and the chip's own rows are predicted from its datasheet.

Tables that were timed around single eager calls hold the launch floor of their host. That floor
belongs to the dataset: it is read off the dataset's own smallest operators (:func:`host_floor`),
and rows that are little more than it are neither fitted nor scored.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel.calibrate.coefficients import fit_coefficients, log_mechanism
from perfmodel.calibrate.measurements import Row
from perfmodel.calibrate.samples import Samples, samples_of
from perfmodel.calibrate.score import Record, size_class
from perfmodel.cost.bound import lower_bound
from perfmodel.cost.parts import Floats
from perfmodel.hardware import load_accelerator

LARGEST_FLOOR = 60e-6
_ABOVE_FLOOR = 1.5
_WIDTH = 0.35


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one dataset on one chip, with the floor of their host taken off.

    ``floor`` is 0 for tables of kernel times [s].
    """

    dataset: str
    chip: str
    floor: float
    samples: Mapping[str, Samples]


def read_published(
    path: Path,
    to_op: Callable[[dict[str, str]], dict[str, Any]],
    start: Mapping[str, Mapping[str, float]],
    *,
    least: float = 0.0,
) -> list[Table]:
    """Tables of a published CSV with columns ``dataset chip timing time_us`` and an operator's.

    Parameters
    ----------
    path : Path
        The CSV.
    to_op : callable
        Turns a row into an operator's JSON object.
    start : mapping
        Kernel -> coefficients that the host's floor is read off with.
    least : float
        Rows shorter than this are left out, where a table is rounded to whole microseconds [s].
    """
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    groups: dict[tuple[str, str], list[tuple[dict[str, str], dict[str, Any]]]] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["chip"]), []).append((row, to_op(row)))
    tables = []
    for (dataset, chip), members in sorted(groups.items()):
        accelerator = load_accelerator(chip)
        eager = members[0][0]["timing"] == "eager"
        whole = [
            Row(op, float(row["time_us"]) * 1e-6, 0.0, 0.0, "", f"{index}", path.name)
            for index, (row, op) in enumerate(members)
        ]
        floor = host_floor(samples_of(whole, accelerator), start) if eager else 0.0
        kept = [
            replace(row, seconds=row.seconds - floor, slowest=row.seconds)
            for row in whole
            if row.seconds > _ABOVE_FLOOR * floor and row.seconds > least
        ]
        tables.append(Table(dataset, chip, floor, samples_of(kept, accelerator)))
    return tables


def host_floor(by_kernel: Mapping[str, Samples], start: Mapping[str, Mapping[str, float]]) -> float:
    """What a host adds to every eager call [s]: the time of the smallest kernels beyond their own.

    The rows whose mechanism is shortest (a twentieth, at least five) show it; their median excess
    is taken, at most :data:`LARGEST_FLOOR`.
    """
    measured = np.concatenate([samples.seconds for samples in by_kernel.values()])
    expected = np.concatenate(
        [
            np.exp(log_mechanism(samples.blocks, start[kernel]))
            for kernel, samples in by_kernel.items()
        ]
    )
    smallest = np.argsort(expected)[: max(5, measured.size // 20)]
    excess = float(np.median((measured - expected)[smallest]))
    return float(np.clip(excess, 0.0, LARGEST_FLOOR))


def leave_one_chip_out(
    tables: Sequence[Table],
    start: Mapping[str, Mapping[str, float]],
    *,
    seed: int = 0,
) -> list[Record]:
    """Every row, predicted by coefficients that no row of its chip helped to fit.

    Parameters
    ----------
    tables : sequence of Table
        Of chips that share an architecture's way of working (one vendor).
    start : mapping
        Kernel -> coefficients to begin from.
    seed : int
        Of the fits' other beginnings.
    """
    found: list[Record] = []
    kernels = {kernel for table in tables for kernel in table.samples}
    for name in sorted({_plain(kernel) for kernel in kernels}):
        alike = sorted(kernel for kernel in kernels if _plain(kernel) == name)
        mine = [(table, kernel) for table in tables for kernel in alike if kernel in table.samples]
        for chip in sorted({table.chip for table, _ in mine}):
            others = [table.samples[kernel] for table, kernel in mine if table.chip != chip]
            coefficients = dict(start[name])
            if others:
                coefficients = fit_coefficients(
                    tuple(block for samples in others for block in samples.blocks),
                    np.concatenate([samples.seconds for samples in others]),
                    coefficients,
                    np.random.default_rng(seed),
                )
            for table, kernel in mine:
                if table.chip == chip:
                    found.extend(_predict(table, kernel, coefficients))
    return found


def _plain(kernel: str) -> str:
    """A kernel's name without its special cases: few chips have rows enough of both kinds."""
    for case in ("_odd", "_warp", "_few"):
        kernel = kernel.replace(case, "")
    return kernel


def _predict(table: Table, kernel: str, coefficients: Mapping[str, float]) -> Iterable[Record]:
    samples = table.samples[kernel]
    times: Floats = np.exp(log_mechanism(samples.blocks, coefficients)) + table.floor
    lower = np.concatenate(
        [np.maximum(*lower_bound(task, device)) for task, device in samples.blocks]
    )
    for index, row in enumerate(samples.rows):
        time = float(times[index])
        measured = row.seconds + table.floor
        yield Record(
            table.chip,
            kernel,
            str(row.record["op"]),
            str(row.record.get("dtype", "")),
            f"{table.dataset}:{row.key}",
            size_class(measured),
            measured,
            time,
            time,
            float(lower[index]),
            max(time * float(np.exp(-_WIDTH)), float(lower[index])),
            time * float(np.exp(_WIDTH)),
            calibrated=False,
        )
