"""Which storage each buffer of a compiled graph gets, and when it is taken and given back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from perfmodel.workload.lowering.compile.buffers import Buffer, base_of
from perfmodel.workload.lowering.compile.graph import Graph
from perfmodel.workload.lowering.compile.order import Step, memory_at_steps, peak_order
from perfmodel.workload.lowering.compile.precedence import dependences
from perfmodel.workload.lowering.compile.realize import Realizer
from perfmodel.workload.lowering.compile.reuse import Blocks, Demand, Need, share_blocks
from perfmodel.workload.lowering.device import Device
from perfmodel.workload.lowering.kernel import HostCall, Kernel, MemoryEvent
from perfmodel.workload.lowering.site import item_bytes


@dataclass(slots=True)
class Output:
    """The lists of a lowered program while they grow, and the chip that it is for."""

    device: Device
    kernels: list[Kernel] = field(default_factory=list)
    calls: list[HostCall] = field(default_factory=list)
    events: list[MemoryEvent] = field(default_factory=list)
    storage: dict[int, int] = field(default_factory=dict)
    size: dict[int, int] = field(default_factory=dict)
    alive: set[int] = field(default_factory=set)
    last: dict[int, bool] = field(default_factory=dict)
    axes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    fresh: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """One compiled graph in the order in which it runs.

    Parameters
    ----------
    groups : list of list of int
        Places of the buffers of each kernel.
    final : mapping
        The last group that touches each buffer.
    dies : list of list of int
        Buffers and sources that nothing reads behind each group.
    blocks : Blocks
    """

    groups: list[list[int]]
    final: Mapping[int, int]
    dies: list[list[int]]
    blocks: Blocks


def storage_of(out: Output, graph: Graph, number: int) -> int:
    """The storage of a buffer or source."""
    if number in out.storage:
        return out.storage[number]
    if number >= 0 and graph.values[number].kind == "source":
        return graph.values[number].storage
    if number >= 0 and graph.values[number].kind == "result":
        return out.storage.get(number, storage_of(out, graph, graph.values[number].inputs[0]))
    return -1


def lay_out(
    graph: Graph,
    buffers: Sequence[Buffer],
    groups: Sequence[list[int]],
    realizer: Realizer,
    lasting: Iterable[int],
    fixed: Iterable[int],
    given: Iterable[int],
) -> Layout:
    """Order the kernels of a graph and plan its blocks.

    Parameters
    ----------
    graph, buffers, groups, realizer
        As fusion left them.
    lasting : iterable of int
        Buffers that outlive the graph.
    fixed : iterable of int
        Buffers written into memory that stood before.
    given : iterable of int
        Buffers of another graph that this one may free.
    """
    held = set(given)
    root = _roots(graph, buffers, realizer)
    kept = {root.get(number, number) for number in lasting}
    standing = {root.get(number, number) for number in fixed}
    asked = kept | {root.get(read.buffer, read.buffer) for b in buffers for read in b.reads}
    steps = _steps(graph, buffers, groups, root, standing, held, asked)
    sizes = {number: graph.values[number].bytes for number in held}
    order = peak_order(steps, sizes, kept)
    ordered = [groups[place] for place in order]
    memory = memory_at_steps(steps, order, sizes, kept)
    final = _last_uses(buffers, ordered)
    dies = _deaths(graph, buffers, ordered, root, kept | standing)
    demands: list[Demand] = []
    for at, group in enumerate(ordered):
        members = [buffers[place] for place in group]
        demands.append(_demand(realizer, members, at, final, root, kept, standing, held, dies[at]))
    blocks = share_blocks(demands, memory, held)
    for number, base in root.items():
        if base in blocks.block:
            blocks.block.setdefault(number, blocks.block[base])
    return Layout(ordered, final, dies, blocks)


def _roots(graph: Graph, buffers: Sequence[Buffer], realizer: Realizer) -> dict[int, int]:
    """The buffer in whose memory each write in place ends."""
    root: dict[int, int] = {}
    for buffer in buffers:
        if buffer.value.scatter:
            base = realizer.memory(buffer.value.inputs[0])
            root[buffer.value.number] = root.get(base, base)
    return root


def _steps(
    graph: Graph,
    buffers: Sequence[Buffer],
    groups: Sequence[Sequence[int]],
    root: Mapping[int, int],
    standing: set[int],
    held: set[int],
    asked: set[int],
) -> list[Step]:
    """Groups as the compiler estimates them: outputs of a call that nobody asks for are nothing."""
    further = {
        number: buffer.value.number
        for buffer in buffers
        for number in further_outputs(graph, buffer)
    }
    needs = dependences(buffers, further)
    home = {place: order for order, group in enumerate(groups) for place in group}
    makes = []
    for group in groups:
        made = {}
        for buffer in (buffers[place] for place in group):
            for number, size in _made(graph, buffer):
                unasked = number != buffer.value.number and number not in asked
                if number not in root and number not in standing and not unasked:
                    made[number] = size
        makes.append(made)
    known = held.union(*makes) if makes else held
    steps = []
    for order, group in enumerate(groups):
        read = {root.get(r.buffer, r.buffer) for place in group for r in buffers[place].reads}
        read |= {root[buffers[p].value.number] for p in group if buffers[p].value.number in root}
        after = {home[need] for place in group for need in needs[place]} - {order}
        steps.append(
            Step(makes[order], frozenset((read & known) - set(makes[order])), frozenset(after))
        )
    return steps


def _made(graph: Graph, buffer: Buffer) -> list[tuple[int, int]]:
    """A buffer and the further outputs of its call, with their bytes."""
    return [
        (buffer.value.number, _size(buffer)),
        *((number, graph.values[number].bytes) for number in further_outputs(graph, buffer)),
    ]


def _size(buffer: Buffer) -> int:
    if buffer.value.number < 0:
        return buffer.written
    dtype, elements = buffer.value.held
    return elements * item_bytes(dtype)


def _last_uses(buffers: Sequence[Buffer], groups: Sequence[Sequence[int]]) -> dict[int, int]:
    """The last group that touches each buffer."""
    final: dict[int, int] = {}
    for order, group in enumerate(groups):
        for place in group:
            final[buffers[place].value.number] = max(
                order, final.get(buffers[place].value.number, order)
            )
            for read in buffers[place].reads:
                final[read.buffer] = max(order, final.get(read.buffer, order))
            if buffers[place].value.scatter:
                final[buffers[place].value.inputs[0]] = order
    return final


def _deaths(
    graph: Graph,
    buffers: Sequence[Buffer],
    groups: Sequence[Sequence[int]],
    root: Mapping[int, int],
    kept: set[int],
) -> list[list[int]]:
    """The buffers that die with each group."""
    last: dict[int, int] = {}
    for order, group in enumerate(groups):
        for buffer in (buffers[place] for place in group):
            numbers = [number for number, _ in _made(graph, buffer)]
            for number in (*numbers, *(read.buffer for read in buffer.reads)):
                last[root.get(number, number)] = order
    dies: list[list[int]] = [[] for _ in groups]
    for number, order in last.items():
        if number not in kept:
            dies[order].append(number)
    return [sorted(numbers) for numbers in dies]


def _demand(
    realizer: Realizer,
    members: Sequence[Buffer],
    at: int,
    final: Mapping[int, int],
    root: Mapping[int, int],
    kept: set[int],
    standing: set[int],
    held: set[int],
    dies: Sequence[int],
) -> Demand:
    """What a group brings to memory; its loops may write over what dies with it."""
    graph = realizer.graph
    made = {buffer.value.number for buffer in members}
    free = [number for number in dies if number not in made and _is_ours(graph, number, held)]
    forms = {number: _shape_of(graph, number) for number in free}
    needs = []
    for buffer in members:
        number = buffer.value.number
        inner = number not in kept and final[number] <= at and buffer.fusable
        if number in root or number in standing or inner:
            continue
        over = None
        if buffer.fusable:
            alike = (n for n in free if forms[n] == _form(buffer))
            over = next(
                (n for n in alike if _writes_over(realizer, members, n, _size(buffer))), None
            )
        if over is not None:
            free.remove(over)
        own = not buffer.fusable and not _is_product(buffer)
        needs.append(Need(number, _size(buffer), _form(buffer), own, over))
        for further in further_outputs(graph, buffer):
            value = graph.values[further]
            if further not in standing:
                needs.append(Need(further, value.bytes, (value.dtype, value.numel), own=True))
    return Demand(tuple(needs), tuple(dies))


def _is_ours(graph: Graph, number: int, held: set[int]) -> bool:
    """Whether a loop may write over a buffer: it was made here, or given to be freed."""
    return number < 0 or number in held or graph.values[number].kind != "source"


def _shape_of(graph: Graph, number: int) -> tuple[str, int]:
    """Format and elements of a value; none for the stage of a sum, which no loop writes over."""
    return graph.values[number].held if number >= 0 else ("", 0)


def _form(buffer: Buffer) -> tuple[str, int]:
    if buffer.value.number < 0:
        return "fp32", buffer.written // 4
    return buffer.value.held


def _is_product(buffer: Buffer) -> bool:
    """Whether a library call writes into a block that the graph takes for it."""
    work = buffer.value.work
    return work is not None and any(kernel.kind == "gemm" for kernel in work.kernels)


def _writes_over(realizer: Realizer, members: Sequence[Buffer], number: int, size: int) -> bool:
    """Whether a loop reads a buffer in order and makes something of the same size."""
    return any(
        _size(member) == size
        and any(r.buffer == number and realizer.straight(member, r) for r in member.reads)
        for member in members
    )


def further_outputs(graph: Graph, buffer: Buffer) -> list[int]:
    """The further outputs of a library call."""
    found = []
    place = buffer.value.number + 1
    while 0 < place < len(graph.values) and graph.values[place].kind == "result":
        if graph.values[place].inputs == (buffer.value.number,):
            found.append(place)
        place += 1
    return found


def name_storages(
    out: Output,
    graph: Graph,
    layout: Layout,
    buffers: Sequence[Buffer],
    realizer: Realizer,
    results: Mapping[int, int],
) -> dict[int, int]:
    """Give every buffer the storage of its block; answers the storage of each new block."""
    block = layout.blocks.block
    names = {n: (n, *realizer.aliases(n)) for n in (b.value.number for b in buffers)}
    target = {
        block[number]: results[name]
        for number in block
        for name in names.get(number, (number,))
        if name in results
    }
    spots: dict[int, int] = {}
    for taken in layout.blocks.taken:
        for number, _ in taken:
            spots[number] = target.get(number, out.fresh)
            out.fresh += spots[number] == out.fresh
    for number, home in block.items():
        spot = spots.get(home, out.storage.get(home, -1))
        out.storage.update(dict.fromkeys(names.get(number, (number,)), spot))
    for buffer in buffers:
        number = buffer.value.number
        for name in names[number]:
            if name in results and number not in block:
                out.storage.update(dict.fromkeys(names[number], results[name]))
        if number not in out.storage and buffer.value.scatter:
            base = base_of(graph, realizer.memory(buffer.value.inputs[0])).number
            out.storage[number] = storage_of(out, graph, base)
    return spots


def take(out: Output, storage: int, size: int, call: int) -> None:
    """Take a block for a storage."""
    out.alive.add(storage)
    out.size[storage] = size
    out.events.append(MemoryEvent(call, storage, size, True))


def give_back(out: Output, storage: int, call: int, lasting: Iterable[int]) -> None:
    """Give a storage back that was taken in this step and is not of the ``lasting`` ones."""
    if storage in out.size and storage in out.alive and storage not in set(lasting):
        out.alive.remove(storage)
        out.events.append(MemoryEvent(call, storage, out.size[storage], False))
