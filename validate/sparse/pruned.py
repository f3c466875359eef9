"""Layers pruned channel by channel on a real chip: the time that pruning really saved.

Rows of ``validate/measurements/<chip>/pruned`` are in no fit. Each is a dense layer with some of
its output or input channels taken away, or one half of its depth-wise separable form.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from perfmodel.cost.price import price
from perfmodel.hardware import Accelerator
from perfmodel.workload.ops.conv import Conv2d

FOLDER = Path(__file__).parents[1] / "measurements" / "h100-sxm5-80gb" / "pruned"
SHOWN = (0.125, 0.25, 0.5, 0.75)
WORTH = 0.02
"""Less than this share of the dense layer's time is no saving."""


def rows(chip: Accelerator, folder: Path = FOLDER) -> pd.DataFrame:
    """Every measured layer with its price: one row each.

    Columns: ``layer`` (its dense form), ``op``, ``what`` (``dense``, ``output``, ``input``,
    ``separable``), ``share`` of the channels taken away, ``measured`` and ``predicted`` [s].
    """
    table = pd.concat([pd.read_csv(path) for path in sorted(folder.glob("*.csv"))])
    ops = [_op(row) for row in table.itertuples()]
    keys = [_layer(op) for op in ops]
    dense = {
        key: max((o for o, k in zip(ops, keys, strict=True) if k == key and o.groups == 1),
                 key=lambda o: (int(o.taps), o.c_in + o.c_out))
        for key in set(keys)
    }  # fmt: skip
    found = []
    for op, key, latency in zip(ops, keys, table.latency_us, strict=True):
        whole = dense[key]
        what, share = _change(op, whole)
        found.append(
            {"layer": _name(whole), "op": op, "what": what, "share": share,
             "measured": latency * 1e-6, "predicted": float(price(op, chip).seconds)}
        )  # fmt: skip
    return pd.DataFrame(found)


def _op(row: object) -> Conv2d:
    names = ("n", "c_in", "h", "w", "c_out", "kernel", "stride", "padding", "groups")
    sizes = (int(getattr(row, name)) if hasattr(row, name) else 1 for name in names)
    return Conv2d(*sizes, layout=str(row.layout), dtype=str(row.dtype))  # type: ignore[attr-defined]


def _layer(op: Conv2d) -> tuple[int, int, str]:
    return int(op.n), int(op.h), op.dtype


def _change(op: Conv2d, whole: Conv2d) -> tuple[str, float]:
    """What was done to the dense layer, and the share of its channels that is gone."""
    if op.groups != 1 or op.taps != whole.taps:
        return "separable", 0.0
    if op.c_out < whole.c_out:
        return "output", 1.0 - op.c_out / whole.c_out
    return ("input", 1.0 - op.c_in / whole.c_in) if op.c_in < whole.c_in else ("dense", 0.0)


def _name(op: Conv2d) -> str:
    channels = f"{op.kernel}x{op.kernel}, {op.c_in} to {op.c_out}"
    return f"{channels}, {op.h}x{op.w}, batch {op.n}, {op.dtype}"


def left(table: pd.DataFrame) -> pd.DataFrame:
    """Share of the dense layer's time that each pruned one takes, measured and predicted."""
    whole = table[table.what == "dense"].set_index("layer")
    some = table[table.what.isin(("output", "input"))].copy()
    for side in ("measured", "predicted"):
        some[side] = some[side].to_numpy() / whole[side][some.layer].to_numpy()
    return some


def document(chip: Accelerator, folder: Path = FOLDER) -> list[str]:
    """The part of the report, as lines of Markdown."""
    table = rows(chip, folder)
    error = table.predicted / table.measured - 1.0
    ratios = left(table)
    right = (ratios.predicted < 1.0 - WORTH) == (ratios.measured < 1.0 - WORTH)
    tau = [
        kendalltau(one.predicted, one.measured).statistic
        for _, one in ratios.groupby(["layer", "what"])
    ]
    lines = [
        "## Pruned channels",
        "",
        f"{len(table)} layers on one H100 SXM (`validate/measurements/h100-sxm5-80gb/pruned`, in no"
        f" fit): {len(set(table.layer))} dense ones with {ratios.share.min():.1%} to"
        f" {ratios.share.max():.0%} of their output or input channels gone, and separable"
        f" forms. Times: {error.abs().mean():.1%} mean error, {error.median():+.1%} median."
        f" Share of the dense layer's time that is left: predicted within"
        f" {(ratios.predicted - ratios.measured).abs().mean():.1%} of the dense time on average;"
        f" Kendall tau of the order {np.mean(tau):.2f}; whether pruning saves time at all (more"
        f" than {WORTH:.0%}) is right for {right.mean():.0%} of {len(right)}"
        f" ({int((ratios.measured >= 1.0 - WORTH).sum())} save none as measured).",
        "",
        "| layer | channels | "
        + " | ".join(f"{share:.0%} gone: measured, predicted" for share in SHOWN)
        + " |",
        "| --- | --- | " + " | ".join("---" for _ in SHOWN) + " |",
    ]
    for (layer, what), some in ratios.groupby(["layer", "what"]):
        cells = []
        for share in SHOWN:
            near = some[(some.share - share).abs() < 1e-6]
            cells.append(
                f"{near.measured.iloc[0]:.0%}, {near.predicted.iloc[0]:.0%}" if len(near) else ""
            )
        lines.append(f"| {layer} | {what} | " + " | ".join(cells) + " |")
    uneven = ratios[[_uneven(op) for op in ratios.op]]
    lines += [
        "",
        f"Channel counts that are no multiple of 8 take {uneven.measured.mean():.2f} times the"
        f" dense layer's time as measured, {uneven.predicted.mean():.2f} times as predicted"
        f" ({len(uneven)} layers): copies that pad, and slower kernels, cost more than is saved.",
        "",
    ]
    return lines


def _uneven(op: Conv2d) -> bool:
    return bool(op.c_in % 8 or op.c_out % 8)
