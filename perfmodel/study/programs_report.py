"""The accuracy of whole programs as Markdown, and every row as CSV.

``python -m perfmodel.study.programs_report`` prices all measured models of all chips with the
shipped coefficients and writes ``docs/accuracy/programs.md`` and ``programs.csv`` beside it. With
``--fit`` it fits those of the first chip anew before.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Final

from perfmodel.calibrate.spread import Spread, in_turn
from perfmodel.cost.program.coefficients import load_program_coefficients
from perfmodel.errors import PerfmodelError
from perfmodel.files import write_text
from perfmodel.hardware import load_accelerator
from perfmodel.study import programs_bars, programs_host
from perfmodel.study.executor import processes
from perfmodel.study.programs import (
    UNREAD,
    Record,
    blind,
    bounded,
    memory_scores,
    purpose,
    time_scores,
)
from perfmodel.study.programs_fit import fit_chip, folders
from perfmodel.study.programs_measured import measured_cases, measured_records
from perfmodel.study.scores import REPORT, TUNE, Score

CHIPS: Final = ("h100-sxm5-80gb", "h200-sxm-141gb")
WORDS: Final = "## What is behind the errors"
KINDS: Final = f"{UNREAD}-kinds"
"""Begins the names of the runs of models that are like none of another run."""
PICTURES: Final = MappingProxyType(
    {
        "../pictures/programs-held-out.svg": "Predicted against measured",
        "../pictures/programs-timeline.svg": "A profiled step and its prediction",
        "../pictures/programs-memory.svg": "Memory of a training step",
    }
)
"""Drawn by :mod:`perfmodel.report.programs_pictures` for the page in ``docs/accuracy``."""
_HEAD: Final = (
    "| {} | rows | MAPE % | median % | bias % | p90 % | worst % |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
)
_WORST: Final = 12


def markdown(
    found: Mapping[str, Sequence[Record]],
    words: str = "",
    pictures: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The tables of all chips.

    Parameters
    ----------
    found : mapping
        Chip -> its records.
    words : str
        Text that stands behind the tables; the page's own is kept from :data:`WORDS` on.
    pictures : mapping
        Path of a picture -> what it shows; they stand before the tables.
    """
    lines = [
        "# Accuracy: whole programs",
        "",
        "Models recorded by `perfmodel.trace`, lowered on the stack of the row, and timed by",
        "`validate/bench/models` (protocol in the sidecar of the table). The measured quantity is",
        "a step of a steady stream of steps. Coefficients were fitted on the half of the H100's",
        "models that a hash of the name picks; every table says which half it is of. Reproduce",
        "with `python -m perfmodel.study.programs_report`; all rows are in `programs.csv`.",
        "",
        *(part for name, title in pictures.items() for part in (f"![{title}]({name})", "")),
    ]
    for chip, rows in found.items():
        lines += [f"## {chip}", ""]
        lines += programs_bars.markdown(rows, own=chip == CHIPS[0])
        if chip != CHIPS[0]:
            lines += [
                "No fit read a model of this chip: its kernels were calibrated one by one, and the",
                f"rest is what models gave on {CHIPS[0]}. All rows:",
                "",
            ]
            lines += _table("step", time_scores(rows, purpose))
            lines += _table("step", time_scores(rows, bounded))
        report = [one for one in rows if one.split == REPORT]
        tune = [one for one in rows if one.split == TUNE]
        lines += _unread([one for one in rows if one.split == UNREAD])
        lines += ["Step time, models that no fit read (rows with a probe: at its pace):", ""]
        lines += _table("step", time_scores(report, purpose))
        lines += ["The same for a host of unknown pace, that which other hosts give:", ""]
        lines += _table("step", time_scores(blind(report), purpose))
        lines += ["At the pace of the probe, by which side held the measured step up:", ""]
        lines += _table("step", time_scores(report, bounded))
        lines += programs_host.markdown(rows, report if chip == CHIPS[0] else rows)
        lines += _table("family", time_scores(report, lambda one: one.family))
        lines += ["Step time, the half that coefficients were fitted on:", ""]
        lines += _table("step", time_scores(tune, purpose))
        lines += ["Peak of allocated memory (no coefficient is fitted on memory; all rows):", ""]
        lines += _table("step", memory_scores(rows, purpose))
        lines += ["The largest errors of the report half:", ""]
        lines += _worst(report)
        lines += _refused(rows)
    return "\n".join([*lines, words]).rstrip() + "\n"


def table_csv(found: Mapping[str, Sequence[Record]]) -> str:
    """Every record as a CSV line, the chip first."""
    names = [field.name for field in fields(Record)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["chip", *names])
    for chip, rows in found.items():
        for one in sorted(rows, key=lambda record: record.case):
            values = one.to_dict()
            writer.writerow([chip, *(_cell(values[name]) for name in names)])
    return out.getvalue()


def _cell(value: object) -> object:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def _table(name: str, scores: Mapping[str, Score]) -> list[str]:
    if not scores:
        return ["(no rows)", ""]
    lines = [_HEAD.format(name)]
    for key, one in sorted(scores.items()):
        lines.append(
            f"| {key} | {one.count} | {100 * one.mape:.1f} | {100 * one.median:.1f} |"
            f" {100 * one.bias:+.1f} | {100 * one.p90:.1f} | {100 * one.worst:+.0f} |"
        )
    return [*lines, ""]


def _unread(rows: Sequence[Record]) -> list[str]:
    """The checks: rows that nobody looked at before the last fit, and kinds of models of no run."""
    strange = {one.case for one in rows if one.run.startswith(KINDS)}  # also when taken again
    kinds = [one for one in rows if one.case in strange]
    known = [one for one in rows if one.case not in strange]
    lines = [
        "A check, in runs of its own: networks, batch sizes and modes that no fit of any kind read",
        "and that were not measured before the model was done (rows with a probe: at its pace):",
    ]
    more = [
        "A check of kinds of models in no other run (`unread-kinds*`): no row of it is fitted,",
        "and it was first predicted when nobody had looked at it:",
    ]
    return [*_check(known, lines), *_check(kinds, more)]


def _check(rows: Sequence[Record], said: Sequence[str]) -> list[str]:
    """Rows that no fit reads, at the pace of their host and of others; nothing without rows."""
    if not rows:
        return []
    return [
        *said,
        "",
        *_table("step", time_scores(rows, purpose)),
        "The same for a host of unknown pace, that which other hosts give:",
        "",
        *_table("step", time_scores(blind(rows), purpose)),
        "Its largest errors:",
        "",
        *_worst(rows),
    ]


def _worst(rows: Sequence[Record]) -> list[str]:
    kept = [one for one in rows if not one.refused and not one.superseded]
    kept.sort(key=lambda one: -abs(one.error))
    lines = [
        "| case | measured ms | predicted ms | error % | host ms | device ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in kept[:_WORST]:
        lines.append(
            f"| {one.case} | {one.measured_s * 1e3:.3f} | {one.predicted_s * 1e3:.3f} |"
            f" {100 * one.error:+.0f} | {one.host_s * 1e3:.3f} | {one.device_s * 1e3:.3f} |"
        )
    return [*lines, ""]


def _refused(rows: Sequence[Record]) -> list[str]:
    reasons: dict[str, int] = {}
    for one in rows:
        if one.refused:
            reasons[one.refused] = reasons.get(one.refused, 0) + 1
    if not reasons:
        return []
    lines = [f"Rows without a prediction: {sum(reasons.values())}.", ""]
    return [*lines, *(f"- {count}: {reason}" for reason, count in reasons.items()), ""]


def all_records(
    root: Path,
    chips: Sequence[str] = CHIPS,
    *,
    fit: Sequence[str] = (),
    spread: Spread = in_turn,
    say: Callable[[str], object] = lambda text: None,
) -> dict[str, list[Record]]:
    """Records of every chip whose models were measured; some are fitted anew before.

    What is not fitted is priced by the processes of ``spread``.
    """
    found = {}
    for chip in chips:
        measurements, programs = folders(root, chip)
        if not measurements.is_dir():
            continue
        say(f"{chip}\n")
        accelerator = load_accelerator(chip)
        if chip in fit:
            cases, refused = measured_cases(measurements, programs, accelerator)
            found[chip] = [*fit_chip(cases, accelerator, measurements), *refused]
            load_program_coefficients.cache_clear()
        else:
            found[chip] = measured_records(measurements, programs, accelerator, spread=spread)
    return found


def main(arguments: Sequence[str] = ()) -> int:
    """Write the report; 0 when it was written."""
    parser = argparse.ArgumentParser(
        prog="python -m perfmodel.study.programs_report",
        description="Price all measured models; write docs/accuracy/programs.md and programs.csv.",
    )
    parser.add_argument(
        "--fit", action="store_true", help=f"fit the programs of {CHIPS[0]} anew before"
    )
    fit = CHIPS[:1] if parser.parse_args(arguments).fit else ()
    root = Path(__file__).resolve().parents[2]
    folder = root / "docs" / "accuracy"
    try:
        found = all_records(root, fit=fit, spread=processes(), say=sys.stdout.write)
    except PerfmodelError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    page = folder / "programs.md"
    kept = page.read_text(encoding="utf-8").partition(WORDS) if page.is_file() else ("", "", "")
    write_text(page, markdown(found, "".join(kept[1:]), PICTURES))
    write_text(folder / "programs.csv", table_csv(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
