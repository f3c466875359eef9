"""Backward products of a model that runs under autocast.

The compiler records the backward pass while autocast is on, so that its products are cast too:
also those of single precision, such as the gradients of attention that is written out in it. In an
eager backward pass autocast is off.

Reference
---------
torch/_functorch/_aot_autograd/graph_capture.py: the joint graph is traced in the caller's context.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from perfmodel.workload.lowering.compile.graph import Graph
from perfmodel.workload.lowering.eager.names import group_of
from perfmodel.workload.lowering.site import Site

HALF: Final = ("bf16", "fp16")
SINGLE: Final = ("fp32", "tf32")


def autocast_format(sites: Iterable[Site]) -> str:
    """The format of autocast, ``""`` without it: half-precision products, no such parameter."""
    found = ""
    for site in sites:
        tensors = (*site.inputs, *site.outputs)
        if any(t.role == "parameter" and t.dtype in HALF for t in tensors):
            return ""
        if group_of(site.name) in ("product", "convolution") and site.inputs:
            dtype = site.inputs[-1].dtype
            found = found or (dtype if dtype in HALF else "")
    return found


def cast_product(graph: Graph, site: Site, args: list[int], dtype: str) -> tuple[Site, list[int]]:
    """A single-precision product of the backward pass on operands that are cast."""
    tensors = (*site.inputs, *site.outputs)
    if not dtype or not graph.backward or any(t.dtype not in SINGLE for t in tensors):
        return site, args
    cast = [graph.map("cast", (arg,), graph.values[arg].shape, dtype, 0) for arg in args]
    narrow = replace(
        site,
        inputs=tuple(replace(t, dtype=dtype) for t in site.inputs),
        outputs=tuple(replace(t, dtype=dtype) for t in site.outputs),
    )
    return narrow, cast
