"""What is asked of whole programs beside what was reached, and how often intervals held."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

from perfmodel.study.programs import (
    PLAIN,
    UNREAD,
    Record,
    blind,
    memory_scores,
    purpose,
    time_scores,
)
from perfmodel.study.scores import REPORT, Score

BARS: Final = MappingProxyType(
    {
        "inference, graph": 5.0,
        "inference, compiled-graph": 5.0,
        "inference, eager": 8.0,
        "inference, compiled": 8.0,
        "training, eager": 5.0,
        "training, compiled": 5.0,
        "decoding, eager": 5.0,
        "decoding, compiled": 5.0,
        "decoding, graph": 5.0,
        "decoding, compiled-graph": 5.0,
    }
)
"""Mean error that is asked for on models and shapes that no fit saw [%]."""
SIBLING_BAR: Final = 8.0
"""The same of a chip of which no fit read a model [%]."""
MEMORY_BARS: Final = (3.0, 8.0)
"""Of peak memory: the mean, and the largest [%]."""


def markdown(rows: Sequence[Record], *, own: bool) -> list[str]:
    """The table of a chip: what was asked, and both sets of rows that no fit read.

    Parameters
    ----------
    rows : sequence of Record
        All of a chip.
    own : bool
        Whether fits read models of this chip.
    """
    held = [one for one in rows if one.split == REPORT or not own]
    unread = [one for one in rows if one.split == UNREAD and own]
    apart = [time_scores(part, purpose) for part in (held, blind(held), unread)]
    lines = [
        "What was asked, and what was reached (mean error; worst row) on rows that no fit read, at",
        "the pace of their probes: models of the other half, their rows for a host of unknown",
        "pace, and the checks:",
        "",
        "| step | bar % | rows | mean % | worst % | unknown pace: mean % | checks: rows |"
        " mean % | worst % |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, own_bar in BARS.items():
        bar = own_bar if own else SIBLING_BAR
        one, unknown, check = (table.get(name) for table in apart)
        if one is not None or check is not None:
            unknown_mean = f"{100 * unknown.mape:.1f}" if unknown else ""
            lines.append(
                f"| {name} | {bar:.0f} | {_cells(one)} | {unknown_mean} | {_cells(check)} |"
            )
    memory = memory_scores(rows, lambda one: "peak memory").get("peak memory")
    if memory is not None:
        mean, most = MEMORY_BARS
        lines.append(f"| peak memory | {mean:.0f} (worst {most:.0f}) | {_cells(memory)} | | | | |")
    return [*lines, "", *_coverage([*held, *unread])]


def _cells(one: Score | None) -> str:
    if one is None:
        return " | | "
    return f"{one.count} | {100 * one.mape:.1f} | {100 * one.worst:+.0f}"


def coverage(rows: Sequence[Record]) -> dict[str, tuple[int, float, float]]:
    """How many rows, and shares of them in their interval: at the probe's pace, and at none.

    Rows with a host in them and a probe beside; a share is of 1.
    """
    found: dict[str, list[tuple[bool, bool]]] = {}
    for one in rows:
        if one.refused or one.superseded or one.host_pace is None or one.mode not in PLAIN:
            continue
        told = one.low_s <= one.measured_s <= one.high_s
        blindly = one.unprobed_low_s <= one.measured_s <= one.unprobed_high_s
        found.setdefault(purpose(one), []).append((told, blindly))
    return {
        name: (
            len(pairs),
            sum(a for a, _ in pairs) / len(pairs),
            sum(b for _, b in pairs) / len(pairs),
        )
        for name, pairs in found.items()
    }


def _coverage(rows: Sequence[Record]) -> list[str]:
    table = coverage(rows)
    if not table:
        return []
    lines = [
        "How many of these rows lie in the interval of their estimate (90 % are meant to):",
        "",
        "| step | rows | with the pace of the probe % | for a host of unknown pace % |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, (count, told, blindly) in sorted(table.items()):
        lines.append(f"| {name} | {count} | {100 * told:.0f} | {100 * blindly:.0f} |")
    return [*lines, ""]
