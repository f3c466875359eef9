"""Rows, kernels and traces on disk as they come; a stop loses nothing."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

from validate.bench import store
from validate.bench.models.cases import NAMES, Case
from validate.bench.models.profile import KERNEL_COLUMNS

RESULTS = (
    "parameters", "weight_bytes", "before_allocated", "peak_allocated", "after_allocated",
    "before_reserved", "peak_reserved", "after_reserved", "warmup_peak_reserved",
    "step_us", "step_p10_us", "step_p90_us", "wall_us", "latency_us", "latency_p10_us",
    "latency_p90_us", "host_us", "host_p10_us", "host_p90_us", "groups", "steps_per_group",
    "after_profiler",
    "probe_call_us", "probe_add_ns", "probe_block_us",
    "stream_probe_call_us", "stream_probe_add_ns", "stream_probe_block_us",
    "aten_calls", "module_calls", "kernel_count", "kernel_us", "build_s", "warm_s", "case_s",
    "clock_mhz", "power_w", "temp_c", "error",
    "probe_first_block_us", "probe_last_block_us", "host_nogc_us", "guard_us", "graphs",
    "cpu_own", "cpu_all", "waits", "preempted", "faults", "moves", "core", "cores",
    "gc_young", "gc_middle", "gc_old", "walk_ns", "walk_last_ns", "pieces_us", "pieces_block_us",
    "forward_host_us", "backward_host_us", "optimizer_host_us",
    "backward_probe_call_us", "backward_probe_add_ns", "backward_probe_block_us",
    "pieces_backward_us", "singles_forward_us", "singles_backward_us", "singles_optimizer_us",
    "singles_forward_block_us", "singles_backward_block_us", "singles_after_block_us",
    "between_forward_us", "between_backward_us", "between_optimizer_us",
    "between_forward_block_us", "between_backward_block_us", "between_after_block_us",
    "woven_us", "woven_first_us", "woven_block_us", "woven_lag_us", "woven_forward_us",
    "woven_backward_us", "woven_backward_first_us", "woven_backward_block_us",
    "fault_us",
    "all_faults", "place", "place_levels", "place_us", "place_own_faults", "place_faults",
    "call_words",
)  # fmt: skip
_OWN = tuple(n for n in NAMES if n not in ("profile", "kineto", "gb"))
COLUMNS = ("case", *_OWN, *RESULTS)
CASES, KERNELS, KINETO, ABOUT = "cases.csv", "kernels.csv.gz", "kineto.tar", "about.toml"
MAX_BYTES = 15_000_000


def row_of(case: Case, answer: dict[str, Any]) -> dict[str, Any]:
    """One row of the table of cases."""
    return {"case": case.key, **{n: getattr(case, n) for n in _OWN}, **answer}


def append_row(folder: Path, case: Case, answer: dict[str, Any]) -> None:
    """Add a case's row."""
    path = folder / CASES
    new = not path.exists()
    with path.open("a", encoding="utf-8") as handle:
        if new:
            handle.write(",".join(COLUMNS) + "\n")
        handle.write(store.line(row_of(case, answer), COLUMNS))


def append_kernels(folder: Path, case: Case, rows: list[dict[str, Any]]) -> None:
    """Add a case's kernels as one more gzip member."""
    path = folder / KERNELS
    new = not path.exists()
    if not new and path.stat().st_size > MAX_BYTES:
        return
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if new:
        writer.writerow(KERNEL_COLUMNS)
    for row in rows:
        writer.writerow([case.key, *(row.get(c, "") for c in KERNEL_COLUMNS[1:])])
    with path.open("ab") as handle:
        handle.write(gzip.compress(out.getvalue().encode(), 6, mtime=0))


def append_kineto(folder: Path, case: Case, text: bytes) -> None:
    """Add a chrome trace (gzip) to the archive."""
    path = folder / KINETO
    packed = gzip.compress(text, 9, mtime=0)
    if path.exists() and path.stat().st_size + len(packed) > MAX_BYTES:
        return
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo(case.key.replace("/", "-") + ".json.gz")
        member.size = len(packed)
        archive.addfile(member, io.BytesIO(packed))


def done(path: Path) -> set[str]:
    """Keys that a table of cases holds with a result, or with an error that is not the clock's."""
    if not path.exists():
        return set()
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    return {r["case"] for r in rows if r.get("step_us") or r.get("error")}


def about(folder: Path, facts: dict[str, Any]) -> None:
    """Sidecar: what was run, and sha256 of each file."""
    digests = {}
    for name in (CASES, KERNELS, KINETO):
        path = folder / name
        if path.exists():
            digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    store.write_atomic(folder / ABOUT, store.toml(facts | {"sha256": digests}).encode())
