"""The backward half of a training step, and the optimizer.

A convolution has two gradients of the same arithmetic as itself (the first layer has one: nobody
needs the gradient of the image). A map that several nodes read gets the sum of their gradients, one
addition for each reader after the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from perfmodel.workload.convnets.build import Convnet, Node
from perfmodel.workload.convnets.lower import (
    Setting,
    conv_op,
    forward,
    group_ends,
    pointwise_groups,
)
from perfmodel.workload.layer import Call
from perfmodel.workload.ops.base import check_choice
from perfmodel.workload.ops.dense import Gemm
from perfmodel.workload.ops.rowwise import CrossEntropy, LayerNorm
from perfmodel.workload.ops.streams import AdamW, Elementwise, Fused, Sgd

OPTIMIZERS: Final = ("sgd", "adamw", "rmsprop")
OPTIMIZER_BYTES: Final = {"sgd": 4, "adamw": 8, "rmsprop": 8}
"""State of a parameter beside the weight, in fp32 [B]."""
# maps read for the gradient: dy and what was saved
_ACT_READS: Final = 2


def training_step(net: Convnet, setting: Setting, optimizer: str = "sgd") -> tuple[Call, ...]:
    """Forward, loss, backward and optimizer."""
    check_choice(optimizer, OPTIMIZERS, "convnet: optimizer")
    setting = replace(setting, training=True)
    last = net.nodes[-1]
    pixels = setting.batch
    for side in last.sides:
        pixels *= side
    return (
        *forward(net, setting),
        Call("loss", CrossEntropy(pixels, last.channels, setting.dtype), module="loss"),
        Call(
            "loss_grad",
            CrossEntropy(pixels, last.channels, setting.dtype, direction="bwd"),
            module="loss",
            grad="input",
        ),
        *backward(net, setting),
        *optimizer_step(net, setting, optimizer),
    )


def backward(net: Convnet, setting: Setting) -> tuple[Call, ...]:
    """Every kernel of the backward pass, last node first."""
    consumers = net.consumers()
    fused = setting.fusion == "pointwise"
    groups = pointwise_groups(net, setting) if fused else {}
    grouped = {place: chain for chain in groups.values() for place in chain}
    calls: list[Call] = []
    for place in range(len(net.nodes) - 1, 0, -1):
        node = net.nodes[place]
        numel = setting.batch * node.elements
        # in-place sums ride along inside a fused chain
        if len(consumers[place]) > 1 and not fused and node.kind != "slice":
            add = Elementwise("add", numel, setting.dtype)
            extra = len(consumers[place]) - 1
            calls.append(Call(f"{node.name}.sum", add, extra, "pointwise", "input"))
        if place in grouped:
            if place in groups:
                calls += _chain(net, setting, groups[place])
            continue
        calls += _node(net, node, setting)
    return tuple(calls)


def optimizer_step(net: Convnet, setting: Setting, optimizer: str) -> tuple[Call, ...]:
    """One step over fp32 weights; mixed precision with fp16 first unscales the gradients."""
    numel = net.parameters
    calls = []
    if setting.amp and setting.dtype == "fp16":
        calls.append(Call("unscale", Fused("unscale", numel, 4, 4, 1), module="optimizer"))
    if optimizer == "sgd":
        calls.append(Call("sgd", Sgd(numel), module="optimizer"))
    elif optimizer == "adamw":
        calls.append(Call("adamw", AdamW(numel), module="optimizer"))
    else:
        # weight, gradient, square average and momentum in; all but the gradient out
        calls.append(Call("rmsprop", Fused("rmsprop", numel, 16, 12, 9), module="optimizer"))
    return tuple(calls)


def _node(net: Convnet, node: Node, setting: Setting) -> Iterator[Call]:
    numel = setting.batch * node.elements
    e = setting.element
    source = net.nodes[node.inputs[0]]
    first = source.kind == "input"
    if node.kind == "conv":
        if not first:
            yield _call(node, conv_op(net, node, setting, "dgrad"), "conv")
        yield _call(node, conv_op(net, node, setting, "wgrad"), "conv", "weight")
        if node.bias:
            yield _call(node, Fused("bias_grad", numel, e, 0, 1), "pointwise", "weight")
    elif node.kind == "linear":
        width = source.elements
        batch = setting.batch
        yield _call(node, Gemm(batch, width, node.channels, dtype=setting.dtype), "linear")
        yield _call(
            node, Gemm(node.channels, width, batch, dtype=setting.dtype), "linear", "weight"
        )
    elif node.kind == "norm":
        yield _call(node, _norm_grad(node, setting), "norm")
    elif node.kind == "act":
        yield _call(node, Fused(f"{node.word}_grad", numel, _ACT_READS * e, e, 4), "pointwise")
    elif node.kind == "mul":
        # gradient of the map, and of the gate: a sum over the map
        yield _call(node, Fused("mul_grad", numel, e, e, 1), "pointwise")
        yield _call(node, Fused("gate_grad", numel, 2 * e, 0, 2), "pointwise")
    elif node.kind == "scale":
        yield _call(node, Fused("scale_grad", numel, 2 * e, e, 3), "pointwise")
    elif node.kind in ("concat", "shuffle", "gather", "pixel_shuffle"):
        yield _call(node, Fused(f"{node.kind}_grad", numel, e, e, 0), "copy")
    elif node.kind in ("max_pool", "avg_pool", "global_pool"):
        indices = 8 if node.kind == "max_pool" else 0
        inputs = setting.batch * source.elements
        read = max(1, round((e + indices) * node.elements / source.elements))
        yield _call(node, Fused(f"{node.kind}_grad", inputs, read, e, 1), "pool")


def _norm_grad(node: Node, setting: Setting) -> Fused | LayerNorm:
    e = setting.element
    if node.word == "layer":
        rows = setting.batch
        for side in node.sides:
            rows *= side
        return LayerNorm(rows, node.channels, setting.dtype, direction="bwd")
    # two sums over input and gradient, then input and gradient once more
    return Fused(f"{node.word}_norm_grad", setting.batch * node.elements, 4 * e, e, 10)


def _chain(net: Convnet, setting: Setting, chain: tuple[int, ...]) -> Iterator[Call]:
    """Backward of a fused chain: gradients and saved inputs in, gradients of the inputs out."""
    read, written = group_ends(net, chain)
    e = setting.element
    last = net.nodes[chain[-1]]
    numel = setting.batch * last.elements
    ends = len(read) + len(written)
    if any(net.nodes[place].kind == "norm" for place in chain):
        sums = Fused("norm_grad_sums", numel, e * ends, 0, 6)
        yield _call(last, sums, "norm")
    yield _call(last, Fused("pointwise_grad", numel, e * ends, e * len(read), 8), "pointwise")


def _call(node: Node, op: object, module: str, grad: str = "input") -> Call:
    return Call(f"{node.name}.{grad}_grad", op, module=module, grad=grad)  # type: ignore[arg-type]
