"""Which values get memory, and what each of them reads: buffers from values.

A map is computed where it is used unless it is an output, feeds a library call, is used more than
once and reads much, or has grown large (torch/_inductor/ir.py, ``StorageBox``; thresholds from
torch/_inductor/config.py). Where an element is read is followed at a few sample points, so that two
accesses compare equal exactly when they visit memory in the same order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

import numpy as np

from perfmodel.workload.lowering.compile.graph import Graph, Value, expanded
from perfmodel.workload.lowering.compile.orders import Orders
from perfmodel.workload.lowering.compile.places import (
    Places,
    broadcasts,
    follow,
    reduction_order,
    samples,
)
from perfmodel.workload.lowering.site import item_bytes

READS_ON_REUSE: Final = 4
READS_IN_ALL: Final = 8
OPERATIONS: Final = 30
TWICE: Final = frozenset(
    ["silu", "hardswish", "gelu", "mish", "silu_backward", "gelu_backward", "hardswish_backward"]
)
"""Steps that are decomposed into several, of which more than one takes the operand."""

COUNTED: Final = MappingProxyType(
    {
        "batch_norm": 24, "cat": 6, "sin": 4, "cos": 4, "roll": 8, "constant_pad_nd": 10,
        "norm": 9, "rstd": 7,
    }
)  # fmt: skip
"""Steps that are expressions of many operations, loads and constants and casts counted."""

ANGLES: Final = frozenset(["sin", "cos"])
"""Steps that take long, and that rotary embeddings compute for every head."""

WRAPPED: Final = frozenset(["roll", "unpadded", "pad"])
"""Steps that begin again within an axis, or copy padded memory: no loop follows them."""

DEALT: Final = -1
"""First place of a read whose order no loop can be turned to."""


@dataclass(frozen=True, slots=True)
class Read:
    """One access to a buffer: which, in which order (places at the samples), how much [B]."""

    buffer: int
    places: tuple[int, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class Buffer:
    """A value with memory.

    Parameters
    ----------
    value : Value
    numel, reduced : int
        Iteration: results, and elements that each of them sums (1 for a map).
    reads : tuple of Read
        What its loop loads.
    operations : float
        FLOP of the whole loop.
    steps : tuple of str
        Names of the steps that are computed in it.
    nodes : tuple of int
        The program's nodes that these steps belong to.
    written : int
        Bytes stored [B].
    operand : tuple of int
        Shape that a reduction runs over; empty for a map.
    whole : tuple of int
        Results and terms of the sum that this is the first stage of; empty for any other.
    """

    value: Value
    numel: int
    reduced: int
    reads: tuple[Read, ...]
    operations: float
    steps: tuple[str, ...]
    nodes: tuple[int, ...]
    written: int
    operand: tuple[int, ...] = ()
    whole: tuple[int, ...] = ()

    @property
    def fusable(self) -> bool:
        """Whether it is a generated loop, not a library call."""
        return self.value.kind in ("map", "reduce")


@dataclass(slots=True)
class _Loop:
    """What one loop computes and loads, while its operands are followed."""

    steps: list[str]
    nodes: list[int]
    total: int = 0
    leaves: dict[tuple[int, tuple[int, ...]], int] = field(default_factory=dict)
    seen: set[tuple[int, tuple[int, ...]]] = field(default_factory=set)


def base_of(graph: Graph, number: int) -> Value:
    """The value behind a chain of views."""
    value = graph.values[number]
    while value.kind == "view":
        value = graph.values[value.inputs[0]]
    return value


def users_of(graph: Graph, alive: Iterable[int]) -> dict[int, list[int]]:
    """Which living values use each value, views looked through."""
    users: defaultdict[int, list[int]] = defaultdict(list)
    for number in alive:
        value = graph.values[number]
        if value.kind == "view":
            continue
        for operand in value.inputs:
            base = base_of(graph, operand).number
            if number not in users[base]:
                users[base].append(number)
    return users


class Realizer:
    """Walks the living values in order and decides, one after another, which get memory."""

    def __init__(
        self,
        graph: Graph,
        alive: Sequence[int],
        outputs: Iterable[int],
        *,
        channels_last: bool = False,
        last: dict[int, bool] | None = None,
    ) -> None:
        self.graph = graph
        self.channels_last = channels_last
        self.alive = alive
        self.outputs = {base_of(graph, number).number for number in outputs}
        self.users = users_of(graph, alive)
        self.real: set[int] = set()
        self.folded: dict[int, int] = {}
        self.orders = Orders(graph, channels_last, {} if last is None else last)
        self.local = set(alive)

    def buffers(self) -> list[Buffer]:
        """Buffers in order."""
        found: list[Buffer] = []
        for number in self.alive:
            value = self.graph.values[number]
            if value.kind in ("view", "result"):
                if value.kind == "result":
                    self.real.add(number)
                continue
            if self._stays_in_call(value):
                self.folded[number] = value.inputs[0]
                self.real.add(number)
                self._read_bias(found, value)
                continue
            if value.kind == "map" and not self._needs_memory(value):
                continue
            self.real.add(number)
            if value.kind != "source":
                found.append(self._buffer(self._widened(value)))
                self._follow_order(found[-1])
        return found

    def _stays_in_call(self, value: Value) -> bool:
        """Whether a bias is added by the library.

        It is for half-precision products, and where not all users are element-wise.
        """
        if value.kind != "map" or not value.name.endswith(" bias"):
            return False
        if value.dtype in ("bf16", "fp16"):
            return True
        users = self.users.get(value.number, [])
        plain = all(self.graph.values[user].kind == "map" for user in users)
        return value.number in self.outputs or not users or not plain

    def _read_bias(self, found: list[Buffer], value: Value) -> None:
        """The library call reads the bias that it adds."""
        call, bias = self.memory(value.inputs[0]), self.memory(value.inputs[1])
        size = self.graph.values[value.inputs[1]].bytes
        for place in range(len(found) - 1, -1, -1):
            if found[place].value.number == call:
                reads = (*found[place].reads, Read(bias, (), size))
                found[place] = replace(found[place], reads=reads)
                return

    def _needs_memory(self, value: Value) -> bool:
        if value.scatter or value.heavy or value.random or value.number in self.outputs:
            return True
        users = self.users.get(value.number, [])
        if any(self._wants_memory(self.graph.values[user], value) for user in users):
            return True
        reads, work = self._cost(value)
        if reads > 1 and any(self.graph.values[user].window for user in users):
            return True
        uses = len(users) + sum(self.graph.values[user].name in TWICE for user in users)
        if uses > 1 and (reads > READS_ON_REUSE or work > OPERATIONS):
            return bool(reads)
        return reads > READS_IN_ALL or (work > OPERATIONS and reads > 0)

    def _widened(self, value: Value) -> Value:
        """A half-precision map that only decomposed steps read is stored as they read it: fp32."""
        users = self.users.get(value.number, [])
        decomposed = users and all(self.graph.values[user].name in TWICE for user in users)
        if value.kind != "map" or value.dtype not in ("bf16", "fp16") or not decomposed:
            return value
        if value.heavy or value.scatter or value.number in self.outputs:
            return value
        self.graph.values[value.number] = replace(value, dtype="fp32")
        return self.graph.values[value.number]

    def _wants_memory(self, user: Value, value: Value) -> bool:
        """Whether a user can only read memory: a library call, or the target of a scatter."""
        if user.kind == "extern" or (self._stays_in_call(user) and value.kind == "map"):
            return True
        return user.scatter and base_of(self.graph, user.inputs[0]).number == value.number

    def _cost(self, value: Value) -> tuple[int, int]:
        """Distinct buffers that the inlined expression reads, and its operations."""
        read: set[int] = set()
        work, stack, seen = 0, [value.number], set()
        while stack:
            number = stack.pop()
            if number in seen:
                continue
            seen.add(number)
            current = self.graph.values[number]
            if current.kind == "view":
                stack.append(current.inputs[0])
            elif number in self.real or not current.lazy or number not in self.local:
                read.add(number)
            else:
                work += COUNTED.get(current.name, max(1, min(current.operations, 12)))
                stack += current.inputs
        return len(read), work

    def _buffer(self, value: Value) -> Buffer:
        if value.kind == "extern":
            reads = tuple(
                Read(self.memory(operand), (), self._extern_bytes(operand))
                for operand in value.inputs
            )
            return Buffer(value, value.numel, 1, reads, 0.0, (value.name,), (value.node,),
                          value.bytes)  # fmt: skip
        numel, reduced = value.numel, 1
        across = value
        if value.scatter:  # a loop over what is written, not over what it is written into
            moving = [self.graph.values[n] for n in value.inputs[1:]]
            largest = max(moving, key=lambda one: one.numel, default=value)
            across = replace(value, shape=largest.shape)
            numel = across.numel
        if value.kind == "reduce":
            reduced = max(1, self.graph.values[value.inputs[0]].numel // max(1, numel))
        total = across.numel * reduced
        loop = _Loop([value.name], [value.node], total)
        points = samples(total)
        work = float(value.operations * numel * reduced)
        if value.kind == "reduce":
            operand = self.graph.values[value.inputs[0]]
            points = follow(reduction_order(operand.shape, value.over), points)
            work += self._visit(value.inputs[0], points, total, loop)
        else:
            skip = 1 if value.scatter else 0
            for operand_number in value.inputs[skip:]:
                work += self._operand(across, operand_number, points, loop, across.numel)
            if value.name in WRAPPED:
                loop.leaves = {(n, (DEALT, *key)): size for (n, key), size in loop.leaves.items()}
        written = min(value.numel, across.numel) * item_bytes(value.dtype)
        reads = tuple(Read(buffer, key, size) for (buffer, key), size in loop.leaves.items())
        shape = self.graph.values[value.inputs[0]].shape if value.kind == "reduce" else ()
        return Buffer(
            value, max(1, numel), reduced, reads, work, tuple(dict.fromkeys(loop.steps)),
            tuple(dict.fromkeys(loop.nodes)), written, shape,
        )  # fmt: skip

    def memory(self, number: int) -> int:
        """The number of the buffer that holds (the base of) a value."""
        base = base_of(self.graph, number).number
        base = self.folded.get(base, base)
        return base_of(self.graph, base).number

    def inner(self, buffer: Buffer) -> bool:
        """Whether neighbouring terms of a sum are neighbours in memory."""
        if buffer.value.kind != "reduce":
            return True
        operand = buffer.value.inputs[0]
        shape = self.graph.values[operand].shape
        places = follow(reduction_order(shape, buffer.value.over), np.array([0, 1]))
        if not self.channels_last:
            return bool(places[1] - places[0] == 1)
        loop = _Loop([], [])
        self._visit(operand, places, buffer.numel * buffer.reduced, loop)
        if not loop.leaves:
            return bool(places[1] - places[0] == 1)
        number, pair = max(loop.leaves, key=loop.leaves.__getitem__)
        first, second = self.orders.offsets(number, pair)
        return second - first == 1

    def straight(self, buffer: Buffer, read: Read) -> bool:
        """Whether a loop reads each element where it writes the one that it makes of it."""
        if read.buffer < 0 or buffer.value.number < 0 or read.places[:1] == (DEALT,):
            return False
        step = max(1, buffer.reduced)
        written = (samples(buffer.numel * buffer.reduced) // step).tolist()
        own = self.orders.offsets(buffer.value.number, written)
        return self.orders.offsets(read.buffer, read.places) == own

    def _follow_order(self, buffer: Buffer) -> None:
        """A loop lays its result out as its largest operand of the same size lies."""
        value = buffer.value
        if value.kind != "map" or value.scatter:
            return
        same = [read for read in buffer.reads if read.bytes >= value.numel and read.buffer >= 0]
        if same:
            largest = max(same, key=lambda read: read.bytes)
            self.orders.follow(value, largest.buffer, largest.places, samples(value.numel))

    def aliases(self, number: int) -> list[int]:
        """Values that live in the memory of this one: a bias that the library adds."""
        return [value for value, call in self.folded.items() if call == number]

    def _extern_bytes(self, number: int) -> int:
        value = self.graph.values[number]
        return min(value.bytes, base_of(self.graph, number).bytes)

    def _operand(self, value: Value, number: int, points: Places, loop: _Loop, limit: int) -> float:
        """An operand of a map: broadcast where shapes say so, row by row, or spread evenly.

        ``limit`` is how many elements of the map are asked for.
        """
        shape = self.graph.values[number].shape
        count = self.graph.values[number].numel
        if count == value.numel:
            inner = points
        elif broadcasts(shape, value.shape):
            inner = follow(expanded(shape, value.shape), points)
        elif len(shape) > 1 and value.shape[-1:] == shape[-1:] and shape[-1] > 1:  # rows of it
            rows, row = count // shape[-1], points // shape[-1]
            inner = row % max(1, rows) * shape[-1] + points % shape[-1]
        else:
            inner = points * count // max(1, value.numel) + 1
        return self._visit(number, inner, min(count, limit), loop)

    def _visit(self, number: int, points: Places, count: int, loop: _Loop) -> float:
        """Follow an operand to the buffers behind it; answers the FLOP met on the way."""
        value = self.graph.values[number]
        count = min(count, value.numel)
        if value.kind == "view":
            return self._visit(value.inputs[0], follow(value.index, points), count, loop)
        if number in self.real or not value.lazy or number not in self.local:
            key = (self.memory(number), tuple(points.tolist()))
            size = min(count * item_bytes(value.dtype), value.bytes)
            loop.leaves[key] = max(loop.leaves.get(key, 0), size)
            return 0.0
        again = (number, tuple(points.tolist()))
        if again in loop.seen:  # computed once in a loop, however often it is used
            return 0.0
        loop.seen.add(again)
        loop.steps.append(value.name)
        loop.nodes.append(value.node)
        # what is computed in place is computed for every element, however often it is the same
        every = max(count, loop.total) if value.name in ANGLES else count
        work = float(value.operations * every)
        inside = _Loop([], [], loop.total, seen=loop.seen) if value.name in WRAPPED else loop
        for operand in value.inputs:
            work += self._operand(value, operand, points, inside, count)
        if inside is not loop:
            loop.steps += inside.steps
            loop.nodes += inside.nodes
            for (buffer, places), size in inside.leaves.items():
                loop.leaves[buffer, (DEALT, *places)] = size
        return work
