"""In which order the axes of a generated buffer lie in memory: as most of what it reads lies.

A loop goes through its elements in the order in which they are stored. Places of a buffer that lies
turned are therefore counted in that order: a loop that follows it visits them one after another.

References
----------
torch/_inductor/ir.py, ``ComputedBuffer.get_fill_order``; torch/_inductor/scheduler.py,
``pick_loop_order``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cmp_to_key, partial
from typing import Final

import numpy as np

from perfmodel.workload.lowering.compile.graph import (
    Graph,
    Index,
    Shape,
    contiguous_strides,
    expanded,
    permuted,
)
from perfmodel.workload.lowering.compile.places import Places, behind, broadcasts, follow
from perfmodel.workload.lowering.eager.names import group_of

Axes = tuple[int, ...]

_CONTIGUOUS: Final = frozenset(["cat", "stack", "clone", "copy", "repeat", "index", "embedding"])
"""Steps that lay their results out anew."""


def corners(shape: Shape) -> Places:
    """The first element, and the second one along each axis."""
    steps = zip(shape, contiguous_strides(shape), strict=True)
    return np.array([0, *(step if size > 1 else 0 for size, step in steps)], dtype=np.int64)


def voted(shape: Shape, reads: Iterable[Sequence[int]]) -> Axes:
    """Axes from the outermost to the innermost, by the majority of reads.

    Parameters
    ----------
    shape : tuple of int
        Of the loop.
    reads : iterable of sequences of int
        Where each read finds its operand's element at the :func:`corners` of the shape, in memory.
    """
    found = [[abs(place - at[0]) for place in at[1:]] for at in reads]

    def compare(one: int, two: int) -> int:
        if shape[one] == 1 or shape[two] == 1:
            return int(shape[one] == 1) - int(shape[two] == 1)
        first = sum(at[two] == 0 or at[one] < at[two] for at in found)
        second = sum(at[one] == 0 or at[two] < at[one] for at in found)
        if first != second:
            return -1 if first > second else 1
        return two - one

    return _outer_first(len(shape), compare)


def without_joined_axis(shape: Shape, joined: Shape, points: Places) -> Places:
    """Places at the start of the axis that operands are joined along: it has no vote.

    Where an operand begins on it is kept out of sight (torch/_inductor/lowering.py,
    ``pointwise_cat``), and what has no stride counts as 0.
    """
    for axis, step in enumerate(contiguous_strides(joined)):
        if len(shape) == len(joined) and shape[axis] != joined[axis]:
            return points - points // step % joined[axis] * step
    return points


def _outer_first(count: int, compare: Callable[[int, int], int]) -> Axes:
    """Axes from the outermost on; ``compare`` says which of two lies further in (negative: one)."""
    inner_first = sorted(range(count - 1, -1, -1), key=cmp_to_key(compare))
    return tuple(reversed(inner_first))


def as_recorded(graph: Graph, number: int, known: dict[int, Axes]) -> Axes:
    """The order in which PyTorch itself would lay a value out: as the first operand that decides.

    What leaves a compiled graph, saved activations too, lies so.

    Reference
    ---------
    aten/src/ATen/TensorIterator.cpp, ``reorder_dimensions``.
    """
    if number in known:
        return known[number]
    value = graph.values[number]
    axes = tuple(range(len(value.shape)))
    if value.kind == "map" and value.name not in _CONTIGUOUS:
        reads = []
        for operand in value.inputs:
            shape = graph.values[operand].shape
            index = expanded(shape, value.shape) if broadcasts(shape, value.shape) else None
            points = follow(index, corners(value.shape))
            reads.append(_strides(graph, operand, points, known))
        axes = _outer_first(len(axes), partial(_first_decides, reads))
    known[number] = axes
    return axes


def _strides(graph: Graph, number: int, points: Places, known: dict[int, Axes]) -> list[int]:
    value, points = behind(graph, number, points)
    places = memory(value.shape, as_recorded(graph, value.number, known), points)
    return [abs(int(place - places[0])) for place in places[1:]]


def _first_decides(reads: Sequence[Sequence[int]], one: int, two: int) -> int:
    for strides in reads:
        first, second = strides[one], strides[two]
        if first and second and first != second:
            return -1 if first < second else 1
    return two - one


def attended_straight(graph: Graph, number: int) -> bool:
    """Whether a view of what attention answers lies in memory in the view's own order.

    Its result lies as its query does (torch/_meta_registrations.py, ``alloc_with_matching_layout``)
    and the query as the compiler's decompositions leave it.
    """
    shape = graph.values[number].shape
    base, points = behind(graph, number, corners(shape))
    if base.kind != "extern" or group_of(base.name) != "attention" or base.number == number:
        return False
    query = base.inputs[0]
    if graph.values[query].shape != base.shape:
        return False
    reads = [_strides(graph, query, corners(base.shape), {})]
    axes = _outer_first(len(base.shape), partial(_first_decides, reads))
    places = memory(base.shape, axes, points)
    return bool((places == corners(shape)).all())


def is_turned(shape: Shape, axes: Axes) -> bool:
    """Whether an order of axes differs from the logical one; axes of one element do not count."""
    real = [axis for axis in axes if shape[axis] > 1]
    return real != sorted(real)


def memory(shape: Shape, axes: Axes, places: Places) -> Places:
    """Where elements lie, counted in the order of memory."""
    steps = contiguous_strides([shape[axis] for axis in axes])
    strides = [0] * len(shape)
    for axis, step in zip(axes, steps, strict=True):
        strides[axis] = step
    return follow(Index(shape, tuple(strides)), places)


@dataclass(frozen=True, slots=True)
class Turn:
    """How a loop goes through the axes of its result, and how the result lies in memory.

    Parameters
    ----------
    shape : tuple of int
        Of the result.
    loop, axes : tuple of int
        Axes from the outermost to the innermost, of the loop and of the memory.
    """

    shape: Shape
    loop: Axes
    axes: Axes

    def walk(self, points: Places) -> Places:
        """Logical places of the loop's elements."""
        return follow(permuted(self.shape, self.loop), points)

    def written(self, points: Places) -> Places:
        """Places in memory of the loop's elements."""
        return memory(self.shape, self.axes, self.walk(points))
