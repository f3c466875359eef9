"""A step of a user's own recorded model: how long it takes and what memory holds, on any device."""

from __future__ import annotations

from pathlib import Path

from perfmodel.cost.program import ProgramEstimate, estimate_lowered
from perfmodel.cost.program.coefficients import program_coefficients
from perfmodel.cost.program.device import lowering_device
from perfmodel.cost.program.host import pace_of_probe
from perfmodel.errors import WorkloadError
from perfmodel.hardware import Accelerator, Cluster, load
from perfmodel.workload.lowering.lower import lower
from perfmodel.workload.program import Program, load_program
from perfmodel.workload.stack import Stack, stack_of


def estimate_program(
    program: Program | str | Path,
    on: str | Path | Accelerator | Cluster,
    *,
    stack: str | Stack = "torch-eager",
    host_pace: float | None = None,
    backward_pace: float | None = None,
) -> ProgramEstimate:
    """Step time and memory of a recorded program, or of a file that holds one.

    Parameters
    ----------
    program : Program, str or Path
        What :func:`perfmodel.trace` gave, or the path of graph JSON.
    on : str, Path, Accelerator or Cluster
        The device; of a cluster, one of its devices.
    stack : str or Stack
        How it is run: ``"torch-eager"``, ``"cuda-graph"``, ``"torch-compile"`` or a stack of one's
        own.
    host_pace : float, optional
        How much longer the host takes for a call than the reference (:func:`host_pace_of`); without
        it, what was usual among measured hosts, with an interval over their spread.
    backward_pace : float, optional
        The same of the thread that runs the backward pass of a training step; without it, what
        usually goes with the other.
    """
    accelerator = _device(on)
    recorded = load_program(program) if isinstance(program, str | Path) else program
    chosen = stack_of(stack)
    stack_there = _without_tf32(chosen, accelerator)
    lowered = lower(recorded, stack_there, device=lowering_device(accelerator))
    return estimate_lowered(lowered, accelerator, host_pace=host_pace, backward_pace=backward_pace)


def host_pace_of(
    call: float,
    on: str | Path | Accelerator | Cluster,
    *,
    block: float | None = None,
    backward: bool = False,
) -> float:
    """The pace of a host from its probe, for ``host_pace`` of :func:`estimate_program`.

    Parameters
    ----------
    call : float
        What ``python3 validate/bench/host_probe.py`` prints: seconds of one tiny operator [s].
    on : str, Path, Accelerator or Cluster
        The device of the estimate: its coefficients hold the reference.
    block : float, optional
        The block that the probe prints too; it tells the pace better [s].
    backward : bool
        Whether the block ran in the backward pass's thread, for ``backward_pace``: the call, which
        did not, then says nothing.
    """
    accelerator = _device(on)
    for name, value, most in (("call", call, 0.01), ("block", 1e-3 if block is None else block, 1)):
        wrong = isinstance(value, bool) or not isinstance(value, (int, float))
        if wrong or not 1e-7 <= value <= most:
            raise WorkloadError(
                f"host pace: {name}",
                value,
                f"seconds between 1e-7 and {most}",
                repair="probe again",
            )
    coefficients = program_coefficients(accelerator)
    if backward and block is not None:
        return float(block / coefficients["probe_block"])
    return pace_of_probe(float(call), coefficients, block=block)


def _device(on: str | Path | Accelerator | Cluster) -> Accelerator:
    target = load(on) if isinstance(on, str | Path) else on
    accelerator = target.accelerator if isinstance(target, Cluster) else target
    if not isinstance(accelerator, Accelerator):
        raise WorkloadError(
            "program: on", on, "an accelerator, a node or a cluster", repair="name a device"
        )
    return accelerator


def _without_tf32(stack: Stack, accelerator: Accelerator) -> Stack:
    """A chip without TF32 ignores the switches that allow it."""
    if accelerator.has_matrix("tf32"):
        return stack
    return stack.model_copy(update={"matmul_fp32": "fp32", "convolution_fp32": "fp32"})
