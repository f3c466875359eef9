"""The host's part of measured steps: with its pace known and unknown, and how well it repeats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perfmodel.study.programs import Record, blind, bounded, purpose, time_scores
from perfmodel.study.scores import TUNE, Score, score

HEAD = (
    "| {} | rows | mean % | median % | p90 % |\n"
    "| --- | ---: | ---: | ---: | ---: |"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Repeat:
    """How far two measurements of the same lie apart, as fractions: (n,) of them."""

    count: int
    mean: float
    median: float
    p90: float


def both_ways(found: Sequence[Record]) -> list[tuple[str, Score, Score]]:
    """Steps with a probe that the host held up: errors with the pace given, and without.

    Parameters
    ----------
    found : sequence of Record
        Of one chip and half.
    """
    probed = [one for one in found if one.host_pace is not None and bounded(one).endswith("host")]
    given, unknown = time_scores(probed, purpose), time_scores(blind(probed), purpose)
    return [(name, given[name], unknown[name]) for name in given]


def issue_scores(found: Sequence[Record]) -> dict[str, Score]:
    """Errors of the time in which a single step is issued, with nine probes between them."""
    groups: dict[str, list[Record]] = {}
    for one in found:
        if one.issued_s is not None and one.measured_host_s and not one.superseded:
            groups.setdefault(purpose(one), []).append(one)
    table = {}
    for name, mine in groups.items():
        done = score(
            [one.issued_s or 0.0 for one in mine], [one.measured_host_s or 1.0 for one in mine]
        )
        if done is not None:
            table[name] = done
    return table


def by_streams(found: Sequence[Record]) -> dict[str, Score]:
    """Errors of host-bound steps with a probe, by how many streams of steps were timed for each."""
    words = {1: "one stream", 2: "two streams"}
    probed = [one for one in found if one.host_pace is not None and bounded(one).endswith("host")]
    return time_scores(probed, lambda one: f"{purpose(one)}: {words[one.streams]}")


def repeats(found: Sequence[Record]) -> dict[str, Repeat]:
    """What of a host-bound step repeats: between runs, and within a row, with and without pace.

    Within a row the same calls were timed twice within a second: as single steps, and as a stream.
    """
    host = [one for one in found if not one.refused and bounded(one).endswith("host")]
    runs: dict[str, list[float]] = {}
    for one in host:
        runs.setdefault(one.case, []).append(one.measured_s)
    twice = [np.log(pair[0] / pair[1]) for pair in runs.values() if len(pair) == 2]
    within, paced = [], []
    for one in host:
        if one.host_pace and one.issue_pace and one.measured_host_s:
            apart = np.log(one.measured_s / one.measured_host_s)
            within.append(apart)
            paced.append(apart - np.log(one.host_pace / one.issue_pace))
    table = {
        "the same case in two runs": twice,
        "single steps and stream of a row": within,
        "the same, each over the pace of its probes": paced,
    }
    return {name: _repeat(values) for name, values in table.items() if values}


def _repeat(values: Sequence[float]) -> Repeat:
    apart = np.expm1(np.abs(np.asarray(values, dtype=float)))
    return Repeat(
        apart.size, float(apart.mean()), float(np.median(apart)), float(np.quantile(apart, 0.9))
    )


def markdown(found: Sequence[Record], report: Sequence[Record]) -> list[str]:
    """The tables of a chip: its unseen rows both ways, issue times, repeatability of all rows."""
    lines: list[str] = []
    rows = both_ways(report)
    if rows:
        lines += [
            "Steps that the host held up, with the pace of the host from the probes around them,",
            "and as for a host of unknown pace:",
            "",
            "| step | rows | pace given: MAPE % | median % | unknown: MAPE % | median % |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
        ]
        for name, given, unknown in sorted(rows):
            lines.append(
                f"| {name} | {given.count} | {100 * given.mape:.1f} | {100 * given.median:.1f} |"
                f" {100 * unknown.mape:.1f} | {100 * unknown.median:.1f} |"
            )
        lines += ["", "The time in which a single step is issued, with nine probes between:", ""]
        lines += [HEAD.format("step")]
        for name, one in sorted(issue_scores(report).items()):
            lines.append(_line(name, one.count, one.mape, one.median, one.p90))
        lines.append("")
    unseen = [one for one in found if one.split != TUNE and not one.after_profiler]
    apart = by_streams(unseen)
    if any(name.endswith("two streams") for name in apart):
        lines += [
            "All rows that no fit read (checks among them) and that the host held up, by how many",
            "streams of steps were timed, each with probes of its own (the step is their mean):",
            "",
            HEAD.format("step"),
        ]
        lines += [_line(n, s.count, s.mape, s.median, s.p90) for n, s in sorted(apart.items())]
        lines.append("")
    again = repeats(found)
    if again:
        lines += ["How well a host-bound step repeats, whatever predicts it (all models):", ""]
        lines += [HEAD.format("two measurements")]
        lines += [_line(name, r.count, r.mean, r.median, r.p90) for name, r in again.items()]
        lines.append("")
    return lines


def _line(name: str, count: int, mean: float, median: float, p90: float) -> str:
    return f"| {name} | {count} | {100 * mean:.1f} | {100 * median:.1f} | {100 * p90:.1f} |"
