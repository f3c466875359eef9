"""Kernels, host calls and memory events of a compiled program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from perfmodel.workload.lowering.compile.addends import take_addends
from perfmodel.workload.lowering.compile.attended import with_fused_attention
from perfmodel.workload.lowering.compile.buffers import Buffer, base_of
from perfmodel.workload.lowering.compile.fusion import fuse
from perfmodel.workload.lowering.compile.graph import Graph
from perfmodel.workload.lowering.compile.layout import prefers_channels_last
from perfmodel.workload.lowering.compile.locality import late as late_order
from perfmodel.workload.lowering.compile.loops import generated, loads
from perfmodel.workload.lowering.compile.names import Names
from perfmodel.workload.lowering.compile.partition import kept, needed
from perfmodel.workload.lowering.compile.realize import Realizer
from perfmodel.workload.lowering.compile.region import outside
from perfmodel.workload.lowering.compile.split import many_rows, mixed_rows, staged
from perfmodel.workload.lowering.compile.storages import (
    Output,
    give_back,
    lay_out,
    name_storages,
    storage_of,
    take,
)
from perfmodel.workload.lowering.compile.trace import trace
from perfmodel.workload.lowering.device import H100, Device
from perfmodel.workload.lowering.eager.columns import column_work
from perfmodel.workload.lowering.eager.strides import axis_of, follow
from perfmodel.workload.lowering.eager.table import eager_work
from perfmodel.workload.lowering.kernel import HostCall, Kernel, Lowered, MemoryEvent, Traffic
from perfmodel.workload.lowering.memory import residents
from perfmodel.workload.lowering.site import Site, sites
from perfmodel.workload.lowering.stream import stream
from perfmodel.workload.program import Program
from perfmodel.workload.stack import Stack

UNWRITTEN: Final = frozenset(("empty", "empty_like", "empty_strided", "new_empty"))
"""Steps that take memory and launch nothing."""
BREAKS: Final = frozenset(("_local_scalar_dense", "is_nonzero"))
"""Steps by which Python learns a number: the graph ends there, and another one begins."""


def lower_compiled(program: Program, stack: Stack, device: Device | None = None) -> Lowered:
    """Forward and backward compiled, each one graph; the optimizer's step as the stack says."""
    chip = H100 if device is None else device
    program = with_fused_attention(program)
    _, strides = follow(program)  # of a product the library asks how its factors lie
    every = [
        replace(site, axes=tuple(axis_of(tensor, strides) for tensor in site.inputs))
        for site in sites(program, stack, chip)
    ]
    loss = set() if stack.compile_loss else outside(every)
    compiled = [
        site
        for site in every
        if site.index not in loss and (site.node.phase != "optimizer" or stack.compile_optimizer)
    ]
    between = [site for site in every if site.index in loss]
    last = stack.layout_optimization and prefers_channels_last(compiled)
    graph, names = trace(program, compiled, channels_last=last)
    graph.given_last = any(_channels_last(site) for site in compiled)
    turned = last or graph.given_last
    rest = [site for site in every if site.node.phase == "optimizer"]
    if stack.compile_optimizer:
        rest = []
    results = _results(program, names, (*between, *rest))
    out = Output(chip, fresh=len(program.storages), alive=set(program.resident))
    forward_out = [n for n in results if not graph.values[n].backward]
    backward_out = [n for n in results if graph.values[n].backward]
    tail = needed(graph, backward_out)
    late = {n for n in tail if graph.values[n].backward}
    required = needed(graph, forward_out)
    early = (tail - late) | required
    saved: set[int] = set()
    if late:
        saved = kept(graph, early, late, required)
    held = {n for n in saved if graph.values[n].kind != "source"}
    outputs = [*forward_out, *held]
    alive = sorted(needed(graph, outputs))
    pieces = 1 + sum(site.name in BREAKS and site.node.phase == "forward" for site in compiled)
    if not late:
        alive = late_order(graph, alive)
    _graph(
        out,
        graph,
        alive,
        outputs,
        results,
        "forward",
        keep=held,
        channels_last=turned,
        pieces=pieces,
    )
    _eager(out, program, [_with_gaps(site, _padded(graph, results)) for site in between])
    if late:
        # what the model handed out dies with the caller's last use of it
        freed = {number for site in compiled for number in site.node.frees}
        _release(out, graph, results, freed, held)
        again = _order(graph, backward_out, held)
        _graph(
            out,
            graph,
            again,
            backward_out,
            results,
            "backward",
            keep=set(),
            given=held,
            channels_last=turned,
            pieces=pieces,
        )
    _eager(out, program, rest)
    return Lowered(
        program.name,
        stack.name,
        "compile",
        False,
        tuple(out.kernels),
        tuple(out.calls),
        tuple(out.events),
        residents(program),
        program.module_calls,
        ("convolutions run channels last",) if last else (),
    )


def _padded(graph: Graph, results: Mapping[int, int]) -> set[int]:
    """Storages of results whose rows are longer than they show."""
    return {
        storage for number, storage in results.items() if graph.values[number].layout == "padded"
    }


def _with_gaps(site: Site, storages: set[int]) -> Site:
    """A site whose operands in these storages are not contiguous."""
    if not any(tensor.storage in storages for tensor in site.inputs):
        return site
    inputs = (replace(t, layout="strided") if t.storage in storages else t for t in site.inputs)
    return replace(site, inputs=tuple(inputs))


def _release(
    out: Output, graph: Graph, results: Mapping[int, int], freed: set[int], held: set[int]
) -> None:
    """Give back outputs of the forward graph that nothing reads any more."""
    for number, storage in results.items():
        if storage in freed and number not in held and not graph.values[number].backward:
            give_back(out, storage, len(out.calls) - 1, ())


def _channels_last(site: Site) -> bool:
    """Whether a convolution's operands already lie channels last."""
    return site.name == "convolution" and any(
        tensor.layout == "channels_last" for tensor in site.inputs[:2]
    )


def _results(program: Program, names: Names, rest: Sequence[Site]) -> dict[int, int]:
    """Values that outlive the compiled graphs, each with the program's storage that it fills."""
    resident = set(program.resident)
    wanted = dict.fromkeys(program.outputs)
    wanted.update(dict.fromkeys(name for site in rest for name in site.node.inputs))
    found: dict[int, int] = {}
    for storage, name in names.mutated.items():
        if storage in resident:
            found[base_of(names.graph, names.current[name]).number] = storage
    for name in wanted:
        if name in names.current:
            value = base_of(names.graph, names.get(name))
            if value.kind != "source":
                found.setdefault(value.number, program.tensor(name).storage)
    return found


def _order(graph: Graph, wanted: Sequence[int], held: set[int]) -> list[int]:
    """What the backward graph computes, with forward values again just before their first use."""
    inside = needed(graph, wanted, held)
    done: dict[int, None] = {}
    for target in sorted(n for n in inside if graph.values[n].backward):
        stack = [target]
        while stack:
            number = stack[-1]
            if number in done:
                stack.pop()
                continue
            value = graph.values[number]
            waiting = (
                [] if number in held else [n for n in value.inputs if n not in done and n in inside]
            )
            if waiting:
                stack += waiting
            else:
                done[number] = None
                stack.pop()
    return list(done)


def _graph(
    out: Output,
    graph: Graph,
    alive: Sequence[int],
    outputs: Iterable[int],
    results: Mapping[int, int],
    phase: str,
    *,
    keep: set[int],
    given: Iterable[int] = (),
    channels_last: bool,
    pieces: int,
) -> None:
    """One compiled graph: its call, kernels and memory.

    Where Python learns numbers in between, the host calls as many graphs as there are ``pieces``;
    layers that such a loop goes through share kernels with none but themselves
    (torch/_dynamo/symbolic_convert.py, ``generic_jump``). What each fuses is taken from the whole.
    """
    held = set(given)
    local = [n for n in alive if n not in held]
    take_addends(graph, local, outputs)
    realizer = Realizer(
        graph,
        local,
        outputs,
        channels_last=channels_last,
        last=out.last,
        axes=out.axes,
        rows=many_rows(out.device),
    )
    buffers = [
        stage
        for buffer in realizer.buffers()
        for stage in staged(buffer, out.device, inner=realizer.inner(buffer))
    ]
    further = {n: graph.values[n].inputs[0] for n in local if graph.values[n].kind == "result"}
    lasting = {realizer.memory(n) for n in (*outputs, *keep)}
    fixed = {realizer.memory(n) for n in outputs if results.get(n) in out.alive}
    mine = {realizer.memory(n) for n in held}
    layout = lay_out(graph, buffers, fuse(buffers, further), realizer, lasting, fixed, mine)
    spots = name_storages(out, graph, layout, buffers, realizer, results)
    inputs = len(held) + sum(graph.values[n].kind == "source" for n in local)
    begins = {len(layout.groups) * piece // pieces for piece in range(1, pieces)}
    enter = HostCall("compiled_call", -1, (), phase, -(-inputs // pieces))
    out.calls.append(enter)
    partial = _partial(buffers, layout.groups, out.device.units)
    for order, group in enumerate(layout.groups):
        if order in begins:
            out.calls.append(enter)
        members = [buffers[place] for place in group]
        whole = all(_is_only_summed(member, partial) for member in members)
        call = len(out.calls)
        for block, size in layout.blocks.taken[order]:
            take(out, spots[block], size, call)
        for member in members:
            _final_sums(out, member, partial, phase, whole=whole)
        if not whole:
            _group(out, graph, members, order, layout.final, lasting, phase)
        call = max(call, len(out.calls) - 1)
        for block in layout.blocks.returned[order]:
            spot = spots.get(block, out.storage.get(block, -1))
            give_back(out, spot, call, results.values())
        for number in layout.dies[order]:
            if number >= 0 and graph.values[number].kind == "source":
                give_back(out, graph.values[number].storage, call, results.values())
    call = len(out.calls) - 1
    for number in held:
        give_back(out, out.storage.get(realizer.memory(number), -1), call, results.values())


def _partial(
    buffers: Sequence[Buffer], groups: Sequence[Sequence[int]], units: int
) -> dict[int, int]:
    """First stages of column sums that share a kernel with row sums, each with its parts."""
    found: dict[int, int] = {}
    for group in groups:
        members = [buffers[place] for place in group]
        rows = max((m.numel for m in members if m.reduced > 1 and not m.whole), default=0)
        if rows:
            parts = -(-rows // mixed_rows(rows, units))
            found |= {member.value.number: parts for member in members if member.whole}
    return found


def _is_only_summed(buffer: Buffer, partial: Mapping[int, int]) -> bool:
    """Whether a buffer is the sum of such a stage and nothing else, in the format of the sum."""
    plain = len(buffer.steps) == 1 and buffer.value.kind == "reduce" and len(buffer.reads) == 1
    return plain and buffer.reads[0].buffer in partial and buffer.value.dtype == "fp32"


def _final_sums(
    out: Output, buffer: Buffer, partial: Mapping[int, int], phase: str, *, whole: bool
) -> None:
    """Such stages are summed by a call of the library; a loop behind it changes the format."""
    for read in buffer.reads:
        if read.buffer not in partial:
            continue
        spot, written = out.storage.get(read.buffer, -1), buffer.numel * 4
        rows, size = partial[read.buffer], partial[read.buffer] * written
        op = stream("sum", size // 4, size, written, column_work(rows, size // 4))
        nodes = tuple(n for n in buffer.nodes if n >= 0)
        target = out.storage.get(buffer.value.number, -1)
        writes = ((target, written),) if whole else ()
        out.kernels.append(
            Kernel("sum", "reduction", (op,), ((spot, size),), writes, nodes, phase, "extern")
        )
        node = buffer.value.node
        out.calls.append(HostCall("extern", node, (len(out.kernels) - 1,), phase, 2))


def _group(
    out: Output,
    graph: Graph,
    members: Sequence[Buffer],
    order: int,
    final: Mapping[int, int],
    lasting: set[int],
    phase: str,
) -> None:
    """One group: its kernel and its call."""
    first_node = members[0].value.node
    out.calls += [HostCall("view", first_node, (), phase, 2)] * members[0].value.calls
    call = len(out.calls)
    if all(member.value.name in UNWRITTEN for member in members):
        return
    made = {buffer.value.number for buffer in members}
    stored = [
        buffer
        for buffer in members
        if buffer.value.number in lasting or final[buffer.value.number] > order
    ]
    reads = loads(members, made)
    fused = members[0].fusable
    if fused:  # in whatever orders a loop reads a buffer, it is in a cache after the first time
        reads = {
            n: min(size, graph.values[n].bytes) if n >= 0 else size for n, size in reads.items()
        }
    traffic_in = tuple((storage_of(out, graph, n), size) for n, size in reads.items())
    traffic_out: dict[int, int] = {}
    for buffer in stored:
        spot = storage_of(out, graph, buffer.value.number)
        traffic_out[spot] = traffic_out.get(spot, 0) + buffer.written
    first = len(out.kernels)
    if fused:
        out.kernels.append(
            generated(members, traffic_in, tuple(traffic_out.items()), phase, out.device)
        )
    else:
        out.kernels += _library(
            out, members[0], traffic_in, tuple(traffic_out.items()), phase, call
        )
    launched = tuple(range(first, len(out.kernels)))
    tensors = len(traffic_in) + len(traffic_out)
    node = members[0].value.node
    host = out.kernels[first].host if launched else "extern"
    out.calls.append(HostCall(host, node, launched, phase, tensors))


def _library(
    out: Output, buffer: Buffer, reads: Traffic, writes: Traffic, phase: str, call: int
) -> list[Kernel]:
    """A library call's kernels, on the storages of the compiled graph."""
    work = buffer.value.work
    if work is None:
        return []
    for storage, size in work.temporaries:
        out.events.append(MemoryEvent(call, storage, size, True, "temporary"))
        out.events.append(MemoryEvent(call, storage, size, False, "temporary"))
    return [
        replace(kernel, reads=reads, writes=writes, phase=phase, host=_host(kernel))
        for kernel in work.kernels
    ]


def _host(kernel: Kernel) -> str:
    """Running sums are generated like loops; everything else that does not fuse is called."""
    return "triton" if kernel.kind == "scan" else "extern"


def _eager(out: Output, program: Program, rest: Sequence[Site]) -> None:
    """Operators that are not compiled: the optimizer's step."""
    host = {tensor.storage for tensor in program.tensors if tensor.host}
    for site in rest:
        work = eager_work(site)
        call, first = len(out.calls), len(out.kernels)
        out.kernels += work.kernels
        launched = tuple(range(first, len(out.kernels)))
        tensors = len(site.inputs) + len(site.outputs)
        out.calls.append(HostCall(work.host, site.index, launched, site.node.phase, tensors))
        for tensor in site.outputs:
            if tensor.storage not in out.alive and tensor.storage not in host:
                take(out, tensor.storage, program.storages[tensor.storage], call)
        for storage, size in work.temporaries:
            out.events.append(MemoryEvent(call, storage, size, True, "temporary"))
            out.events.append(MemoryEvent(call, storage, size, False, "temporary"))
        for storage in site.node.frees:
            if storage in out.alive:
                out.alive.remove(storage)
                size = out.size.get(storage, program.storages[storage])
                out.events.append(MemoryEvent(call, storage, size, False))
