"""Which loops become one kernel: a greedy search as in torch/_inductor/scheduler.py.

Two groups fuse where they share memory, their iterations fit, no dependence runs around through a
third kernel, and, for producer and consumer, every element is read where it was written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Final

from perfmodel.workload.lowering.compile.buffers import (
    DEALT,
    Buffer,
    Read,
    loop_sizes,
    written_at,
)
from perfmodel.workload.lowering.compile.limits import BY_GROUP
from perfmodel.workload.lowering.compile.places import samples
from perfmodel.workload.lowering.compile.precedence import Above, dependences
from perfmodel.workload.lowering.compile.scatter import JOIN

LARGEST: Final = 64
NEIGHBOURS: Final = 64
ROUNDS: Final = 10
SMALLEST_GAIN: Final = 10
DISTANT: Final = 64
MIX_ELEMENTS: Final = 5 * 2**20
MIX_ROWS: Final = 4096
MIX_COLUMNS: Final = 16384
MANY_AXES: Final = 4

Key = tuple[int, tuple[int, ...]]


@dataclass(slots=True)
class Group:
    """Loops that run as one kernel."""

    members: list[int]
    numel: int
    reduced: int
    fusable: bool
    order: int
    last: int
    accesses: dict[Key, int]
    mixed: bool = False

    @property
    def is_reduction(self) -> bool:
        """Whether any member sums."""
        return self.reduced > 1


def identity(numel: int, total: int) -> tuple[int, ...]:
    """Places at which an iteration over ``total`` writes a result of ``numel`` elements."""
    points = samples(total)
    if numel < total:
        points = points // max(1, total // numel)
    return tuple(points.tolist())


def fuse(
    buffers: Sequence[Buffer],
    further: Mapping[int, int] | None = None,
    *,
    mix_orders: bool = True,
) -> list[list[int]]:
    """Groups of buffers, in an order in which they can run.

    Parameters
    ----------
    buffers : sequence of Buffer
        In the order of the graph.
    further : mapping, optional
        Further outputs of library calls, each with the number of its call.
    mix_orders : bool
        Whether a row reduction and a column reduction of the same large operand become one kernel.

    Returns
    -------
    list of lists of int
        Places in ``buffers``; a library call stands alone.
    """
    groups: dict[int, Group] = {}
    for place, buffer in enumerate(buffers):
        accesses: dict[Key, int] = {}
        if buffer.fusable:
            total = buffer.numel * buffer.reduced
            for read in buffer.reads:
                accesses[read.buffer, read.places + _loops(buffer, read)] = read.bytes
            accesses[buffer.value.number, written_at(buffer, total)] = buffer.written
        groups[place] = Group(
            [place], buffer.numel, buffer.reduced,
            buffer.fusable, place, place, accesses,
        )  # fmt: skip
    home = {place: place for place in groups}
    needs = dependences(buffers, further)
    above = Above(needs)
    for merged in (False, True):  # axes of loops are merged once nothing else can fuse
        for _ in range(ROUNDS):
            before = len(groups)
            _round(groups, home, needs, above, buffers, mix_orders=mix_orders, merged=merged)
            if len(groups) == before:
                break
    starts = {name: group.order for name, group in groups.items()}
    return [groups[name].members for name in above.ordered(starts)]


def _loops(buffer: Buffer, read: Read) -> tuple[int, ...]:
    """Loops of which an access counts as the same: those of many axes are compared axis by axis."""
    sizes = [size for size in (buffer.operand or buffer.value.shape) if size > 1]
    total = buffer.numel * buffer.reduced
    if len(sizes) < MANY_AXES or read.places == identity(total, total):
        return ()
    return tuple(-size for size in sizes)


def _round(
    groups: dict[int, Group],
    home: dict[int, int],
    needs: Sequence[set[int]],
    above: Above,
    buffers: Sequence[Buffer],
    *,
    mix_orders: bool,
    merged: bool,
) -> None:
    touching: defaultdict[int, list[int]] = defaultdict(list)
    for name, group in sorted(groups.items(), key=lambda item: item[1].order):
        if group.fusable:
            for buffer in {key[0] for key in group.accesses}:
                touching[buffer].append(name)
    candidates: dict[tuple[int, int], tuple[bool, int, int]] = {}
    for names in touching.values():
        for place, first in enumerate(names):
            for second in names[place + 1 : place + 1 + NEIGHBOURS]:
                if (first, second) not in candidates:
                    score = _score(groups[first], groups[second], buffers, mix_orders=mix_orders)
                    candidates[first, second] = score
    ranked = sorted(candidates, key=lambda pair: candidates[pair], reverse=True)
    for first, second in ranked:
        a, b = home[first], home[second]
        if a == b:
            continue
        one, two = groups[a], groups[b]
        if one.order > two.order:
            a, b, one, two = b, a, two, one
        mixed = _can_fuse(one, two, needs, buffers, mix_orders=mix_orders, merged=merged)
        if mixed is None or above.is_between(a, b):
            continue
        rows = groups[b] if _is_row_side(groups[b], groups[a], buffers) else groups[a]
        _merge(a, b, groups, home, mixed=mixed, shape=(rows.numel, rows.reduced))
        above.merge(a, b)


def _score(
    one: Group, two: Group, buffers: Sequence[Buffer], *, mix_orders: bool
) -> tuple[bool, int, int]:
    """Alike first, then what shares most; sums of both kinds count their elements."""
    shared = _shared(one, two)
    if mix_orders and one.is_reduction and two.is_reduction and _mixed(one, two, buffers):
        shared = one.numel * one.reduced
    distance = -max(abs(one.order - two.last), abs(two.order - one.last))
    return (one.is_reduction == two.is_reduction and shared > 0, shared, distance)


def _shared(one: Group, two: Group) -> int:
    """Bytes that both touch in the same order [B]."""
    small, large = sorted((one.accesses, two.accesses), key=len)
    return sum(size for key, size in small.items() if key in large) + _rowwise(one, two)


def _rowwise(one: Group, two: Group) -> int:
    """Bytes that groups of different iterations share: a row's result, or its elements."""
    if one.numel * one.reduced == two.numel * two.reduced:
        return 0
    names = {key[0] for key in one.accesses} & {key[0] for key in two.accesses}
    return sum(
        min(size, other)
        for (name, _), size in one.accesses.items()
        if name in names
        for (again, _), other in two.accesses.items()
        if again == name
    )


def _can_fuse(
    one: Group,
    two: Group,
    needs: Sequence[set[int]],
    buffers: Sequence[Buffer],
    *,
    mix_orders: bool,
    merged: bool,
) -> bool | None:
    """None where they cannot; else whether they are reductions of mixed order."""
    if not (one.fusable and two.fusable) or len(one.members) + len(two.members) > LARGEST:
        return None
    inside = set(one.members)
    vertical = any(needs[place] & inside for place in two.members)
    if mix_orders and not vertical and (_mixed(one, two, buffers) or _joins(one, two, buffers)):
        return True
    late = two.mixed and not one.mixed  # nothing joins sums of both kinds from before
    if (
        late
        or (vertical and _written_over(one, two, buffers))
        or not _iterations_fit(one, two)
        or _turned_apart(one, two, buffers)
    ):
        return None
    if vertical:
        chain = all(any(buffers[at].value.name == JOIN for at in g.members) for g in (one, two))
        apart = not (merged and not one.mixed) and _other_axes(one, two, buffers)
        return False if _reads_fit(one, two, buffers) and not (chain or apart) else None
    distance = max(abs(one.order - two.last), abs(two.order - one.last))
    if _shared(one, two) < SMALLEST_GAIN or distance > DISTANT:
        return None
    return False


def _written_over(one: Group, two: Group, buffers: Sequence[Buffer]) -> bool:
    """Whether a write at places that are data stands between two kernels, or goes into the first.

    Its result is whole once the kernel has ended, and nobody reads its target while it runs.
    """
    mine = {buffers[at].value.number: buffers[at].value for at in one.members}
    touched = mine.keys() | {read.buffer for at in one.members for read in buffers[at].reads}
    for place in two.members:
        value, reads = buffers[place].value, buffers[place].reads
        if value.name != JOIN and value.scatter and value.inputs[0] in touched:
            return True
        made = (mine[read.buffer] for read in reads if read.buffer in mine)
        if any(source.scatter and source.name != JOIN for source in made):
            return True
    return False


def _mixed(one: Group, two: Group, buffers: Sequence[Buffer]) -> bool:
    """Sums over rows, and sums over columns (or their first stage), of the same large operand."""
    if not (one.is_reduction and two.is_reduction):
        return False
    first, second = _sums(one, buffers), _sums(two, buffers)
    if len(first) != 1 or len(second) != 1:
        return False
    (numel, reduced), (other, terms) = first.pop(), second.pop()
    if (numel, reduced) != (terms, other) or numel == reduced:
        return False
    rows, cols = max(numel, reduced), min(numel, reduced)
    by_row = one if numel == rows else two
    if any(buffers[place].whole for place in by_row.members):
        return False
    full = {key[0] for key, size in one.accesses.items() if size >= rows * cols}
    shares = any(key[0] in full for key, size in two.accesses.items() if size >= rows * cols)
    large = rows * cols >= MIX_ELEMENTS and rows >= max(MIX_ROWS, 2 * cols) and cols <= MIX_COLUMNS
    return shares and large


def _joins(one: Group, two: Group, buffers: Sequence[Buffer]) -> bool:
    """Whether a further sum down the columns joins a kernel that holds both kinds of sums."""
    group, other = (one, two) if one.mixed else (two, one)
    if not group.mixed or other.mixed or not other.is_reduction:
        return False
    sums = _sums(other, buffers)
    if len(sums) != 1 or not sums < _sums(group, buffers) or (group.numel, group.reduced) in sums:
        return False
    total = group.numel * group.reduced
    full = {key[0] for key, size in group.accesses.items() if size >= total}
    return any(key[0] in full for key, size in other.accesses.items() if size >= total)


def _is_row_side(two: Group, one: Group, buffers: Sequence[Buffer]) -> bool:
    """Whether the iteration of ``two`` is that of the fused kernel: it sums, and by rows."""
    if one.mixed or not two.is_reduction:
        return False
    if two.mixed or not one.is_reduction:
        return True
    (first, second) = (_sums(group, buffers) for group in (one, two))
    return max(numel for numel, _ in second) > max(numel for numel, _ in first)


def _sums(group: Group, buffers: Sequence[Buffer]) -> set[tuple[int, ...]]:
    """Results and terms of a group's sums, as they were before any was split."""
    return {
        buffers[place].whole or (buffers[place].numel, buffers[place].reduced)
        for place in group.members
        if buffers[place].reduced > 1
    }


def _iterations_fit(one: Group, two: Group) -> bool:
    if one.is_reduction and two.is_reduction:
        return (one.numel, one.reduced) == (two.numel, two.reduced)
    if not one.is_reduction and not two.is_reduction:
        return one.numel == two.numel
    plain, summed = (two, one) if one.is_reduction else (one, two)
    return plain.numel in (summed.numel, summed.numel * summed.reduced)


def _reads_fit(one: Group, two: Group, buffers: Sequence[Buffer]) -> bool:
    """Whether ``two`` reads every result of ``one`` where the same thread has written it.

    A reordered read is accepted while one of the two is a single map, whose loops can be turned;
    all its reads must then be turned alike. Behind a sum, maps of one shape are turned together.
    """
    made = {buffers[place].value.number: place for place in one.members}
    single = len(two.members) == 1 and not two.is_reduction
    maps = not two.is_reduction and len({buffers[at].value.shape for at in two.members}) == 1
    turns = single or (len(one.members) == 1 and not one.is_reduction)
    for place in two.members:
        buffer = buffers[place]
        total = buffer.numel * buffer.reduced
        for read in buffer.reads:
            if read.buffer not in made:
                continue
            source = buffers[made[read.buffer]]
            copied = buffer.value.name == "channels_last" and _other_loops(source, buffer)
            if _grouped_apart(source, buffer):
                return False
            if read.places == written_at(source, total) and not copied:
                continue
            if read.places[:1] == (DEALT,):
                return False
            whole = source.numel == total
            if whole and turns and not _other_loops(source, buffer):
                continue
            if not (maps and _turned_alike(one, source, buffer, read)):
                return False
    return True


def _turned_apart(one: Group, two: Group, buffers: Sequence[Buffer]) -> bool:
    """Whether maps whose loops are turned split the axis that is summed beside them."""
    if one.is_reduction == two.is_reduction:
        return False
    plain, summed = (two, one) if one.is_reduction else (one, two)
    turned = [_axes(buffers[place]) for place in plain.members if buffers[place].turn]
    return any(summed.reduced not in axes for axes in turned)


def _other_axes(one: Group, two: Group, buffers: Sequence[Buffer]) -> bool:
    """Whether a product's operand is made in another shape than what it reads."""
    made = {buffers[place].value.number: place for place in one.members}
    return any(
        buffers[place].sizes != _axes(buffers[made[read.buffer]])
        for place in two.members
        if buffers[place].sizes
        for read in buffers[place].reads
        if read.buffer in made
    )


def _axes(buffer: Buffer) -> tuple[int, ...]:
    """Sizes of the axes that a loop goes through, in ascending order."""
    return loop_sizes(buffer.sizes or buffer.operand or buffer.value.shape)


def _other_loops(one: Buffer, two: Buffer) -> bool:
    """Whether loops of many axes go through axes of other sizes: none is turned to the other."""
    sizes = [_axes(replace(one, operand=())), _axes(two)]
    many = min(map(len, sizes)) >= MANY_AXES or bool(two.sizes)
    return (many or one.turn is not None or two.turn is not None) and sizes[0] != sizes[1]


def _grouped_apart(one: Buffer, two: Buffer) -> bool:
    """Whether sums or maps of groups of channels and a map of the image do not go together.

    The map finds the sum of a channel's group by a division, which is no write of the sum's own
    loop; one in front that reads a value a channel keeps loops apart that the sum has in one. Where
    channels lie last the map's loop goes another way as well.
    """
    if one.value.name in BY_GROUP:
        return two.value.name not in BY_GROUP
    summed, image = (one, two) if one.reduced > 1 else (two, one)
    if summed.reduced == 1 or image.numel != summed.numel * summed.reduced:
        return False
    if image.last and summed.crossed and _axes(one) != _axes(two):
        return True
    spread = summed is one or any(read.bytes < image.numel for read in image.reads)
    return summed.grouped and spread and _axes(one) != _axes(two)


def _turned_alike(one: Group, source: Buffer, buffer: Buffer, read: Read) -> bool:
    """Whether a sum is read wherever the elements that it sums are, in whatever order."""
    shape, over = source.operand, source.value.over
    if source.value.number < 0 or buffer.numel != prod(shape) or not over:
        return False
    shared = {key[0] for key in one.accesses}
    return any(
        other.buffer in shared and _kept(other.places, shape, over) == read.places
        for other in buffer.reads
        if other.buffer != read.buffer
    )


def _kept(places: Iterable[int], shape: Sequence[int], over: Sequence[int]) -> tuple[int, ...]:
    """Which sum each element of an operand belongs to."""
    found = []
    for place in places:
        rest, result, step = place, 0, 1
        for axis in range(len(shape) - 1, -1, -1):
            if axis not in over:
                result += (rest % shape[axis]) * step
                step *= shape[axis]
            rest //= shape[axis]
        found.append(result)
    return tuple(found)


def _merge(
    a: int,
    b: int,
    groups: dict[int, Group],
    home: dict[int, int],
    *,
    mixed: bool,
    shape: tuple[int, int],
) -> None:
    one, two = groups[a], groups.pop(b)
    one.members = sorted([*one.members, *two.members])
    one.numel, one.reduced = shape
    one.order, one.last = min(one.order, two.order), max(one.last, two.last)
    for key, size in two.accesses.items():
        one.accesses[key] = max(one.accesses.get(key, 0), size)
    one.mixed = one.mixed or two.mixed or mixed
    for place in two.members:
        home[place] = a
