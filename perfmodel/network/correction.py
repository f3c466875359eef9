"""A smooth residual over size and ranks, tabulated: log(measured / mechanism) and its spread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Table:
    """The residual of one operation: rows are rank counts, columns are sizes."""

    ranks: tuple[int, ...]
    values: Floats
    spread: Floats


@dataclass(frozen=True, slots=True)
class Correction:
    """Residuals of several operations on one grid of sizes.

    Parameters
    ----------
    first, step : float
        log2 of the first size in bytes, and the distance of the columns.
    tables : mapping of str to Table
        By operation.
    sizes, ranks : (smallest, largest)
        What was measured; outside it the table's edge holds and nothing is calibrated.
    """

    first: float
    step: float
    tables: Mapping[str, Table]
    sizes: tuple[float, float]
    ranks: tuple[int, int]

    def at(self, op: str, size: Floats, ranks: Floats) -> tuple[Floats, Floats]:
        """(residual, spread) by bilinear interpolation in log2 of size and of ranks."""
        table = self.tables.get(op)
        if table is None:
            return np.zeros(size.shape), np.full(size.shape, np.nan)
        columns = table.values.shape[1]
        where = (np.log2(np.maximum(size, 1.0)) - self.first) / self.step
        where = np.clip(where, 0.0, columns - 1.0)
        left = np.minimum(where.astype(np.intp), max(columns - 2, 0))
        right = np.minimum(left + 1, columns - 1)
        weight = where - left
        known = np.log2(np.asarray(table.ranks, float))
        place = np.interp(np.log2(np.maximum(ranks, 1.0)), known, np.arange(len(known)))
        low = np.minimum(place.astype(np.intp), max(len(known) - 2, 0))
        high = np.minimum(low + 1, len(known) - 1)
        share = place - low

        def pick(grid: Floats) -> Floats:
            flat, wide = np.ascontiguousarray(grid).ravel(), columns
            below = flat[low * wide + left] * (1 - weight) + flat[low * wide + right] * weight
            if len(known) == 1:
                return np.asarray(below, dtype=np.float64)
            above = flat[high * wide + left] * (1 - weight) + flat[high * wide + right] * weight
            return np.asarray(below * (1 - share) + above * share, dtype=np.float64)

        return pick(table.values), pick(table.spread)

    def covers(self, op: str, size: Floats, ranks: Floats) -> NDArray[np.bool_]:
        """Where measurements of this operation surround the point."""
        table = self.tables.get(op)
        if table is None:
            return np.zeros(size.shape, dtype=bool)
        inside = (size >= self.sizes[0]) & (size <= self.sizes[1])
        return np.asarray(inside & (ranks >= self.ranks[0]) & (ranks <= self.ranks[1]), dtype=bool)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists for a file."""
        return {
            "log2_first": self.first,
            "log2_step": self.step,
            "sizes": list(self.sizes),
            "ranks": list(self.ranks),
            "tables": {
                op: {
                    "ranks": list(table.ranks),
                    "values": np.round(table.values, 4).tolist(),
                    "spread": np.round(table.spread, 4).tolist(),
                }
                for op, table in self.tables.items()
            },
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Correction:
        """The inverse of :meth:`to_dict`."""
        tables = {}
        for op, table in data["tables"].items():
            values = np.array(table["values"], dtype=np.float64)
            spread = np.array(table["spread"], dtype=np.float64)
            if values.ndim != 2 or values.shape != spread.shape:
                raise ValueError(f"{op}: values and spread are not tables of one shape")
            if len(table["ranks"]) != values.shape[0]:
                raise ValueError(f"{op}: {len(table['ranks'])} ranks, {values.shape[0]} rows")
            tables[op] = Table(tuple(int(r) for r in table["ranks"]), values, spread)
        return Correction(
            float(data["log2_first"]),
            float(data["log2_step"]),
            tables,
            (float(data["sizes"][0]), float(data["sizes"][1])),
            (int(data["ranks"][0]), int(data["ranks"][1])),
        )
