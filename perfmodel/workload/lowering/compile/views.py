"""Views of aten as index maps."""

from __future__ import annotations

import math

from perfmodel.workload.lowering.compile.graph import (
    Graph,
    Index,
    Shape,
    expanded,
    permuted,
    selected,
    sliced,
)
from perfmodel.workload.lowering.site import Site

_LARGE = 2**40


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
    name, rank = site.name.rstrip("_"), len(shape)
    if rank == 0:
        return expanded(shape, target)
    if name in ("t", "numpy_T", "mT", "mH", "adjoint"):
        return permuted(shape, [*range(rank - 2), *reversed(range(max(0, rank - 2), rank))])
    if name in ("transpose", "swapaxes"):
        dims = list(range(rank))
        a, b = (int(site.attribute(key, d)) % rank for key, d in (("dim0", 0), ("dim1", 1)))
        dims[a], dims[b] = dims[b], dims[a]
        return permuted(shape, dims)
    if name == "permute":
        return permuted(shape, [int(dim) for dim in site.attribute("dims", range(rank))])
    if name in ("expand", "expand_as", "broadcast_to"):
        return expanded(shape, target)
    dim = int(site.attribute("dim", 0))
    if name == "slice":
        size, step = shape[dim], max(1, int(site.attribute("step", 1)))
        start = int(site.attribute("start", 0))
        start = min(max(start + size if start < 0 else start, 0), size)
        return None if shape == target else sliced(shape, dim, start, step, target[dim])
    if name == "narrow":
        return sliced(shape, dim, int(site.attribute("start", 0)), 1, target[dim])
    if name == "select":
        return selected(shape, dim, int(site.attribute("index", 0)))
    if name == "unbind":
        return selected(shape, dim, place)
    if name in ("split", "split_with_sizes", "chunk", "tensor_split"):
        start = sum(tensor.shape[dim] for tensor in site.outputs[:place])
        return sliced(shape, dim, start, 1, target[dim])
    if name == "unfold":
        return _windows(site, shape, target)
    return None


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
