"""The sampling plan: quasi-random shapes over the ranges models use, and known models' shapes."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from validate.bench import ops, store
from validate.bench.draws import FAMILIES, host_ops

# What one operator may cost on the reference chip (an H100): time [s] and compulsory bytes.
TIME_CAP_S, BYTES_CAP = 8e-3, 8e9
_RATE = {
    "bf16": 650e12,
    "fp16": 650e12,
    "tf32": 350e12,
    "fp32": 45e12,
    "fp64": 45e12,
    "fp8_e4m3": 1100e12,
    "int8": 900e12,
}
_STREAM = 2.6e12


def estimate_s(op: ops.Op) -> float:
    """Rough time on the reference chip, only to keep a plan inside its minutes."""
    work, moved = ops.flops(op), sum(ops.traffic(op))
    if op["op"] == "host":
        return 2e-3
    if op["op"] == "memcpy" and op["kind"] != "d2d":
        return 1e-5 + op["bytes"] / (20e9 if op.get("pinned") else 5e9)
    rate = _RATE[op.get("dtype", "fp32")]
    slow = 1.0
    if op["op"].startswith("conv"):
        slow = 2.0 if op.get("groups", 1) == 1 else 6.0
        slow *= 1.0 if op.get("pass", "fwd") == "fwd" else 1.5
    elif op["op"] == "attention":
        slow = 1.6 if op["head_dim"] != 256 else 2.5
        slow *= 1.0 if op["dtype"] != "fp32" else 2.0
    elif op["op"] == "spmm":
        slow = 20.0 if op["kind"] == "csr" else 1.0
    elif op["op"] in {"rope", "cross_entropy", "permute", "topk"}:
        slow = 4.0
    elif op["op"] == "scatter_add":
        slow = 12.0
    elif op["op"] == "recurrent":  # step after step, and the weights come again from the cache
        turns = op["steps"] * op["layers"] * op["ways"] * (2 if op["pass"] == "bwd" else 1)
        weights = ops.RECURRENT_GATES[op["kind"]] * op["hidden"] ** 2
        return 3 * work / rate + turns * (4e-6 + weights * ops.DTYPE_BYTES[op["dtype"]] / 4e12)
    return 3e-6 + max(work / rate, moved / _STREAM) * slow


def cost_s(op: ops.Op, power: bool = False) -> float:
    """Rough device seconds that measuring `op` takes: build, warm-up, capture, replays."""
    t = estimate_s(op)
    replay = max(10 * t, min(4e-3, 200 * t))
    tune = 0.12 + 80 * t if op["op"].startswith("conv") else 0.0
    return 0.03 + tune + 5 * t + 2 * replay + max(5 * replay, 0.35 if power else 0.025)


def points(dims: int, seed: int) -> Iterator[list[float]]:
    """Additive low-discrepancy sequence in [0, 1)^dims.

    Reference: M. Roberts, "The unreasonable effectiveness of quasirandom sequences" (2018): the
    steps are the inverse powers of the root of x^(d+1) = x + 1.
    """
    root = 2.0
    for _ in range(60):
        root = (1 + root) ** (1 / (dims + 1))
    shift = random.Random(seed)
    at = [shift.random() for _ in range(dims)]
    while True:
        at = [(x + root ** -(i + 1)) % 1.0 for i, x in enumerate(at)]
        yield at


_HEAVY_S, _POWER_SHARE = 60e-6, 0.05


def valid(op: ops.Op) -> bool:
    """Whether an operator can be run, and inside the caps of a plan."""
    try:
        ops.check(op)
    except ValueError:
        return False
    if op["op"].startswith("conv"):
        axes = [op["h"], op["w"]] + ([op["depth"]] if "depth" in op else [])
        if min(ops.conv_out(s, op["kernel"], op["stride"], op["padding"]) for s in axes) < 1:
            return False
    if op["op"] == "attention" and op["dtype"] == "fp32":
        pairs = 4.0 * op["batch"] * op["q_heads"] * op["q_len"] * op["kv_len"]
        if pairs > 2e9:  # may be materialised
            return False
    moved = sum(ops.traffic(op)) * (3 if op["op"] in {"rope", "cross_entropy"} else 1)
    # the largest shapes cost most: half the cap for all but the plain products
    cap = TIME_CAP_S if op["op"] in {"gemm", "memcpy", "recurrent"} else TIME_CAP_S / 2
    return estimate_s(op) <= cap and moved <= BYTES_CAP


def sample(name: str, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` distinct operators of a family (fewer when its space is smaller)."""
    draw, rng = FAMILIES[name][2], random.Random(f"{name}/{seed}")
    source, seen, out = points(4, rng.randrange(1 << 30)), set[str](), []
    for _ in range(60 * count):
        if len(out) >= count:
            break
        op = draw(next(source), rng)
        if not valid(op) or ops.key(op) in seen:
            continue
        seen.add(ops.key(op))
        power = rng.random() < _POWER_SHARE and estimate_s(op) > _HEAVY_S
        out.append(op | ({"power": True} if power else {}))
    return out


def build(
    preset: str = "h100", seed: int = 1, *, points: int | None = None,
    families: list[str] | None = None, counts: Mapping[str, int] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """The plan's entries, interleaved so that every prefix covers the families alike.

    ``counts`` (family -> points) replaces the preset: only the families that it names are drawn.

    Raises
    ------
    ValueError
        For a family that no plan knows.
    """
    unknown = (set(families or ()) | set(counts or ())) - set(FAMILIES) - {"host"}
    if unknown:
        raise ValueError(f"unknown families {sorted(unknown)}; accepted: {sorted(FAMILIES)} host")
    if preset == "smoke":
        return _smoke(seed, points or 120)
    if counts:
        families = list(counts)
    chosen = [f for f in FAMILIES if not families or f in families]
    wanted = counts or {f: FAMILIES[f][1 if preset == "h200" else 0] for f in chosen}
    hosts = host_ops() if not families or "host" in families else []
    scale = 1.0 if points is None else points / max(1, sum(wanted.values()) + len(hosts))
    streams = [sample(f, math.ceil(wanted[f] * scale), seed) for f in chosen if wanted[f]]
    streams = distinct(streams)
    return merge([*streams, hosts])


def distinct(streams: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """Families that overlap may draw one operator twice; the first keeps it."""
    seen: set[str] = set()
    kept = []
    for stream in streams:
        fresh = []
        for entry in stream:
            identity = ops.key({k: v for k, v in entry.items() if k != "power"})
            if identity not in seen:
                seen.add(identity)
                fresh.append(entry)
        kept.append(fresh)
    return kept


def again(folder: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """Operators that ``folder`` holds already, to see how far two runs differ.

    Two thirds are convolutions: cuDNN picks their kernel by a trial of its own in every process.
    """
    rng = random.Random(f"again/{seed}")
    known = [
        store.op_of(row) for path in sorted(folder.glob("*.csv")) for row in store.read_any(path)
    ]
    conv = [op for op in known if op["op"] == "conv2d"]
    rest = [op for op in known if op["op"] not in {"conv2d", "host", "chain", "memcpy"}]
    share = min(len(conv), round(2 * count / 3))
    return rng.sample(conv, share) + rng.sample(rest, min(len(rest), count - share))


def without(entries: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Entries whose operator no table of ``folder`` holds."""
    paths = sorted(folder.glob("*.csv"))
    held = {ops.key(store.op_of(row)) for path in paths for row in store.read_any(path)}
    return [e for e in entries if ops.key({k: v for k, v in e.items() if k != "power"}) not in held]


# Below so many seconds, a row's clock [MHz] and its spread say whether the board was coming back.
_BRIEF_S, _CALM_MHZ, _STEADY = 300e-6, 1700.0, 1.04


def unsteady(row: Mapping[str, str]) -> bool:
    """Whether a row was timed while the clock came back from what had met the power limit.

    For some 120 ms, three or four operators, a board is slower than in a stream of the row's own.
    """
    clock = float(row.get("clock_mhz") or _CALM_MHZ)
    wide = float(row["p90_us"]) > _STEADY * float(row["p10_us"])
    return float(row["latency_us"]) * 1e-6 < _BRIEF_S and (clock < _CALM_MHZ or wide)


def disturbed(folder: Path) -> list[dict[str, Any]]:
    """Products of a folder's tables that are to be timed anew (:func:`unsteady`)."""
    paths = sorted(folder.glob("*gemm*.csv"))
    return [store.op_of(row) for path in paths for row in store.read_any(path) if unsteady(row)]


def light_first(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In the order of what they draw, so that none follows one that had met the power limit."""

    def drawn(op: ops.Op) -> float:
        """Share of the time that arithmetic, and at half its power the memory, is busy."""
        busy = ops.flops(op) / _RATE.get(op.get("dtype", "fp32"), _RATE["fp32"])
        return float(busy + 0.5 * sum(ops.traffic(op)) / _STREAM) / estimate_s(op)

    return sorted(entries, key=lambda e: drawn({k: v for k, v in e.items() if k != "power"}))


def merge(streams: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Interleave streams so that every prefix covers them alike."""
    placed = [
        ((i + 0.5) / len(stream), order, entry)
        for order, stream in enumerate(streams)
        for i, entry in enumerate(stream)
    ]
    return [entry for _, _, entry in sorted(placed, key=lambda p: p[:2])]


def _smoke(seed: int, limit: int) -> list[dict[str, Any]]:
    """One cheap operator of every stratum, families in turn, and every host kind."""
    by_family: dict[str, list[dict[str, Any]]] = {}
    for name in (f for f, about in FAMILIES.items() if about[0]):
        seen: set[str] = set()
        for op in sorted(sample(name, 300, seed), key=estimate_s):
            bare = {k: v for k, v in op.items() if k != "power"}
            if estimate_s(bare) < 12e-6 or ops.strata(bare) in seen:
                continue
            seen.add(ops.strata(bare))
            by_family.setdefault(name, []).append(bare)
    rng, out = random.Random(seed), [host_ops()[i] for i in (0, 2, 5, 9, 12, 13, 14, 15, 18, 19)]
    for stream in by_family.values():
        rng.shuffle(stream)
    while len(out) < limit and any(by_family.values()):
        for stream in by_family.values():
            if stream and len(out) < limit:
                out.append(stream.pop(0))
    for op in [o for o in out if o["op"] == "gemm"][:3]:
        op["power"] = True
    return out


def write(path: Path, entries: list[dict[str, Any]]) -> None:
    """JSON lines, one operator each; ``power`` asks for board power beside it."""
    text = "".join(json.dumps(e) + "\n" for e in entries)
    store.write_atomic(path, text.encode())


def describe(entries: list[dict[str, Any]]) -> str:
    """Counts by family and the rough seconds the plan takes."""
    counts: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    for entry in entries:
        op = {k: v for k, v in entry.items() if k != "power"}
        counts[ops.family(op)] += 1
        spent[ops.family(op)] += cost_s(op, bool(entry.get("power")))
    lines = [
        f"{name:18s} {counts[name]:5d} points ~{spent[name]:6.1f} s" for name in sorted(counts)
    ]
    return "\n".join(
        [*lines, f"{'all':18s} {len(entries):5d} points ~{sum(spent.values()):6.1f} s"]
    )
