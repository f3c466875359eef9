"""``python3 -m validate.plan_law``: learn what plans take, and write ``plans/taught.npz``.

Networks learn without each fold in turn, from all rows, and from each chip's rows alone; every
time they say how long all measured and drawn convolutions take on both chips. Needs PyTorch (the
``torch`` extra), and a device that it sees: a minute for each set of rows on an H200. Of one chip's
rows they need not learn again (``--only 0 1 2 3 4 all``): what the files say of that stays. With
``--beside`` the files hold the mean of what they said and of what is said now, where both say
something: of twice as many networks. With ``--depthwise`` they learn depth-wise convolutions alone,
which two cores do in an hour, and the files keep what they say of others.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import time
from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray

from perfmodel.calibrate.profiled import PLANS_FOLDER
from perfmodel.calibrate.samples import FOLDS
from perfmodel.calibrate.sidecar import check_sidecar
from perfmodel.calibrate.taught import COLUMNS, EVERY, TAUGHT_FILE, kept_of, stored
from validate.bench import store
from validate.convolutions import judged
from validate.drawn_lists import marks
from validate.plan_law import rows
from validate.plan_law.inputs import Inputs
from validate.plan_law.learn import USUAL, Schedule, Told, device_of, learn, says
from validate.plan_law.table import Floats, Operators, Whole, depthwise

DEVICES: Final = ("NVIDIA H100 80GB HBM3", "NVIDIA H200")
ALL: Final = "all"
SETS: Final = (*map(str, range(FOLDS)), ALL, *rows.CHIPS)
PARTS: Final = 8
"""Of each chip's drawn operators, described and asked by themselves."""


def taken_of(which: str, ones: Operators) -> NDArray[np.bool_]:
    """Rows that a set learns from."""
    if which == ALL:
        return ~ones.unread
    if which in rows.CHIPS:
        return ~ones.unread & (ones.chip == rows.CHIPS.index(which))
    return ~ones.unread & (ones.fold != int(which))


def columns_of(chip: int) -> tuple[str, ...]:
    """Sets in the order of a chip's columns."""
    return (*SETS[: FOLDS + 1], rows.CHIPS[chip], rows.CHIPS[1 - chip])


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What networks see.

    Parameters
    ----------
    known : array, shape (N, F)
        Of all known operators.
    drawn : list
        Of each chip the drawn ones in parts, each with its columns.
    """

    known: Floats
    drawn: list[list[tuple[Operators, Floats]]]


def seen_of(known: rows.Known, drawn: Sequence[Operators], jobs: int, *, chips: bool) -> Seen:
    """Columns of known and drawn operators; ``chips``: whether they tell the chip."""
    ones = known.operators
    inputs = Inputs(ones.only(~timed(ones)), known.kernels, chips=chips)
    found = []
    for one in drawn:
        parts = [one.only(part) for part in np.array_split(np.arange(len(one)), PARTS)]
        columns = Parallel(jobs, prefer="threads")(delayed(inputs)(part) for part in parts)
        found.append(list(zip(parts, columns, strict=True)))
    return Seen(inputs(ones), found)


def timed(ones: Operators) -> NDArray[np.bool_]:
    """Of which some plan has a steady time, (N,)."""
    return np.isfinite(ones.steady_s).any(axis=1)


def told_by(
    which: str, known: rows.Known, seen: Seen, how: Schedule, device: str
) -> tuple[Floats, list[Floats], str]:
    """Logarithms of seconds by networks of a set, of all rows and of the drawn; how far off."""
    ones = known.operators
    told = Told(ones, seen.known, known.plans, device)
    taken = taken_of(which, ones)
    law = learn(told, np.flatnonzero(taken), known.plans, how=how, seed=SETS.index(which))
    own = says(law, told)
    held = ~taken & ~ones.unread & ~timed(ones)
    off = 100.0 * np.abs(np.expm1(own[held] - np.log(ones.kept_s[held])))
    text = f"{off.mean():.2f} % off, {np.median(off):.2f} in the median" if held.any() else "-"
    every = [
        np.concatenate([says(law, Told(*part, known.plans, device)) for part in parts])
        for parts in seen.drawn
    ]
    return own, every, f"{which}: {taken.sum()} rows, {held.sum()} others {text}"


def write(
    folder: Path,
    chip: int,
    ones: Operators,
    said: Floats,
    about: dict[str, object],
    *,
    alone: bool = False,
) -> int:
    """Write a chip's file and its sidecar; how many operators it holds.

    ``ones`` are of the chip, ``said`` (N, 8) logarithms of seconds, NaN where networks of one chip
    said nothing. Judges are left out, and of one operator twice the second. With ``alone``, what
    the file says of operators that are not depth-wise stays, and the sidecar tells whence it was.
    """
    path = folder / rows.CHIPS[chip] / PLANS_FOLDER / TAUGHT_FILE
    sizes, cell, tables = ones.sizes, ones.cell, {"library": _library(chip)}
    if alone:
        others, (more, cells, logs) = _others(path)
        tables["others"] = others
        sizes, cell = np.concatenate([sizes, more]), np.concatenate([cell, cells])
        said = np.concatenate([said, logs])
    given = np.column_stack([sizes, cell])
    _, first = np.unique(given, axis=0, return_index=True)
    unread = judged(folder)
    kept = np.array([at for at in first if tuple(given[at].tolist()) not in unread], np.int64)
    kept = kept[np.isfinite(said[kept, : EVERY + 1]).all(axis=1)]
    path.parent.mkdir(exist_ok=True)
    arrays = {  # columns one after another pack in less
        "sizes": np.asfortranarray(sizes[kept], np.int32),
        "cell": cell[kept].astype(np.uint8),
        "says": np.asfortranarray(kept_of(said[kept])),
    }
    store.write_arrays(path, arrays)
    date = {"date": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())}
    store.sidecar(path, date | about | {"inputs": inputs_of(folder)} | tables, len(kept))
    return len(kept)


def said_before(path: Path, ones: Operators) -> Floats:
    """What a file says of operators, (N, 8); NaN of those that it does not hold.

    Raises
    ------
    CalibrationError
        If there is no such file, or it is damaged.
    """
    _, (sizes, cell, said) = _held(path)
    known, asked = (
        marks(np.column_stack(pair)) for pair in ((sizes, cell), (ones.sizes, ones.cell))
    )
    order = np.argsort(known)
    at = order[np.searchsorted(known, asked, sorter=order).clip(max=known.size - 1)]
    return np.where((known[at] == asked)[:, None], said[at], np.float32(np.nan))


def _others(path: Path) -> tuple[dict[str, str], tuple[Whole, Whole, Floats]]:
    """What a file says of operators that are not depth-wise, and what made it."""
    before, (sizes, cell, said) = _held(path)
    before = before.get("others", before | before["library"])
    some = ~depthwise(sizes)
    told = {name: str(before[name]) for name in ("date", "command", "taught_on")}
    return told, (sizes[some], cell[some], said[some])


def _held(path: Path) -> tuple[dict[str, Any], tuple[Whole, Whole, Floats]]:
    """The sidecar of a file, and its sizes, cells and logarithms, once they agree."""
    data = path.read_bytes()
    about = check_sidecar(path, data, None, repair=rows.REPAIR, damaged=rows.damaged)
    sizes, cell, said = stored(path, data)
    return about, (sizes, cell, said.astype(np.float32))


def inputs_of(folder: Path) -> dict[str, str]:
    """Hashes of what was learned from, the tables of convolutions apart."""
    patterns = (
        *("search/plan*.jsonl.gz", "search/proposed.csv.gz"),
        *("search/drawn-plans*.npz", f"search/{rows.LIKELY}*.npz"),
    )
    found = sorted(path for one in patterns for path in folder.glob(f"*/{one}"))
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
    }


def _library(chip: int) -> dict[str, str]:
    on = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"device": DEVICES[chip], "taught_on": on, "torch": torch.__version__}


def read(folder: Path, count: int | None, jobs: int = 1) -> tuple[rows.Known, list[Operators]]:
    """All that is known, and so many of the drawn operators on each chip, in so many processes.

    All columns are made here, by the trees of lists that are shipped: networks that were shown
    those of other trees miss what they are asked with these.
    """
    every = rows.Drawn.read()
    listed = rows.every_drawn().first(count)
    known = rows.read(folder, listed.names)
    bare = dataclasses.replace(known, operators=known.operators.only(np.zeros(0, np.int64)))
    parts = [listed.only(part) for part in np.array_split(np.arange(len(listed.cell)), PARTS)]
    chips = range(len(rows.CHIPS))
    asked = Parallel(jobs)(
        delayed(rows.asked)(part, bare, chip) for chip in chips for part in parts
    )
    drawn = [reduce(Operators.joined, asked[PARTS * chip :][:PARTS]) for chip in chips]
    for likely in rows.likely(every, known, folder):
        known = dataclasses.replace(known, operators=known.operators.joined(likely))
    return known, drawn


def learned(
    sets: Sequence[str],
    known: rows.Known,
    drawn: Sequence[Operators],
    how: Schedule,
    jobs: int = 1,
) -> dict[str, tuple[Floats, list[Floats]]]:
    """What :func:`told_by` says of each set, on the device that PyTorch sees first."""
    device, found = device_of(), {}
    for alone, some in groupby(sets, rows.CHIPS.__contains__):
        seen = seen_of(known, drawn, jobs, chips=not alone)
        for which in some:
            own, every, text = told_by(which, known, seen, how, device)
            found[which] = own, every
            print(text, flush=True)
    return found


def publish(
    folder: Path,
    known: rows.Known,
    drawn: Sequence[Operators],
    found: Mapping[str, tuple[Floats, list[Floats]]],
    how: Schedule,
    *,
    alone: bool = False,
    beside: bool = False,
) -> None:
    """Write both chips' files by what the folds' sets and that of all rows said.

    What sets that are not ``found`` said before stays. With ``alone`` the operators are depth-wise
    ones, and what the files say of others stays; ``beside`` takes the mean with what they said.
    """
    about: dict[str, object] = {
        "quantity": "times estimated by networks that are told the plans cuDNN proposes",
        "command": "python3 -m validate.plan_law" + " --depthwise" * alone + " --beside" * beside,
        "networks": how.nets,
        "epochs": how.epochs,
    }
    for chip in range(len(rows.CHIPS)):
        mine = known.operators.chip == chip
        ones = known.operators.only(mine).joined(drawn[chip])
        sets, path = columns_of(chip), folder / rows.CHIPS[chip] / PLANS_FOLDER / TAUGHT_FILE
        said = np.full((len(ones), COLUMNS), np.nan, np.float32)
        if beside or not set(sets) <= set(found):
            said = said_before(path, ones)
        for column, which in enumerate(sets):
            if which in found:
                own, others = found[which]
                now = np.concatenate([own[mine], others[chip]])
                both = beside & np.isfinite(said[:, column])
                said[:, column] = np.where(both, (said[:, column] + now) / 2, now)
        count = write(folder, chip, ones, said, about, alone=alone)
        print(f"{rows.CHIPS[chip]}: {count} operators")


def main(argv: Sequence[str] | None = None) -> int:
    """Learn from each set of rows, say how far off others are, and write the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--measurements", type=Path, default=rows.MEASUREMENTS)
    parser.add_argument("--drawn", type=int, help="only so many of the drawn operators")
    parser.add_argument(
        "--only", nargs="+", choices=SETS, default=SETS, help="without a fold, nothing is written"
    )
    parser.add_argument("--depthwise", action="store_true", help="convolutions of this kind alone")
    parser.add_argument("--beside", action="store_true", help="the mean with what the files say")
    parser.add_argument("--jobs", type=int, default=1, help="processes that describe drawn ones")
    parser.add_argument("--nets", type=int, default=USUAL.nets)
    parser.add_argument("--epochs", type=int, default=USUAL.epochs)
    args = parser.parse_args(argv)
    how = dataclasses.replace(USUAL, nets=args.nets, epochs=args.epochs)
    known, drawn = read(args.measurements, args.drawn, args.jobs)
    if args.depthwise:
        known, drawn = rows.depthwise_alone(known, drawn)
    found = learned(args.only, known, drawn, how, args.jobs)
    if set(args.only) >= set(SETS[: FOLDS + 1]):
        publish(
            args.measurements, known, drawn, found, how, alone=args.depthwise, beside=args.beside
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
