"""What the forward pass keeps for the backward pass, and what is computed again: a minimum cut.

A value costs its bytes to keep, twice that if it would otherwise never reach memory, and a little
more the farther it is from its use. Library calls, random numbers and strong reductions are never
computed again; neither are values that a library call of the backward pass reads, nor uses of a
value behind a kernel that does not fuse.

References
----------
torch/_functorch/partitioners.py, ``solve_min_cut``.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Final

import numpy as np

from perfmodel.workload.lowering.compile.buffers import base_of
from perfmodel.workload.lowering.compile.graph import Graph, Value
from perfmodel.workload.lowering.compile.limits import LAST
from perfmodel.workload.lowering.compile.padding import PAD
from perfmodel.workload.lowering.compile.scatter import TARGET

_UNIT: Final = 256  # capacities are counted in blocks, so that they fit 32 bits
_INFINITE: Final = 2**30
_FAR: Final = 10**9
UNLISTED: Final = ("embedding", "constant_pad_nd", "flip", "roll", TARGET)
JOINS: Final = ("cat", "stack")
"""Steps that are on no list of what may be computed again; loops may end in joints."""


def fusible(value: Value) -> bool:
    """Whether a step is a generated loop; a product's bias belongs to the library call.

    So do the padded copies of its operands, which are made later. Pooling is a loop too, but stands
    on no list of operators that may be computed again; nor does a write at places that are data.
    """
    return takes(value) and value.name not in JOINS


def is_view(value: Value) -> bool:
    """Whether a step only shows what another one holds."""
    return value.kind == "view"


def takes(value: Value) -> bool:
    """Whether what a step reads may be computed in its loop."""
    pools = value.window and "pool" in value.name
    mine = is_bias(value) or value.name in (PAD, *UNLISTED)
    plain = value.kind in ("map", "reduce", "view")
    return plain and not (mine or pools or value.scatter)


def is_bias(value: Value) -> bool:
    """Whether a map is the bias of a matrix product or convolution: it is part of the operator."""
    return value.kind == "map" and (value.name == "bias" or value.name.endswith(" bias"))


def needed(graph: Graph, wanted: Iterable[int], stop: Iterable[int] = ()) -> set[int]:
    """Values that the wanted ones depend on, themselves included; nothing behind ``stop``."""
    held = set(stop)
    found: set[int] = set()
    stack = list(wanted)
    while stack:
        number = stack.pop()
        if number in found:
            continue
        found.add(number)
        if number not in held:
            stack += (*graph.values[number].inputs, *graph.values[number].beside)
    return found


def kept(
    graph: Graph, forward: set[int], backward: set[int], required: set[int] | None = None
) -> set[int]:
    """Numbers of forward values (sources included) that the backward pass finds in memory.

    ``required`` are those that the results of the forward pass depend on (all of them unless told):
    the rest only serves the backward pass, and may be computed in either.
    """
    users: dict[int, list[int]] = {number: [] for number in forward}
    late: dict[int, list[int]] = {number: [] for number in forward}
    direct: dict[int, list[int]] = {number: [] for number in forward}
    own = forward if required is None else required
    for number in sorted(forward | backward):
        value = graph.values[number]
        for operand in (*value.inputs, *value.beside):
            base = base_of(graph, operand).number
            if value.kind != "view" and base in users:
                (users if number in forward else late)[base].append(number)
            if operand in direct and number in own:
                direct[operand].append(number)
    real = [n for n in sorted(forward) if not is_view(graph.values[n])]
    distance = _distances(real, users, late, own)
    uses = {n: [*late[n], *(user for user in users[n] if user not in own)] for n in real}
    banned = {n for n in real if (n in own or _is_kept(graph, n)) and _banned(graph, n, uses[n])}
    banned |= _far_uses(graph, [n for n in sorted(forward) if n in own], direct)
    return _cut(graph, real, users, late, distance, banned)


def _is_kept(graph: Graph, number: int) -> bool:
    """Whether the forward pass alone makes a value that only the gradients ask for.

    What it hands on in another order, and where the maxima of a pool stand.
    """
    value = graph.values[number]
    return value.name == LAST or (value.window and value.dtype == "int8")


def _distances(
    real: list[int], users: dict[int, list[int]], late: dict[int, list[int]], required: set[int]
) -> dict[int, int]:
    found: dict[int, int] = {}
    for number in reversed(real):
        if number not in required:
            found[number] = 0
            continue
        nearest = 1 if late[number] else _FAR
        for user in users[number]:
            nearest = min(nearest, found.get(user, _FAR) + 1)
        found[number] = nearest
    return found


def _banned(graph: Graph, number: int, late: list[int]) -> bool:
    """Whether a value may not be computed a second time."""
    value = graph.values[number]
    if not fusible(value) or value.random or value.scatter or value.name in ("join", LAST):
        return True
    if any(not takes(graph.values[user]) for user in late):
        return True
    read = sum(graph.values[operand].bytes for operand in set(value.inputs))
    return value.bytes * 4 < read


def _far_uses(graph: Graph, real: list[int], users: dict[int, list[int]]) -> set[int]:
    """Uses of a value that stand behind a kernel which does not fuse with it."""
    found: set[int] = set()
    place = {number: order for order, number in enumerate(real)}
    for number in real:
        mine = users[number]
        if len(mine) < 2:
            continue
        last = max(place[user] for user in mine)
        barrier = _first_barrier(graph, mine, users, place, last)
        for user in mine:
            both = fusible(graph.values[number]) and takes(graph.values[user])
            if place[user] > barrier and both and not is_view(graph.values[user]):
                found.add(user)
    return found


def _first_barrier(
    graph: Graph, start: list[int], users: dict[int, list[int]], place: dict[int, int], last: int
) -> int:
    """The first step, in order, that fused uses lead into and that does not fuse with them."""
    heap = [(place[user], user, True) for user in start]
    heapq.heapify(heap)
    seen: set[int] = set()
    while heap:
        order, number, joined = heapq.heappop(heap)
        if not joined:
            return order
        if number in seen:
            continue
        seen.add(number)
        for user in users[number]:
            if place[user] > last:
                continue
            both = fusible(graph.values[number]) and takes(graph.values[user])
            heapq.heappush(heap, (place[user], user, both))
    return _FAR


def _cut(
    graph: Graph,
    real: list[int],
    users: dict[int, list[int]],
    late: dict[int, list[int]],
    distance: dict[int, int],
    banned: set[int],
) -> set[int]:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    place = {number: order for order, number in enumerate(real)}
    count = len(real)
    source, sink = 2 * count, 2 * count + 1
    edges: dict[tuple[int, int], int] = {}
    for number in real:
        value, at = graph.values[number], 2 * place[number]
        if value.kind == "source" or number in banned:
            edges[source, at] = _INFINITE
        mine = users[number] + late[number]
        inner = len(mine) == 1 and is_bias(graph.values[mine[0]]) and value.kind == "extern"
        weight = _weight(graph, value, mine, distance[number])
        edges[at, at + 1] = _INFINITE if inner else weight
        if late[number]:
            edges[at + 1, sink] = _INFINITE
        for user in users[number]:
            edges[at + 1, 2 * place[user]] = _INFINITE
    if not edges:
        return set()
    rows, columns = np.array(list(edges), dtype=np.int32).T
    capacity = np.array(list(edges.values()), dtype=np.int32)
    shape = (2 * count + 2, 2 * count + 2)
    network = csr_array((capacity, (rows, columns)), shape=shape)
    flow = maximum_flow(network, source, sink).flow
    residual = network - flow
    residual.eliminate_zeros()
    reached = set(breadth_first_order(residual, source, return_predecessors=False).tolist())
    return {
        number
        for number in real
        if 2 * place[number] in reached and 2 * place[number] + 1 not in reached
    }


def _weight(graph: Graph, value: Value, users: list[int], distance: int) -> int:
    """Cost of keeping a value, in blocks; a parameter is kept anyway."""
    if value.kind == "source":
        return 1
    size = value.bytes * 1.1 ** max(min(distance, 100), 1)
    if value.name == "moments":  # means and variances
        size *= 2
    if fusible(value) and all(takes(graph.values[user]) for user in users):
        size *= 2
    return int(min(_INFINITE - 1, max(1, size / _UNIT)))
