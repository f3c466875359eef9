r"""What the host does in a step: seconds before each launch, and after the last.

Processors run the same calls in times that lie far apart, and one whose cores are shared does so
from one minute to the next. The costs of calls are those of a reference state, and a pace says how
much longer a host takes now:

.. math::

    p = \left(\frac{t}{t_0 + l_0}\right)^\gamma, \qquad
    h = p \left(\sum_k n_k c_k + l\, n_l\right)

with :math:`t` the time of one call of a tiny operator, :math:`t_0` that time in the reference
state, :math:`l_0` and :math:`l` what an attached profiler adds to that call and to each of
:math:`n_l` launches (0 without one), and :math:`n_k` calls of cost :math:`c_k`. Work with more code
in it suffers more from a shared core than the probe does: :math:`\gamma > 1`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.parts import Floats
from perfmodel.cost.program.coefficients import ProgramCoefficients
from perfmodel.workload.lowering.kernel import HOST_CLASSES, Lowered

PHASES = ("forward", "backward", "optimizer")
COMPILED = ("compiled_call", "triton", "extern", "graph_replay")
LISTS = ("foreach", "optimizer")
BESIDE_CONVOLUTION = ("pointwise", "copy")


@dataclass(frozen=True, slots=True)
class HostWork:
    """Host calls of a program as counts, so that fits need not walk the program again.

    Parameters
    ----------
    before : int array, shape (N,)
        Index of the host call that launches each kernel.
    counts : array, shape (calls, columns)
        How much of each column of :func:`columns` a call takes.
    waits_before : bool array, shape (N,)
        Kernels before which the host waits for the device.
    launches : array, shape (calls,)
        Kernels that each call launches.
    """

    before: NDArray[np.intp]
    counts: Floats
    waits_before: NDArray[np.bool_]
    launches: Floats


def pace_of_probe(
    call: float, coefficients: ProgramCoefficients, *, profiler: bool = False
) -> float:
    """A host's pace, from the time that one call of a tiny operator takes on it.

    Parameters
    ----------
    call : float
        Seconds of one ``x.add_(1)`` on a tensor of one element on the device, without waiting [s].
    coefficients : ProgramCoefficients
        With the probe of the reference state.
    profiler : bool
        Whether a profiler is, or was, attached to the process.
    """
    c = coefficients
    usual = c["probe_call"] + (c["profiler_probe"] if profiler else 0.0)
    return float((call / usual) ** c["probe_power"])


def columns() -> tuple[str, ...]:
    """What a host call may consist of: calls by class, forward and backward; then the rest."""
    return (
        *(f"forward {kind}" for kind in HOST_CLASSES),
        *(f"backward {kind}" for kind in HOST_CLASSES),
        "module_call",
        "autograd",
        "tensor",
    )


def host_work(lowered: Lowered) -> HostWork:
    """Count what every host call of a program takes."""
    place = {name: k for k, name in enumerate(columns())}
    calls = lowered.calls
    counts = np.zeros((len(calls), len(place)))
    before = np.zeros(len(lowered.kernels), dtype=np.intp)
    waits = np.zeros(len(lowered.kernels), dtype=bool)
    launches = np.zeros(len(calls))
    training = any(call.phase == "backward" for call in calls)
    eager = [k for k, call in enumerate(calls) if call.phase == "forward"]
    waiting = False
    for k, call in enumerate(calls):
        side = "backward" if call.phase == "backward" else "forward"
        counts[k, place[f"{side} {call.kind}"]] += 1.0
        if call.kind == "conv":  # C++ adds the bias, and copies an image in another order
            for one in call.kernels:
                kind = lowered.kernels[one].kind
                if kind in BESIDE_CONVOLUTION:
                    counts[k, place[f"backward {kind}"]] += 1.0
        recorded = training and call.phase == "forward" and call.kind not in COMPILED
        counts[k, place["autograd"]] = float(recorded)
        counts[k, place["tensor"]] = float(call.tensors if call.kind in LISTS else 0)
        waiting = waiting or call.kind == "sync"
        launches[k] = sum(lowered.kernels[kernel].launches for kernel in call.kernels)
        for kernel in call.kernels:
            before[kernel] = k
            waits[kernel] = waiting
            waiting = False
    if eager and lowered.mode == "eager" and not lowered.graph:
        counts[eager, place["module_call"]] = lowered.module_calls / len(eager)
    if lowered.graph:
        launches[:] = 0.0  # one replay
    return HostWork(before, counts, waits, launches)


def call_seconds(
    work: HostWork,
    coefficients: ProgramCoefficients,
    *,
    pace: float = 1.0,
    profiler: bool = False,
) -> Floats:
    """Host time of each call, shape (calls,) [s].

    Parameters
    ----------
    work : HostWork
        The calls.
    coefficients : ProgramCoefficients
        Their costs in the reference state.
    pace : float
        How much longer the host takes.
    profiler : bool
        Whether a profiler is attached to the process.
    """
    seconds = work.counts @ column_seconds(coefficients)
    if profiler:
        seconds = seconds + coefficients["profiler_launch"] * work.launches
    return np.asarray(pace * seconds)


def column_seconds(coefficients: ProgramCoefficients) -> Floats:
    """What one unit of each column costs [s]."""
    c = coefficients
    forward = [c.host[kind] for kind in HOST_CLASSES]
    # A compiled backward pass runs the same generated code.
    backward = [
        c.host[kind] * (1.0 if kind in COMPILED else c["backward_share"]) for kind in HOST_CLASSES
    ]
    return np.array([*forward, *backward, c["module_call"], c["autograd"], c["tensor"]])


def between_launches(work: HostWork, seconds: Floats) -> tuple[Floats, float]:
    """Host time from the launch before each kernel to its own, and after the last [s].

    A call's own time lies before its first kernel; kernels of one call follow at once.
    """
    spent = np.cumsum(seconds)
    total = float(spent[-1]) if spent.size else 0.0
    at = spent[work.before] if work.before.size else np.zeros(0)
    gaps = np.diff(at, prepend=0.0)
    return np.maximum(gaps, 0.0), total - (float(at[-1]) if at.size else 0.0)
