"""Figures of the accuracy tables on the front pages, from the stored predictions they speak of.

``python3 -m validate.front_page`` names every row of ``README.md``, ``docs/accuracy/README.md`` and
the pages of the kernels' model whose points, MAPE or worst case are not those of the data; with
``--write`` it puts them right. What stands in the last column of a row is its author's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import pandas as pd

from perfmodel.calibrate.store import HELD_OUT
from perfmodel.cost.efficiency import efficiency_folder
from perfmodel.files import write_text
from perfmodel.hardware import load_accelerator
from perfmodel.study.programs import PLAIN, UNREAD
from perfmodel.study.scores import REPORT

ROOT: Final = Path(__file__).resolve().parents[1]
PAGES: Final = (
    ROOT / "docs/accuracy/README.md",
    ROOT / "docs/models/kernels.md",
    ROOT / "docs/models/kernels_convolutions.md",
    ROOT / "README.md",
)
CHIP: Final = "h100-sxm5-80gb"
DENSE: Final = ("conv", "conv_point", "conv_odd")
DRAWS: Final = (
    (
        f"{CHIP}, draw-77",
        f"{CHIP}, draw-911",
        f"{CHIP}, draw-77003",
        f"{CHIP}, draw-231124",
        f"{CHIP}, draw-231157",
        f"{CHIP}, draw-231601",
        "h200-sxm-141gb, draw-4242",
        "h200-sxm-141gb, draw-52525",
        "h200-sxm-141gb, draw-231167",
        "h200-sxm-141gb, draw-231602",
    ),
    (
        f"{CHIP}, draw-6060",
        "h200-sxm-141gb, draw-220801",
        "h200-sxm-141gb, draw-190001",
        f"{CHIP}, draw-231100",
    ),
)
"""Unread draws in the order of their row: of all operators, of convolutions alone."""
OF_KINDS: Final = (
    (
        f"{CHIP}, draw-232301",
        f"{CHIP}, draw-282301",
        "h200-sxm-141gb, draw-232302",
        "h200-sxm-141gb, draw-282302",
    ),
    (
        f"{CHIP}, draw-231758",
        f"{CHIP}, draw-232508",
        f"{CHIP}, draw-242908",
        "h200-sxm-141gb, draw-231768",
        "h200-sxm-141gb, draw-232518",
        "h200-sxm-141gb, draw-242918",
    ),
)
"""Unread draws of what was worst before: products; kinds that tables held few of."""


class Score(NamedTuple):
    """Errors of one class [fraction of the measurement]."""

    rows: int
    mape: float
    median: float
    worst: float


Groups = Sequence[Sequence[Score]]


def score(table: pd.DataFrame) -> Score:
    """Of the rows of a table with ``measured_s`` and ``predicted_s``."""
    error = (table.predicted_s / table.measured_s - 1.0).abs()
    return Score(len(error), error.mean(), error.median(), error.max())


def cells(groups: Groups, *, medians: bool = False) -> tuple[str, str, str]:
    """Points, MAPE and worst case as they stand in a row."""
    points = _joined(groups, lambda one: f"{one.rows:,}")
    mape = _joined(groups, lambda one: f"{100 * one.mape:.1f}") + " %"
    if medians:
        mape += f" (median {_joined(groups, lambda one: f'{100 * one.median:.1f}')} %)"
    return points, mape, _joined(groups, lambda one: f"{100 * one.worst:.0f}") + " %"


def _joined(groups: Groups, said: Callable[[Score], str]) -> str:
    return "; ".join(" / ".join(said(one) for one in group) for group in groups)


def kernel_rows() -> dict[str, Groups]:
    """Rows of the H100's operators by how they begin."""
    held = pd.read_csv(efficiency_folder() / CHIP / HELD_OUT)
    base = held.kernel.str.split("-").str[0]

    def kernel(*names: str, dtype: str = "") -> Score:
        chosen = base.isin(names)
        return score(held[chosen & held.dtype.str.startswith(dtype)])

    def dense(layout: str, *passes: str) -> Score:
        return kernel(*(f"{begins}_{one}_{layout}" for begins in DENSE for one in passes))

    def family(begins: str) -> Score:
        return score(held[base.str.startswith(begins)])

    def operator(name: str) -> Score:
        return score(held[held.op == name])

    formats = ("fp16", "fp8", "tf32", "fp32")
    attention = [kernel(f"attention_{one}") for one in ("fwd", "bwd", "decode")]
    streams = [operator(name) for name in ("elementwise", "layernorm", "softmax", "rmsnorm")]
    return {
        "bf16 GEMM, rows": [[kernel("gemm", dtype="bf16")]],
        "fp16 / fp8 / TF32 / fp32": [[kernel("gemm", dtype=one) for one in formats]],
        "batches of products": [
            [kernel("gemm_batched")],
            [kernel("recurrent_fwd"), kernel("recurrent_bwd")],
        ],
        "attention forward": [attention],
        "elementwise, layer norm": [streams],
        "AdamW, cross-entropy": [
            [operator(name) for name in ("adamw", "cross_entropy", "embedding")]
        ],
        "convolution forward": [[dense(one, "fwd") for one in ("nhwc", "nchw")]],
        "convolution gradients": [[dense(one, "dgrad", "wgrad") for one in ("nhwc", "nchw")]],
        "depth-wise / grouped": [
            [family(name) for name in ("conv_depthwise", "conv_grouped", "conv3d")]
        ],
    }


def transfer_rows() -> dict[str, Groups]:
    """Rows of chips that were priced without their own measurements."""
    sibling = pd.read_csv(ROOT / "validate/transfer/sibling.csv.gz")
    out = pd.read_csv(ROOT / "validate/transfer/one_chip_out.csv.gz")
    vendor = out.chip.map({chip: load_accelerator(chip).vendor for chip in out.chip.unique()})
    return {
        "every operator, from the H100's": [[score(sibling[sibling.chip == "h200-sxm-141gb"])]],
        "operators of a chip left out": [
            [score(out[vendor == one]) for one in ("NVIDIA", "AMD")],
        ],
    }


def program_rows() -> dict[str, Groups]:
    """Rows of whole models."""
    steps = pd.read_csv(ROOT / "docs/accuracy/programs.csv", low_memory=False)
    here = steps.chip == CHIP
    attached = steps.after_profiler & steps["mode"].isin(PLAIN)
    timed = steps.refused.isna() & ~steps.superseded & ~attached
    unread = steps.run.str.startswith(UNREAD)
    kinds_of = steps.kind.where(steps.kind.isin(["train", "decode"]), "infer")
    named = {}  # a case that a later run took again stays with the draw that had it first
    for name in ("kinds", "fresh", "draw", "usual", "published", "other"):
        own = steps.case[steps.run.str.startswith(f"{UNREAD}-{name}")]
        named[name] = unread & steps.case.isin(own)
    named["hands"] = unread & steps.model.str.startswith("hand_")
    named["first"] = unread & ~pd.concat(named, axis=1).any(axis=1)

    def steps_of(chosen: pd.Series, kind: str, *modes: str) -> Score:
        right = (kinds_of == kind) & steps["mode"].isin(modes or PLAIN)
        return score(steps[chosen & timed & here & right])

    held = partial(steps_of, steps.split == REPORT)
    first, fresh, draw, usual, published, other, kinds, hands = (
        partial(steps_of, named[name])
        for name in ("first", "fresh", "draw", "usual", "published", "other", "kinds", "hands")
    )
    graphs = ("graph", "compiled-graph")
    known = steps.peak_measured.gt(0) & steps.peak_predicted.gt(0)
    watched = steps[here & known & ~attached & ~steps.superseded]
    peaks = watched.assign(measured_s=watched.peak_measured, predicted_s=watched.peak_predicted)
    both = [(kind, one) for kind in ("infer", "decode", "train") for one in PLAIN]
    return {
        "replayed inference": [[held("infer", "graph")]],
        "the same, compiled": [[held("infer", "compiled-graph")]],
        "a decoding step from a graph": [[held("decode", "graph")]],
        "inference, eager / compiled": [[held("infer", one) for one in PLAIN]],
        "a decoding step, eager": [[held("decode", one) for one in PLAIN]],
        "training step, eager": [[held("train", one) for one in PLAIN]],
        "a check of all of these": [
            [first("infer", *graphs), *(first("infer", one) for one in PLAIN), first("train")]
        ],
        "a later check of usual": [[fresh(kind, one) for kind, one in both]],
        "a draw of usual models": [[usual(kind, one) for kind, one in both]],
        "a draw at published sizes": [
            [published(kind, one) for kind in ("infer", "train") for one in PLAIN]
        ],
        "well-known models in other hands": [
            [
                other("infer", *graphs),
                *(other(kind, one) for kind in ("infer", "decode") for one in PLAIN),
                other("train", "eager"),
            ]
        ],
        "decoders unlike all others": [
            [
                *(hands("decode", one) for one in (*graphs, *PLAIN)),
                hands("train", "eager"),
            ]
        ],
        "the same of 27 models": [
            [kinds("infer", *graphs), *(kinds("infer", one) for one in PLAIN), kinds("train")]
        ],
        "a draw of new models": [
            [
                draw("infer", "eager"),
                *(draw(kind, one) for kind in ("decode", "train") for one in PLAIN),
            ]
        ],
        "whole models of a chip": [[score(steps[timed & (steps.chip == "h200-sxm-141gb")])]],
        "peak allocated memory": [[score(peaks[peaks["mode"] == one]) for one in PLAIN]],
    }


def unread_rows() -> dict[str, Groups]:
    """The rows of unread draws, from the page that ``perfmodel validate`` writes."""
    tables = _tables("unseen.md")

    def told(draws: Sequence[Sequence[str]]) -> Groups:
        return [[_told(tables, name, worst=5) for name in group] for group in draws]

    return {"every operator of draws": told(DRAWS), "draws of what was worst": told(OF_KINDS)}


def page_rows() -> dict[str, Groups]:
    """Rows of reports that other commands write, from their pages."""
    steps, graphs, nets, sent = (
        _tables(f"{name}.md")
        for name in ("training", "convnets_graph", "convnets_published", "network")
    )
    return {
        "training step, every published": [[_told(steps, "report: no coefficient", worst=6)]],
        "training step, vTrain's": [[_told(steps, "vtrain-multi", worst=6)]],
        "convolutional networks from": [[_told(graphs, "program, networks that no fit", worst=5)]],
        "convolutional networks on A100": [
            [_told(nets, name, worst=4) for name in ("A100", "V100", "T4", "MI250")]
        ],
        "collectives inside": [[_told(sent, "all operations", worst=4)]],
        "collectives between": [[_told(sent, "all", worst=4)]],
    }


def _tables(page: str) -> list[list[str]]:
    """Cells of every table line of a page of ``docs/accuracy``."""
    text = (ROOT / "docs/accuracy" / page).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _told(tables: list[list[str]], begins: str, *, worst: int) -> Score:
    """Figures of the first row of that name, else of one that begins so: points, MAPE, one more."""
    counted = [row for row in tables if len(row) > worst and row[1].replace(",", "").isdigit()]
    named = [row for row in counted if row[0] == begins]
    row = (named or [row for row in counted if row[0].startswith(begins)])[0]
    mape, middle, last = (float(row[i].rstrip("% ")) / 100 for i in (2, 3, worst))
    return Score(int(row[1].replace(",", "")), mape, middle, abs(last))


def expected() -> dict[str, tuple[str, str, str]]:
    """Beginning of a row's first cell -> its points, MAPE and worst case by the data."""
    rows = {**kernel_rows(), **transfer_rows(), **program_rows(), **page_rows()}
    told = {label: cells(groups) for label, groups in rows.items()}
    return told | {label: cells(groups, medians=True) for label, groups in unread_rows().items()}


def corrected(page: str, told: Mapping[str, tuple[str, str, str]]) -> tuple[str, list[str]]:
    """The page with its figures put right, and the rows that were wrong, as they should be."""
    lines, changed = [], []
    for line in page.splitlines():
        label = next((one for one in told if line.startswith(f"| {one}")), None)
        if label is None:
            lines.append(line)
            continue
        name, *_, remark = (text.strip() for text in line.strip("|").split("|"))
        lines.append("| " + " | ".join((name, *told[label], remark)) + " |")
        if lines[-1] != line:
            changed.append(lines[-1])
    return "\n".join(lines) + "\n", changed


def main(argv: Sequence[str] | None = None) -> int:
    """Name the rows that differ from the data, or put them right; 1 if any differ and stay."""
    parser = argparse.ArgumentParser(prog="python3 -m validate.front_page", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the rows right")
    write = parser.parse_args(argv).write
    told, wrong = expected(), 0
    for path in PAGES:
        text, changed = corrected(path.read_text(encoding="utf-8"), told)
        wrong += len(changed)
        for line in changed:
            sys.stdout.write(f"{path.relative_to(ROOT)}: {line}\n")
        if write:
            write_text(path, text)
    return 0 if write else int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
