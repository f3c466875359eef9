"""From a program, a device and a stack to its step time, memory and reasons."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from perfmodel.cost.efficiency import Efficiency
from perfmodel.cost.program.coefficients import ProgramCoefficients, program_coefficients
from perfmodel.cost.program.memory import Memory, library_workspace, replay
from perfmodel.cost.program.price_kernels import BOUNDS, PricedKernels
from perfmodel.cost.program.result import KernelTable, ProgramEstimate, Unknown
from perfmodel.cost.program.spread import over_paces, within
from perfmodel.cost.program.step import Prepared, Step, mode_of, period_with, prepare, step
from perfmodel.errors import Infeasible, WorkloadError
from perfmodel.estimate import Estimate, leaf, total
from perfmodel.hardware import Accelerator
from perfmodel.units import format_seconds
from perfmodel.workload.lowering.kernel import Lowered

UNFITTED_WIDTH: Final = 0.35
"""Half-width of the interval where no model was measured on a chip of the architecture."""
SIBLING_WIDTH: Final = 1.5
DRIVER_BYTES: Final = 700 * 2**20
"""What context, kernels and libraries take of a device beside the allocator's segments [B]: about
0.5 to 0.8 GiB on current NVIDIA devices (PyTorch documentation, "CUDA semantics")."""
_LARGEST_KERNELS: Final = 3
_LEAST_IDLE: Final = 1e-12
"""Below it a difference of sums is rounding [s]."""


def estimate_lowered(
    lowered: Lowered,
    accelerator: Accelerator,
    *,
    efficiency: Efficiency | None = None,
    coefficients: ProgramCoefficients | None = None,
    host_pace: float | None = None,
    backward_pace: float | None = None,
) -> ProgramEstimate:
    """Step time and memory of a lowered program.

    Parameters
    ----------
    lowered : Lowered
        A program on a stack.
    accelerator : Accelerator
        The device.
    efficiency : Efficiency, optional
        As for :func:`perfmodel.cost.price`.
    coefficients : ProgramCoefficients, optional
        By default what measured models on this chip, or its sibling, gave.
    host_pace : float, optional
        How much longer the host takes for a call than the reference
        (:func:`perfmodel.cost.program.host.pace_of_probe`). Without it, what was usual among the
        measured hosts, and an interval over their spread.
    backward_pace : float, optional
        The same of the thread that runs a backward pass; by default what usually goes with the
        other.
    """
    c = program_coefficients(accelerator) if coefficients is None else coefficients
    prepared = prepare(lowered, accelerator, efficiency=efficiency)
    pace = prepared.assumed_pace(c) if host_pace is None else _checked(host_pace)
    behind = None if backward_pace is None else _checked(backward_pace, "backward_pace")
    done = step(prepared, c, pace=pace, behind=behind)
    spread = (done.seconds, done.seconds)
    if host_pace is None and not lowered.graph:
        fast, slow = over_paces(prepared, c, behind=behind)
        spread = min(fast, done.seconds), max(slow, done.seconds)
    capacity = float(accelerator.memory_capacity) - DRIVER_BYTES
    workspace = library_workspace(accelerator)
    try:
        memory, fits = replay(lowered, workspace=workspace, capacity=capacity), True
    except Infeasible:
        memory, fits = replay(lowered, workspace=workspace), False
    table = _table(lowered, prepared.priced, done)
    idle = done.seconds - done.device
    idle = idle if idle > _LEAST_IDLE else 0.0
    return ProgramEstimate(
        program=lowered.program,
        accelerator=accelerator.name,
        stack=lowered.stack,
        mode=mode_of(lowered),
        seconds=done.seconds,
        synchronised_seconds=done.synchronised,
        host_seconds=done.host,
        device_seconds=done.device,
        idle_seconds=idle,
        launch_bound=idle / done.seconds if done.seconds else 0.0,
        peak_allocated=memory.peak_allocated,
        peak_reserved=memory.peak_reserved,
        fits=fits,
        estimate=_tree(lowered, accelerator, prepared, done, table, c, spread),
        kernels=table,
        timeline=done.timeline,
        memory=memory,
        unknown=_unknown(prepared, done),
        host_pace=pace,
        host_pace_assumed=host_pace is None,
        notes=(*lowered.notes, *_pace_notes(done.seconds, spread, pace), *_notes(memory)),
    )


def _checked(pace: float, name: str = "host_pace") -> float:
    if isinstance(pace, bool) or not isinstance(pace, (int, float)) or not 0.01 <= pace <= 100.0:
        raise WorkloadError(
            f"program: {name}",
            pace,
            "a ratio between 0.01 and 100: the host's time for a call over the reference's",
            repair="take the probe of docs/models/host_pace.md, or leave it out",
        )
    return float(pace)


def _pace_notes(seconds: float, spread: tuple[float, float], pace: float) -> tuple[str, ...]:
    """Said where another host would change the step by more than a hundredth."""
    fast, slow = spread
    if slow - fast <= 0.01 * seconds:
        return ()
    return (
        f"host pace {pace:.2f} assumed; on hosts as measured the step takes {format_seconds(fast)}"
        f" to {format_seconds(slow)}: probe yours (docs/models/host_pace.md)",
    )


def _table(lowered: Lowered, priced: PricedKernels, done: Step) -> KernelTable:
    count = priced.count
    weight = np.zeros((len(BOUNDS), count))
    np.add.at(weight, (priced.ops.bound, priced.ops.kernel), priced.ops.seconds)
    known = np.ones(count, dtype=bool)
    np.logical_and.at(known, priced.ops.kernel, priced.ops.calibrated)
    known &= np.array([kernel.known for kernel in lowered.kernels], dtype=bool)
    return KernelTable(
        kernels=lowered.kernels,
        seconds=done.times.seconds,
        low=done.times.low,
        high=done.times.high,
        alone=done.times.alone,
        resident=done.times.resident,
        bound=tuple(BOUNDS[k] for k in np.argmax(weight, axis=0).tolist()),
        calibrated=known,
    )


def _tree(
    lowered: Lowered,
    accelerator: Accelerator,
    prepared: Prepared,
    done: Step,
    table: KernelTable,
    c: ProgramCoefficients,
    spread: tuple[float, float],
) -> Estimate:
    source = f"measurements/{c.device}" if c.device else ""
    own = c.device == accelerator.name.lower()
    phases = [kernel.phase for kernel in lowered.kernels]
    parts = [
        total(phase, _kinds(table, done, [k for k, word in enumerate(phases) if word == phase]))
        for phase in dict.fromkeys(phases)
    ]
    gaps = float(np.sum(done.running - done.times.seconds))
    if gaps > 0.0:
        parts.append(leaf("gaps between kernels", gaps, bound="launch", calibrated=own))
    idle = done.seconds - done.device
    if idle > _LEAST_IDLE:
        parts.append(_waiting(prepared, done, idle, own))
    whole = total(f"{lowered.program} on {accelerator.name}", parts)
    width = c.interval.get(prepared.mode, UNFITTED_WIDTH) * (1.0 if own else SIBLING_WIDTH)
    lower = min(float(np.sum(done.times.lower)), done.seconds)
    low, high = within(done.seconds, spread, width)
    open_ended = np.array([not kernel.known for kernel in lowered.kernels], dtype=bool)
    if open_ended.any():  # a host that holds the step up hides some of what they may take
        least, most = (
            period_with(prepared, c, done, done.running + open_ended * (end - table.seconds))
            for end in (table.low, table.high)
        )
        low, high = low - (done.seconds - least), high + (most - done.seconds)
    return replace(
        whole,
        seconds=done.seconds,
        lower=lower,
        low=max(low, lower),
        high=high,
        bound="launch" if idle > 0.5 * done.seconds else whole.bound,
        calibrated=own and all(kernel.known for kernel in lowered.kernels),
        citations=(source,) if source else (),
        note=f"{lowered.stack}, {prepared.mode}",
    )


def _kinds(table: KernelTable, done: Step, members: list[int]) -> list[Estimate]:
    """Kernels of a phase by kind; the longest of a kind by name."""
    kinds: dict[str, list[int]] = {}
    for k in members:
        kinds.setdefault(table.kernels[k].kind, []).append(k)
    found = []
    for kind, mine in kinds.items():
        names: dict[str, list[int]] = {}
        for k in mine:
            names.setdefault(table.kernels[k].name, []).append(k)
        leaves = sorted(
            (_leaf(name, table, done, places) for name, places in names.items()),
            key=lambda one: -one.seconds,
        )
        shown, rest = leaves[:_LARGEST_KERNELS], leaves[_LARGEST_KERNELS:]
        if len(rest) > 1:
            rest = [replace(total(f"{len(rest)} more", rest), parts=(), relation="leaf")]
        many = "kernel" if len(mine) == 1 else "kernels"
        found.append(total(f"{kind} ({len(mine)} {many})", [*shown, *rest]))
    return sorted(found, key=lambda one: -one.seconds)


def _leaf(name: str, table: KernelTable, done: Step, places: list[int]) -> Estimate:
    at = np.array(places)
    seconds = float(table.seconds[at].sum())
    lower = min(float(done.times.lower[at].sum()), float(table.low[at].sum()))
    longest = at[int(np.argmax(table.seconds[at]))]
    return leaf(
        f"{name} x {len(places)}" if len(places) > 1 else name,
        seconds,
        bound=table.bound[longest],
        lower=lower,
        low=float(table.low[at].sum()),
        high=float(table.high[at].sum()),
        calibrated=bool(table.calibrated[at].all()),
    )


def _waiting(prepared: Prepared, done: Step, idle: float, own: bool) -> Estimate:
    """The device waits for the host: what the host spends its time on."""
    spent: dict[str, float] = {}
    for call, seconds in zip(prepared.lowered.calls, done.calls.tolist(), strict=True):
        spent[call.kind] = spent.get(call.kind, 0.0) + seconds
    whole = leaf(
        "device waits for the host",
        idle,
        bound="launch",
        calibrated=own,
        note=f"{len(prepared.lowered.calls)} host calls, {format_seconds(done.host)} in all:",
    )
    parts = tuple(
        leaf(f"host: {kind}", seconds, bound="launch", calibrated=own)
        for kind, seconds in sorted(spent.items(), key=lambda item: -item[1])
    )
    return replace(whole, parts=parts, relation="detail")


def _unknown(prepared: Prepared, done: Step) -> tuple[Unknown, ...]:
    found: dict[str, list[int]] = {}
    for k, kernel in enumerate(prepared.lowered.kernels):
        if not kernel.known:
            found.setdefault(kernel.name, []).append(k)
    return tuple(
        Unknown(
            name,
            len(places),
            float(done.times.low[places].sum()),
            float(done.times.high[places].sum()),
        )
        for name, places in found.items()
    )


def _notes(memory: Memory) -> tuple[str, ...]:
    if not memory.retries:
        return ()
    return (
        f"the allocator gives segments back to the driver {memory.retries} times a step:"
        " this takes milliseconds that are not in the step time",
    )
