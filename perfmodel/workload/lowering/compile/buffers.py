"""Buffers of a compiled graph: what has memory, and what its loop loads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from perfmodel.workload.lowering.compile.graph import Graph, Value
from perfmodel.workload.lowering.compile.places import samples
from perfmodel.workload.lowering.compile.turned import Turn

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
    turn : Turn, optional
        How its loop and its memory go through its axes, where that is not the logical order.
    sizes : tuple of int
        Of the loops that go through a map, where they are not those of its axes.
    last : bool
        Whether an image lies channels last.
    crossed : bool
        Whether a sum runs over several axes and neighbours in memory are not along the last one.
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
    turn: Turn | None = None
    sizes: tuple[int, ...] = ()
    last: bool = False
    crossed: bool = False

    @property
    def grouped(self) -> bool:
        """Whether it sums several channels of an image together, and not all of them."""
        shape, over = self.operand, self.value.over
        return len(shape) == 4 and over == (2, 3) and shape[1] > 1 and shape[2] > 1 < shape[3]

    @property
    def fusable(self) -> bool:
        """Whether it is a generated loop, not a library call."""
        return self.value.kind in ("map", "reduce")


def loop_sizes(shape: Sequence[int]) -> tuple[int, ...]:
    """Sizes of the loops over a shape, in ascending order; axes of one element have none."""
    return tuple(sorted(size for size in shape if size > 1))


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


def written_at(buffer: Buffer, total: int) -> tuple[int, ...]:
    """Where a loop over ``total`` elements writes a buffer's results, at its sample points."""
    points = samples(total)
    if buffer.numel < total:
        points = points // max(1, total // buffer.numel)
    if buffer.turn and not buffer.whole:
        points = buffer.turn.written(points)
    return tuple(points.tolist())
