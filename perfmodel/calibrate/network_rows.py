"""Measured collectives as arrays, and the fixed halves: one is fitted on, the other judges."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import CalibrationError

Floats = NDArray[np.float64]

# Published hardware -> the node file that describes it.
NODES = {
    "A100-SXM4-80GB": "dgx-a100",
    "A100-SXM4-80GB (p4de)": "aws-p4de",
    "H100-SXM5-80GB": "dgx-h100",
    "H100-SXM5 (p5)": "aws-p5",
    "H200-SXM": "hgx-h200",
    "B200-SXM": "dgx-b200",
    "GB200": "gb200-nvl72",
    "H100-SXM5 (NDR400)": "dgx-h100",
    "H100-SXM5 (NDR400, second site)": "dgx-h100",
    "H200-SXM (NDR400)": "dgx-h200",
    "B200-SXM (NDR400)": "dgx-b200",
    "B200-SXM (second site)": "dgx-b200",
    "B200-SXM (NDR400, second site)": "dgx-b200",
    "A100-SXM4-80GB (HDR200)": "dgx-a100",
    "A100-SXM4-80GB (HDR200, Azure)": "dgx-a100",
    "A100-SXM4-40GB (RoCE 16x100G)": "hgx-a100-40gb-roce",  # the same rate a GPU from two ports
    "L40S": "l40s-x8",
    "RTX-PRO-6000-Server": "h100-pcie-x8",  # other cards, the same link: eight on PCIe 5 x16
    "MI300X": "mi300x-platform",
    "MI250X (GCD)": "lumi-g-node",
    "TPU v5e": "tpu-v5e-pod",
    "TPU7x 2x2x1": "tpu-v7x-pod",
    "TPU7x 2x2x2": "tpu-v7x-pod",
}
# Clusters that no fit may see any row of: other sites, other chips on a fitted fabric. The
# all-to-all between nodes, published once, is split like the rest.
UNSEEN = (
    "B200-SXM (second site)",
    "B200-SXM (NDR400, second site)",
    "H100-SXM5 (NDR400, second site)",
    "H200-SXM (NDR400)",
    "B200-SXM (NDR400)",
    "A100-SXM4-80GB (HDR200, Azure)",
    "A100-SXM4-40GB (RoCE 16x100G)",
)
# ... where its several nodes are joined by another fabric than that file's.
FABRICS = {("B200-SXM", True): "aws-p6-b200"}


@dataclass(frozen=True, slots=True)
class Rows:
    """Columns of equal length; ``held`` marks the half that no fit may see."""

    op: NDArray[np.str_]
    size: Floats
    ranks: Floats
    local: Floats
    seconds: Floats
    node: NDArray[np.str_]
    source: NDArray[np.str_]
    hardware: NDArray[np.str_]
    forced: NDArray[np.str_]
    held: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.op)

    def where(self, mask: NDArray[np.bool_]) -> Rows:
        """The rows that a mask selects."""
        return Rows(*(getattr(self, each.name)[mask] for each in fields(self)))

    @property
    def groups(self) -> Floats:
        """Domains that each group spans."""
        return np.asarray(np.ceil(self.ranks / self.local), dtype=np.float64)


def half(*key: object) -> bool:
    """Whether a row belongs to the half that judges: a hash of what it describes."""
    return bool(zlib.crc32("|".join(map(str, key)).encode()) % 2)


def published_rows(path: Path) -> tuple[Rows, list[tuple[dict[str, str], str]]]:
    """Rows of the published table, and those refused with the reason.

    Parameters
    ----------
    path : Path
        ``validate/published/collectives.csv``.
    """
    kept: list[dict[str, Any]] = []
    refused: list[tuple[dict[str, str], str]] = []
    for row in _read(path):
        reason = _refusal(row)
        if reason:
            refused.append((row, reason))
            continue
        nodes, local = int(row["nodes"]), int(row["gpus_per_node"])
        op = "p2p" if row["collective"] == "sendrecv" else row["collective"]
        key = (row["source"], row["hardware"], nodes, local, op, row["bytes"])
        kept.append(
            {
                "op": op,
                "size": float(row["bytes"]),
                "ranks": nodes * (1 if "Slingshot" in row["interconnect"] else local),
                "local": 1 if "Slingshot" in row["interconnect"] else local,
                "seconds": float(row["time_us"]) * 1e-6,
                "node": FABRICS.get((row["hardware"], nodes > 1), NODES[row["hardware"]]),
                "source": row["source"],
                "hardware": row["hardware"],
                "forced": "ring" if "NVLS disabled" in row["note"] else "",
                "held": _unseen(row["hardware"], op, nodes) or half(*key),
            }
        )
    return as_rows(kept, str(path)), refused


def _unseen(hardware: str, op: str, nodes: int) -> bool:
    return hardware in UNSEEN and not (op == "all_to_all" and nodes > 1)


def as_rows(kept: list[dict[str, Any]], where: str) -> Rows:
    """Columns from records.

    Raises
    ------
    CalibrationError
        If there is nothing, or a time is not positive.
    """
    if not kept:
        raise CalibrationError(
            where, "no usable rows", "measured collectives", repair="check the file's columns"
        )
    numbers = ("size", "ranks", "local", "seconds")
    columns = {
        each.name: np.array(
            [row[each.name] for row in kept], dtype=float if each.name in numbers else None
        )
        for each in fields(Rows)
    }
    if not (columns["seconds"] > 0).all() or not np.isfinite(columns["seconds"]).all():
        raise CalibrationError(
            f"{where}: seconds",
            float(columns["seconds"].min()),
            "positive finite times",
            repair="drop the rows without a time",
        )
    return Rows(**columns)


def _read(path: Path) -> Iterable[dict[str, str]]:
    with path.open(newline="") as file:
        yield from csv.DictReader(file)


_REASONS: tuple[tuple[str, Callable[[dict[str, str]], bool]], ...] = (
    ("no time was published", lambda row: not row["time_us"]),
    ("includes host time of every call", lambda row: "host overhead per call" in row["note"]),
    ("no node file describes this hardware", lambda row: row["hardware"] not in NODES),
)


def _refusal(row: dict[str, str]) -> str:
    return next((reason for reason, applies in _REASONS if applies(row)), "")
