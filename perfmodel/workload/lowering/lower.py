"""The door: a program on a stack."""

from __future__ import annotations

from dataclasses import replace

from perfmodel.errors import PerfmodelError, WorkloadError
from perfmodel.workload.lowering.compile import lower_compiled
from perfmodel.workload.lowering.device import Device
from perfmodel.workload.lowering.eager.inside import CAST, inside, recomputed
from perfmodel.workload.lowering.eager.staging import staging
from perfmodel.workload.lowering.eager.strides import axis_of, follow
from perfmodel.workload.lowering.eager.table import eager_work
from perfmodel.workload.lowering.kernel import HostCall, Kernel, Lowered, Traffic
from perfmodel.workload.lowering.malformed import MALFORMED
from perfmodel.workload.lowering.memory import node_events, residents
from perfmodel.workload.lowering.site import Work, sites
from perfmodel.workload.program import Program
from perfmodel.workload.stack import Stack


def lower(program: Program, stack: Stack, device: Device | None = None) -> Lowered:
    """What the host calls, the device runs and the allocator hands out in one step.

    Parameters
    ----------
    program : Program
        Operators in the order of the host's calls.
    stack : Stack
        ``stack.mode`` says whether operators run their own kernels or are fused first,
        ``stack.graph`` whether the launches are replayed from a captured graph.
    device : Device, optional
        The chip that kernels are launched for; an H100 unless told otherwise.

    Raises
    ------
    WorkloadError
        If a node has not the tensors or attributes that its operator asks for.

    Examples
    --------
    >>> from perfmodel.workload.stack import load_stack
    >>> empty = Program("nothing", (), (), (), (), "json", 0, ())
    >>> lower(empty, load_stack("torch-eager")).launches
    0
    """
    found = (_compiled if stack.mode == "compile" else lower_eager)(program, stack, device)
    return captured(found) if stack.graph else found


def _compiled(program: Program, stack: Stack, device: Device | None) -> Lowered:
    try:
        return lower_compiled(program, stack, device)
    except PerfmodelError:
        raise
    except MALFORMED as error:
        lower_eager(program, stack, device)  # names the node where it is the program's fault
        raise WorkloadError(
            f"program {program.name} on {stack.name}",
            f"<{type(error).__name__}: {error}>",
            "operators with the tensors and attributes of their schemas",
            repair="trace the model again, or price it on torch-eager",
        ) from error


def lower_eager(program: Program, stack: Stack, device: Device | None = None) -> Lowered:
    """Every operator's own kernels, called one by one."""
    kernels: list[Kernel] = []
    calls: list[HostCall] = []
    works: list[Work] = []
    staged: list[Traffic] = []
    again = recomputed(program)
    inner = inside(program, again)
    across, strides = follow(program)
    for site in sites(program, stack, device):
        along = tuple(axis_of(tensor, strides) for tensor in site.inputs)
        work = eager_work(replace(site, turning=across.get(site.index, 0.0), axes=along))
        works.append(work)
        staged.append(staging(site, work.temporaries))
        first = len(kernels)
        kernels += work.kernels
        launched = tuple(range(first, len(kernels)))
        tensors = len(site.inputs) + len(site.outputs)
        phase = "forward" if site.index in again else site.node.phase
        kind = work.host
        if site.index in inner:
            is_cast = site.node.target == CAST and phase == "forward"
            kind = "inner" if kind == "view" else "cast" if is_cast else kind
        calls.append(HostCall(kind, site.index, launched, phase, tensors))
    events = node_events(
        program,
        range(len(program.nodes)),
        [(*work.temporaries, *blocks) for work, blocks in zip(works, staged, strict=True)],
    )
    return Lowered(
        program.name,
        stack.name,
        "eager",
        False,
        tuple(kernels),
        tuple(calls),
        events,
        residents(program),
        program.module_calls,
        python_calls=program.python_calls,
        outside_calls=program.outside_calls,
    )


def captured(lowered: Lowered) -> Lowered:
    """The same kernels launched by one replay; memory as the capture took it."""
    every = tuple(range(len(lowered.kernels)))
    phase = lowered.calls[-1].phase if lowered.calls else "forward"
    replay = HostCall("graph_replay", -1, every, phase)
    return Lowered(
        lowered.program,
        lowered.stack,
        lowered.mode,
        True,
        lowered.kernels,
        (replay,),
        tuple(replace(event, call=0) for event in lowered.events),
        lowered.resident,
        0,
        lowered.notes,
    )
