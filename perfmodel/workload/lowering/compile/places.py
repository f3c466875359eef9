"""Sample points of an iteration, and where views and sums lead them.

Two accesses are taken to visit memory in the same order if they agree at a few points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from perfmodel.workload.lowering.compile.graph import Graph, Index, Value, permuted

Places = NDArray[np.int64]


def samples(count: int) -> Places:
    """The sample points of an iteration over ``count`` elements."""
    fractions = np.array([0.0, 0.0371, 0.2113, 0.3917, 0.5237, 0.7411, 0.9973])
    return np.minimum((fractions * count).astype(np.int64), max(0, count - 1))


def follow(index: Index | None, places: Places) -> Places:
    """Places of a view in its parent."""
    if index is None:
        return places
    rest, result = places, np.full_like(places, index.offset)
    for size, stride in zip(reversed(index.shape), reversed(index.strides), strict=True):
        if size > 1:
            if stride:
                result = result + (rest % size) * stride
            rest = rest // size
    return result


def behind(graph: Graph, number: int, places: Places) -> tuple[Value, Places]:
    """The value behind a chain of views, and where places of the outermost lie in it."""
    value = graph.values[number]
    while value.kind == "view":
        places = follow(value.index, places)
        value = graph.values[value.inputs[0]]
    return value, places


def broadcasts(shape: Sequence[int], target: Sequence[int]) -> bool:
    """Whether a shape is repeated along axes of another."""
    lead = len(target) - len(shape)
    return lead >= 0 and all(
        size in (1, target[lead + axis]) for axis, size in enumerate(shape)
    )  # fmt: skip


def reduction_order(
    shape: tuple[int, ...], over: tuple[int, ...], axes: tuple[int, ...] = ()
) -> Index | None:
    """The index that walks an operand results first, summed elements within.

    ``axes`` is the order of the results' axes, if it is not the logical one.
    """
    kept = [axis for axis in range(len(shape)) if axis not in over]
    if axes and len(axes) < len(shape):
        kept = [kept[axis] for axis in axes]
    elif axes:
        kept = [axis for axis in axes if axis not in over]
    order = [*kept, *over]
    return None if order == sorted(order) else permuted(shape, order)
