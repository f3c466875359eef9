"""Kernels of one step out of PyTorch's profiler, joined with the operators that launched them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

KERNEL_COLUMNS = ("case", "first", "kernel", "op", "outer", "shapes", "outer_shapes", "types",
                  "count", "total_us", "grid", "block")  # fmt: skip
_DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}
_KEEP = 220  # characters of a kernel's name


def trace(step: Callable[[], Any], cuda: bool) -> bytes:
    """Chrome trace (JSON text) of one step after a warm one under the profiler."""
    import torch

    activities = [torch.profiler.ProfilerActivity.CPU]
    if cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, record_shapes=True) as recorded:
        step()
        if cuda:
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(path))
        return path.read_bytes()


def _nesting(ops: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The outermost ATen operator around each operator, by index in `ops`."""
    outer: dict[int, dict[str, Any]] = {}
    threads: dict[Any, list[int]] = {}
    for i, op in enumerate(ops):
        threads.setdefault(op.get("tid"), []).append(i)
    for members in threads.values():
        members.sort(key=lambda i: (ops[i]["ts"], -ops[i].get("dur", 0.0)))
        stack: list[int] = []
        for i in members:
            while stack and ops[stack[-1]]["ts"] + ops[stack[-1]].get("dur", 0.0) <= ops[i]["ts"]:
                stack.pop()
            aten = [j for j in stack if str(ops[j]["name"]).startswith("aten::")]
            outer[i] = ops[aten[0]] if aten else ops[i]
            stack.append(i)
    return outer


def kernels(text: bytes) -> list[dict[str, Any]]:
    """Rows of a chrome trace: kernels grouped by name, operator and shapes, in launch order."""
    events = [e for e in json.loads(text)["traceEvents"] if isinstance(e, dict) and "ts" in e]
    ops = [e for e in events if e.get("cat") == "cpu_op"]
    by_id: dict[Any, int] = {}
    for i, op in enumerate(ops):
        key = op.get("args", {}).get("External id")
        if key is not None:
            by_id.setdefault(key, i)
    launches = {
        e.get("args", {}).get("correlation"): e.get("args", {}).get("External id")
        for e in events
        if e.get("cat") in ("cuda_runtime", "cuda_driver")
    }
    around = _nesting(ops)
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    launched = sorted((e for e in events if e.get("cat") in _DEVICE), key=lambda e: e["ts"])
    for position, event in enumerate(launched):
        args = event.get("args", {})
        at = by_id.get(args.get("External id"))
        if at is None:
            at = by_id.get(launches.get(args.get("correlation")))
        inner = ops[at] if at is not None else {}
        outer = around[at] if at is not None else {}
        detail, whole = inner.get("args", {}), outer.get("args", {})
        shapes = json.dumps(detail.get("Input Dims", []), separators=(",", ":"))
        name = str(event.get("name", ""))[:_KEEP]
        group = (name, inner.get("name", ""), outer.get("name", ""), shapes)
        row = rows.get(group)
        if row is None:
            rows[group] = row = {
                "first": position, "kernel": name, "op": group[1], "outer": group[2],
                "shapes": shapes, "count": 0, "total_us": 0.0,
                "outer_shapes": "" if inner is outer else json.dumps(
                    whole.get("Input Dims", []), separators=(",", ":")),
                "types": ";".join(map(str, detail.get("Input type", [])[:3])),
                "grid": "x".join(map(str, args.get("grid", []))),
                "block": "x".join(map(str, args.get("block", []))),
            }  # fmt: skip
        row["count"] += 1
        row["total_us"] += float(event.get("dur", 0.0))
    for row in rows.values():
        row["total_us"] = round(row["total_us"], 3)
    return list(rows.values())


def busy_us(rows: list[dict[str, Any]]) -> tuple[int, float]:
    """Kernels of a step, and their summed time [us]."""
    return sum(r["count"] for r in rows), sum(r["total_us"] for r in rows)
