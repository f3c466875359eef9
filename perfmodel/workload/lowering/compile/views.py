"""Views of aten as index maps."""

from __future__ import annotations

import math
from typing import Final

from perfmodel.workload.lowering.compile.graph import (
    Graph,
    Index,
    Shape,
    contiguous_strides,
    expanded,
    permuted,
    selected,
    sliced,
)
from perfmodel.workload.lowering.compile.places import behind, follow, samples
from perfmodel.workload.lowering.compile.turned import corners
from perfmodel.workload.lowering.site import Site

_PERMUTATIONS: Final = frozenset(
    ("t", "numpy_T", "mT", "mH", "adjoint", "transpose", "swapaxes", "permute")
)
_PARTS: Final = frozenset(
    ("slice", "narrow", "select", "unbind", "split", "split_with_sizes", "chunk", "tensor_split")
)


def view_value(graph: Graph, site: Site, parent: int, place: int) -> int:
    """The value of output ``place`` of a view operator, given the value of its operand."""
    shape = graph.values[parent].shape
    target = site.outputs[place].shape
    index = _index(site, shape, target, place)
    if index is not None and math.prod(index.shape) != math.prod(target):
        index = None
    if index is None and math.prod(shape) != math.prod(target):
        index = _truncated(shape, target)
    return graph.view(parent, target, index)


def _index(site: Site, shape: Shape, target: Shape, place: int) -> Index | None:
    name = site.name.rstrip("_")
    if not shape or name in ("expand", "expand_as", "broadcast_to"):
        return expanded(shape, target)
    if name in _PERMUTATIONS:
        return permuted(shape, _dims(site, name, len(shape)))
    if name in _PARTS and shape != target:
        return _part(site, name, shape, target, place)
    return _windows(site, shape, target) if name == "unfold" else None


def _dims(site: Site, name: str, rank: int) -> list[int]:
    """The order of axes after a transposition or permutation."""
    if name == "permute":
        return [int(dim) for dim in site.attribute("dims", range(rank))]
    dims = list(range(rank))
    first, second = -2, -1
    if name in ("transpose", "swapaxes"):
        first, second = (int(site.attribute(key, at)) for key, at in (("dim0", 0), ("dim1", 1)))
    if rank > 1:
        dims[first], dims[second] = dims[second], dims[first]
    return dims


def _part(site: Site, name: str, shape: Shape, target: Shape, place: int) -> Index:
    """One of the views that show a part along an axis."""
    dim = int(site.attribute("dim", 0))
    if name in ("select", "unbind"):
        return selected(shape, dim, place if name == "unbind" else int(site.attribute("index", 0)))
    if name in ("slice", "narrow"):
        size, step = shape[dim], max(1, int(site.attribute("step", 1)))
        start = int(site.attribute("start", 0))
        start = min(max(start + size if start < 0 else start, 0), size)
        return sliced(shape, dim, start, step, target[dim])
    start = sum(tensor.shape[dim] for tensor in site.outputs[:place])
    return sliced(shape, dim, start, 1, target[dim])


def _windows(site: Site, shape: Shape, target: Shape) -> Index:
    axis = int(site.attribute("dimension", -1)) % len(shape)
    step = int(site.attribute("step", 1))
    plain = sliced(shape, axis, 0, step, target[axis])
    inner = sliced(shape, axis, 0, 1, target[-1]).strides[axis]
    return Index(target, (*plain.strides, inner), 0)


def _truncated(shape: Shape, target: Shape) -> Index:
    """A part or a repetition whose exact places do not matter."""
    total = max(1, math.prod(shape))
    strides, step = [], 1
    for size in reversed(target):
        strides.append(step if step < total else 0)
        step *= max(1, size)
    return Index(target, tuple(reversed(strides)))


def repeated(graph: Graph, value: int, dim: int, times: int) -> int:
    """One operand joined to itself (torch/_inductor/decomposition.py, ``cat``)."""
    shape = graph.values[value].shape
    axis = dim % len(shape)
    strides = contiguous_strides(shape)
    wide = (*shape[:axis], times, *shape[axis:])
    index = Index(wide, (*strides[:axis], 0, *strides[axis:]))
    out = (*shape[:axis], times * shape[axis], *shape[axis + 1 :])
    return graph.view(graph.view(value, wide, index), out)


def is_affine(graph: Graph, number: int) -> bool:
    """Whether one stride an axis tells where a view's elements lie in what it is a view of."""
    shape = graph.values[number].shape
    points = samples(math.prod(shape))
    _, places = behind(graph, number, corners(shape))
    _, found = behind(graph, number, points)
    steps = Index(shape, tuple((places[1:] - places[0]).tolist()), int(places[0]))
    return bool((follow(steps, points) == found).all())
