"""Unstructured sparse products: whether one is said to beat the dense product, and does."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from perfmodel.calibrate.store import HELD_OUT
from perfmodel.cost.efficiency import efficiency_folder
from perfmodel.cost.price import price
from perfmodel.cost.pruning import crossover_density
from perfmodel.hardware import Accelerator, load_accelerator
from perfmodel.workload.op import Gemm
from perfmodel.workload.ops.conv import Conv2d

FOLDER = Path(__file__).parents[1] / "measurements"
CHIPS = (
    "h100-sxm5-80gb", "h200-sxm-141gb", "a100-sxm4-80gb", "v100-sxm2-32gb", "t4-16gb", "mi250x",
)  # fmt: skip
LAYERS = (
    ("1x1, 512 to 512, 14x14, batch 32", (32, 512, 14, 14, 512, 1, 1, 0)),
    ("3x3, 256 to 256, 28x28, batch 32", (32, 256, 28, 28, 256, 3, 1, 1)),
)
FORMATS = ("fp16", "fp32")


def rows(chip: Accelerator) -> pd.DataFrame:
    """Measured CSR products with their held-out prediction and the dense product's price.

    Columns: ``dtype``, ``density``, ``measured``, ``predicted`` (by a fit that did not see the row)
    and ``dense`` [s].
    """
    name = chip.name.lower()
    held = pd.read_csv(efficiency_folder() / name / HELD_OUT)
    held = held[held.kernel == "spmm"].set_index("row")
    found = []
    for path in sorted((FOLDER / name).glob("spmm*.csv")):
        table = pd.read_csv(path)
        for line, row in enumerate(table.itertuples(), 2):
            place = f"{path.name}:{line}"
            if row.kind != "csr" or place not in held.index:
                continue
            dense = Gemm(int(row.m), int(row.n), int(row.k), dtype=str(row.dtype))
            found.append(
                {"dtype": row.dtype, "density": row.density, "measured": row.latency_us * 1e-6,
                 "predicted": float(held.predicted_s[place]),
                 "dense": float(price(dense, chip).seconds)}
            )  # fmt: skip
    return pd.DataFrame(found)


def document(chip: Accelerator) -> list[str]:
    """The part of the report, as lines of Markdown."""
    table = rows(chip)
    wins, said = table.measured < table.dense, table.predicted < table.dense
    error = (table.predicted / table.measured - 1.0).abs()
    lines = [
        "## Unstructured zeros",
        "",
        f"{len(table)} products with a CSR matrix on one H100 SXM, each predicted by a fit of the"
        f" other folds: {error.mean():.1%} mean error ({error.median():.1%} median). Against the"
        f" price of the dense product, {int(wins.sum())} are faster as measured; the verdict that"
        f" the predictions give is right for {(wins == said).mean():.0%} of all:",
        "",
        "| format | rows | faster than dense | said right |",
        "| --- | --- | --- | --- |",
    ]
    for dtype in sorted(set(table["dtype"])):
        mine = table["dtype"] == dtype
        lines.append(
            f"| {dtype} | {int(mine.sum())} | {int(wins[mine].sum())} |"
            f" {(wins == said)[mine].mean():.0%} |"
        )
    lines += [
        "",
        "Density below which the sparse product beats the dense layer (`crossover_density`); 0 is"
        " never: matrix units are too far ahead of the vector units that gather. Only the H100 was"
        " measured; the others rest on the coefficients of their architecture.",
        "",
        "| chip | "
        + " | ".join(f"{name}, {dtype}" for name, _ in LAYERS for dtype in FORMATS)
        + " |",
        "| --- | " + " | ".join("---" for _ in range(len(LAYERS) * len(FORMATS))) + " |",
    ]
    for name in CHIPS:
        where = load_accelerator(name)
        cells = []
        for _, sizes in LAYERS:
            for dtype in FORMATS:
                op = Conv2d(*sizes, layout="nhwc", dtype=dtype)
                cells.append(f"{crossover_density(op, where):.1%}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]
