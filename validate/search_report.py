"""What the plans that cuDNN's search tried tell: ``python3 -m validate.search_report``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np

from validate.bench import ops, search_log, store

FOLDER = Path(__file__).with_name("measurements") / "h100-sxm5-80gb"
EDGES_US = (0.0, 10.0, 20.0, 50.0, 100.0, np.inf)
CUBLAS = {"fwd": "ConvFwd_eng58", "dgrad": "ConvBwdData_eng63", "wgrad": "ConvBwdFilter_eng62"}
"""Engine of each pass that hands a convolution to the library of matrix products."""

Search = tuple[ops.Op, list[search_log.Plan]]


def chosen(plans: list[search_log.Plan]) -> str:
    """Name of the plan that the search kept: the least of its single trials."""
    return min(plans, key=lambda plan: plan[1])[0]


def latencies(folder: Path) -> dict[str, float]:
    """Steady time of every convolution of a folder, by the operator's identity [us]."""
    rows = [row for path in sorted(folder.glob("conv*.csv")) for row in store.read_any(path)]
    return {ops.key(store.op_of(row)): float(row["latency_us"]) for row in rows}


def by_time(found: Iterable[Search], steady: dict[str, float]) -> list[str]:
    """Lines of a table: trial against steady time, and the runner-up against the winner."""
    lines = ["| steady [us] | convolutions | least trial - steady [us] | second / least trial |"]
    lines.append("| --- | --- | --- | --- |")
    known = [(steady[ops.key(op)], sorted(ms for _, ms in plans)) for op, plans in found
             if ops.key(op) in steady and len(plans) > 1]  # fmt: skip
    for low, high in pairwise(EDGES_US):
        mine = [(us, trials) for us, trials in known if low <= us < high]
        if mine:
            over = np.median([trials[0] * 1e3 - us for us, trials in mine])
            second = np.median([trials[1] / trials[0] for _, trials in mine])
            lines.append(f"| {low:g} to {high:g} | {len(mine)} | {over:.1f} | {second:.3f} |")
    return lines


def products(found: Iterable[Search]) -> list[str]:
    """Lines: of the convolutions for which matrix products were tried, how many keep them."""
    counts: dict[str, list[int]] = {}
    for op, plans in found:
        engine = CUBLAS[op.get("pass", "fwd")]
        if op["op"] == "conv2d" and any(name.startswith(engine) for name, _ in plans):
            tally = counts.setdefault(f"{op['pass']} {op['layout']}", [0, 0])
            tally[0] += 1
            tally[1] += chosen(plans).startswith(engine)
    return [f"| {name} | {n} | {kept} |" for name, (n, kept) in sorted(counts.items())]


def main() -> int:
    """Print both tables."""
    found = search_log.read(FOLDER / "search" / "plans.jsonl.gz")
    print("\n".join(by_time(found, latencies(FOLDER))))
    print("\n| pass, layout | products tried | kept |\n| --- | --- | --- |")
    print("\n".join(products(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
