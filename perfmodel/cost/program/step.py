"""Kernels, host and queues put together: one step, for any set of coefficients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perfmodel.cost.efficiency import Efficiency
from perfmodel.cost.parts import Floats
from perfmodel.cost.program.coefficients import ProgramCoefficients
from perfmodel.cost.program.host import (
    HostWork,
    assumed_pace,
    between_launches,
    call_seconds,
    host_work,
)
from perfmodel.cost.program.price_kernels import (
    KernelTimes,
    PricedKernels,
    kernel_times,
    price_kernels,
)
from perfmodel.cost.program.queue import Timeline, repeat_step, run_step
from perfmodel.hardware import Accelerator
from perfmodel.workload.lowering.kernel import Lowered
from perfmodel.workload.lowering.lower import captured


@dataclass(frozen=True, slots=True)
class Prepared:
    """What of a program on a device does not depend on the coefficients of programs."""

    lowered: Lowered
    priced: PricedKernels
    work: HostWork

    @property
    def mode(self) -> str:
        """``eager``, ``compile`` or ``graph``."""
        return mode_of(self.lowered)

    def assumed_pace(self, coefficients: ProgramCoefficients, word: str = "usual") -> float:
        """The pace of a host that nobody probed, as :func:`~perfmodel.cost.program.host` says."""
        return assumed_pace(self.mode, coefficients, word, trains=bool(self.work.behind.any()))


@dataclass(frozen=True, slots=True)
class Step:
    """One step.

    Parameters
    ----------
    times : KernelTimes
        Kernels.
    running : array, shape (N,)
        Device time of each kernel with the gap in front of it [s].
    calls : array
        Host time of each call [s].
    before, after : array, shape (N,), and float
        Host time from the launch before each kernel to its own, and after the last [s].
    host, device : float
        Work of either side [s].
    seconds : float
        Period of a steady stream of steps [s].
    synchronised : float
        One step from an idle device to its end [s].
    timeline : Timeline
        Of the synchronised step.
    """

    times: KernelTimes
    running: Floats
    calls: Floats
    before: Floats
    after: float
    host: float
    device: float
    seconds: float
    synchronised: float
    timeline: Timeline


def mode_of(lowered: Lowered) -> str:
    """The word for how a program is launched."""
    return "graph" if lowered.graph else lowered.mode


def prepare(
    lowered: Lowered, accelerator: Accelerator, *, efficiency: Efficiency | None = None
) -> Prepared:
    """Price kernels and count host calls."""
    return Prepared(
        lowered, price_kernels(lowered, accelerator, efficiency=efficiency), host_work(lowered)
    )


def replayed(prepared: Prepared) -> Prepared:
    """The same kernels, launched by one replay."""
    lowered = captured(prepared.lowered)
    return Prepared(lowered, prepared.priced, host_work(lowered))


def times_of(priced: PricedKernels, c: ProgramCoefficients) -> KernelTimes:
    """Times of priced kernels inside their program, with a chip's coefficients [s]."""
    return kernel_times(
        priced,
        cache_share=c["cache_share"],
        cache_rate=c["cache_rate"],
        extra_launch=c["extra_launch"],
        turn=c["turn"],
        turn_cast=c["turn_cast"],
        turn_cold=c["turn_cold"],
        pace=c.pace,
        floor=c.floor,
    )


def device_times(
    prepared: Prepared, coefficients: ProgramCoefficients
) -> tuple[KernelTimes, Floats]:
    """Kernels, and what each takes of the device with the gap in front of it [s].

    Notes
    -----
    In a graph the device goes from kernel to kernel by itself, and the calibrated time of a kernel
    holds that gap. From a stream it takes ``stream_gap`` longer.
    """
    c = coefficients
    times = times_of(prepared.priced, c)
    graph = prepared.lowered.graph
    running = times.seconds.copy()
    if graph and running.size:
        running[0] += c["graph_launch"]
    elif not graph:
        running = running + c["stream_gap"] * (1.0 + prepared.priced.extra)
    return times, running


def profiled_kernels(prepared: Prepared, coefficients: ProgramCoefficients) -> Floats:
    """Kernel durations that a profiler would see, without what lies between them, (N,) [s]."""
    times, _ = device_times(prepared, coefficients)
    gaps = coefficients["kernel_gap"] * (1.0 + prepared.priced.extra)
    return np.maximum(times.seconds - gaps, 0.3 * times.seconds)


def step(
    prepared: Prepared,
    coefficients: ProgramCoefficients,
    *,
    pace: float | None = None,
    behind: float | None = None,
    profiler: bool = False,
) -> Step:
    """Run the queues; a kernel on an idle device begins ``launch_latency`` after its launch.

    Parameters
    ----------
    prepared : Prepared
        Kernels and calls.
    coefficients : ProgramCoefficients
        What they cost.
    pace : float, optional
        How much longer the host takes than in the reference state; by default what was usual among
        the measured ones (:func:`perfmodel.cost.program.host.assumed_pace`).
    behind : float, optional
        The same of the backward pass's thread; by default what usually goes with `pace`.
    profiler : bool
        Whether a profiler is attached to the process.
    """
    c = coefficients
    pace = prepared.assumed_pace(c) if pace is None else pace
    times, running = device_times(prepared, c)
    graph = prepared.lowered.graph
    calls = call_seconds(prepared.work, c, pace=pace, behind=behind, profiler=profiler)
    gaps, tail = between_launches(prepared.work, calls)
    around = 0.0 if graph else pace
    gaps, tail = _with_step_host(gaps, tail, around * c["step_host"])
    waits = prepared.work.waits_before
    latency = c["launch_latency"]
    cold, end = _with_step_host(gaps, tail, around * c["first_step"])
    alone = run_step(cold, running, latency, tail=end, waits_before=waits)
    period, _ = repeat_step(gaps, running, latency, tail=tail, waits_before=waits)
    return Step(
        times=times,
        running=running,
        calls=calls,
        before=gaps,
        after=tail,
        host=float(np.sum(gaps)) + tail,
        device=float(np.sum(running)),
        seconds=period,
        synchronised=alone.end,
        timeline=alone,
    )


def period_with(
    prepared: Prepared, coefficients: ProgramCoefficients, done: Step, running: Floats
) -> float:
    """Period of the stream of a step whose kernels take other times, (N,) [s]."""
    period, _ = repeat_step(
        done.before,
        running,
        coefficients["launch_latency"],
        tail=done.after,
        waits_before=prepared.work.waits_before,
    )
    return period


def _with_step_host(gaps: Floats, tail: float, extra: float) -> tuple[Floats, float]:
    """Python around the step runs before its first launch."""
    if not gaps.size:
        return gaps, tail + extra
    gaps = gaps.copy()
    gaps[0] += extra
    return gaps, tail
