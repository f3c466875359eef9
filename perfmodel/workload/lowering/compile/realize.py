"""Which values get memory, and what each of them reads: buffers from values.

A map is computed where it is used unless it is an output, feeds a library call, is used more than
once and reads much, or has grown large (torch/_inductor/ir.py, ``StorageBox``; thresholds from
torch/_inductor/config.py). Where an element is read is followed at a few sample points, so that two
accesses compare equal exactly when they visit memory in the same order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from perfmodel.workload.lowering.compile import limits
from perfmodel.workload.lowering.compile.buffers import (
    DEALT,
    Buffer,
    Read,
    base_of,
    loop_sizes,
    users_of,
    written_at,
)
from perfmodel.workload.lowering.compile.graph import Graph, Value, expanded, permuted
from perfmodel.workload.lowering.compile.orders import IMAGES, Orders
from perfmodel.workload.lowering.compile.places import (
    Places,
    broadcasts,
    follow,
    reduction_order,
    samples,
)
from perfmodel.workload.lowering.compile.turned import (
    Axes,
    Turn,
    as_recorded,
    corners,
    is_turned,
    memory,
    voted,
    without_joined_axis,
)
from perfmodel.workload.lowering.site import item_bytes


@dataclass(slots=True)
class _Loop:
    """What one loop computes and loads, while its operands are followed.

    ``votes``: only to see how its operands lie.
    """

    steps: list[str]
    nodes: list[int]
    total: int = 0
    votes: bool = False
    leaves: dict[tuple[int, tuple[int, ...]], int] = field(default_factory=dict)
    seen: set[tuple[int, tuple[int, ...]]] = field(default_factory=set)


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
        axes: dict[int, Axes] | None = None,
        rows: int = 0,
    ) -> None:
        self.graph = graph
        self.channels_last = channels_last
        self.alive = alive
        self.outputs = {base_of(graph, number).number for number in outputs}
        self.users = users_of(graph, alive)
        self.parts = Counter(n for each in alive for n in {*graph.values[each].inputs})
        self.real: set[int] = set()
        self.folded: dict[int, int] = {}
        self.orders = Orders(graph, channels_last, {} if last is None else last)
        self.axes = {} if axes is None else axes
        self.recorded: dict[int, Axes] = {}
        self.rows = rows
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
                found += self._moments(value) or [self._buffer(self._widened(value))]
                self._follow_order(found[-1])
                found[-1] = replace(
                    found[-1], last=self.orders.is_last(number), crossed=self._is_crossed(found[-1])
                )
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
        if 1 < reads <= limits.READS_IN_ALL:
            loop, points = _Loop([], []), samples(value.numel)
            for number in value.inputs:
                self._operand(value, number, points, loop, value.numel)
            reads = max(reads, len(loop.leaves))
        if reads > 1 and any(self.graph.values[user].window for user in users):
            return True
        uses = max(len(users), self.parts[value.number])  # slices of one value are several uses
        uses += sum(self.graph.values[user].name in limits.TWICE for user in users)
        if uses > 1 and (reads > limits.READS_ON_REUSE or work > limits.OPERATIONS):
            return bool(reads)
        return reads > limits.READS_IN_ALL or (work > limits.OPERATIONS and reads > 0)

    def _widened(self, value: Value) -> Value:
        """A half-precision map that only decomposed steps read is stored as they read it: fp32."""
        users = self.users.get(value.number, [])
        decomposed = users and all(self.graph.values[user].name in limits.TWICE for user in users)
        if value.kind != "map" or value.dtype not in ("bf16", "fp16") or not decomposed:
            return value
        if value.heavy or value.scatter or value.number in self.outputs:
            return value
        self.graph.values[value.number] = replace(value, dtype="fp32")
        return self.graph.values[value.number]

    def _wants_memory(self, user: Value, value: Value) -> bool:
        """Whether a user can only read memory: a library call, or the target of a scatter."""
        if user.is_scan:
            return False
        if user.kind == "extern" or (self._stays_in_call(user) and value.kind == "map"):
            return True
        return user.scatter and base_of(self.graph, user.inputs[0]).number == value.number

    def _cost(self, value: Value) -> tuple[int, int]:
        """Distinct buffers that the inlined expression reads, and its operations."""
        read: set[int] = set()
        work, taps, stack, seen = 0, 0, [value.number], set()
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
                if current.name == "rstd":  # means and variances are two buffers
                    read |= {-1 - operand for operand in current.inputs}
                work += limits.COUNTED.get(current.name, max(1, min(current.operations, 12)))
                taps += current.operations // 2 - 1 if current.name in limits.WINDOWS else 0
                stack += current.inputs
        return len(read) + taps, work

    def _moments(self, value: Value) -> list[Buffer]:
        """Means and deviations as two sums, where they lie in different orders; else nothing.

        A mean is spread over its row, which decides its order while operands made in the same graph
        still seem to lie straight; the order of deviations is decided when all others are. Sums of
        fewer rows have looked at their operands before, to see whether to split
        (torch/_inductor/ir.py, ``as_storage_and_layout`` and ``num_splits``).
        """
        if value.name != "moments" or value.numel < self.rows or value.number in self.outputs:
            return []
        decided = self.axes
        self.axes = {n: axes for n, axes in decided.items() if n not in self.local}
        early = self._turn(value)
        lies = {n: axes for n, axes in self.axes.items() if n == value.number}
        self.axes = decided
        late = self._turn(value)
        apart = self.axes.pop(value.number, None)
        self.axes.update(lies)
        if early == late:
            return []
        other = replace(value, number=len(self.graph.values))
        self.graph.values.append(other)
        for number in (value.number, other.number):
            self.local.add(number)
            self.real.add(number)
        if apart:
            self.axes[other.number] = apart
        for number in self.users.get(value.number, ()):
            user = self.graph.values[number]
            if user.name == "rstd":
                self.graph.values[number] = replace(user, inputs=(other.number, *user.inputs[1:]))
        return [self._buffer(value, early), self._buffer(other, late)]

    def _buffer(self, value: Value, *turned: Turn | None) -> Buffer:
        if value.kind == "extern" and not value.is_scan:
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
        turn = turned[0] if turned else self._turn(value)
        work = float(value.operations * numel * reduced)
        if value.kind == "reduce":
            operand = self.graph.values[value.inputs[0]]
            first = turn.loop if turn else ()
            points = follow(reduction_order(operand.shape, value.over, first), points)
            work += self._visit(value.inputs[0], points, total, loop)
        else:
            points = turn.walk(points) if turn else points
            skip = 1 if value.scatter else 0
            for operand_number in value.inputs[skip:]:
                work += self._operand(across, operand_number, points, loop, across.numel)
            window = value.name in limits.WINDOWS and (
                value.numel == self.graph.values[value.inputs[0]].numel
            )
            if window or value.name in limits.WRAPPED:
                loop.leaves = {(n, (DEALT, *key)): size for (n, key), size in loop.leaves.items()}
        written = min(value.numel, across.numel) * item_bytes(value.dtype)
        reads = tuple(Read(buffer, key, size) for (buffer, key), size in loop.leaves.items())
        shape = self.graph.values[value.inputs[0]].shape if value.kind == "reduce" else ()
        sizes = self._merged(value, 2) if len(reads) == 1 and self.graph.joint else ()
        return Buffer(
            value, max(1, numel), reduced, reads, work, tuple(dict.fromkeys(loop.steps)),
            tuple(dict.fromkeys(loop.nodes)), written, shape, turn=turn, sizes=sizes,
        )  # fmt: skip

    def _places(self, number: int, points: Places) -> tuple[int, ...]:
        """Where elements of a buffer lie, counted in the order of memory if it lies turned."""
        axes = self.axes.get(number)
        found = memory(self.graph.values[number].shape, axes, points) if axes else points
        return tuple(found.tolist())

    def _turn(self, value: Value) -> Turn | None:
        """In which order a new buffer lies, and its loop goes; None for the logical one."""
        operand = self.graph.values[value.inputs[0]].shape if value.kind == "reduce" else ()
        kept = [axis for axis in range(len(operand)) if axis not in value.over]
        shape = tuple(operand[axis] for axis in kept) if operand else value.shape
        if len(shape) < 2 or value.scatter or value.random or value.is_scan or not value.inputs:
            return None
        points, loop = corners(shape), _Loop([], [], votes=True)
        if operand:
            points = points * prod(operand[axis] for axis in value.over)
            points = follow(permuted(operand, [*kept, *value.over]), points)
            self._visit(value.inputs[0], points, prod(operand), loop)
        else:
            for number in value.inputs:
                self._operand(value, number, points, loop, value.numel)
        if any(self.orders.is_last(number) for number, _ in loop.leaves):
            return None
        reads = [places for _, places in loop.leaves]
        logical = tuple(range(len(shape)))
        axes = logical
        if value.number in self.outputs:
            images = self.channels_last and len(shape) in IMAGES
            if not (operand or images):
                axes = as_recorded(self.graph, value.number, self.recorded)
        elif not self._lies_straight(value):
            axes = voted(shape, reads)
        if is_turned(shape, axes):
            wide = operand and len(value.shape) == len(operand)
            back = (*(kept[axis] for axis in axes), *value.over) if wide else axes
            self.axes[value.number] = back
        order = voted(shape, [memory(shape, axes, corners(shape)).tolist(), *reads])
        if is_turned(shape, axes) or is_turned(shape, order):
            return Turn(shape, order, axes)
        return None

    def _merged(self, value: Value, takers: int = 1) -> tuple[int, ...]:
        """The shape that as many library calls take a map in, if it is not its own.

        What reads one operand is not stored before it is seen in that shape by two users, one of
        them a product: then it is copied into it (torch/_inductor/graph.py, ``run_node``).
        """
        if value.kind != "map":
            return ()
        found: dict[tuple[int, ...], list[int]] = {}
        for user in self.users.get(value.number, ()):
            taker = self.graph.values[user]
            for operand in taker.inputs:
                sizes = loop_sizes(self.graph.values[operand].shape)
                other = sizes != loop_sizes(value.shape)
                mine = other and base_of(self.graph, operand).number == value.number
                if mine and (taker.kind == "extern" or self._stays_in_call(taker)):
                    found.setdefault(sizes, []).append(user)
        return next((sizes for sizes, users in found.items() if len(users) >= takers), ())

    def _lies_straight(self, value: Value) -> bool:
        """Whether a buffer lies in the logical order of its axes, whatever it reads."""
        if value.heavy or value.window or value.name in limits.WRAPPED or self._merged(value):
            return True
        users = (self.graph.values[user] for user in self.users.get(value.number, ()))
        return any(user.scatter or user.window for user in users)

    def memory(self, number: int) -> int:
        """The number of the buffer that holds (the base of) a value."""
        base = base_of(self.graph, number).number
        base = self.folded.get(base, base)
        return base_of(self.graph, base).number

    def inner(self, buffer: Buffer) -> bool:
        """Whether neighbouring terms of a sum are neighbours in memory.

        So they are in most of the operands that are read along all axes
        (torch/_inductor/ir.py, ``Reduction.num_splits``).
        """
        over = buffer.value.over
        if buffer.value.kind != "reduce":
            return True
        found = [1 in (steps[axis] for axis in over) for steps in self._strides(buffer)]
        if not found:
            shape = self.graph.values[buffer.value.inputs[0]].shape
            return all(size == 1 for size in shape[max(over, default=-1) + 1 :])
        return 2 * sum(found) > len(found)

    def _is_crossed(self, buffer: Buffer) -> bool:
        """Whether neighbours along the last axis of several that are summed lie apart."""
        if buffer.value.kind != "reduce":
            return False
        shape = self.graph.values[buffer.value.inputs[0]].shape
        axes = [axis for axis in buffer.value.over if shape[axis] > 1]
        found = [steps[axes[-1]] > 1 for steps in self._strides(buffer)] if len(axes) > 1 else []
        return 2 * sum(found) > len(found)

    def _strides(self, buffer: Buffer) -> list[list[int]]:
        """Strides of a sum's operands that are read along all axes; 0 along axes of one element."""
        operand = buffer.value.inputs[0]
        shape = self.graph.values[operand].shape
        loop = _Loop([], [])
        self._visit(operand, corners(shape), buffer.numel * buffer.reduced, loop)
        found: list[list[int]] = []
        for number, key in loop.leaves:
            start, *places = self.orders.offsets(number, key[-len(shape) - 1 :])
            strides = [abs(place - start) for place in places]
            if all(stride for stride, size in zip(strides, shape, strict=True) if size > 1):
                sized = zip(strides, shape, strict=True)
                found.append([stride if size > 1 else 0 for stride, size in sized])
        return found

    def straight(self, buffer: Buffer, read: Read) -> bool:
        """Whether a loop reads each element where it writes the one that it makes of it."""
        if read.buffer < 0 or buffer.value.number < 0 or read.places[:1] == (DEALT,):
            return False
        step = max(1, buffer.reduced)
        if buffer.turn or read.buffer in self.axes:
            return read.places == written_at(buffer, buffer.numel * buffer.reduced)
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
        if loop.votes and value.name == "cat":
            points = without_joined_axis(shape, value.shape, points)
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
            key = (self.memory(number), self._places(self.memory(number), points))
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
        every = max(count, loop.total) if value.name in limits.ANGLES else count
        work = float(value.operations * every)
        inside = _Loop([], [], loop.total, seen=loop.seen) if value.name in limits.WRAPPED else loop
        for operand in value.inputs:
            work += self._operand(value, operand, points, inside, count)
        if inside is not loop:
            loop.steps += inside.steps
            loop.nodes += inside.nodes
            for (buffer, places), size in inside.leaves.items():
                loop.leaves[buffer, (DEALT, *places)] = size
        return work
