"""Operators and plans of the committed tables, as the networks of plans learn from them.

Times of the tables, single trials of logged searches, steady times of all plans of some operators
(whose kept plan is estimated where no table has them, :mod:`validate.kept_plans`), and lists of
plans that cuDNN proposes. What the corrections see, and the mechanism's times, are by the
coefficients of the family, from which the fits of chips begin: no fold of rows has a part in them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from perfmodel.calibrate.coefficients import log_mechanism
from perfmodel.calibrate.measurements import fold_of, load_measurements
from perfmodel.calibrate.samples import FOLDS
from perfmodel.calibrate.sidecar import check_sidecar
from perfmodel.calibrate.taught import blocks_of, marks_of_sizes
from perfmodel.cost.arrays import Arrays, read_arrays
from perfmodel.cost.efficiency import load_coefficients
from perfmodel.cost.features import features
from perfmodel.cost.mechanism import mechanism
from perfmodel.errors import CalibrationError
from perfmodel.hardware import load_accelerator
from validate import kept_plans
from validate.bench import ops, plan_rows, proposals, search_log
from validate.convolutions import Identity, identity, judged
from validate.plan_law.names import plans_of
from validate.plan_law.table import LONGEST, Floats, Operators, Plans, Whole, depthwise

MEASUREMENTS: Final = Path(__file__).parents[1] / "measurements"
CHIPS: Final = ("h100-sxm5-80gb", "h200-sxm-141gb")
_ASKED: Final = "h200-sxm-141gb"
"""Whose folder has the lists, which are the same for both chips."""
DRAWN: Final = MEASUREMENTS / _ASKED / "search" / "drawn-plans.npz"
"""Of which some have times (:data:`LIKELY`); further ones are in ``drawn-plans-2.npz`` beside, and
so on."""
LIKELY: Final = "likely-times"
"""Of drawn operators: ``drawn``, places in :data:`DRAWN`; ``place`` of a plan in the list; its
steady time ``us``. Files ``likely-times.npz``, ``likely-times-2.npz`` and so on."""
_LIKELY_IS: Final = "times of plans as `validate.plan_law.likely` writes them"
REPAIR: Final = "restore the file and its sidecar"


@dataclass(frozen=True, slots=True)
class Drawn:
    """Operators that nobody timed, and the plans proposed.

    Parameters
    ----------
    sizes : array of int, shape (N, 10)
        As of :class:`~validate.plan_law.table.Operators`.
    cell : array of int, shape (N,)
        Likewise.
    plans : array of int, shape (N, 10)
        Places in ``names``, in the order proposed.
    names : tuple of str
        Of all plans, the first empty for none.
    sha256 : str
        Of the file that these are all of; empty for some of them.
    """

    sizes: Whole
    cell: Whole
    plans: Whole
    names: tuple[str, ...]
    sha256: str = ""

    @classmethod
    def read(cls, path: Path = DRAWN) -> Drawn:
        """What is committed.

        Raises
        ------
        CalibrationError
            If the file is damaged or disagrees with its sidecar.
        """
        said = check_sidecar(path, path.read_bytes(), None, repair=REPAIR, damaged=damaged)

        def parts(held: Arrays) -> Drawn:
            sizes, cell, plans = (held[n].astype(np.int64) for n in ("sizes", "cell", "plans"))
            return cls(sizes, cell, plans, tuple(map(str, held["names"])), said["sha256"])

        return read_arrays(path, "drawn operators and their lists of plans", parts)

    def first(self, count: int | None) -> Drawn:
        """Only so many, spread over all."""
        if count is None or count >= len(self.cell):
            return self
        return self.only(np.linspace(0, len(self.cell) - 1, count).astype(np.int64))

    def only(self, some: Whole) -> Drawn:
        """Those at some places."""
        sizes, cell, plans = (of[some] for of in (self.sizes, self.cell, self.plans))
        return Drawn(sizes, cell, plans, self.names)

    def joined(self, other: Drawn) -> Drawn:
        """These and others behind them, whose plans are numbered anew."""
        names = tuple(dict.fromkeys([*self.names, *other.names]))
        number = {name: at for at, name in enumerate(names)}
        anew = np.array([number[name] for name in other.names], np.int64)
        plans = np.concatenate([self.plans, anew[other.plans]])
        sizes = np.concatenate([self.sizes, other.sizes])
        return Drawn(sizes, np.concatenate([self.cell, other.cell]), plans, names)


@dataclass(frozen=True, slots=True)
class Known:
    """What there is to learn from: measured operators, all plans, and names.

    Parameters
    ----------
    operators : Operators
        Of both chips.
    plans : Plans
        What is known of the plans, in the order of ``names``.
    names, kernels, columns : tuple of str
        Of the plans, of the kernels that ``operators.kernel`` counts, and of the features.
    """

    operators: Operators
    plans: Plans
    names: tuple[str, ...]
    kernels: tuple[str, ...]
    columns: tuple[str, ...]


def read(folder: Path = MEASUREMENTS, extra: Sequence[str] = ()) -> Known:
    """All measured operators of both chips whose lists are known.

    Parameters
    ----------
    folder : path
        Holds a folder for each chip.
    extra : sequence of str
        Further names of plans that are to have a number.

    Raises
    ------
    CalibrationError
        If a table of measurements cannot be trusted.
    """
    listed = {
        identity(json.loads(key)): names[:LONGEST]
        for key, names in proposals.read(folder / _ASKED / "search").items()
    }
    timed = list(_timed(folder))
    listed = {row.identity: list(row.names) for row in timed} | listed
    rows = [row for chip in range(len(CHIPS)) for row in _measured(folder, chip, listed)]
    rows = [row for row in (*rows, *timed) if row.names]
    names = tuple(dict.fromkeys(["", *(n for row in rows for n in row.names), *extra]))
    number = {name: at for at, name in enumerate(names)}
    lists = np.zeros((len(rows), LONGEST), np.int64)
    for at, row in enumerate(rows):
        lists[at, : len(row.names)] = [number[name] for name in row.names]
    given = np.array([row.identity for row in rows], np.int64)
    chip = np.array([row.chip for row in rows], np.int64)
    described = [_Described(given[chip == one], CHIPS[one]) for one in range(len(CHIPS))]
    kernels = tuple(sorted({name for one in described for name in one.kernels}))
    columns = tuple(sorted({name for one in described for name in one.columns}))
    known = Operators(
        given[:, :-1],
        given[:, -1],
        chip,
        np.zeros(len(rows), np.int64),
        np.full((len(rows), len(columns)), np.nan, np.float32),
        np.zeros(len(rows), np.float32),
        lists,
        np.array([row.kept_s for row in rows], np.float32),
        *(np.array([getattr(row, n) for row in rows], np.float32) for n in _OF_PLANS),
        _folds(given),
        np.array([not np.isfinite(row.kept_s) for row in rows]),
    )
    for one, of in enumerate(described):
        of.fill(known, np.flatnonzero(chip == one), kernels, columns)
    return Known(
        known,
        plans_of(folder, names, lists),
        names,
        kernels,
        columns,
    )


def every_drawn() -> Drawn:
    """Drawn operators of all files: those of :data:`DRAWN` first."""
    listed = Drawn.read()
    for path in sorted(DRAWN.parent.glob(f"{DRAWN.stem}-*.npz")):
        listed = listed.joined(Drawn.read(path))
    return listed


def asked(drawn: Drawn, known: Known, chip: int) -> Operators:
    """Drawn operators on a chip, of which no time is known."""
    count = len(drawn.cell)
    number = {name: at for at, name in enumerate(known.names)}
    renumbered = np.array([number[name] for name in drawn.names])
    none = np.full(count, np.nan, np.float32)
    of_plans = np.full((count, LONGEST), np.nan, np.float32)
    found = Operators(
        drawn.sizes,
        drawn.cell,
        np.full(count, chip),
        np.zeros(count, np.int64),
        np.full((count, len(known.columns)), np.nan, np.float32),
        none.copy(),
        renumbered[drawn.plans],
        none,
        of_plans,
        of_plans,
        of_plans,
        np.full(count, -1),
        np.zeros(count, bool),
    )
    given = np.column_stack([drawn.sizes, drawn.cell])
    _Described(given, CHIPS[chip]).fill(found, np.arange(count), known.kernels, known.columns)
    return found


def likely(drawn: Drawn, known: Known, folder: Path = MEASUREMENTS) -> list[Operators]:
    """Drawn operators of which one plan was timed, of each chip that has such.

    Raises
    ------
    CalibrationError
        If a file disagrees with its sidecar, or its places are of other drawn operators.
    """
    unread, found = judged(folder), []
    for chip, name in enumerate(CHIPS):
        for path in sorted((folder / name / "search").glob(f"{LIKELY}*.npz")):
            at, place, us = _likely_of(path, name, drawn)
            some = drawn.only(at)
            given = np.column_stack([some.sizes, some.cell])
            ones = asked(some, known, chip)
            steady = np.full((len(at), LONGEST), np.nan, np.float32)
            steady[np.arange(len(at)), place] = us * 1e-6
            free = np.array([tuple(one) not in unread for one in given.tolist()])
            found.append(replace(ones, steady_s=steady, fold=_folds(given)).only(free))
    return found


def depthwise_alone(known: Known, drawn: Sequence[Operators]) -> tuple[Known, list[Operators]]:
    """The depth-wise ones, with the plans proposed for them alone and the features they have."""
    every = [ones.only(depthwise(ones.sizes)) for ones in (known.operators, *drawn)]
    used = np.unique(np.concatenate([[0], *(ones.plans.ravel() for ones in every)]))
    has = ~np.isnan(every[0].features).all(axis=0)
    every = [
        replace(ones, plans=np.searchsorted(used, ones.plans), features=ones.features[:, has])
        for ones in every
    ]
    names = tuple(known.names[at] for at in used)
    columns = tuple(name for name, there in zip(known.columns, has, strict=True) if there)
    alone = Known(every[0], known.plans.only(used), names, known.kernels, columns)
    return alone, every[1:]


def _likely_of(path: Path, chip: str, drawn: Drawn) -> tuple[Whole, Whole, Floats]:
    """Places of operators among the drawn, of a plan in the list of each, and its time [us]."""
    said = check_sidecar(path, path.read_bytes(), chip, repair=REPAIR, damaged=damaged)
    if said.get("drawn") != drawn.sha256:
        raise CalibrationError(
            f"{path.with_suffix('.toml')}: drawn",
            said.get("drawn", "<none>"),
            f"{drawn.sha256}, the sha256 of {DRAWN.name}, whose operators it counts",
            repair=f"restore the {DRAWN.name} that was drawn from, or time its operators again",
        )
    return read_arrays(path, _LIKELY_IS, _places)


def _places(held: Arrays) -> tuple[Whole, Whole, Floats]:
    return held["drawn"].astype(np.int64), held["place"].astype(np.int64), held["us"]


def _folds(given: Whole) -> Whole:
    """In which cross-validation leaves operators out, by sizes and cells (N, 11)."""
    return fold_of(marks_of_sizes(given[:, :-1], given[:, -1]), FOLDS).astype(np.int64)


def damaged(path: Path, error: object) -> CalibrationError:
    """The error of a sidecar that is no TOML file."""
    return CalibrationError(str(path), f"<{error}>", "a TOML file", repair=REPAIR)


@dataclass(frozen=True, slots=True)
class _Row:
    identity: Identity
    chip: int
    names: Sequence[str]
    kept_s: float
    steady_s: Sequence[float]
    trial_s: Sequence[float]
    launch_s: Sequence[float]


_OF_PLANS: Final = ("steady_s", "trial_s", "launch_s")
_UNKNOWN: Final = (np.nan,) * LONGEST


def _measured(folder: Path, chip: int, listed: dict[Identity, list[str]]) -> Iterator[_Row]:
    """Rows of a chip's tables, with what their searches took for each plan."""
    logs: dict[Identity, list[search_log.Plan]] = {}
    for path in sorted((folder / CHIPS[chip] / "search").glob("plans*.jsonl.gz")):
        logs |= {identity(op): tried for op, tried in search_log.read(path)}
    for row in load_measurements(folder / CHIPS[chip], CHIPS[chip]).rows:
        if not str(row.record["op"]).startswith("conv"):
            continue
        key = identity(row.record)
        names = listed.get(key, [])
        trials = list(_UNKNOWN)
        for name, milliseconds in logs.get(key, ()):
            plain = name.split("_", 1)[1]
            if plain in names and milliseconds > 0:
                at = names.index(plain)
                trials[at] = min(milliseconds * 1e-3, np.nan_to_num(trials[at], nan=np.inf))
        yield _Row(key, chip, names, row.seconds, _UNKNOWN, trials, _UNKNOWN)


def _timed(folder: Path) -> Iterator[_Row]:
    """Operators whose plans have steady times; those that judge have no time."""
    devices = sorted({path.parents[1] for path in folder.glob("*/search/plan-times*.jsonl.gz")})
    searches = [one for device in devices for one in kept_plans.searched(device)]
    launch = kept_plans.fit([trial for _, trials, _ in searches for trial in trials])
    unread = judged(folder)
    for device in devices:
        tables = kept_plans.latencies(device)
        for path in sorted((device / "search").glob("plan-times*.jsonl.gz")):
            for row in plan_rows.read(path):
                plans = kept_plans.timed(row)
                key = identity(row["op"])
                if not plans:
                    continue
                whole = ops.key(row["op"])
                us = tables.get(whole, kept_plans.kept(plans, launch).steady_us)
                steady, launches = list(_UNKNOWN), list(_UNKNOWN)
                for plan, over in zip(plans, launch.us(plans), strict=True):
                    if plan.place < LONGEST:
                        steady[plan.place] = plan.steady_us * 1e-6
                        launches[plan.place] = max(float(over), 0.1) * 1e-6
                yield _Row(
                    key,
                    CHIPS.index(device.name),
                    [plan["name"] for plan in row["plans"][:LONGEST]],
                    np.nan if key in unread else us * 1e-6,
                    steady,
                    _UNKNOWN,
                    launches,
                )


class _Described:
    """Operators as a chip's prices see them."""

    def __init__(self, given: Whole, chip: str) -> None:
        accelerator = load_accelerator(chip)
        start = load_coefficients(accelerator.family)
        self.parts: list[tuple[str, Whole, tuple[str, ...], Floats, Floats]] = []
        blocks = blocks_of(given[:, :-1], given[:, -1], accelerator) if len(given) else {}
        for kernel, (mine, which) in blocks.items():
            tables = [features(t, d, mechanism(t, d, start.of(kernel))) for t, d in mine]
            values = np.concatenate([table[1] for table in tables]).astype(np.float32)
            offset = log_mechanism(mine, start.of(kernel)).astype(np.float32)
            self.parts.append((kernel, which, tables[0][0], values, offset))

    @property
    def kernels(self) -> Iterable[str]:
        return {part[0] for part in self.parts}

    @property
    def columns(self) -> Iterable[str]:
        return {name for part in self.parts for name in part[2]}

    def fill(
        self, into: Operators, rows: Whole, kernels: Sequence[str], columns: Sequence[str]
    ) -> None:
        """Write kernels, features and offsets into rows of a table."""
        for kernel, which, names, values, offset in self.parts:
            at = rows[which]
            into.kernel[at] = kernels.index(kernel)
            into.features[np.ix_(at, [columns.index(name) for name in names])] = values
            into.offset[at] = offset
