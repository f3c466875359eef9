"""Pruning and sparsity against measurement; coefficients of 2:4 products from half of their rows.

``python3 -m validate.sparse fit`` writes ``hardware_specs/efficiency/structured.toml``;
``python3 -m validate.sparse report --out FILE.md`` scores it, pruned channels, and unstructured
zeros. Neither needs a GPU. Halves are by a fixed hash (SHA-256) of the shape.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from perfmodel.cost.efficiency import efficiency_folder
from perfmodel.cost.price import price
from perfmodel.cost.structured import Structured, structured_coefficients, structured_product
from perfmodel.files import write_text
from perfmodel.hardware import Accelerator, load_accelerator
from perfmodel.workload.op import Gemm
from validate.sparse import pruned, unstructured

FOLDER = Path(__file__).parents[1] / "measurements" / "h100-sxm5-80gb"
FIRST, FRESH = FOLDER / "spmm.csv", FOLDER / "spmm-6.csv"
"""The run whose halves were fitted and kept, and a later one that nothing was fitted on."""
CHIP = "h100-sxm5-80gb"
START = Structured(6e-6, 0.7, 1e-6, 0.7)


def rows(path: Path = FIRST) -> pd.DataFrame:
    """The measured 2:4 products, with their half."""
    table = pd.read_csv(path)
    table = table[(table.kind == "2:4") & table.latency_us.notna()].copy()
    table["seconds"] = table.latency_us * 1e-6
    names = [f"2:4-{r.dtype}-{r.m}-{r.n}-{r.k}" for r in table.itertuples()]
    table["tune"] = [hashlib.sha256(name.encode()).digest()[0] % 2 == 0 for name in names]
    return table


def predicted(table: pd.DataFrame, chip: Accelerator, c: Structured) -> np.ndarray:
    """Time of every row [s]; bf16 and fp16 run at one rate."""
    return structured_product(table.m, table.n, table.k, "bf16", chip, coefficients=c)


def fit(table: pd.DataFrame, chip: Accelerator) -> Structured:
    """Least squares in the logarithm, positive coefficients."""

    def residual(logs: np.ndarray) -> np.ndarray:
        return np.log(predicted(table, chip, Structured(*np.exp(logs))) / table.seconds)

    start = np.log([START.floor, START.rate, START.wave, START.bandwidth])
    low = np.log([1e-7, 0.05, 1e-9, 0.05])
    high = np.log([2e-5, 1.0, 2e-5, 1.0])
    return Structured(*np.exp(least_squares(residual, start, bounds=(low, high)).x))


def coefficients_file(c: Structured, digest: str) -> str:
    """The TOML."""
    return (
        "# Written by `python3 -m validate.sparse fit`; half of the measured rows.\n"
        f'rows_sha256 = "{digest}"\n\n[structured]\n'
        f"floor_seconds = {c.floor:.4g}\nrate_efficiency = {c.rate:.4g}\n"
        f"wave_seconds = {c.wave:.4g}\nbandwidth_efficiency = {c.bandwidth:.4g}\n"
    )


def document(chip: Accelerator, c: Structured) -> str:
    """The report."""
    table, fresh = judged(rows(), chip, c), judged(rows(FRESH), chip, c)
    lines = [
        "# Accuracy of pruning and sparse products",
        "",
        "Written by `python3 -m validate.sparse report --out docs/accuracy/sparse.md`.",
        "",
        "## Two of four weights",
        "",
        f"{len(table) + len(fresh)} products of PyTorch's semi-structured tensors on one H100 SXM "
        "(`validate/measurements/h100-sxm5-80gb/spmm.csv` and `spmm-6.csv`). Four coefficients "
        "come from one half of the first run (a fixed hash of the shape).",
        "",
        "| rows | number | MAPE | bias | worst | faster than dense: measured | said right |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    parts = (("unseen, the other half", table[~table.tune]), ("unseen, a later run", fresh),
             ("fitted on", table[table.tune]))  # fmt: skip
    for name, half in parts:
        lines.append(
            f"| {name} | {len(half)} | {half.error.abs().mean():.1%} | {half.error.median():+.1%} "
            f"| {half.error.abs().max():.0%} | {int(half.wins.sum())} of {len(half)} "
            f"| {(half.said == half.wins).mean():.0%} |"
        )
    lines += [
        "",
        "2:4 halves the arithmetic on paper and is slower than the dense product on most of these "
        "shapes: it starts more slowly, and few tiles of a long product leave most units idle (the "
        "row missed most, 1024 x 256 x 12032, does better than that: its kernel must split the "
        "inner dimension). It pays where both sides of the result are some thousands long.",
        "",
        *pruned.document(chip),
        *unstructured.document(chip),
    ]
    return "\n".join(lines)


def judged(table: pd.DataFrame, chip: Accelerator, c: Structured) -> pd.DataFrame:
    """Rows with the error of their prediction, and whether each beats the dense product."""
    table = table.copy()
    sparse = predicted(table, chip, c)
    table["error"] = sparse / table.seconds - 1
    dense = [
        float(price(Gemm(int(r.m), int(r.n), int(r.k), dtype=str(r.dtype)), chip).seconds)
        for r in table.itertuples()
    ]
    table["said"], table["wins"] = sparse < dense, table.seconds < dense
    return table


def main(argv: list[str] | None = None) -> int:
    """Fit or report."""
    parser = argparse.ArgumentParser(prog="python3 -m validate.sparse", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fit")
    told = commands.add_parser("report")
    told.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    chip = load_accelerator(CHIP)
    if args.command == "fit":
        table = rows()
        digest = hashlib.sha256(FIRST.read_bytes()).hexdigest()
        found = fit(table[table.tune], chip)
        write_text(efficiency_folder() / "structured.toml", coefficients_file(found, digest))
    else:
        write_text(args.out, document(chip, structured_coefficients()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
