"""``python3 -m validate.plan_law.likely``: steady times of one plan of many drawn operators.

What an operator has of its own, its plans have in common: of two plans of one operator, networks
miss both alike (correlation 0.8). A search takes 70 ms an operator and the times of all its plans
50; one plan takes 6 to 9. ``choose`` draws operators of those whose lists are known
(:data:`validate.plan_law.rows.DRAWN`) and names of each the plan that a small network of plans
expects a search to keep; the device times them (``python3 -m validate.bench.plan_times measure
--only``), and ``keep`` writes what it found as a file of :data:`validate.plan_law.rows.LIKELY`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from perfmodel.calibrate.taught import SIZES, words_of_cell
from validate.bench import ops, plan_rows, store
from validate.convolutions import identity, judged
from validate.plan_law import rows
from validate.plan_law.inputs import Inputs
from validate.plan_law.learn import USUAL, Told, device_of, learn
from validate.plan_law.table import Floats, Operators, Whole

SMALL: Final = dataclasses.replace(USUAL, nets=1, epochs=12)
LONGEST_S, MOST_BYTES = 3e-3, 1.5e9  # of an operator that is timed


def op_of(sizes: Sequence[int], cell: int) -> ops.Op:
    """A drawn operator as the measuring side writes it."""
    named = dict(zip(SIZES, sizes, strict=True))
    depth = named.pop("d")
    if depth:
        del named["groups"]
        return {"op": "conv3d", **named, "depth": depth, **words_of_cell(cell)}
    return {"op": "conv2d", **named, **words_of_cell(cell)}


def expected(known: rows.Known, drawn: Operators, device: str) -> tuple[Whole, Floats]:
    """Places of the plans that a small network expects to be kept, and their times [s], (N,)."""
    inputs = Inputs(known.operators, known.kernels)
    told = Told(known.operators, inputs(known.operators), known.plans, device)
    law = learn(told, np.arange(len(known.operators)), known.plans, how=SMALL)
    places, times = [], []
    for part in np.array_split(np.arange(len(drawn)), max(1, len(drawn) // 4096)):
        some = drawn.only(part)
        asked = Told(some, inputs(some), known.plans, device)
        with torch.no_grad():
            each = torch.arange(len(part), device=device)[None]
            steady, launch = asked.asked(law, each)
            steady = steady + asked.offset[each][..., None]
            trial = steady.exp() + launch.exp()
            best = trial.masked_fill(asked.plans[each] == 0, torch.inf).argmin(-1)[0]
        places.append(best.cpu().numpy())
        times.append(steady[0].gather(1, best[:, None])[:, 0].exp().cpu().numpy())
    return np.concatenate(places), np.concatenate(times)


def choose(count: int, seed: int, chip: int, out: Path) -> int:
    """Write ``plan.jsonl`` and ``only.json`` into ``out``; how many operators they hold."""
    listed = rows.Drawn.read()
    known = rows.read(extra=listed.names)
    some = np.random.default_rng(seed).permutation(len(listed.cell))
    unread, chosen, lines = judged(rows.MEASUREMENTS), {}, []
    part = listed.only(some)
    places, seconds = expected(known, rows.asked(part, known, chip), device_of())
    for sizes, cell, plans, place, time_s in zip(
        part.sizes.tolist(), part.cell.tolist(), part.plans, places, seconds, strict=True
    ):
        op = op_of(sizes, cell)
        key = ops.key(op)
        if time_s > LONGEST_S or sum(ops.traffic(op)) > MOST_BYTES or (*sizes, cell) in unread:
            continue
        if key not in chosen:
            chosen[key] = listed.names[plans[place]]
            lines.append(json.dumps(op))
        if len(lines) == count:
            break
    out.mkdir(parents=True, exist_ok=True)
    store.write_atomic(out / "plan.jsonl", ("\n".join(lines) + "\n").encode())
    store.write_atomic(out / "only.json", json.dumps(chosen).encode())
    return len(lines)


def keep(runs: Sequence[Path], chip: int, folder: Path, name: str) -> int:
    """Write the times of runs and their sidecar into a chip's folder; how many there are."""
    listed = rows.Drawn.read()
    given = np.column_stack([listed.sizes, listed.cell]).tolist()
    at = {tuple(one): place for place, one in enumerate(given)}
    number = {name: place for place, name in enumerate(listed.names)}
    found: list[tuple[int, int, float, float, float]] = []
    for row in (row for run in runs for row in plan_rows.read(run / "plan_times.jsonl.gz")):
        drawn = at[identity(row["op"])]
        for plan in row["plans"]:
            where = np.flatnonzero(listed.plans[drawn] == number.get(plan["name"], -1))
            if "us" in plan and where.size:
                times = plan["us"], plan["low"], plan["high"]
                found.append((drawn, int(where[0]), *times))
    columns = list(zip(*sorted(found), strict=True))
    arrays: dict[str, Any] = {
        "drawn": np.array(columns[0], np.int32),
        "place": np.array(columns[1], np.uint8),
    }
    arrays |= {n: np.array(columns[i], np.float32) for i, n in enumerate(("us", "low", "high"), 2)}
    path = folder / rows.CHIPS[chip] / "search" / f"{name}.npz"
    store.write_arrays(path, arrays)
    about = tomllib.loads((runs[0] / "plan_times.toml").read_text(encoding="utf-8"))
    store.sidecar(path, about | {"drawn": listed.sha256}, len(found))
    return len(found)


def main(argv: Sequence[str] | None = None) -> int:
    """Choose operators and plans, or keep what a run timed."""
    name = "python3 -m validate.plan_law.likely"
    parser = argparse.ArgumentParser(prog=name, description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("choose", help="operators, and the plan of each")
    one.add_argument("--count", type=int, default=110_000)
    one.add_argument("--seed", type=int, default=231_123)
    one.add_argument("--chip", choices=rows.CHIPS, default=rows.CHIPS[0])
    one.add_argument("--out", type=Path, required=True)
    two = commands.add_parser("keep", help="times of a run")
    two.add_argument("runs", type=Path, nargs="+")
    two.add_argument("--chip", choices=rows.CHIPS, default=rows.CHIPS[0])
    two.add_argument("--name", default=rows.LIKELY, help=f"of the file; {rows.LIKELY}-2, say")
    args = parser.parse_args(argv)
    chip = rows.CHIPS.index(args.chip)
    if args.command == "choose":
        print(choose(args.count, args.seed, chip, args.out), "operators")
    else:
        print(keep(args.runs, chip, rows.MEASUREMENTS, args.name), "times")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
