"""When the host takes and gives back memory, operator by operator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from perfmodel.workload.lowering.kernel import MemoryEvent, Resident
from perfmodel.workload.program import Program


def residents(program: Program) -> tuple[Resident, ...]:
    """What is in device memory before the first operator."""
    roles: dict[int, str] = {}
    for tensor in program.tensors:
        roles.setdefault(tensor.storage, tensor.role)
    return tuple(
        Resident(storage, program.storages[storage], roles.get(storage, "constant"))
        for storage in program.resident
    )


def node_events(
    program: Program,
    calls: Sequence[int],
    scratch: Sequence[Iterable[tuple[int, int]]],
) -> tuple[MemoryEvent, ...]:
    """The events of a program that runs node by node.

    Parameters
    ----------
    program : Program
    calls : sequence of int
        The host call of each node.
    scratch : sequence of (storage, bytes) pairs
        What each node takes and gives back while it runs.
    """
    host = {tensor.storage for tensor in program.tensors if tensor.host}
    alive = set(program.resident)
    events: list[MemoryEvent] = []
    for index, node in enumerate(program.nodes):
        call = calls[index]
        for name in node.outputs:
            storage = program.tensor(name).storage
            if storage not in alive and storage not in host:
                alive.add(storage)
                events.append(MemoryEvent(call, storage, program.storages[storage], True))
        blocks = list(scratch[index])
        for storage, size in blocks:
            events.append(MemoryEvent(call, storage, size, True, "temporary"))
        for storage, size in reversed(blocks):
            events.append(MemoryEvent(call, storage, size, False, "temporary"))
        for storage in node.frees:
            if storage in alive:
                alive.remove(storage)
                events.append(MemoryEvent(call, storage, program.storages[storage], False))
    return tuple(events)
