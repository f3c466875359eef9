"""Operators of a convolutional network: one inference, or forward of a training step.

Frameworks run one kernel for every node (``fusion="none"``) or one for every chain of element-wise
nodes (``"pointwise"``: norms in inference, activations, sums, biases and gates of one shape).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from perfmodel.workload.convnets.build import Convnet, Node
from perfmodel.workload.dtype import bytes_per_element
from perfmodel.workload.layer import Call
from perfmodel.workload.ops.base import Op, check_choice, checked_size
from perfmodel.workload.ops.conv import Conv2d, Conv3d
from perfmodel.workload.ops.dense import Gemm
from perfmodel.workload.ops.rowwise import LayerNorm
from perfmodel.workload.ops.streams import ELEMENTWISE, Elementwise, Fused

FUSIONS: Final = ("none", "pointwise")
POINTWISE: Final = ("norm", "act", "add", "mul", "scale")
# operations an element, where the element-wise table has none
_OPERATIONS: Final = {
    "hardswish": 4, "hardsigmoid": 3, "relu6": 2, "batch": 2, "add": 1, "mul": 1, "scale": 1,
}  # fmt: skip
_POOLS: Final = ("max_pool", "avg_pool", "global_pool")
_COPIES: Final = ("concat", "shuffle", "gather", "pixel_shuffle")


@dataclass(frozen=True, slots=True)
class Setting:
    """How a network is run.

    Parameters
    ----------
    batch : int
        Images.
    dtype : str
        Format of the arithmetic and of the feature maps.
    layout : str
        nhwc or nchw.
    fusion : str
        One of :data:`FUSIONS`.
    amp : bool
        Weights are kept in fp32 and cast once a pass.
    training : bool
        Batch norms compute their statistics.
    """

    batch: int
    dtype: str = "bf16"
    layout: str = "nhwc"
    fusion: str = "none"
    amp: bool = False
    training: bool = False

    def __post_init__(self) -> None:
        checked_size(self.batch, "convnet: batch")
        check_choice(self.fusion, FUSIONS, "convnet: fusion")
        check_choice(self.layout, ("nhwc", "nchw"), "convnet: layout")
        bytes_per_element(self.dtype, where="convnet: dtype")

    @property
    def element(self) -> int:
        """Bytes of an element of a feature map [B]."""
        return int(bytes_per_element(self.dtype))


def conv_op(net: Convnet, node: Node, setting: Setting, direction: str = "fwd") -> Op:
    """The convolution of a node, or a gradient of it.

    A transposed convolution is the input gradient of the convolution whose output is its input, so
    its own input gradient is that convolution's forward pass.
    """
    source = net.nodes[node.inputs[0]]
    small, large = (source, node) if node.transposed else (node, source)
    if node.transposed:
        direction = {"fwd": "dgrad", "dgrad": "fwd", "wgrad": "wgrad"}[direction]
    b, word = setting.batch, direction
    k, step, pad, groups = node.kernel, node.stride, node.padding, node.groups
    c_in, c_out = large.channels, small.channels
    if len(node.sides) == 3:
        d, h, w = large.sides
        return Conv3d(
            b, c_in, d, h, w, c_out, k, step, pad, groups, direction=word, dtype=setting.dtype
        )
    h, w = large.sides
    return Conv2d(b, c_in, h, w, c_out, k, step, pad, groups, setting.layout, word, setting.dtype)


def forward(net: Convnet, setting: Setting) -> tuple[Call, ...]:
    """Every kernel of one forward pass, in order."""
    calls: list[Call] = []
    if setting.amp:
        calls += _casts(net, setting)
    fused = setting.fusion == "pointwise"
    groups = pointwise_groups(net, setting) if fused else {}
    for place, node in enumerate(net.nodes):
        if fused and _fusible(node):
            if node.kind == "norm" and setting.training:
                numel = setting.batch * node.elements
                op = Fused("norm_statistics", numel, setting.element, 0, 3)
                calls.append(Call(f"{node.name}.statistics", op, module="norm"))
                calls += _counter(node, setting)
            if place in groups:
                calls.append(_group_call(net, setting, groups[place]))
        else:
            calls += _node_calls(net, node, setting)
    return tuple(calls)


def _node_calls(net: Convnet, node: Node, setting: Setting) -> Iterator[Call]:
    numel = setting.batch * node.elements
    e = setting.element
    if node.kind == "conv":
        yield Call(node.name, conv_op(net, node, setting), module="conv")
        if node.bias and setting.fusion == "none" and node.word != "linear":
            bias = Fused("bias", numel, e, e, 1)
            yield Call(f"{node.name}.bias", bias, module="pointwise")
    elif node.kind == "linear":
        width = net.nodes[node.inputs[0]].elements
        op = Gemm(setting.batch, node.channels, width, dtype=setting.dtype)
        yield Call(node.name, op, module="linear")
    elif node.kind in _POOLS:
        source = net.nodes[node.inputs[0]]
        read = max(1, round(e * source.elements / node.elements))
        indices = 8 if node.kind == "max_pool" and setting.training else 0
        work = node.kernel ** max(len(node.sides), 1)
        yield Call(
            node.name, Fused(node.kind, numel, read, e + indices, max(1, work)), module="pool"
        )
    elif node.kind in _COPIES:
        yield Call(node.name, Fused(node.kind, numel, e, e, 0), module="copy")
    elif node.kind in POINTWISE:
        yield Call(node.name, _pointwise_op(node, setting), module=_module(node))
        if node.kind == "norm":
            yield from _counter(node, setting)


def _counter(node: Node, setting: Setting) -> Iterator[Call]:
    """A batch norm in training counts its batches: one number, an operator of its own."""
    if setting.training and node.word == "batch":
        yield Call(f"{node.name}.batches", Fused("counter", 1, 8, 8, 1), module="counter")


def _pointwise_op(node: Node, setting: Setting) -> Op:
    numel = setting.batch * node.elements
    e = setting.element
    if node.kind == "norm":
        return _norm_op(node, setting)
    word = node.word if node.kind == "act" else node.kind
    if word in ELEMENTWISE and node.kind in ("act", "add"):
        return Elementwise(word, numel, setting.dtype)
    return Fused(word, numel, e, e, _OPERATIONS.get(word, 4))


def _norm_op(node: Node, setting: Setting) -> Op:
    e = setting.element
    if node.word == "layer":
        rows = setting.batch * math.prod(node.sides)
        return LayerNorm(rows, node.channels, setting.dtype)
    numel = setting.batch * node.elements
    if node.word == "instance" or setting.training:
        # statistics first, then the normalised map
        return Fused(f"{node.word}_norm", numel, 2 * e, e, 6)
    return Fused("batch_norm", numel, e, e, 2)


def _module(node: Node) -> str:
    return "norm" if node.kind == "norm" else "pointwise"


def _fusible(node: Node) -> bool:
    return node.kind in POINTWISE and not (node.kind == "norm" and node.word != "batch")


def pointwise_groups(net: Convnet, setting: Setting) -> dict[int, tuple[int, ...]]:
    """Chains of element-wise nodes that become one kernel, by the place of their last node.

    A node joins the chain of its latest input when that has the same shape.
    """
    chain_of: dict[int, list[int]] = {}
    for place, node in enumerate(net.nodes):
        if not _fusible(node):
            continue
        latest = max(node.inputs)
        chain = chain_of.get(latest)
        starts_again = node.kind == "norm" and setting.training
        if chain is None or starts_again or net.nodes[latest].sides != node.sides:
            chain = []
        chain.append(place)
        chain_of[place] = chain
    chains = {id(chain): chain for chain in chain_of.values()}
    return {chain[-1]: tuple(chain) for chain in chains.values()}


def group_ends(net: Convnet, chain: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Full-size maps that a chain reads from outside, and those that others read from it."""
    members = set(chain)
    sides = net.nodes[chain[0]].sides
    consumers = net.consumers()
    read = {
        source
        for place in chain
        for source in net.nodes[place].inputs
        if source not in members and net.nodes[source].sides == sides
    }
    written = {
        place
        for place in chain
        if not consumers[place] or any(reader not in members for reader in consumers[place])
    }
    return tuple(sorted(read)), tuple(sorted(written))


def _group_call(net: Convnet, setting: Setting, chain: tuple[int, ...]) -> Call:
    read, written = group_ends(net, chain)
    last = net.nodes[chain[-1]]
    e = setting.element
    numel = setting.batch * last.elements
    work = sum(_OPERATIONS.get(net.nodes[place].word, 2) for place in chain)
    op = Fused("pointwise", numel, e * len(read), e * len(written), work)
    return Call(last.name, op, module="pointwise")


def _casts(net: Convnet, setting: Setting) -> Iterator[Call]:
    for node in net.nodes:
        if node.kind in ("conv", "linear"):
            op = Fused("weight_cast", net.weights(node), 4, setting.element, 0)
            yield Call(f"{node.name}.cast", op, module="cast")
