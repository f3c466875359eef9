"""Library calls, and what of their operands gets memory of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from perfmodel.workload.lowering.compile.buffers import base_of
from perfmodel.workload.lowering.compile.graph import Graph, Value
from perfmodel.workload.lowering.compile.padding import fits, room
from perfmodel.workload.lowering.compile.views import is_affine
from perfmodel.workload.lowering.eager.names import group_of
from perfmodel.workload.lowering.site import Site, Work, item_bytes


def _is_reshape(graph: Graph, value: Value) -> bool:
    """Whether a value is its base in another shape."""
    reshaped = value.kind == "view"
    while value.kind == "view" and reshaped:
        reshaped = value.index is None
        value = graph.values[value.inputs[0]]
    return reshaped


def _own(
    graph: Graph, number: int, *, gradient: bool = False, dense: bool = False, strided: bool = False
) -> int:
    value, base = graph.values[number], base_of(graph, number)
    if dense and base.lazy and value.numel > base.numel:  # what a kernel makes is copied out
        graph.values[base.number] = replace(base, heavy=True)
        return graph.map("clone", (number,), value.shape, value.dtype, 0, heavy=True)
    if base.lazy and not base.name.endswith(" bias") and _is_reshape(graph, value):
        width = item_bytes(base.dtype)
        if len(base.shape) > 2:
            base = replace(base, room=room(base.shape, width))
            graph.values[base.number] = base
        if base.room and not fits(base.shape, value.shape, width):
            # both are in memory: the padded one is made first, then copied
            graph.values[base.number] = replace(base, heavy=True)
            return graph.map("unpadded", (number,), value.shape, value.dtype, 0, heavy=True)
    if base.lazy and not base.name.endswith(" bias") and value.numel < base.numel:
        return _part(graph, number, gradient=gradient, strided=strided)
    return number


def _part(graph: Graph, number: int, *, gradient: bool, strided: bool) -> int:
    """A part of something without memory."""
    value, base = graph.values[number], base_of(graph, number)
    if strided and is_affine(graph, number):  # all of it is made, and read with gaps
        graph.values[base.number] = replace(base, heavy=True)
        return number
    if number in graph.saved:  # the backward pass reads it where it is: all of it is made
        graph.values[base.number] = replace(base, heavy=True)
        if gradient:
            return number
        return graph.map("copy", (number,), value.shape, value.dtype, 0, heavy=True)
    now, graph.backward = graph.backward, base.backward  # a copy serves both passes
    copy = graph.map("copy", (number,), value.shape, value.dtype, 0, heavy=True)
    graph.backward = now
    return copy


def extern(
    graph: Graph, site: Site, args: Sequence[int], work: Work, *, layout: str = ""
) -> list[int]:
    """A library call and its outputs.

    An operand that is a part of something without memory gets memory of its own; so does one of
    attention that repeats heads (torch/_inductor/lowering.py, ``sdpa_constraint``).
    """
    gradient, group = "backward" in site.name, group_of(site.name)
    dense, strided = group == "attention", group == "product"
    if group != "scan":
        args = [_own(graph, arg, gradient=gradient, dense=dense, strided=strided) for arg in args]
    outs = site.outputs or site.inputs[:1]
    first = graph.add(
        "extern",
        args,
        outs[0].shape,
        outs[0].dtype,
        site.name,
        work=work,
        heavy=True,
        layout=layout,
    )
    rest = [graph.add("result", (first,), t.shape, t.dtype, site.name, heavy=True)
            for t in outs[1:]]  # fmt: skip
    return [first, *rest]
