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
_PLACES = tuple((f"place {at} of 4", "int64") for at in range(4))  # cubic weights are not stored
_DECOMPOSED = (
    "linear1d", "bilinear2d", "trilinear3d", "bicubic2d", "nearest1d", "nearest2d", "nearest3d",
)  # fmt: skip


def tables(graph: Graph, site: Site, before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Places before and, between two, behind each output element, and its weight, for each axis.

    They belong to the forward pass, whichever asks for them.
    """
    late, graph.backward = graph.backward, False
    stored, told = _stored(site), (bool(site.attribute("align_corners", False)),)
    found: list[int] = []
    for axis, (old, new) in enumerate(zip(before, after, strict=True)):
        shape = (new,) + (1,) * (len(after) - axis - 1)
        if not stored:  # axes of one size share theirs
            place = graph.map("place", (), (new,), "int64", 4, arguments=old)
            found.append(graph.view(place, shape))
            continue
        for name, dtype in stored:
            key = (*told, old, axis)
            found.append(graph.map(name, (), shape, dtype, 6, arguments=key))
    graph.backward = late
    return found


def _stored(site: Site) -> tuple[tuple[str, str], ...]:
    """Tables of an axis, where there are several."""
    if "cubic" in site.name:
        return _PLACES
    return _TABLES if "linear" in site.name else ()


def is_decomposed(graph: Graph, site: Site) -> bool:
    """Whether a step is such a resampling, or its gradient."""
    return graph.joint and any(word in site.name for word in _DECOMPOSED)


def gradient(graph: Graph, site: Site, grad: int) -> list[int]:
    """The gradient of the image: a sum by index for each corner, added up."""
    out = site.outputs[0]
    stored = _stored(site)
    after, before = graph.values[grad].shape[2:], out.shape[2:]
    found = tables(graph, site, before, after)
    dtype = compute_dtype(out.dtype) if stored else out.dtype
    corners = sum(dtype == "int64" for _, dtype in stored) or 1
    parts: list[int] = []
    for place in range(corners ** len(before)):
        zero = graph.map("zeros", (), out.shape, dtype, 0, arguments=("", ""))
        base = scatter.target(graph, zero, f"{site.node.name}/{place}")
        parts.append(scatter.add(graph, base, (grad, *found), dtype))
    total = reduce(lambda a, b: graph.map("add", (a, b), out.shape, dtype, 1), parts)
    return [total if dtype == out.dtype else graph.map("cast", (total,), out.shape, out.dtype, 0)]
