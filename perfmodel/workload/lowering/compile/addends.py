"""Sums that a product's library call takes in: ``mm`` and an addition become ``addmm``.

As gradients of a weight that is used again are added, or a residual of rows. Where only
element-wise steps read the sum it stays with them, in a loop.

References
----------
torch/_inductor/fx_passes/post_grad.py, ``is_valid_addmm_fusion``, ``should_prefer_unfused_addmm``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from perfmodel.workload.lowering.compile.buffers import base_of, users_of
from perfmodel.workload.lowering.compile.graph import Graph, Value
from perfmodel.workload.lowering.compile.partition import fusible, is_bias
from perfmodel.workload.lowering.compile.places import behind, broadcasts, samples
from perfmodel.workload.lowering.stream import stream

ADDED: Final = "add bias"
"""What an addition is called that a library call takes in."""


def take_addends(graph: Graph, alive: Sequence[int], outputs: Iterable[int]) -> None:
    """Mark the additions among the living values that belong to a product's call."""
    users, local = users_of(graph, alive), set(alive)
    lasting = {base_of(graph, number).number for number in outputs}
    for number in alive:
        value = graph.values[number]
        if value.kind != "map" or value.name != "add" or len(value.inputs) != 2 or value.heavy:
            continue
        readers = [graph.values[user] for user in users.get(number, ())]
        if number not in lasting and all(map(_is_pointwise, readers)):
            continue
        operands = [_straight(graph, operand) for operand in value.inputs]
        for addend, product in (operands, operands[::-1]):
            alone = product in local and users.get(product) == [number] and product not in lasting
            if alone and _fits(graph, value, product, addend):
                graph.values[number] = replace(value, name=ADDED, inputs=(product, addend))
                _copy_first(graph, product, addend)
                break


def _straight(graph: Graph, number: int) -> int:
    """What a value is a view of, where views that turn it turn it back."""
    points = samples(graph.values[number].numel)
    value, found = behind(graph, number, points)
    same = value.shape == graph.values[number].shape and bool((found == points).all())
    return value.number if same else number


def _is_pointwise(value: Value) -> bool:
    return value.kind == "map" and fusible(value) and not (value.window or is_bias(value))


def _fits(graph: Graph, value: Value, product: int, addend: int) -> bool:
    """Whether a product of two matrices can start from the other operand, made before it."""
    made, other = graph.values[product], graph.values[addend]
    same = made.shape == value.shape and made.dtype == other.dtype == value.dtype
    base = base_of(graph, addend)
    before = base.kind == "source" or base.number < product
    return (
        made.kind == "extern" and made.name == "mm" and same and before
        and broadcasts(other.shape, value.shape)
    )  # fmt: skip


def _copy_first(graph: Graph, product: int, addend: int) -> None:
    """The library copies a matrix that it adds to into the result first."""
    made, other = graph.values[product], graph.values[addend]
    if made.work is None or other.numel < made.numel:
        return
    kernel = made.work.kernels[0]
    copied = stream("copy", made.numel, other.bytes, made.bytes)
    copy = replace(kernel, name="addmm: copy", kind="copy", ops=(copied,))
    work = replace(made.work, kernels=(copy, *made.work.kernels))
    graph.values[product] = replace(made, work=work)
