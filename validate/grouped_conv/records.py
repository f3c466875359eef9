"""Tables of a run: their columns, and a CSV that is written row by row."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

SOLO = (
    "variant",
    "residency",
    "layer",
    "shape",
    "tiles",
    "steps",
    "slots",
    "slot_s",
    "p10_s",
    "p90_s",
)
LAYERS = (
    "layer", "family", "batch", "groups", "rows", "method", "variant", "placement", "slots", "tiles",  # noqa: E501
    "calls", "sets", "latency_us", "p10_us", "p90_us", "predicted_us", "bound_us", "error",
    "sm_clock_mhz", "note",
)  # fmt: skip
SLOTS = (
    "layer", "variant", "placement", "slot", "sm", "planned_s", "measured_s",
    "tiles0", "tiles1", "tiles2", "steps0", "steps1", "steps2",
)  # fmt: skip
FRESH = (*LAYERS[:6], "form", *LAYERS[6:16], "packing_us", *LAYERS[16:])
FRESH_SLOTS = ("layer", "form", *SLOTS[1:])
PACKS = (
    "layer", "form", "pixels", "read", "written", "in_channels", "latency_us", "p10_us", "p90_us",
)  # fmt: skip


class Table:
    """A CSV written row by row, flushed as it goes."""

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.path, self.columns, self.rows = path, columns, 0
        self._file = path.open("w", newline="")
        self._writer = csv.DictWriter(self._file, columns, restval="", lineterminator="\n")
        self._writer.writeheader()

    def add(self, **row: Any) -> None:
        """Write one row; floats with six significant digits."""
        self._writer.writerow(
            {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
        )
        self.rows += 1

    def flush(self) -> None:
        """To disk."""
        self._file.flush()
