"""The accuracy page of published convolutional networks.

``python -m perfmodel.study.convnets_page`` writes ``docs/accuracy/convnets_published.md``.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

from perfmodel.files import write_text
from perfmodel.study.convnets_published import Scored, score_published, summary

ROOT: Final = Path(__file__).parents[2]
TABLE: Final = ROOT / "validate" / "published" / "convnets.csv"
PAGE: Final = ROOT / "docs" / "accuracy" / "convnets_published.md"
BAR: Final = 0.15
ASKED: Final = ("a100", "v100", "t4", "mi250")
"""Chips of the public tables whose bar is asked for."""


def document(scored: tuple[Scored, ...]) -> str:
    """The page as Markdown, misses first."""
    records = summary(scored)
    asked = [one for one in records if one["chip"].startswith(ASKED)]
    held = sum(one["mape"] <= BAR for one in asked)
    bad = [one for one in scored if one.contradicted]
    names = Counter(f"{one.row['network']}, {one.row['chip']}" for one in bad)
    lines = [
        "# Accuracy on published convolutional networks",
        "",
        "Whole networks that others measured (`validate/published/convnets.csv`, sources beside"
        " it). Written by `python -m perfmodel.study.convnets_page`.",
        "",
        "Unknown of a source are its host, its library (often years older than the kernels that"
        " predictions rest on), and what several devices cost beyond their all-reduce. Each is"
        " fitted on one half of the rows (a fixed hash) and used on the other half, which is what"
        " the table shows; sources with fewer than 12 rows to fit on have the host's launch time"
        " alone. H100 rows of one's own measuring are scored elsewhere.",
        "",
        f"Of {len(asked)} groups of A100, V100, T4 and MI250 rows, {held} are within"
        f" {BAR:.0%} (mean error).",
        "",
        "| | source | task | chip | rows | mean error | median | bias | within 15 % | host-bound |"
        " host, us a call |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in sorted(records, key=lambda one: (one["mape"] <= BAR, -one["mape"])):
        mark = "held" if one["mape"] <= BAR else "**missed**"
        lines.append(
            f"| {mark} | {one['source']} | {one['task']} | {one['chip']} | {one['rows']} |"
            f" {one['mape']:.1%} | {one['median_error']:.1%} | {one['bias']:+.1%} |"
            f" {one['within_15_percent']:.0%} | {one['host_bound']:.0%} |"
            f" {one['host_launch_us']:.1f} |"
        )
    lines += [
        "",
        "## Why",
        "",
        "- **KernelBench** has ten small networks a chip, on shared cloud machines. On its A100"
        " rows ResNet-101 takes twice the host time of a call that DenseNet-121 takes; no one"
        " host and no one set of kernels describes both. Its chips without rows enough to fit a"
        " library on (MI250, L4, L40S, B200) carry the error of kernels that nobody measured"
        " there.",
        "- **timm training on RTX 3090** is right in the median and off by half or more on a few"
        " networks; the cause was not found.",
        f"- **Rows their own table contradicts** ({len(bad)}) are neither fitted nor scored: one"
        " device takes longer for its batch than each of eight does: "
        + "; ".join(f"{name} ({count})" for name, count in sorted(names.items()))
        + ".",
        "- **Libraries**: against the kernels known here those of the dle tables differ most in"
        " depth-wise gradients of channels-first fp32 maps (more than twice as long on A100) and"
        " in dense fp32 convolutions on V100 (about a fifth to a third faster).",
        "",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Score and write."""
    given: list[Any] = list(sys.argv[1:] if arguments is None else arguments)
    out = Path(given[0]) if given else PAGE
    write_text(out, document(score_published(TABLE)))


if __name__ == "__main__":
    main()
