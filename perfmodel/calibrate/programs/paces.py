"""The pace of a measured host: what probes beside a row say, and what to assume without any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from perfmodel.calibrate.programs.rows import HOSTED, ModelRow
from perfmodel.cost.program.coefficients import ProgramCoefficients
from perfmodel.cost.program.host import pace_of_probe

FEWEST_PROBES: Final = 8
ENDS: Final = (0.05, 0.95)
"""Shares of the hosts below the fast and the slow pace."""
PACES: Final = ("fast_pace", "usual_pace", "slow_pace")
"""And the same with ``_compiled`` behind, for processes that compiled, and with ``_training``, for
such that trained eagerly."""
SAME_HOST: Final = 900.0
"""Runs that begin this soon after another are on its machine [s]."""
SUDDEN: Final = 1.5
"""Two probes around a stream that lie further from the nine before it caught a moment."""


def assumed_paces(rows: Sequence[ModelRow], c: ProgramCoefficients) -> dict[str, float]:
    """The paces to assume where nobody probes, from rows without a profiler; none if they are few.

    Compiled processes, eager ones that train and all others apart, where they were probed often
    enough. Assumed is the pace
    that lies closest to the measured ones in relative terms: it makes the sum of |assumed / p - 1|
    least, so it is their median with weights 1 / p. Hosts count alike, however many rows they have:
    the next host will be another. Beside it stand the paces that one row in twenty lies beyond.
    """
    hosts = hosts_of(rows)
    paces = [
        (hosts[row.run], _way(row), row_pace(row, c))
        for row in rows
        if not row.after_profiler and row.mode in HOSTED
    ]
    known = [(run, way, pace) for run, way, pace in paces if pace is not None]
    if len(known) < FEWEST_PROBES:
        return {}
    every = _middle([(run, pace) for run, _, pace in known])
    found: dict[str, float] = {}
    for way in ("", "_training", "_compiled"):
        mine = [(run, pace) for run, own, pace in known if own == way]
        sides = _middle(mine) if len(mine) >= FEWEST_PROBES else every
        found |= {f"{word}{way}": value for word, value in sides.items()}
    return found


def _way(row: ModelRow) -> str:
    """What stands behind the names of the paces that a row tells."""
    if row.mode == "compiled":
        return "_compiled"
    return "_training" if row.kind == "train" else ""


def hosts_of(rows: Sequence[ModelRow]) -> dict[str, str]:
    """Run -> its host, by the first of its runs: runs close in time were on one machine.

    A run of unknown time is a host of its own.
    """
    began = {row.run: row.began for row in rows}
    hosts = {run: run for run in began}
    dated = sorted((time, run) for run, time in began.items() if time is not None)
    for (before, one), (after, other) in pairwise(dated):
        if after - before <= SAME_HOST:
            hosts[other] = hosts[one]
    return hosts


def _middle(paces: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Values of :data:`PACES` from paces of hosts, each host with a weight of 1."""
    rows = Counter(run for run, _ in paces)
    known = np.array([pace for _, pace in paces])
    share = np.array([1.0 / rows[run] for run, _ in paces])
    order = np.argsort(known)
    known, share = known[order], share[order]
    reached = np.cumsum(share / known)
    usual = float(known[np.searchsorted(reached, 0.5 * reached[-1])])
    middle = (np.cumsum(share) - 0.5 * share) / np.sum(share)
    fast, slow = np.interp(ENDS, middle, known).tolist()
    return dict(zip(PACES, (fast, usual, slow), strict=True))


def issue_pace(row: ModelRow, c: ProgramCoefficients) -> float | None:
    """The pace of the host while single steps of a row were issued, from nine probes between."""
    if row.probe_call_s is None:
        return None
    return pace_of_probe(row.probe_call_s, c, block=row.probe_block_s, profiler=row.after_profiler)


def behind_pace(row: ModelRow, c: ProgramCoefficients) -> float | None:
    """The pace of the thread that ran the backward pass of a stream, from probes between it.

    With another stream that has blocks at both ends of that thread: the middle of the two.
    """
    block, woven = row.stream_backward_block_s, woven_behind(row, c)
    if block is None or row.after_profiler:
        return None
    pace = float(block / c["probe_block"])
    return pace if woven is None else float(np.sqrt(pace * woven))


def between_steps(row: ModelRow) -> str:
    """The coefficient that says what a block between two steps of a row takes."""
    return "probe_woven" if row.kind == "train" else "probe_between"


def woven_pace(row: ModelRow, c: ProgramCoefficients) -> float | None:
    """The pace of the host from blocks between the steps of a stream; None without such."""
    if row.woven is None or row.after_profiler:
        return None
    return row.woven.block_s / c[between_steps(row)]


def woven_behind(row: ModelRow, c: ProgramCoefficients) -> float | None:
    """The same of the thread of the backward pass."""
    if row.woven is None or row.after_profiler or not row.woven.behind_block_s:
        return None
    return row.woven.behind_block_s / c["probe_behind"]


def row_pace(row: ModelRow, c: ProgramCoefficients) -> float | None:
    """The pace of the host while the stream of a row ran, from the probes around and inside it.

    A row without a block has two probes around its stream, which are few: they count as much as
    those between the single steps just before it, and never lie further from them than
    :data:`SUDDEN`. With blocks between the steps of another stream: the middle of the two, as the
    row's step is the middle of both streams.
    """
    if row.stream_call_s is None or row.probe_call_s is None:
        return None
    probe = row.stream_call_s
    if row.stream_block_s is None:
        before = row.probe_call_s
        around = min(max(probe, before / SUDDEN), before * SUDDEN)
        probe = float(np.sqrt(before * around))
    pace = pace_of_probe(probe, c, block=row.stream_block_s, profiler=row.after_profiler)
    woven = woven_pace(row, c)
    return pace if woven is None else float(np.sqrt(pace * woven))
