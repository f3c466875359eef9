"""Fit the harness's own collectives: CUDA graphs, maximum over ranks, in-network reduction off.

What was measured rules for the rank counts it covers; beyond them (eight ranks on a host of which
four were lent) and for in-network reduction the coefficients of the published table stand in.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.calibrate.network_fit import (
    Shape,
    domain_mechanism,
    domain_shape,
    fit_domain,
    never_faster_with_size,
    predict_rows,
)
from perfmodel.calibrate.network_published import situation
from perfmodel.calibrate.network_rows import Rows, as_rows, half
from perfmodel.errors import CalibrationError
from perfmodel.network.algorithms import OPS
from perfmodel.network.coefficients import LinkCoefficients
from perfmodel.network.collectives import price
from perfmodel.network.correction import Correction, Table
from perfmodel.network.placement import Reach

Floats = NDArray[np.float64]
SOURCE: Final = "validate/measurements/h200-sxm-141gb-x4"
KEY: Final = "nccl-nvlink4-h200-sxm-141gb"
NODE: Final = "hgx-h200"
_BEYOND: Final = (5, 6, 8)  # ranks that the published coefficients answer for


def measured_rows(path: Path, node: str = NODE, mode: str = "graph") -> Rows:
    """Rows of ``collectives.csv`` that stand alone: one group, nothing beside it.

    Raises
    ------
    CalibrationError
        If the file has no such rows or lacks a column.
    """
    kept = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            missing = {"op", "bytes", "world", "mode", "latency_us"} - set(row)
            if missing:
                raise CalibrationError(
                    str(path), f"no column {', '.join(sorted(missing))}",
                    "the columns that validate.bench.collectives writes",
                    repair="measure again, or name the columns as it does",
                )  # fmt: skip
            alone = not row["beside"] and row["group"] == row["world"]
            if row["mode"] != mode or not alone or row["op"] not in OPS:
                continue
            kept.append(
                {
                    "op": row["op"],
                    "size": float(row["bytes"]),
                    "ranks": int(row["world"]),
                    "local": int(row["world"]),
                    "seconds": float(row["latency_us"]) * 1e-6,
                    "node": node,
                    "source": str(path.parent.name),
                    "hardware": path.parent.name,
                    "forced": "",
                    "held": half(row["op"], row["bytes"], row["world"]),
                }
            )
    return as_rows(kept, str(path))


def fit_measured(rows: Rows, published: LinkCoefficients, key: str = KEY) -> LinkCoefficients:
    """Coefficients from the half that may be fitted, completed by the published ones.

    Parameters
    ----------
    rows : Rows
        Of :func:`measured_rows`.
    published : LinkCoefficients
        Of the same link, from the published table.
    """
    mine = rows.where(~rows.held)
    shape = Shape({k: v for k, v in domain_shape().start.items() if not k.startswith("in_")})
    link = fit_domain(key, mine, situation(mine), shape, (SOURCE, *published.sources))
    ways = dict(link.ways)
    if "in_network" in published.ways:
        ways["in_network"] = published.ways["in_network"]
    link = replace(link, ways=ways, in_network_from=published.in_network_from)
    reach = situation(mine)
    link = replace(link, correction=_extended(link, published, reach))
    return never_faster_with_size(link, domain_mechanism(link, float(reach.bandwidth_in.max())))


def _extended(link: LinkCoefficients, published: LinkCoefficients, links: Reach) -> Correction:
    """The table, with rows for more ranks at which both models must agree."""
    own = link.correction
    if own is None:
        raise CalibrationError(
            link.key, "no residual", "a fitted link", repair="fit on more than one row"
        )
    columns = next(iter(own.tables.values())).values.shape[1]
    size: Floats = np.exp2(own.first + own.step * np.arange(columns, dtype=np.float64))
    bare = replace(link, correction=None)
    tables = dict(own.tables)
    for op, table in own.tables.items():
        known = published.correction is not None and op in published.correction.tables
        if op == "p2p" or not known:
            continue
        values, spreads = list(table.values), list(table.spread)
        for count in _BEYOND:
            ranks = np.full(columns, float(count))
            wide = Reach(np.full(columns, links.bandwidth_in.max()), np.full(columns, np.inf))
            there = price(op, size, ranks, ranks, wide, published, None)
            here = price(op, size, ranks, ranks, wide, bare, None)
            values.append(np.log(there.seconds / here.seconds))
            spreads.append(np.log(there.high / there.seconds) / 1.645)
        tables[op] = Table((*table.ranks, *_BEYOND), np.array(values), np.array(spreads))
    return replace(own, tables=tables, ranks=(own.ranks[0], max(_BEYOND)))


def predict_measured(rows: Rows, link: LinkCoefficients) -> Floats:
    """Predicted seconds of measured rows."""
    return predict_rows(rows, situation(rows), link, None)
