"""``python3 -m validate.plan_law.listed``: further drawn operators with the plans cuDNN proposes.

``python3 -m validate.bench.proposals --drawn 20000 --seed 1 --out 1.jsonl.gz`` asks, by as many
processes as there are processors; this writes the answers that are new as one file, whose operators
networks of plans estimate beside those of :data:`validate.plan_law.rows.DRAWN`. Left out are those
that decision trees were grown from, for what these say of a lesson is to be what they say of any.
"""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from validate import drawn_lists
from validate.bench import store
from validate.convolutions import DRAWN, MEASUREMENTS, identity, judged, read
from validate.plan_law import rows
from validate.plan_law.table import LONGEST, Whole

_LARGEST: Final = 2**16 - 1


def listed(answers: Iterable[Mapping[str, Any]], names: Sequence[str], apart: Whole) -> rows.Drawn:
    """Operators of answers, each once, in an order that packs well.

    Plans that no measured or drawn operator has are nothing to a network: such lists are left out.

    Parameters
    ----------
    answers : iterable of mapping
        As ``validate.bench.proposals`` writes them: ``op`` and ``proposed``, or ``error``.
    names : sequence of str
        Of plans that are known, the first empty for none.
    apart : array of int, shape (M, 11)
        Sizes and cells that are left out.
    """
    number, given, lists = {name: at for at, name in enumerate(names)}, [], []
    for answer in answers:
        row = identity(answer["op"])
        said = [number.get(name) for name, _ in answer.get("proposed") or ()][:LONGEST]
        if said and None not in said and max(row) <= _LARGEST:
            given.append(row)
            lists.append(said)
    plans = np.zeros((len(lists), LONGEST), np.int64)
    for at, one in enumerate(lists):
        plans[at, : len(one)] = one
    every = np.array(given, np.int64).reshape(-1, apart.shape[1])
    marks = drawn_lists.marks(every)
    _, first = np.unique(marks, return_index=True)
    kept = first[~np.isin(marks[first], drawn_lists.marks(apart))]
    kept = kept[np.lexsort([*every[kept].T])]
    return rows.Drawn(every[kept, :-1], every[kept, -1], plans[kept], tuple(names))


def main(argv: Sequence[str] | None = None) -> int:
    """Write a file of new operators and lists."""
    name = "python3 -m validate.plan_law.listed"
    parser = argparse.ArgumentParser(prog=name, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("answers", type=Path, nargs="+", help="of validate.bench.proposals")
    parser.add_argument("--out", type=Path, required=True, help="drawn-plans-2.npz, say")
    args = parser.parse_args(argv)
    about = tomllib.loads(args.answers[0].with_suffix("").with_suffix(".toml").read_text("utf-8"))
    grown, known = read(DRAWN), rows.every_drawn()
    apart = [
        np.column_stack([grown.sizes, grown.cells]),
        np.column_stack([known.sizes, known.cell]),
        np.array(sorted(judged(MEASUREMENTS)), np.int64).reshape(-1, 11),
    ]
    answers = drawn_lists.answers_of(args.answers, about["library"]["cudnn"])
    found = listed(answers, known.names, np.concatenate(apart))
    arrays = {
        "sizes": found.sizes.astype(np.uint16),
        "cell": found.cell.astype(np.uint8),
        "plans": found.plans.astype(np.uint16),
        "names": np.array(found.names),
    }
    store.write_arrays(args.out, arrays)
    told = {
        "command": f"{name} {' '.join(sys.argv[1:] if argv is None else argv)}",
        "asked": about["command"],
        "date": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
    }
    store.sidecar(args.out, about | told, len(found.cell))
    sys.stdout.write(f"{len(found.cell)} operators\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
