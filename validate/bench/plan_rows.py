"""Plan times on disk: names of kernels once, in the first line; then one operator a line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def packed(lines: Iterable[str]) -> tuple[bytes, int]:
    """Rows of a run's ``plan_times.jsonl`` with kernels by number, and how many; cut ones out."""
    names: dict[str, int] = {}
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        for plan in row["plans"]:
            if "kernels" in plan:
                plan["kernels"] = [
                    [names.setdefault(name, len(names)), *rest] for name, *rest in plan["kernels"]
                ]
        rows.append(json.dumps(row, separators=(",", ":")))
    text = "\n".join([json.dumps({"kernels": list(names)}), *rows]) + "\n"
    return gzip.compress(text.encode(), 9, mtime=0), len(rows)


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a packed table, names of kernels in their places."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        names = json.loads(next(lines))["kernels"]
        rows = [json.loads(line) for line in lines]
    for row in rows:
        for plan in row["plans"]:
            for kernel in plan.get("kernels", ()):
                kernel[0] = names[kernel[0]]
    return rows
