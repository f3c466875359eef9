"""How well a chip is predicted that no fit has seen: leave one chip out.

Published tables of many chips are pooled by kernel. For each chip in turn the mechanism's
coefficients are fitted to all the others, and the chip's own rows are predicted from its datasheet.

Tables that were timed around single eager calls, or a loop of them, hold the launch floor of their
host. That floor belongs to the dataset: it is read off the dataset's own smallest operators
(:func:`host_floor`), and rows that are little more than it are neither fitted nor scored. Tables
that call one operator again and again, or go round a few copies of the weights, find in the cache
what fits there (:mod:`perfmodel.cost.cycle`).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from perfmodel.calibrate.coefficients import fit_coefficients, log_mechanism
from perfmodel.calibrate.measurements import Row
from perfmodel.calibrate.samples import Samples, samples_of
from perfmodel.calibrate.score import Record, size_class
from perfmodel.cost.bound import lower_bound
from perfmodel.cost.cycle import CYCLE
from perfmodel.cost.device import Device
from perfmodel.cost.parts import Floats
from perfmodel.cost.tasks import Task
from perfmodel.hardware import load_accelerator

LARGEST_FLOOR = 60e-6
# Ways of timing that hold what the host does for every call.
HOSTED = ("eager", "loop")
# Kernel that shows what memory delivers.
STREAM = "elementwise"
# Years between two generations of chips, and rows that a fit is given.
GENERATION, MOST_ROWS = 2.0, 600
# A timer of the host holds the dispatch of a call, a tenth of a millisecond or so: nothing shorter
# than some of those says how long a kernel takes.
HOST_TIMER, HOST_TIMED = "host", 5e-4
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
    copies: Mapping[str, int] = MappingProxyType({}),
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
    copies : mapping
        Dataset -> copies of the weights that its calls go round; operands of datasets that are not
        named come from device memory.
    """
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    groups: dict[tuple[str, str], list[tuple[dict[str, str], dict[str, Any]]]] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["chip"]), []).append((row, to_op(row)))
    tables = []
    for (dataset, chip), members in sorted(groups.items()):
        accelerator = load_accelerator(chip)
        timing = members[0][0]["timing"]
        shortest = max(least, HOST_TIMED if timing == HOST_TIMER else 0.0)
        whole = [
            Row(op, float(row["time_us"]) * 1e-6, 0.0, 0.0, "", f"{index}", path.name)
            for index, (row, op) in enumerate(members)
        ]
        rounds = copies.get(dataset, 0)
        floor = (
            host_floor(_cycled(samples_of(whole, accelerator), rounds), start)
            if timing in HOSTED
            else 0.0
        )
        kept = [
            replace(row, seconds=row.seconds - floor, slowest=row.seconds)
            for row in whole
            if row.seconds > max(_ABOVE_FLOOR * floor, shortest)
        ]
        tables.append(Table(dataset, chip, floor, _cycled(samples_of(kept, accelerator), rounds)))
    return tables


def _cycled(by_kernel: Mapping[str, Samples], copies: int) -> dict[str, Samples]:
    """The samples with the bytes between two uses of an operand; as they were for no copies."""
    if not copies:
        return dict(by_kernel)
    return {
        kernel: replace(
            samples,
            blocks=tuple((_cycle(task, copies), device) for task, device in samples.blocks),
        )
        for kernel, samples in by_kernel.items()
    }


def _cycle(task: Task, copies: int) -> Task:
    """Weights (the right factor of a product) have copies that the calls take in turn."""
    s = task.sizes
    again = s["batch"] * s["n"] * s["k"] * task.element if task.product else 0.0
    return replace(task, sizes=s | {CYCLE: s["read"] + s["written"] + (copies - 1) * again})


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
    only: Collection[str] = (),
    seed: int = 0,
) -> list[Record]:
    """Every row, predicted by coefficients that no row of its chip helped to fit.

    Parameters
    ----------
    tables : sequence of Table
        Of chips that share an architecture's way of working (one vendor).
    start : mapping
        Kernel -> coefficients to begin from.
    only : collection of str
        Chips to leave out in turn; all of them by default.
    seed : int
        Of the fits' other beginnings.
    """
    found: list[Record] = []
    kernels = {kernel for table in tables for kernel in table.samples}
    chips = sorted({table.chip for table in tables if not only or table.chip in only})
    names = sorted({_plain(kernel) for kernel in kernels}, key=lambda name: (name != STREAM, name))
    for chip in chips:
        others = [table for table in tables if table.chip != chip]
        streams: float | None = None
        for name in names:
            mine = _of_kernel([table for table in tables if table.chip == chip], name)
            if not mine and name != STREAM:
                continue
            first, held = dict(start[name]), set[str]()
            taught = _of_kernel(others, name)
            if not taught:
                # Another class of arithmetic knows the tiles and the start, not the energy.
                taught = _of_kernel(others, name.split("-")[0], any_class=True)
                held |= {"joules_per_flop"}
            if streams is not None and "row_cycles" in first and name != STREAM:
                # Memory delivers to every kernel what it delivers to a plain stream.
                first["bandwidth_efficiency"] = streams
                held |= {"bandwidth_efficiency"}
            if taught:
                samples = [(table.chip, samples) for table, samples in taught]
                first = taught_by(chip, samples, first, held=held, seed=seed)
                streams = first["bandwidth_efficiency"] if name == STREAM else streams
            for table, samples_of_kernel in mine:
                found.extend(_predict(table, samples_of_kernel, first))
    return found


def taught_by(
    chip: str,
    others: Sequence[tuple[str, Samples]],
    start: Mapping[str, float],
    *,
    held: Collection[str] = (),
    seed: int = 0,
) -> dict[str, float]:
    """Coefficients for a chip from rows of other chips.

    A chip counts by how near its year is: half as much for every two years, a generation, whatever
    the number of its rows.

    Parameters
    ----------
    chip : str
        Whom they are for; only its year is looked at.
    others : sequence of (str, Samples)
        Rows of a kernel, each with the name of its chip.
    start : mapping
        Coefficients to begin from.
    held : collection of str
        Coefficients that are not fitted.
    seed : int
        Of the draw of rows, and of the fit's other beginnings.
    """
    rng = np.random.default_rng(seed)
    seconds = np.concatenate([samples.seconds for _, samples in others])
    names = np.concatenate([np.full(samples.seconds.size, name) for name, samples in others])
    if seconds.size > MOST_ROWS:
        weight = np.zeros(seconds.size)
        for name in np.unique(names):
            rows = names == name
            weight[rows] = 2.0 ** (-abs(_year(str(name)) - _year(chip)) / GENERATION) / rows.sum()
        drawn = rng.choice(seconds.size, MOST_ROWS, replace=False, p=weight / weight.sum())
        kept = np.full(seconds.size, np.nan)
        kept[drawn] = seconds[drawn]
        seconds = kept
    blocks = tuple(block for _, samples in others for block in samples.blocks)
    rng = np.random.default_rng(seed)
    return fit_coefficients(blocks, seconds, start, rng, held=held, one_chip=False)


def _year(chip: str) -> float:
    return float(load_accelerator(chip).year or 2020)


def _of_kernel(
    tables: Sequence[Table], name: str, *, any_class: bool = False
) -> list[tuple[Table, Samples]]:
    """Samples of a kernel with all its special cases, or of all its classes of arithmetic."""
    found = []
    for table in tables:
        for kernel in sorted(table.samples):
            plain = _plain(kernel)
            if (plain.split("-")[0] if any_class else plain) == name:
                found.append((table, table.samples[kernel]))
    return found


def _plain(kernel: str) -> str:
    """A kernel's name without its special cases: few chips have rows enough of both kinds."""
    for case in ("_odd", "_warp", "_few"):
        kernel = kernel.replace(case, "")
    return kernel


def _lower(task: Task, device: Device) -> Floats:
    """Lower bound of rows whose operands may lie in the cache when a call begins [s]."""
    arithmetic, memory = lower_bound(task, device)
    held = device.cache / device.bandwidth if CYCLE in task.sizes else 0.0
    return np.asarray(np.maximum(arithmetic, memory - held))


def _predict(table: Table, samples: Samples, coefficients: Mapping[str, float]) -> Iterable[Record]:
    times: Floats = np.exp(log_mechanism(samples.blocks, coefficients)) + table.floor
    lower = np.concatenate([_lower(task, device) for task, device in samples.blocks])
    for index, row in enumerate(samples.rows):
        time = float(times[index])
        measured = row.seconds + table.floor
        yield Record(
            table.chip,
            samples.kernel,
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
