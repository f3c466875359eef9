"""Measured steps of whole models beside their predictions, program by program."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from perfmodel.calibrate.programs import (
    Measured,
    ModelRow,
    assumed_paces,
    behind_pace,
    hosts_of,
    issue_pace,
    program_path,
    read_model_rows,
    row_pace,
)
from perfmodel.calibrate.programs.profile import kernel_words, profiled_sums
from perfmodel.calibrate.programs.rows import KernelRow, read_kernel_rows
from perfmodel.calibrate.spread import Spread, in_turn
from perfmodel.cost.program.coefficients import ProgramCoefficients, program_coefficients
from perfmodel.cost.program.device import lowering_device
from perfmodel.cost.program.memory import library_workspace, replay
from perfmodel.cost.program.spread import over_paces, within
from perfmodel.cost.program.step import Prepared, prepare, replayed, step
from perfmodel.errors import PerfmodelError
from perfmodel.hardware import Accelerator
from perfmodel.study.programs import PLAIN, UNREAD, Record, family_of
from perfmodel.study.scores import half
from perfmodel.workload.lowering.lower import lower
from perfmodel.workload.program import load_program
from perfmodel.workload.stack import Stack

CHECKED: Final = ("phi_decode", "mistral_decode")
"""Models of a check that were measured again in a run of another name."""


def measured_cases(
    measurements: Path,
    programs: Path,
    accelerator: Accelerator,
    *,
    chosen: Callable[[ModelRow], bool] = lambda row: True,
) -> tuple[list[Measured], list[Record]]:
    """Measured steps beside their priced programs, and records of those that cannot be.

    Parameters
    ----------
    measurements : path
        The folder of the table of models.
    programs : path
        The folder of recorded programs.
    accelerator : Accelerator
        The device.
    chosen : callable
        Which rows.
    """
    cases, refused = [], []
    profiles: dict[tuple[str, str], list[KernelRow]] = {}
    for kernel in read_kernel_rows(measurements):
        profiles.setdefault((kernel.run, kernel.case), []).append(kernel)
    for path, rows in _by_program(measurements, programs, chosen):
        for row, prepared in zip(rows, _prepared(path, rows, accelerator), strict=True):
            if isinstance(prepared, PerfmodelError):
                refused.append(_refusal(row, path, prepared))
                continue
            profile = profiled_sums(profiles.get((row.run, row.case), ()))
            cases.append(Measured(row, prepared, profile, kernel_words(prepared)))
    return cases, refused


def measured_records(
    measurements: Path,
    programs: Path,
    accelerator: Accelerator,
    *,
    chosen: Callable[[ModelRow], bool] = lambda row: True,
    spread: Spread = in_turn,
) -> list[Record]:
    """As :func:`records` of :func:`measured_cases`, one program after another and none kept.

    Parameters
    ----------
    measurements, programs, accelerator, chosen
        As for :func:`measured_cases`.
    spread : callable
        Shares the programs out among processes.
    """
    c = program_coefficients(accelerator)
    taken = list(_by_program(measurements, programs, chosen))
    others = elsewhere([row for _, rows in taken for row in rows], c, accelerator)
    calls = (
        (path, rows, accelerator, c, [others.get(row.run, c) for row in rows])
        for path, rows in taken
    )
    found = [one for some in spread(_records_of, calls) for one in some]
    return sorted(found, key=lambda one: one.refused != "")


def _by_program(
    measurements: Path, programs: Path, chosen: Callable[[ModelRow], bool]
) -> Iterator[tuple[Path, list[ModelRow]]]:
    """Every recorded program with the rows of the table that ran it."""
    rows: dict[Path, list[ModelRow]] = {}
    for row in filter(chosen, read_model_rows(measurements)):
        rows.setdefault(program_path(programs, row), []).append(row)
    yield from sorted(rows.items(), key=lambda item: str(item[0]))


def _prepared(
    path: Path, rows: Sequence[ModelRow], accelerator: Accelerator
) -> list[Prepared | PerfmodelError]:
    """The program of a file on the stack of each row, or why there is none."""
    try:
        program = load_program(path)
    except PerfmodelError as error:
        return [error] * len(rows)
    found: dict[Stack, Prepared | PerfmodelError] = {}
    stacks = [row.stack() for row in rows]
    for stack in stacks:
        plain = stack.model_copy(update={"graph": False})
        if plain not in found:
            try:
                lowered = lower(program, plain, device=lowering_device(accelerator))
                found[plain] = prepare(lowered, accelerator)
            except PerfmodelError as error:
                found[plain] = error
            gc.collect(0)
        if stack not in found:
            launched = found[plain]
            found[stack] = replayed(launched) if isinstance(launched, Prepared) else launched
    return [found[stack] for stack in stacks]


def _records_of(
    path: Path,
    rows: Sequence[ModelRow],
    accelerator: Accelerator,
    c: ProgramCoefficients,
    others: Sequence[ProgramCoefficients],
) -> list[Record]:
    """Records of the rows of one program."""
    workspace = library_workspace(accelerator)
    return [
        _refusal(row, path, prepared)
        if isinstance(prepared, PerfmodelError)
        else _record(row, prepared, c, other, workspace)
        for row, prepared, other in zip(
            rows, _prepared(path, rows, accelerator), others, strict=True
        )
    ]


def _refusal(row: ModelRow, path: Path, error: PerfmodelError) -> Record:
    reason = " ".join(str(error).replace(f"{path.parent}/", "").split())
    return replace(_blank(row), refused=reason)


def records(
    cases: Iterable[Measured],
    accelerator: Accelerator,
    *,
    coefficients: ProgramCoefficients | None = None,
) -> list[Record]:
    """A prediction for every case."""
    cases = list(cases)
    c = program_coefficients(accelerator) if coefficients is None else coefficients
    others = elsewhere([one.row for one in cases], c, accelerator)
    workspace = library_workspace(accelerator)
    return [
        _record(one.row, one.prepared, c, others.get(one.row.run, c), workspace) for one in cases
    ]


def elsewhere(
    rows: Sequence[ModelRow], c: ProgramCoefficients, accelerator: Accelerator
) -> dict[str, ProgramCoefficients]:
    """For each run, the coefficients with the assumed paces of all hosts but its own.

    None where the coefficients are of another chip: its hosts are other hosts.
    """
    if c.device != accelerator.name.lower():
        return {}
    hosts, found = hosts_of(rows), {}
    for host in set(hosts.values()):
        paces = assumed_paces([row for row in rows if hosts[row.run] != host], c)
        found[host] = replace(c, scalars=dict(c.scalars) | paces)
    return {run: found[host] for run, host in hosts.items()}


def _record(
    row: ModelRow,
    prepared: Prepared,
    c: ProgramCoefficients,
    other: ProgramCoefficients,
    workspace: int,
) -> Record:
    pace = row_pace(row, c)
    unknown = step(prepared, other, profiler=row.after_profiler)
    behind = behind_pace(row, c)
    done = (
        unknown
        if pace is None
        else step(prepared, c, pace=pace, behind=behind, profiler=row.after_profiler)
    )
    issuing = None if prepared.lowered.graph else issue_pace(row, c)
    issued = None
    if issuing is not None:  # with what the host waits where the queue is full
        one = step(prepared, c, pace=issuing, profiler=row.after_profiler)
        issued = one.timeline.host_end
    memory = replay(prepared.lowered, workspace=workspace)
    width = c.interval.get(prepared.mode, 0.0)
    apart = (unknown.seconds, unknown.seconds)
    low, high = within(done.seconds, (done.seconds, done.seconds), width)
    if not prepared.lowered.graph:
        apart = over_paces(prepared, other)
    wide_low, wide_high = within(unknown.seconds, apart, width)
    blank = _blank(row)
    if row.peak_allocated is not None and row.before_allocated is not None and row.mode in PLAIN:
        held = memory.resident + memory.at_peak.get("workspace", 0)
        blank = replace(blank, peak_measured=row.peak_allocated - row.before_allocated + held)
    return replace(
        blank,
        predicted_s=done.seconds,
        unprobed_s=unknown.seconds,
        host_pace=pace,
        issue_pace=issuing,
        issued_s=issued,
        low_s=low,
        high_s=high,
        unprobed_low_s=wide_low,
        unprobed_high_s=wide_high,
        host_s=done.host,
        device_s=done.device,
        peak_predicted=memory.peak_allocated,
        reserved_predicted=memory.peak_reserved,
        unknown=sum(prepared.lowered.unknown.values()),
    )


def part_of(row: ModelRow) -> str:
    """Whose a row is: the fit's, the report's, or of a check that no fit reads."""
    checked = row.run.startswith(UNREAD) or row.model in CHECKED
    return UNREAD if checked else half(row.model)


def _blank(row: ModelRow) -> Record:
    return Record(
        case=row.case,
        run=row.run,
        kind=row.kind,
        model=row.model,
        mode=row.mode,
        family=family_of(row.model),
        split=part_of(row),
        measured_s=row.step_s,
        after_profiler=row.after_profiler,
        streams=1 if row.woven is None else 2,
        superseded=row.superseded,
        measured_host_s=row.host_s,
        measured_kernel_s=row.kernel_s,
        reserved_measured=row.peak_reserved,
    )
