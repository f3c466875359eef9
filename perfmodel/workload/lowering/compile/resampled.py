"""Resampling of images in a step with gradients: decomposed before autograd sees it.

Where an output element lies between input elements is a table for each axis, which the backward
pass reads as well; gradients are added up by index, one addition for each corner that an element
was made from.

References
----------
torch/_decomp/decompositions.py, ``_upsample_linear`` and ``_upsample_nearest``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from perfmodel.workload.lowering.compile import scatter
from perfmodel.workload.lowering.compile.decompositions import compute_dtype
from perfmodel.workload.lowering.compile.graph import Graph
from perfmodel.workload.lowering.site import Site

_TABLES = (("place", "int64"), ("next place", "int64"), ("weight", "fp32"))
_CORNERS = 2
_DECOMPOSED = ("linear1d", "bilinear2d", "trilinear3d", "nearest1d", "nearest2d", "nearest3d")


def tables(graph: Graph, site: Site, before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Places before and, between two, behind each output element, and its weight, for each axis.

    They belong to the forward pass, whichever asks for them.
    """
    late, graph.backward = graph.backward, False
    linear = "linear" in site.name
    told = (bool(site.attribute("align_corners", False)),)
    found: list[int] = []
    for axis, (old, new) in enumerate(zip(before, after, strict=True)):
        shape = (new,) + (1,) * (len(after) - axis - 1)
        if not linear:  # axes of one size share theirs
            place = graph.map("place", (), (new,), "int64", 4, arguments=old)
            found.append(graph.view(place, shape))
            continue
        for name, dtype in _TABLES:
            key = (*told, old, axis)
            found.append(graph.map(name, (), shape, dtype, 6, arguments=key))
    graph.backward = late
    return found


def is_decomposed(graph: Graph, site: Site) -> bool:
    """Whether a step is such a resampling, or its gradient."""
    return graph.joint and any(word in site.name for word in _DECOMPOSED)


def gradient(graph: Graph, site: Site, grad: int) -> list[int]:
    """The gradient of the image: a sum by index for each corner, added up."""
    out = site.outputs[0]
    linear = "linear" in site.name
    after, before = graph.values[grad].shape[2:], out.shape[2:]
    found = tables(graph, site, before, after)
    dtype = compute_dtype(out.dtype) if linear else out.dtype
    parts: list[int] = []
    for place in range(_CORNERS ** len(before) if linear else 1):
        zero = graph.map("zeros", (), out.shape, dtype, 0, arguments=("", ""))
        base = scatter.target(graph, zero, f"{site.node.name}/{place}")
        parts.append(scatter.add(graph, base, (grad, *found), dtype))
    total = reduce(lambda a, b: graph.map("add", (a, b), out.shape, dtype, 1), parts)
    return [total if dtype == out.dtype else graph.map("cast", (total,), out.shape, out.dtype, 0)]
