"""Fit what calls cost on the host, and how a probe tells the pace of the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from perfmodel.calibrate.programs.least import LIMITS, fit_values
from perfmodel.calibrate.programs.measured import Measured
from perfmodel.calibrate.programs.paces import (
    FEWEST_PROBES,
    PACES,
    assumed_paces,
    behind_pace,
    between_steps,
    issue_pace,
    row_pace,
    woven_behind,
    woven_pace,
)
from perfmodel.calibrate.programs.rows import ModelRow, Woven
from perfmodel.cost.parts import Floats
from perfmodel.cost.program.coefficients import ProgramCoefficients
from perfmodel.cost.program.host import (
    COMPILED,
    TIMED,
    column_seconds,
    columns,
)
from perfmodel.cost.program.host_kinds import HOST_KINDS
from perfmodel.cost.program.queue import QUEUE_DEPTH
from perfmodel.cost.program.step import device_times

HOST_PULL: Final = (0.8, 0.15)
"""Of scalars and of classes: how far rows may move what was timed call by call.

Models of the fit that it left out choose them: with scalars as free as classes, compiled training
came out 6.8 % off, so 4.4 %.
"""
HOST_SCALARS: Final = (
    "step_host", "python_call", "outside_call", "autograd", "autograd_view", "autograd_norm",
    "autograd_conv", "recomputed", "packed", "tensor", "gradient", "behind", "parameter",
    "stepping", "compiled_module", "compiled_input", "compiled_tensor", "compiled_leaf",
    "compiled_saved", "compiled_behind", "compiled_break", "more_launch", "inside_call",
    "library_copy",
)  # fmt: skip
OF_COMPILED_TRAINING: Final = (
    "compiled_leaf", "compiled_saved", "compiled_behind", "compiled_break",
)  # fmt: skip
PROFILED: Final = ("number", "copied")
"""Classes that a profiler of the host told: rows lay too much of Python's time to them."""
RARE: Final = (
    "autograd_norm",
    "autograd_conv",
    "recomputed",
    "packed",
    "inside_call",
    *OF_COMPILED_TRAINING,
)
"""Of them, what few rows tell."""
UNPROBED_WEIGHT: Final = 0.3
SINGLE_WEIGHT: Final = 0.5
"""Of a single step where the stream of the same row shows the host as well."""
HELD_UP: Final = 0.95
"""A stream is the host's if its single steps are issued in this share of its period or more,"""
SAME_PACE: Final = 1.05
"""Paces that lie closer are one."""
BUSY: Final = 0.9
"""and if its kernels take less than this share."""
SLOW_PROCESS: Final = 1.15
"""Compiled steps that took so much longer than fitted ran in a process that was slow throughout."""
TRIMMED: Final = 3
"""Fits of compiled steps, each without what the one before found so."""


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
    fitted = _fit_calls(sums, _first_step(clean, start), start["probe_call"] / before)
    attached = [one for one in cases if one.row.after_profiler]
    fitted = _fit_profiler([x for one in attached for x in _host_sums(one, fitted)], fitted)
    own = {word: fitted[word] / fitted["usual_pace"] for word in PACES}
    own |= {f"{word}_{way}": own[word] for word in PACES for way in ("training", "compiled")}
    paces = assumed_paces([one.row for one in cases], fitted)
    return replace(fitted, scalars=dict(fitted.scalars) | own | paces)


def _first_step(cases: Sequence[Measured], c: ProgramCoefficients) -> ProgramCoefficients:
    """What a step on an idle device adds: the median of single steps beside streams of a pace.

    Of steps that the host holds up and that do not train: those wait for a thread of their own.
    """
    found = []
    for one in cases:
        row, alone, steady = one.row, issue_pace(one.row, c), row_pace(one.row, c)
        if row.kind == "train" or row.host_s is None or alone is None or steady is None:
            continue
        device = float(np.sum(device_times(one.prepared, c)[1]))
        same = max(alone, steady) < SAME_PACE * min(alone, steady)
        if same and row.host_s >= HELD_UP * row.step_s and device < BUSY * row.step_s:
            found.append((row.host_s - row.step_s) / steady)
    if len(found) < FEWEST_PROBES:
        return c
    low, high = LIMITS["first_step"]
    first = float(np.clip(np.median(found), low, high))
    return replace(c, scalars=dict(c.scalars) | {"first_step": first})


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

    ``pace`` is None where nobody probed; ``behind_pace`` is that of the backward pass's own thread,
    0 where it follows from the other; ``whole`` is 0 of a phase that is not the first of its step.
    """

    counts: Floats
    behind: Floats
    launches: float
    seconds: float
    pace: float | None
    run: str
    single: float
    weight: float
    generated: bool = False
    behind_pace: float = 0.0
    whole: float = 1.0
    trains: bool = False
    decodes: bool = False


def _host_sums(one: Measured, c: ProgramCoefficients) -> list[_HostSum]:
    """What a row shows of the host: single steps, and the stream where the host holds it up."""
    row, calls = one.row, one.prepared.work
    if row.host_s is None:
        return []
    launches = float(calls.launches.sum())
    counts, behind = (calls.counts[side].sum(axis=0) for side in (~calls.behind, calls.behind))
    work = counts, behind, launches
    run, generated = f"{row.run} {row.mode}", row.mode == "compiled"
    trains, decodes = row.kind == "train", row.kind == "decode"
    device = float(np.sum(device_times(one.prepared, c)[1]))
    held = row.host_s >= HELD_UP * row.step_s and device < BUSY * row.step_s
    found = []
    if held:
        found.append(_HostSum(*work, row.step_s, row_pace(row, c), run, 0.0, 1.0, generated,
                              behind_pace=behind_pace(row, c) or 0.0, trains=trains,
                              decodes=decodes))  # fmt: skip
    if held or launches < QUEUE_DEPTH:  # else the host waits for the device while it issues
        weight = SINGLE_WEIGHT if held else 1.0
        single = _HostSum(*work, row.host_s, issue_pace(row, c), run, 1.0, weight, generated,
                          trains=trains, decodes=decodes)  # fmt: skip
        found += _phases(one, single, c) if _phases_of(row) else [single]
    return found


def _phases(one: Measured, single: _HostSum, c: ProgramCoefficients) -> list[_HostSum]:
    """A single training step in its three phases: each tells the costs of its own calls."""
    calls, row = one.prepared.work, one.row
    phases = [call.phase for call in one.prepared.lowered.calls]
    last = np.array([phase == "optimizer" for phase in phases], dtype=bool)
    none = np.zeros_like(single.counts)
    first = calls.counts[~calls.behind & ~last].sum(axis=0)
    apart = ((first, none), (none, single.behind), (calls.counts[last].sum(axis=0), none))
    pace, thread = single.pace, (row.backward_block_s or 0.0) / c["probe_block"]
    if row.woven is not None and row.woven.phases_s:
        pace, thread = woven_pace(row, c), woven_behind(row, c) or 0.0
    return [
        replace(single, counts=own, behind=behind, seconds=seconds, pace=pace, behind_pace=thread,
                whole=float(k == 0), single=0.0)  # it waits for its own thread anyway
        for k, ((own, behind), seconds) in enumerate(zip(apart, _phases_of(row), strict=True))
        if own.any() or behind.any()
    ]  # fmt: skip


def _phases_of(row: ModelRow) -> tuple[float, ...]:
    """Of a training step: in a stream with blocks between, else of single steps; or nothing [s].

    Not of single compiled steps: their threads begin cold, and so little code says it of all.
    """
    between = row.woven.phases_s if row.woven is not None else None
    return between or (row.phases_s if row.mode != "compiled" else None) or ()


def _fit_calls(
    sums: Sequence[_HostSum], start: ProgramCoefficients, factor: float
) -> ProgramCoefficients:
    """Costs of calls, from steps without a profiler.

    Processors differ first of all by a factor, which the probe tells; only then by what they are
    slow at. Without probes the rows have to tell it.

    Compiled steps come after the others, which know the costs of what is not compiled in them, and
    those that train after those that do not, in which decoding and the rest count alike. A process
    may run its generated code at half the speed throughout, whatever its probes say: such rows are
    outliers, on one side, and left out.
    """
    known = sum(one.pace is not None for one in sums)
    probed = known >= FEWEST_PROBES
    if not probed:
        sums = [replace(one, pace=None) for one in sums]
        guess = _predictor(sums, ())([start])[:, 0] if sums else np.ones(1)
        target = np.array([one.seconds for one in sums])
        factor = float(np.exp(np.median(np.log(target / guess))))
    begin = replace(
        start,
        scalars=dict(start.scalars) | {name: factor * start[name] for name in HOST_SCALARS},
        host={kind: factor * value for kind, value in start.host.items()},
    )
    generated = [one for one in sums if one.generated]
    apart = sum(one.pace is not None for one in generated) >= FEWEST_PROBES
    plain = [one for one in sums if not one.generated] if apart else list(sums)
    fitted = begin
    if plain:
        known_apart = (*PROFILED, *TIMED) if probed else ()
        kinds = [kind for kind in _common(plain) if kind not in known_apart]
        timed = [] if apart or not probed else ["compiled_pace"]
        fitted = _fit_values(plain, begin, [*_scalars(plain), *timed], kinds, "soft_l1")
    if apart:
        kinds = [kind for kind in _common(generated) if kind in COMPILED and kind not in TIMED]
        trained = [one for one in generated if one.trains]
        inferred = _alike([one for one in generated if not one.trains])
        own = ["compiled_pace"]
        for _ in range(TRIMMED):
            fitted = _fit_values(inferred, fitted, own, kinds, "cauchy")
            expected = _predictor(inferred, ())([fitted])[:, 0]
            late = [
                one.seconds > SLOW_PROCESS * x for one, x in zip(inferred, expected, strict=True)
            ]
            inferred = [one for one, out in zip(inferred, late, strict=True) if not out]
        if trained:
            scalars = _rare(trained, OF_COMPILED_TRAINING)
            fitted = _fit_values(trained, fitted, scalars, ["extern_conv_backward"], "soft_l1")
    return fitted


def _alike(sums: Sequence[_HostSum]) -> list[_HostSum]:
    """Steps that decode weighted so that they count as much together as all others."""
    whole = sum(one.weight for one in sums)
    decoding = sum(one.weight for one in sums if one.decodes)
    factor = (whole - decoding) / decoding if 0.0 < decoding < whole else 1.0
    return [replace(one, weight=one.weight * factor) if one.decodes else one for one in sums]


def _common(sums: Sequence[_HostSum]) -> list[str]:
    """Classes of calls that two rows have at least."""
    width = len(HOST_KINDS)
    every = [one.counts + one.behind for one in sums]
    both = np.array([one[:width] + one[width : 2 * width] for one in every])
    return [kind for k, kind in enumerate(HOST_KINDS) if np.count_nonzero(both[:, k]) >= 2]


def _scalars(sums: Sequence[_HostSum]) -> list[str]:
    """Scalars that rows tell."""
    found = ["step_host", "python_call", "outside_call", "more_launch"]
    if sum(bool(one.behind.any()) for one in sums) >= 2:
        found += ["autograd", "autograd_view", "backward_share", "backward_pace", "tensor",
                  "gradient", "behind", "parameter", "stepping"]  # fmt: skip
    found += _rare(sums, RARE)
    return found


def _rare(sums: Sequence[_HostSum], names: Sequence[str]) -> list[str]:
    places = [columns().index(name) for name in names]
    told = np.array([(one.counts + one.behind)[places] for one in sums])
    return [n for n, rows in zip(names, np.count_nonzero(told, axis=0), strict=True) if rows > 1]


def _predictor(
    sums: Sequence[_HostSum], runs: Sequence[NDArray[np.intp]]
) -> Callable[[Sequence[ProgramCoefficients]], Floats]:
    """Sets of coefficients -> host seconds of rows, shape (rows, sets).

    Rows of each of ``runs`` are scaled together, so that half of them lie above what was measured.
    """
    counts, behind = (np.array([getattr(one, n) for one in sums]) for n in ("counts", "behind"))
    target, single = (np.array([getattr(one, n) for one in sums]) for n in ("seconds", "single"))
    pace, own_pace, whole = (
        np.array(values)[:, None]
        for values in ([one.pace or 1.0 for one in sums], [one.behind_pace for one in sums],
                       [one.whole for one in sums])
    )  # fmt: skip

    def predicted(sets: Sequence[ProgramCoefficients]) -> Floats:
        costs = np.array([column_seconds(c) for c in sets]).T
        step, first, power = (
            np.array([c[name] for c in sets])
            for name in ("step_host", "first_step", "backward_pace")
        )
        thread = np.where(own_pace > 0.0, own_pace, pace**power)
        found = pace * (whole * step + single[:, None] * first + counts @ costs)
        found += thread * (behind @ costs)
        for places in runs:
            apart = np.log(target[places])[:, None] - np.log(found[places])
            found[places] *= np.exp(np.median(apart, axis=0))
        return np.asarray(found)

    return predicted


def _fit_values(
    sums: Sequence[_HostSum],
    start: ProgramCoefficients,
    scalars: Sequence[str],
    kinds: Sequence[str],
    loss: Literal["soft_l1", "cauchy"],
) -> ProgramCoefficients:
    """Some scalars and classes, from some rows."""
    known = np.array([one.pace is not None for one in sums])
    # Where nobody probed, the machine is its own reference.
    runs = _places([one.run for one in sums], ~known) if known.any() else []
    many = _predictor(sums, runs)
    return fit_values(
        lambda c: many([c])[:, 0],
        np.array([one.seconds for one in sums]),
        start,
        np.array([one.weight for one in sums]) * np.where(known, 1.0, UNPROBED_WEIGHT),
        pull=HOST_PULL[0],
        host_pull=HOST_PULL[1],
        loss=loss,
        scalars=scalars,
        host=kinds,
        many=many,
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
    usual_block = float(np.exp(np.median(block)))
    x, y = call - np.median(call), block - np.median(block)
    low, high = LIMITS["probe_power"]
    power = float(np.clip((x @ y) / (x @ x), low, high)) if x.any() else c["probe_power"]
    usual = float(np.exp(np.median(call)))
    found = {
        "probe_call": usual,
        "profiler_probe": c["profiler_probe"] * usual / c["probe_call"],
        "probe_block": usual_block,
        "probe_power": power,
    }
    streams = [(row, row.woven, row.stream_block_s) for row in rows]
    double = [(row, woven, block) for row, woven, block in streams if woven and block]
    ratios = {
        name: [
            _colder(woven, row.step_s) / block
            for row, woven, block in double
            if between_steps(row) == name
        ]
        for name in ("probe_woven", "probe_between")
    }
    ratios["probe_behind"] = [
        woven.behind_block_s / row.stream_backward_block_s
        for row, woven, _ in double
        if row.stream_backward_block_s
    ]
    told = {name: some for name, some in ratios.items() if len(some) >= FEWEST_PROBES}
    found |= {name: usual_block * float(np.median(some)) for name, some in told.items()}
    return replace(c, scalars=dict(c.scalars) | found)


def _colder(woven: Woven, both_s: float) -> float:
    """A block between steps, over what such a block makes those steps longer [s].

    With it both streams of a row tell the same step: `both_s` is the middle of the two.
    """
    return woven.block_s * (both_s / woven.step_s) ** 2


def _places(names: Sequence[str], chosen: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """Places of the chosen entries by name."""
    found: dict[str, list[int]] = {}
    for k in np.flatnonzero(chosen).tolist():
        found.setdefault(names[k], []).append(k)
    return [np.array(places) for places in found.values()]
