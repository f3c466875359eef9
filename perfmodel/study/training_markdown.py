"""The training report as Markdown: what was expressed, how far off it is, and in what order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from perfmodel.study.scores import REPORT, TUNE, Score

if TYPE_CHECKING:
    from perfmodel.study.training_report import Record, TrainingReport

BARS: Final = (
    ("vtrain-multi", 0.12, "vTrain itself 14.7 %, SimuMax 11.4 %, Calculon 19.7 %"),
    ("korthikanti-t5", 0.05, "Calculon, fitted to these rows, 3.7 %"),
)
"""Sources whose MAPE on the report half has a bar, and what other models reach on all of them."""
REGRET: Final = (0.02, 0.06)
"""Bars of mean and worst regret."""
EXPRESSED: Final = 0.8
LARGEST: Final = 15
"""Rows of the list of worst predictions."""
_SCORES: Final = ("rows", "MAPE", "median", "bias", "p90", "worst")


def report_text(report: TrainingReport) -> str:
    """The whole report; the half of the rows that guided no coefficient comes first."""
    parts = [
        "# Accuracy of predicted training steps",
        "",
        *_counts(report),
        "",
        "## All compared rows",
        "",
        _table(
            ("half", *_SCORES),
            [
                ("report: no coefficient saw these", *_cells(_whole(report, REPORT))),
                ("tune: coefficients may be chosen on these", *_cells(_whole(report, TUNE))),
            ],
        ),
        "",
        "Errors are `predicted / measured - 1`; the bias is geometric, above zero is too slow. "
        "Rows of quality C are listed in the records and left out of every score.",
        "",
        *_bars(report),
        *_out_of_memory(report),
        *_memory(report),
    ]
    for title, key in (
        ("source", lambda record: record.source_id),
        ("chip", lambda record: record.chip),
        ("model family", lambda record: record.family),
        ("quality of the row", lambda record: record.quality or "not stated"),
    ):
        parts += _section(report, title, key)
    parts += _order(report)
    parts += _worst(report)
    parts += _reasons(report)
    return "\n".join(parts) + "\n"


def _counts(report: TrainingReport) -> list[str]:
    rows, done = len(report.records), len(report.expressed)
    share = done / rows if rows else 0.0
    assumed = sum(bool(record.assumed) for record in report.expressed)
    return [
        f"{rows} rows; {done} expressed ({share:.1%}), {rows - done} refused with a reason; "
        f"{len(report.compared())} compared with a measurement. {assumed} of the expressed rows "
        "leave something open, which was filled in by rule and is listed in each record.",
        "",
        "Rows are split by a fixed hash of their identifiers (SHA-256, first byte): coefficients "
        "may be chosen on the even half only; the odd half is the report.",
    ]


def _bars(report: TrainingReport) -> list[str]:
    """What was asked of the published table, and what is reached."""
    scores = report.by(lambda record: record.source_id, REPORT)
    if not any(name in scores for name, _, _ in BARS):
        return []
    rows = [
        _bar(f"{name}: MAPE, report half", bar, scores[name].mape, beside)
        for name, bar, beside in BARS
        if name in scores
    ]
    losses = [rank.regret for rank in report.rankings()]
    if losses:
        rows.append(_bar("mean regret of a choice", REGRET[0], float(np.mean(losses)), "-"))
        rows.append(_bar("worst regret of a choice", REGRET[1], max(losses), "-"))
    share = len(report.expressed) / len(report.records)
    held = "yes" if share >= EXPRESSED else "no"
    rows.append(("rows expressed", "at least 80 %", _percent(share), held, "-"))
    count = len(report.false_out_of_memory())
    rows.append(("rows that ran, said not to fit", "0", str(count), "no" if count else "yes", "-"))
    return [_table(("bar", "asked", "reached", "held", "others"), rows), ""]


def _bar(name: str, bar: float, reached: float, beside: str) -> tuple[str, ...]:
    over = f"no, by {_percent(reached - bar)}"
    held = "yes" if reached <= bar else over
    return (name, f"at most {_percent(bar)}", _percent(reached), held, beside)


def _whole(report: TrainingReport, split: str) -> Score | None:
    from perfmodel.study.training_report import scored_rows

    return scored_rows(report.compared(split))


def _cells(score: Score | None) -> tuple[str, ...]:
    if score is None:
        return ("0", *("-" for _ in _SCORES[1:]))
    return (
        str(score.count),
        _percent(score.mape),
        _percent(score.median),
        _percent(score.bias, signed=True),
        _percent(score.p90),
        _percent(score.worst, signed=True),
    )


def _section(report: TrainingReport, title: str, key: Callable[[Record], str]) -> list[str]:
    halves = [report.by(key, split) for split in (REPORT, TUNE)]
    names = sorted({*halves[0], *halves[1]})
    rows = [
        (name or "not stated", *_cells(halves[0].get(name)), *_short(halves[1].get(name)))
        for name in names
    ]
    head = (title, *_SCORES, "tune: rows", "MAPE", "bias")
    return [f"## By {title}", "", _table(head, rows), ""]


def _short(score: Score | None) -> tuple[str, str, str]:
    if score is None:
        return ("0", "-", "-")
    return (str(score.count), _percent(score.mape), _percent(score.bias, signed=True))


def _out_of_memory(report: TrainingReport) -> list[str]:
    found = report.false_out_of_memory()
    judged = sum(record.fits is not None for record in report.expressed)
    if not found:
        return [f"Memory verdicts: all {judged} rows ran, and none is said not to fit.", ""]
    rows = [
        (
            record.row_id,
            record.source_id,
            record.model,
            f"{record.chips_total} x {record.chip}",
            f"{record.peak_mem_gb or 0.0:.0f}",
            ", ".join(record.assumed) or "-",
        )
        for record in found
    ]
    return [
        f"Memory verdicts: {len(found)} of {judged} rows that ran are said not to fit:",
        "",
        _table(("row", "source", "model", "on", "predicted GB", "assumed"), rows),
        "",
    ]


def _memory(report: TrainingReport) -> list[str]:
    rows = [
        (name, *_cells(report.memory(split)))
        for name, split in (("report", REPORT), ("tune", TUNE))
    ]
    return ["Peak memory, where it was measured:", "", _table(("half", *_SCORES), rows), ""]


def _order(report: TrainingReport) -> list[str]:
    ranks = report.rankings()
    if not ranks:
        return []
    known = [rank.spearman for rank in ranks if np.isfinite(rank.spearman)]
    losses = [rank.regret for rank in ranks]
    rows = [
        (rank.source_id, rank.name, str(rank.count), f"{rank.spearman:.2f}", _percent(rank.regret))
        for rank in sorted(ranks, key=lambda rank: -rank.regret)
    ]
    return [
        "## Order of plans",
        "",
        f"{len(ranks)} groups of at least three rows with the same model, devices and batch: mean "
        f"rank correlation {np.mean(known):.2f}, mean regret {_percent(float(np.mean(losses)))}, "
        f"worst {_percent(max(losses))}, over both halves. "
        "Regret is what the plan predicted fastest loses against the fastest measured.",
        "",
        _table(("source", "group", "rows", "Spearman", "regret"), rows),
        "",
    ]


def _worst(report: TrainingReport) -> list[str]:
    found = sorted(report.compared(REPORT), key=lambda record: -abs(np.log(record.ratio or 1.0)))
    rows = [
        (
            record.row_id,
            record.source_id,
            record.model,
            f"{record.chips_total} x {record.chip}",
            f"{record.measured_s:.4g}",
            f"{record.step_time_s:.4g}",
            _percent((record.ratio or 1.0) - 1, signed=True),
        )
        for record in found[:LARGEST]
    ]
    head = ("row", "source", "model", "on", "measured s", "predicted s", "error")
    return [f"## The {len(rows)} largest errors of the report half", "", _table(head, rows), ""]


def _reasons(report: TrainingReport) -> list[str]:
    rows = [(str(count), reason) for reason, count in report.reasons().items()]
    if not rows:
        return []
    return ["## Refused rows", "", _table(("rows", "reason"), rows), ""]


def _percent(value: float, *, signed: bool = False) -> str:
    return f"{100 * value:+.1f} %" if signed else f"{100 * value:.1f} %"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(header)} |", f"| {' | '.join('---' for _ in header)} |"]
    for row in rows:
        cells = (str(cell).replace("|", "\\|").replace("\n", " ") for cell in row)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
