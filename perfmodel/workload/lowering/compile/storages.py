"""Which storage each buffer of a compiled graph gets, and when it is taken and given back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from perfmodel.workload.lowering.compile.fusion import identity
from perfmodel.workload.lowering.compile.graph import Graph
from perfmodel.workload.lowering.compile.realize import Buffer, Realizer
from perfmodel.workload.lowering.kernel import HostCall, Kernel, MemoryEvent


@dataclass(slots=True)
class Output:
    """The lists of a lowered program while they grow."""

    kernels: list[Kernel] = field(default_factory=list)
    calls: list[HostCall] = field(default_factory=list)
    events: list[MemoryEvent] = field(default_factory=list)
    storage: dict[int, int] = field(default_factory=dict)
    size: dict[int, int] = field(default_factory=dict)
    alive: set[int] = field(default_factory=set)
    fresh: int = 0


def storage_of(out: Output, graph: Graph, number: int) -> int:
    """The storage of a buffer or source."""
    if number in out.storage:
        return out.storage[number]
    if number >= 0 and graph.values[number].kind == "source":
        return graph.values[number].storage
    if number >= 0 and graph.values[number].kind == "result":
        return out.storage.get(number, storage_of(out, graph, graph.values[number].inputs[0]))
    return -1


def place_buffer(
    out: Output,
    graph: Graph,
    buffer: Buffer,
    members: Sequence[Buffer],
    results: Mapping[int, int],
    call: int,
    dying: list[int],
    realizer: Realizer,
) -> None:
    """Give a buffer its storage: the program's, its base's, a dying input's or a new one."""
    value = buffer.value
    size = value.bytes if value.number >= 0 else buffer.written
    names = (value.number, *realizer.aliases(value.number))
    targets = [results[n] for n in names if n in results]
    if targets:
        out.storage.update(dict.fromkeys(names, targets[0]))
        if targets[0] not in out.alive:
            take(out, targets[0], size, call)
        return
    if value.scatter:
        out.storage[value.number] = storage_of(out, graph, realizer.memory(value.inputs[0]))
        return
    for number in dying:
        if not any(_writes_over(member, number, size) for member in members):
            continue
        spot = out.storage.get(number, -1)
        if spot in out.alive and out.size.get(spot) == size and spot not in results.values():
            out.storage[value.number] = spot
            dying.remove(number)
            return
    out.storage.update(dict.fromkeys(names, out.fresh))
    take(out, out.fresh, size, call)
    out.fresh += 1


def further_outputs(graph: Graph, buffer: Buffer) -> list[int]:
    """The further outputs of a library call."""
    found = []
    place = buffer.value.number + 1
    while 0 < place < len(graph.values) and graph.values[place].kind == "result":
        if graph.values[place].inputs == (buffer.value.number,):
            found.append(place)
        place += 1
    return found


def _writes_over(member: Buffer, number: int, size: int) -> bool:
    """Whether a loop reads a buffer in order and makes something of the same size."""
    straight = identity(member.numel, member.numel * member.reduced)
    return member.value.bytes == size and any(
        read.buffer == number and read.places == straight for read in member.reads
    )


def place_further(
    out: Output, graph: Graph, buffer: Buffer, results: Mapping[int, int], call: int
) -> None:
    """Storages of the other outputs of a library call."""
    for number in further_outputs(graph, buffer):
        target = results.get(number, out.fresh)
        out.storage[number] = target
        out.fresh += target == out.fresh
        if target not in out.alive:
            take(out, target, graph.values[number].bytes, call)


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
