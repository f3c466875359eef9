r"""What the host does in a step: seconds before each launch, and after the last.

Processors run the same calls in times that lie far apart, and one whose cores are shared does so
from one minute to the next. The costs of calls are those of a reference state, and a pace says how
much longer a host takes now:

.. math::

    p = \left(\frac{b}{b_0}\right)^{1 - \kappa} \left(\frac{t}{t_0}\right)^{\gamma \kappa}
    \quad\text{or}\quad p = \left(\frac{t}{t_0 + l_0}\right)^\gamma, \qquad
    h = p \left(\sum_k n_k c_k + l\, n_l\right)
        + p^\beta \left(\sum_k n_k' c_k' + l\, n_l'\right)

with :math:`b` the time of a small block of modules and operators, :math:`t` that of one call of a
tiny operator, :math:`b_0` and :math:`t_0` those times in the reference state, :math:`l_0` and
:math:`l` what an attached profiler adds to that call and to each of :math:`n_l` launches (0 without
one), and :math:`n_k` calls of cost :math:`c_k`; marked, those of the backward pass, which runs in a
thread, and mostly on a core, of its own: :math:`\beta < 1`. The block is such work as a model is
made of; a loop over one call suffers less from a shared core: :math:`\gamma > 1`. Each catches
moments of its own, so both together (:math:`\kappa`) tell a pace better than the block does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.parts import Floats
from perfmodel.cost.program.coefficients import ProgramCoefficients
from perfmodel.cost.program.host_kinds import HOST_KINDS, beside, inside, library_copies, paid_as
from perfmodel.workload.lowering.kernel import HostCall, Kernel, Lowered

COMPILED = (
    "compiled_call", "triton", "extern", "graph_replay", "extern_gemm", "extern_addmm",
    "extern_conv", "extern_conv_grouped", "extern_conv_backward", "extern_attention",
    "extern_attention_token",
)  # fmt: skip
TIMED = ("compiled_call", "triton", "extern_gemm", "extern_addmm", "extern_conv",
         "extern_attention", "extern_attention_token")  # fmt: skip
"""Classes that timers inside generated wrappers told, each beside a probe."""
LISTS = ("foreach", "optimizer")
GIVEN = ("compiled_module", "compiled_input", "compiled_tensor")
"""Columns of :func:`columns` that those timers, and a profiler, told."""
_OF_TRAINING = ("python_call", "outside_call", "autograd", "autograd_view", "autograd_norm",
                "autograd_conv", "recomputed", "packed", "tensor", "gradient", "behind",
                "parameter", "stepping")  # fmt: skip
CALL_SHARE = 0.25
"""Of a pace's logarithm, what the probe's call says beside the block.

Models of the fit that it left out choose it: from 0 (the block alone) their errors fall in five of
six ways to run, as do those of models that no fit read (eager inference 6.1 -> 5.7 %, training
5.4 -> 5.2 % eagerly and 5.1 -> 4.7 % compiled).
"""
CALLS_OF_A_MODULE = 6.6
"""Python functions for each module where nobody counted: the median of the recorded programs."""
OUTSIDE = 0.065
"""And the share of those that are no part of PyTorch."""


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
    behind : bool array, shape (calls,)
        Calls of the thread that runs the backward pass, layers that run again there among them.
    """

    before: NDArray[np.intp]
    counts: Floats
    waits_before: NDArray[np.bool_]
    launches: Floats
    behind: NDArray[np.bool_]


def pace_of_probe(
    call: float,
    coefficients: ProgramCoefficients,
    *,
    block: float | None = None,
    profiler: bool = False,
) -> float:
    """A host's pace, from the time that a small block takes on it, or one call of a tiny operator.

    Parameters
    ----------
    call : float
        Seconds of one ``x.add_(1)`` on a tensor of one element on the device, without waiting [s].
    coefficients : ProgramCoefficients
        With the probe of the reference state.
    block : float, optional
        Seconds of the probe's block in the same process; it tells most where it is known [s].
    profiler : bool
        Whether a profiler is, or was, attached to the process: only the call knows of one.
    """
    c = coefficients
    usual = c["probe_call"] + (c["profiler_probe"] if profiler else 0.0)
    alone = float((call / usual) ** c["probe_power"])
    if block is None or profiler:
        return alone
    return float((block / c["probe_block"]) ** (1.0 - CALL_SHARE) * alone**CALL_SHARE)


def columns() -> tuple[str, ...]:
    """What a host call may consist of: calls by class, forward and backward; then the rest."""
    return (
        *(f"forward {kind}" for kind in HOST_KINDS),
        *(f"backward {kind}" for kind in HOST_KINDS),
        "python_call",
        "outside_call",
        "autograd",
        "autograd_view",
        "autograd_norm",
        "autograd_conv",
        "recomputed",
        "packed",
        "tensor",
        "gradient",
        "behind",
        "parameter",
        "stepping",
        "compiled_module",
        "compiled_input",
        "compiled_tensor",
        "compiled_leaf",
        "compiled_saved",
        "compiled_behind",
        "compiled_break",
        "more_launch",
        "inside_call",
        "library_copy",
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
    steps = sum(call.phase == "optimizer" for call in calls)
    gradients = sum(call.phase == "backward" for call in calls)
    trained = sum(one.role == "parameter" for one in lowered.resident)
    graphs = sum(call.kind == "compiled_call" and call.phase == "forward" for call in calls)
    eager = [k for k, call in enumerate(calls) if call.phase == "forward"]
    waiting = behind_now = entered = False
    for k, call in enumerate(calls):
        side = "backward" if call.phase == "backward" else "forward"
        kernels = [lowered.kernels[kernel] for kernel in call.kernels]
        paid = paid_as(call.kind, kernels)
        counts[k, place[f"{side} {paid}"]] += 1.0
        launches[k] = sum(kernel.launches for kernel in kernels)
        for name, amount in _beyond(call.kind, kernels, launches[k], side).items():
            counts[k, place[name]] += amount
        recorded = training and call.phase == "forward" and call.kind not in COMPILED
        for name in _recording(paid, kernels) if recorded else ():
            counts[k, place[name]] = 1.0
        if call.phase == "backward" and not graphs:  # a compiled one has a cost of its own
            counts[k, place["behind"]] = float(not behind_now)
        behind_now = behind_now or call.phase == "backward"
        counts[k, place["recomputed"]] = float(recorded and behind_now and bool(kernels))
        counts[k, place["tensor"]] = float(call.tensors if call.kind in LISTS else 0)
        if call.phase == "optimizer":
            counts[k, place["parameter"]] = trained / steps
            counts[k, place["stepping"]] = 1.0 / steps
        if call.phase == "backward":
            counts[k, place["gradient"]] = trained / gradients
        counts[k, place["compiled_tensor"]] = float(call.tensors if call.kind == "triton" else 0)
        counts[k, place["compiled_saved"]] = float(
            training and call.phase == "forward" and call.kind in ("triton", "extern")
        )
        if call.kind == "compiled_call":
            modules = lowered.module_calls / max(1, graphs)
            for name, amount in _entering(call, entered, training, modules).items():
                counts[k, place[name]] = amount
            entered = True
        waiting = waiting or call.kind == "sync"
        for kernel in call.kernels:
            before[kernel] = k
            waits[kernel] = waiting
            waiting = False
    behind = _behind([call.phase for call in calls])
    first = np.array([call.phase == "forward" for call in calls], dtype=bool) & ~behind
    counts[first, place["packed"]] = counts[:, place["recomputed"]].sum() / max(1, first.sum())
    if eager and lowered.mode == "eager" and not lowered.graph:
        for name, amount in _python(lowered).items():
            counts[eager, place[name]] = amount / len(eager)
    if lowered.graph:
        launches[:] = 0.0  # one replay
        counts[:, [place["more_launch"], place["library_copy"]]] = 0.0
    return HostWork(before, counts, waits, launches, behind)


def _python(lowered: Lowered) -> dict[str, float]:
    """Python functions of a step, by column."""
    every = float(lowered.python_calls or CALLS_OF_A_MODULE * lowered.module_calls)
    known = lowered.outside_calls
    outside = OUTSIDE * every if known is None else min(float(known), every)
    return {"python_call": every - outside, "outside_call": outside}


def _beyond(kind: str, kernels: Sequence[Kernel], launches: float, side: str) -> dict[str, float]:
    """What a call does beyond the first launch of its own, by column."""
    made, theirs = beside(kind, kernels)
    return {
        f"{side} conv_beside": made,
        "more_launch": max(launches - theirs - 1.0, 0.0),
        "inside_call": 0.0 if kind in COMPILED else inside(kernels),
        "library_copy": library_copies(kernels),
    }


def _recording(paid: str, kernels: Sequence[Kernel]) -> tuple[str, ...]:
    """What a call that autograd records takes beside, by column."""
    if not kernels:
        return ("autograd_view",)
    beside = {"batch_norm": "autograd_norm", "conv": "autograd_conv"}
    beside |= {"conv_grouped": "autograd_conv"}
    return ("autograd", beside[paid]) if paid in beside else ("autograd",)


def _entering(call: HostCall, entered: bool, training: bool, modules: float) -> dict[str, float]:
    """What entering a compiled graph takes beside its call, by column."""
    found = {"compiled_input": float(call.tensors)}
    if call.phase == "backward":
        return found | {"compiled_behind": 1.0}
    return found | {
        "compiled_break": float(entered),
        "compiled_leaf": float(call.tensors if training else 0),
        "compiled_module": modules,
    }


def _behind(phases: Sequence[str]) -> NDArray[np.bool_]:
    """Calls of the backward pass's thread: layers that run again do so in there."""
    backward = np.array([phase == "backward" for phase in phases], dtype=bool)
    begun = np.logical_or.accumulate(backward)
    goes_on = np.logical_or.accumulate(backward[::-1])[::-1]
    return np.asarray(begun & goes_on)


def call_seconds(
    work: HostWork,
    coefficients: ProgramCoefficients,
    *,
    pace: float = 1.0,
    behind: float | None = None,
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
    behind : float, optional
        The same of the backward pass's thread; by default what usually goes with `pace`.
    profiler : bool
        Whether a profiler is attached to the process.
    """
    c = coefficients
    felt = np.where(work.behind, pace ** c["backward_pace"] if behind is None else behind, pace)
    seconds = felt * (work.counts @ column_seconds(c))
    if profiler:
        seconds = seconds + felt * c["profiler_launch"] * work.launches
    return np.asarray(seconds)


def assumed_pace(
    mode: str, coefficients: ProgramCoefficients, word: str = "usual", *, trains: bool = False
) -> float:
    """The pace of a host that nobody probed.

    Parameters
    ----------
    mode : str
        ``eager``, ``compile`` or ``graph``. A process that compiles has kept all cores busy, and
        was mostly measured on a slower host.
    coefficients : ProgramCoefficients
        With what the measured hosts gave.
    word : str
        ``"usual"``; ``"fast"`` and ``"slow"`` for what one in twenty lay beyond.
    trains : bool
        Whether a backward pass is among the calls: on one quiet host the caller's thread was some
        1.3 times as slow between eager training steps as between others.
    """
    if mode == "compile":
        return coefficients[f"{word}_pace_compiled"]
    return coefficients[f"{word}_pace_training" if trains else f"{word}_pace"]


def column_seconds(coefficients: ProgramCoefficients) -> Floats:
    """What one unit of each column costs [s]."""
    c = coefficients
    seconds = {kind: c.host[kind] * (c["compiled_pace"] if kind in TIMED else 1.0)
               for kind in HOST_KINDS}  # fmt: skip
    # A compiled backward pass runs the same generated code.
    shares = [1.0 if kind in COMPILED else c["backward_share"] for kind in HOST_KINDS]
    return np.array(
        [
            *seconds.values(),
            *(share * seconds[kind] for share, kind in zip(shares, HOST_KINDS, strict=True)),
            *(c[name] for name in _OF_TRAINING),
            *(c["compiled_pace"] * c[name] for name in GIVEN),
            c["compiled_leaf"],
            c["compiled_saved"],
            c["compiled_behind"],
            c["compiled_break"],
            c["more_launch"],
            c["inside_call"],
            c["library_copy"],
        ]
    )


def between_launches(work: HostWork, seconds: Floats) -> tuple[Floats, float]:
    """Host time from the launch before each kernel to its own, and after the last [s].

    A call's own time lies before its first kernel; kernels of one call follow at once.
    """
    spent = np.cumsum(seconds)
    total = float(spent[-1]) if spent.size else 0.0
    at = spent[work.before] if work.before.size else np.zeros(0)
    gaps = np.diff(at, prepend=0.0)
    return np.maximum(gaps, 0.0), total - (float(at[-1]) if at.size else 0.0)
