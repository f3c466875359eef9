"""Further lists of plans for the decision trees of convolutions, from answers of cuDNN.

``python3 -m validate.bench.proposals --drawn 100000 --seed 1 --out 1.jsonl.gz`` asks; ``python3 -m
validate.drawn_lists 1.jsonl.gz 2.jsonl.gz --out drawn.npz`` adds the answers to those of
:data:`~validate.convolutions.DRAWN`, from which ``python3 -m validate.convolutions`` then grows the
trees. Left out are convolutions that lists are known of already, those that networks were taught
(whose lists have files of their own) and those of ``held_out``, for what the trees say of these is
to be what they say of any; and plans whose engine and tile nobody has seen run: what its tiles are
is read off launched kernels.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import sys
import time
import tomllib
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.calibrate.profiled import PLANS_FOLDER
from perfmodel.calibrate.sidecar import check_sidecar
from perfmodel.calibrate.taught import TAUGHT_FILE
from perfmodel.errors import CalibrationError
from validate.bench import store
from validate.convolutions import (
    DRAWN,
    MEASUREMENTS,
    Drawn,
    identity,
    judged,
    measured,
    read,
    words,
)

LONGEST: Final = 10
_LARGEST: Final = 2**16 - 1
_ORDER: Final = (3, 4, 0, 2, 1, 5, 8, 7, 6, 9)
"""Of sizes, the last first: what is alike stands together and packs well."""
Whole = NDArray[np.int64]


def joined(
    drawn: Drawn, answers: Iterable[dict[str, Any]], apart: Whole
) -> tuple[Drawn, Counter[str]]:
    """What is drawn with further answers, and how many of them were added or left out, and why.

    Parameters
    ----------
    drawn : Drawn
        What there is.
    answers : iterable of dict
        As ``validate.bench.proposals`` writes them: ``op`` and ``proposed``, or ``error``.
    apart : array of int, shape (M, 11)
        Sizes and cells that are left out.
    """
    place = {words(plan): at for at, plan in enumerate(drawn.plans)}
    counts: Counter[str] = Counter()
    given, lists = [], []
    for answer in answers:
        names = [name for name, _ in answer.get("proposed") or ()]
        row = identity(answer["op"])
        said = [place.get(words(name)) for name in names[:LONGEST]]
        if not said:
            counts["no answer"] += 1
        elif max(row) > _LARGEST:
            counts["too large"] += 1
        elif None in said:
            counts["unknown plan"] += 1
        else:
            given.append(row)
            lists.append(sorted((at for at in said if at), reverse=True))
    new = np.array(given, np.int64).reshape(-1, drawn.sizes.shape[1] + 1)
    own = np.zeros((len(new), LONGEST), np.int64)
    for at, one in enumerate(lists):
        own[at, : len(one)] = one
    before = np.column_stack([drawn.sizes, drawn.cells])
    own_marks = marks(new)
    _, first = np.unique(own_marks, return_index=True)
    fresh = np.zeros(len(new), dtype=bool)
    fresh[first] = True
    fresh &= ~np.isin(own_marks, marks(before))
    kept = fresh & ~np.isin(own_marks, marks(apart))
    counts |= {
        "added": int(kept.sum()),
        "known": int((~fresh).sum()),
        "taught or judged": int((fresh & ~kept).sum()),
    }
    sizes = np.concatenate([drawn.sizes, new[kept, :-1]])
    cells = np.concatenate([drawn.cells, new[kept, -1]])
    order = np.lexsort([*sizes.T[list(_ORDER)], cells])
    every = np.concatenate([drawn.lists, own[kept]])
    return replace(drawn, sizes=sizes[order], cells=cells[order], lists=every[order]), counts


def marks(rows: Whole) -> NDArray[Any]:
    """Each row as one value; a convolution without groups has one."""
    plain = np.ascontiguousarray(rows, dtype=np.int32).copy()
    plain[:, -2] = np.maximum(plain[:, -2], 1)
    return plain.view(f"V{plain.itemsize * plain.shape[1]}").reshape(-1)


def left_out(folder: Path = MEASUREMENTS) -> Whole:
    """Sizes and cells (M, 11) of what networks were taught, and of what is held out to judge.

    But for measured ones, by which trees are checked; none of those is grown from.

    Raises
    ------
    CalibrationError
        If a table cannot be trusted.
    """
    rows = [np.array(sorted(judged(folder)), np.int64).reshape(-1, 11)]
    for path in sorted(folder.glob(f"*/{PLANS_FOLDER}/{TAUGHT_FILE}")):
        with np.load(path, allow_pickle=False) as held:
            rows.append(np.column_stack([held["sizes"], held["cell"]]).astype(np.int64))
    return np.array(sorted({tuple(row) for row in np.concatenate(rows).tolist()} - measured()))


def write(path: Path, drawn: Drawn) -> None:
    """Write what :func:`~validate.convolutions.read` reads.

    Raises
    ------
    ValueError
        If there are more than 65,536 different lists.
    """
    lists, which = np.unique(drawn.lists, axis=0, return_inverse=True)
    which = which.reshape(-1)
    if len(lists) > _LARGEST + 1:
        raise ValueError(f"{len(lists)} different lists; {_LARGEST + 1} have a number")
    arrays = {
        "sizes": drawn.sizes.astype(np.uint16),
        "cells": drawn.cells.astype(np.uint8),
        "list_low": (which & 255).astype(np.uint8),
        "list_high": (which >> 8).astype(np.uint8),
        "lists": lists.astype(np.uint16),
        "plans": np.array([plan.encode() for plan in drawn.plans]),
        "tiles": drawn.tiles.astype(np.uint16),
    }
    held = io.BytesIO()
    # A third smaller than what NumPy packs.
    with zipfile.ZipFile(held, "w", zipfile.ZIP_LZMA) as packed:
        for name, array in arrays.items():
            one = zipfile.ZipInfo(f"{name}.npy")
            one.compress_type = zipfile.ZIP_LZMA
            with packed.open(one, "w", force_zip64=True) as handle:
                np.lib.format.write_array(handle, np.ascontiguousarray(array), allow_pickle=False)
    store.write_atomic(path, held.getvalue())


def answers_of(paths: Sequence[Path], version: str) -> Iterator[dict[str, Any]]:
    """The answers of some files, all of one version of the library.

    Raises
    ------
    CalibrationError
        If a file disagrees with its sidecar, or another version answered.
    """
    for path in paths:
        said = check_sidecar(path, path.read_bytes(), None, repair="ask again", damaged=_damaged)
        found = said.get("library", {}).get("cudnn")
        if found != version:
            raise CalibrationError(
                f"{path}: library.cudnn",
                found,
                f"{version}, which the other lists are of",
                repair="grow the trees from lists of one version: ask again for those drawn before",
            )
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def _damaged(path: Path, error: object) -> CalibrationError:
    return CalibrationError(str(path), f"<{error}>", "a TOML file", repair="restore the file")


def main(argv: Sequence[str] | None = None) -> int:
    """Add answers to what is drawn."""
    name = "python3 -m validate.drawn_lists"
    parser = argparse.ArgumentParser(prog=name, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("answers", type=Path, nargs="+", help="of validate.bench.proposals")
    parser.add_argument("--drawn", type=Path, default=DRAWN, help="what they are added to")
    parser.add_argument("--out", type=Path, required=True, help="an .npz; it may be the same")
    args = parser.parse_args(argv)
    about = tomllib.loads(args.drawn.with_suffix(".toml").read_text(encoding="utf-8"))
    answers = answers_of(args.answers, about["library"]["cudnn"])
    drawn, counts = joined(read(args.drawn), answers, left_out())
    write(args.out, drawn)
    command = f"{name} {' '.join(sys.argv[1:] if argv is None else argv)}"
    date = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    before = about.pop("command", "")
    told = {"command": f"{command}, after: {before}", "date": date}
    store.sidecar(args.out, about | told, len(drawn.cells))
    sys.stdout.write(f"{', '.join(f'{why} {n}' for why, n in sorted(counts.items()))}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
