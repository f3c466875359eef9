"""What the plans that cuDNN's search tried tell: ``python3 -m validate.search_report``."""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from validate.bench import ops, proposals, search_log, store

FOLDER = Path(__file__).with_name("measurements") / "h100-sxm5-80gb"
PROPOSED = FOLDER.with_name("h200-sxm-141gb") / "search"
EDGES_US = (0.0, 10.0, 20.0, 50.0, 100.0, np.inf)
CUBLAS = {"fwd": "ConvFwd_eng58", "dgrad": "ConvBwdData_eng63", "wgrad": "ConvBwdFilter_eng62"}
"""Engine of each pass that hands a convolution to the library of matrix products."""

TENSOR = {"fwd": "ConvFwd_eng62", "dgrad": "ConvBwdData_eng67", "wgrad": "ConvBwdFilter_eng65"}
"""Engine of each pass whose half-precision kernels are those of the chip's own architecture."""
SPECTRA = {
    "fwd": ("ConvFwd_eng3_",),
    "dgrad": ("ConvBwdData_eng50",),
    "wgrad": ("ConvBwdFilter_eng17_", "ConvBwdFilter_eng18_"),
}
"""Engines of full precision that transform maps and filters, by how their times grow."""
TAPS = (1, 9, 25, 32, 49)

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


def as_proposed(found: Iterable[Search], proposed: Mapping[str, Sequence[str]]) -> tuple[int, int]:
    """Searches that tried just the plans that the heuristics propose, in order; all known ones."""
    pairs = [
        ([name.partition("_")[2] for name, _ in plans], proposed[ops.key(op)])
        for op, plans in found
        if ops.key(op) in proposed
    ]
    return sum(tried == list(first[: len(tried)]) for tried, first in pairs), len(pairs)


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


def by_taps(found: Iterable[Search]) -> list[str]:
    """Lines: how many searches of half precision try the newest kernels, by a filter's taps."""
    counts: dict[tuple[str, str], list[int]] = {}
    for op, plans in found:
        dense = op["op"] == "conv2d" and op.get("groups", 1) == 1
        if not dense or op["dtype"] not in ("bf16", "fp16"):
            continue
        which, taps = op["pass"], int(op["kernel"]) ** 2
        place = bisect_left(TAPS, taps)
        low = TAPS[place - 1] + 1 if place else 1
        span = f"{low} to {TAPS[place]}" if place < len(TAPS) else f"{low} and more"
        tally = counts.setdefault((which, span), [0, 0])
        tally[0] += 1
        tally[1] += any(name.startswith(TENSOR[which]) for name, _ in plans)
    return [f"| {which} | {taps} | {n} | {new} |" for (which, taps), (n, new) in counts.items()]


def spectra(found: Iterable[Search]) -> list[str]:
    """Lines: how many dense fp32 searches of more than one tap try a transform, and keep it."""
    counts: dict[str, list[int]] = {}
    for op, plans in found:
        dense = op["op"] == "conv2d" and op.get("groups", 1) == 1 and op["dtype"] == "fp32"
        if not dense or op["kernel"] == 1 or op["stride"] > 1 or not plans:
            continue
        tally = counts.setdefault(op["pass"], [0, 0, 0])
        engines = SPECTRA[op["pass"]]
        tally[0] += 1
        tally[1] += any((name + "_").startswith(engines) for name, _ in plans)
        tally[2] += (chosen(plans) + "_").startswith(engines)
    return [f"| {which} | {n} | {tried} | {kept} |" for which, (n, tried, kept) in counts.items()]


def forms(found: Iterable[Search]) -> list[str]:
    """Lines: the engines that win for groups, even (one power of two) or not, channels last."""
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for op, plans in found:
        groups = op.get("groups", 1)
        if not 1 < groups < op["c_in"] or op["layout"] != "nhwc" or not plans:
            continue
        c_in, c_out = op["c_in"] // groups, op["c_out"] // groups
        even = c_in == c_out and c_in & (c_in - 1) == 0
        tally = counts.setdefault((op["pass"], "even" if even else "uneven"), {})
        engine = chosen(plans).split("_")[1]
        tally[engine] = tally.get(engine, 0) + 1
    lines = []
    for (which, kind), tally in sorted(counts.items()):
        ranked = sorted(tally.items(), key=lambda pair: -pair[1])
        wins = ", ".join(f"{name} {n}" for name, n in ranked)
        lines.append(f"| {which} | {kind} | {sum(tally.values())} | {wins} |")
    return lines


def main() -> int:
    """Print the tables."""
    found = [
        one
        for path in sorted((FOLDER / "search").glob("plans*.jsonl.gz"))
        for one in search_log.read(path)
    ]
    print("\n".join(by_time(found, latencies(FOLDER))))
    same, known = as_proposed(found, proposals.read(PROPOSED))
    print(f"\n{same} of {known} searches tried what the heuristics propose, in that order")
    print("\n| pass, layout | products tried | kept |\n| --- | --- | --- |")
    print("\n".join(products(found)))
    print("\n| pass | taps | convolutions | newest kernels tried |\n| --- | --- | --- | --- |")
    print("\n".join(sorted(by_taps(found))))
    print("\n| pass, fp32 | convolutions | transforms tried | kept |\n| --- | --- | --- | --- |")
    print("\n".join(spectra(found)))
    print("\n| pass | groups | convolutions | engines kept |\n| --- | --- | --- | --- |")
    print("\n".join(forms(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
