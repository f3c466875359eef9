"""Fit what calls cost on the host, and how a probe tells the pace of the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.calibrate.programs.least import LIMITS, fit_values
from perfmodel.calibrate.programs.measured import Measured
from perfmodel.calibrate.programs.rows import ModelRow
from perfmodel.cost.parts import Floats
from perfmodel.cost.program.coefficients import ProgramCoefficients
from perfmodel.cost.program.host import TIMED, column_seconds, columns, pace_of_probe
from perfmodel.cost.program.host_kinds import HOST_KINDS
from perfmodel.cost.program.queue import QUEUE_DEPTH
from perfmodel.cost.program.step import device_times

HOST_PULL: Final = (0.2, 0.6)
"""Of scalars and of classes: what did best when a sixth of the fitted models was left out."""
HOST_SCALARS: Final = (
    "step_host", "python_call", "autograd", "recomputed", "tensor", "parameter",
    "compiled_module", "compiled_input", "compiled_saved", "more_launch",
)  # fmt: skip
RARE: Final = ("recomputed", "compiled_saved")
"""Of them, what few rows tell."""
FEWEST_PROBES: Final = 8
UNPROBED_WEIGHT: Final = 0.3
PROBED: Final = "pointwise"
"""The class of the probe's own call: its cost is known where there are probes, and never fitted."""
SINGLE_WEIGHT: Final = 0.5
"""Of a single step where the stream of the same row shows the host as well."""
HELD_UP: Final = 0.95
"""A stream is the host's if its single steps are issued in this share of its period or more,"""
BUSY: Final = 0.9
"""and if its kernels take less than this share."""
PACES: Final = ("fast_pace", "usual_pace", "slow_pace")
SUDDEN: Final = 1.5
"""Two probes around a stream that lie further from the nine before it caught a moment."""


def fit_host(cases: Sequence[Measured], start: ProgramCoefficients) -> ProgramCoefficients:
    """Costs of host calls in the reference state, and how a host's probe tells its pace.

    From steps that the host holds up, as a stream and one by one, with the probe beside each; the
    reference state is the median of those probes. Rows taken with a profiler attached tell only
    what that adds to a launch. Rows without a probe say how costs compare with each other: the
    median of their run stands for its pace.
    """
    before = start["probe_call"]
    start = _with_reference([one.row for one in cases], start)
    clean = _telling([one for one in cases if not one.row.after_profiler], start)
    sums = [found for one in clean for found in _host_sums(one, start)]
    if not sums:
        return start
    fitted = _fit_calls(sums, start, start["probe_call"] / before)
    attached = [one for one in cases if one.row.after_profiler]
    fitted = _fit_profiler([x for one in attached for x in _host_sums(one, fitted)], fitted)
    return replace(fitted, scalars=dict(fitted.scalars) | _usual(cases, fitted))


def _telling(cases: Sequence[Measured], c: ProgramCoefficients) -> list[Measured]:
    """Without compiled steps that nobody probed, where enough others were.

    Each ran in a process of its own, whose pace no other row of the run tells.
    """
    unknown = [one.row.mode == "compiled" and issue_pace(one.row, c) is None for one in cases]
    compiled = sum(one.row.mode == "compiled" for one in cases)
    if compiled - sum(unknown) < FEWEST_PROBES:
        return list(cases)
    return [one for one, left_out in zip(cases, unknown, strict=True) if not left_out]


@dataclass(frozen=True, slots=True)
class _HostSum:
    """Host work of the caller's thread and of the backward pass, beside the time that it took.

    ``pace`` is None where nobody probed.
    """

    counts: Floats
    behind: Floats
    launches: float
    seconds: float
    pace: float | None
    run: str
    single: float
    weight: float


def _host_sums(one: Measured, c: ProgramCoefficients) -> list[_HostSum]:
    """What a row shows of the host: single steps, and the stream where the host holds it up."""
    row, work = one.row, one.prepared.work
    if row.host_s is None:
        return []
    launches = float(work.launches.sum())
    counts, behind = (work.counts[side].sum(axis=0) for side in (~work.behind, work.behind))
    run = f"{row.run} {row.mode}"
    device = float(np.sum(device_times(one.prepared, c)[1]))
    held = row.host_s >= HELD_UP * row.step_s and device < BUSY * row.step_s
    found = []
    if held:
        pace = row_pace(row, c)
        found.append(_HostSum(counts, behind, launches, row.step_s, pace, run, 0.0, 1.0))
    if held or launches < QUEUE_DEPTH:  # else the host waits for the device while it issues
        weight = SINGLE_WEIGHT if held else 1.0
        pace = issue_pace(row, c)
        found.append(_HostSum(counts, behind, launches, row.host_s, pace, run, 1.0, weight))
    return found


def _fit_calls(
    sums: Sequence[_HostSum], start: ProgramCoefficients, factor: float
) -> ProgramCoefficients:
    """Costs of calls, from steps without a profiler.

    Processors differ first of all by a factor, which the probe tells; only then by what they are
    slow at. Without probes the rows have to tell it.
    """
    counts, behind = (np.array([getattr(one, n) for one in sums]) for n in ("counts", "behind"))
    target = np.array([one.seconds for one in sums])
    single = np.array([one.single for one in sums])
    known = np.array([one.pace is not None for one in sums])
    if np.count_nonzero(known) < FEWEST_PROBES:
        known[:] = False
    pace = np.array([one.pace or 1.0 for one in sums])
    pace[~known] = 1.0
    # Where nobody probed, the machine is its own reference.
    runs = _places([one.run for one in sums], ~known) if known.any() else []
    weight = np.array([one.weight for one in sums]) * np.where(known, 1.0, UNPROBED_WEIGHT)
    width = len(HOST_KINDS)
    both = counts[:, :width] + behind[:, width : 2 * width]
    kinds = [kind for k, kind in enumerate(HOST_KINDS) if np.count_nonzero(both[:, k]) >= 2]
    scalars = ["step_host", "python_call", "more_launch"]
    if np.count_nonzero(behind.any(axis=1)) >= 2:
        scalars += ["autograd", "backward_share", "backward_pace", "tensor", "parameter"]
    told = (counts + behind)[:, [columns().index(name) for name in RARE]]
    scalars += [n for n, rows in zip(RARE, np.count_nonzero(told, axis=0), strict=True) if rows > 1]
    if single.any() and not single.all():
        scalars += ["first_step"]

    def predicted(c: ProgramCoefficients) -> Floats:
        costs = column_seconds(c)
        spent = counts @ costs + c["step_host"] + single * c["first_step"]
        found = np.asarray(pace * spent + pace ** c["backward_pace"] * (behind @ costs))
        for places in runs:
            found[places] *= np.exp(np.median(np.log(target[places] / found[places])))
        return found

    if known.any() and set(kinds) & set(TIMED):  # their ratios are known better than rows tell them
        kinds = [kind for kind in kinds if kind not in TIMED]
        scalars += ["compiled_pace"]
    if not known.any():
        factor = float(np.exp(np.median(np.log(target / predicted(start)))))
    elif PROBED in kinds:
        kinds.remove(PROBED)
    paced = replace(
        start,
        scalars=dict(start.scalars) | {name: factor * start[name] for name in HOST_SCALARS},
        host={kind: factor * value for kind, value in start.host.items()},
    )
    return fit_values(
        predicted,
        target,
        paced,
        weight,
        pull=HOST_PULL[0],
        host_pull=HOST_PULL[1],
        scalars=scalars,
        host=kinds,
    )


def _fit_profiler(sums: Sequence[_HostSum], c: ProgramCoefficients) -> ProgramCoefficients:
    """What an attached profiler adds to each launch: the median over probed rows."""
    known = [one for one in sums if one.pace is not None and one.launches > 0.0]
    if len(known) < FEWEST_PROBES:
        return c
    costs = column_seconds(c)
    apart = [
        (one.seconds / (one.pace or 1.0) - (one.counts + one.behind) @ costs - c["step_host"]
         - one.single * c["first_step"]) / one.launches
        for one in known
    ]  # fmt: skip
    low, high = LIMITS["profiler_launch"]
    launch = float(np.clip(np.median(apart), low, high))
    return replace(c, scalars=dict(c.scalars) | {"profiler_launch": launch})


def _with_reference(rows: Sequence[ModelRow], c: ProgramCoefficients) -> ProgramCoefficients:
    """The reference state: the median probe of rows without a profiler, and the power of its call.

    The power is the slope of the block's logarithm over the call's, through the medians.
    """
    pairs = [
        (call, block)
        for row in rows
        for call, block in (
            (row.probe_call_s, row.probe_block_s),
            (row.stream_call_s, row.stream_block_s),
        )
        if call is not None and block is not None and not row.after_profiler
    ]
    if len(pairs) < FEWEST_PROBES:
        return c
    call, block = np.log(np.array(pairs)).T
    x, y = call - np.median(call), block - np.median(block)
    low, high = LIMITS["probe_power"]
    power = float(np.clip((x @ y) / (x @ x), low, high)) if x.any() else c["probe_power"]
    usual = float(np.exp(np.median(call)))
    found = {
        "probe_call": usual,
        "profiler_probe": c["profiler_probe"] * usual / c["probe_call"],
        "probe_block": float(np.exp(np.median(block))),
        "probe_power": power,
    }
    return replace(c, scalars=dict(c.scalars) | found)


def _places(names: Sequence[str], chosen: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """Places of the chosen entries by name."""
    found: dict[str, list[int]] = {}
    for k in np.flatnonzero(chosen).tolist():
        found.setdefault(names[k], []).append(k)
    return [np.array(places) for places in found.values()]


def _usual(cases: Sequence[Measured], c: ProgramCoefficients) -> dict[str, float]:
    """The pace to assume, from rows without a profiler, and the paces of one in twenty.

    Assumed is the pace that lies closest to the measured ones in relative terms: it makes the sum
    of |assumed / p - 1| least, so it is their median with weights 1 / p.
    """
    paces = [row_pace(one.row, c) for one in cases if not one.row.after_profiler]
    known = np.sort([pace for pace in paces if pace is not None])
    if known.size < FEWEST_PROBES:
        return {word: c[word] / c["usual_pace"] for word in PACES}
    reached = np.cumsum(1.0 / known)
    usual = float(known[np.searchsorted(reached, 0.5 * reached[-1])])
    fast, slow = np.quantile(known, (0.05, 0.95)).tolist()
    return dict(zip(PACES, (fast, usual, slow), strict=True))


def issue_pace(row: ModelRow, c: ProgramCoefficients) -> float | None:
    """The pace of the host while single steps of a row were issued, from nine probes between."""
    if row.probe_call_s is None:
        return None
    return pace_of_probe(row.probe_call_s, c, block=row.probe_block_s, profiler=row.after_profiler)


def row_pace(row: ModelRow, c: ProgramCoefficients) -> float | None:
    """The pace of the host while the stream of a row ran, from the probes around and inside it.

    A row without a block has two probes around its stream, which are few: they count as much as
    those between the single steps just before it, and never lie further from them than
    :data:`SUDDEN`.
    """
    if row.stream_call_s is None or row.probe_call_s is None:
        return None
    probe = row.stream_call_s
    if row.stream_block_s is None:
        before = row.probe_call_s
        around = min(max(probe, before / SUDDEN), before * SUDDEN)
        probe = float(np.sqrt(before * around))
    return pace_of_probe(probe, c, block=row.stream_block_s, profiler=row.after_profiler)
