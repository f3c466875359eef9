"""A network as a :class:`~perfmodel.workload.program.Program`: what PyTorch dispatches for it.

One inference in the order of the graph, with the tensors, memory orders and lifetimes that decide
the kernels: batch norms with their statistics, biases, copies where an operator leaves another
order behind. Views are written only where an order changes; a step that the host issues call by
call has more of them.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any, Final

from perfmodel.workload.convnets.build import Convnet
from perfmodel.workload.convnets.build import Node as Layer
from perfmodel.workload.convnets.lower import Setting
from perfmodel.workload.convnets.writer import FIRST, LAST, Writer
from perfmodel.workload.program import Program, Tensor

IN_PLACE: Final = ("relu", "relu6", "silu", "hardswish")
"""Activations that networks run in place where nobody else reads their input."""
TARGETS: Final = MappingProxyType({"relu6": "hardtanh"})
"""What an activation is dispatched as, where its name is another."""


def network_program(net: Convnet, setting: Setting) -> Program:
    """The operators of one inference of a batch.

    Parameters
    ----------
    net : Convnet
        The graph.
    setting : Setting
        Batch, format and memory order; ``training`` norms compute their statistics, ``amp`` casts
        fp32 weights first. How kernels are fused is for lowering to say.
    """
    writer = Writer(net, setting, net.consumers())
    for place, layer in enumerate(net.nodes):
        writer.place = place
        _LAYERS[layer.kind](writer, layer)
    return writer.finish()


def _input(w: Writer, layer: Layer) -> None:
    order = LAST if w.setting.layout == "nhwc" and layer.channels > 1 else FIRST
    w.made(w.tensor(layer.name, w.shape(layer), role="input", layout=order))


def _conv(w: Writer, layer: Layer) -> None:
    x = w.source(layer)
    if layer.word == "linear":
        return _pointwise_linear(w, layer, x)
    rank, c_in = len(layer.sides), x.shape[1] // layer.groups
    ends = (x.shape[1], layer.channels) if layer.transposed else (layer.channels, c_in)
    nhwc = w.setting.layout == "nhwc"
    order = LAST if nhwc and layer.kernel > 1 and ends[1] > 1 else FIRST
    operands = [x, w.weight("weight", (*ends, *(layer.kernel,) * rank), order)]
    if layer.bias:
        operands.append(w.weight("bias", (layer.channels,)))
    out = w.like(layer, LAST if nhwc else FIRST)
    attributes = {
        "stride": [layer.stride] * rank,
        "padding": [0 if layer.transposed else layer.padding] * rank,
        "dilation": [1] * rank,
        "transposed": layer.transposed,
        "output_padding": [0] * rank,
        "groups": layer.groups,
    }
    w.call("aten.convolution", tuple(operands), (out,), attributes)
    w.made(out)


def _pointwise_linear(w: Writer, layer: Layer, x: Tensor) -> None:
    """A pointwise convolution as a product over all pixels."""
    rows = w.setting.batch * math.prod(layer.sides)
    if w.setting.layout == "nchw":
        x = _copied(w, x, f"{layer.name}.rows", LAST)
    out = w.like(layer, LAST)
    _product(w, layer, w.view(x, (rows, x.shape[1])), w.view(out, (rows, layer.channels)))
    w.made(out)


def _linear(w: Writer, layer: Layer) -> None:
    x = w.source(layer)
    if x.layout != FIRST:
        x = _copied(w, x, f"{layer.name}.flat", FIRST)
    out = w.like(layer, FIRST)
    _product(w, layer, w.view(x, (w.setting.batch, math.prod(x.shape[1:]))), out)
    w.made(out)


def _product(w: Writer, layer: Layer, rows: Tensor, out: Tensor) -> None:
    matrix = w.weight("weight", (layer.channels, rows.shape[1]))
    turned = w.view(matrix, (rows.shape[1], layer.channels), "strided")
    if layer.bias:
        bias = w.weight("bias", (layer.channels,))
        w.call("aten.addmm", (bias, rows, turned), (out,), {"beta": 1, "alpha": 1})
    else:
        w.call("aten.mm", (rows, turned), (out,))


def _copied(w: Writer, x: Tensor, name: str, order: str) -> Tensor:
    """The same map in another order of memory."""
    out = w.tensor(name, x.shape, layout=order)
    w.call("aten.clone", (x,), (out,), {"memory_format": order})
    return out


def _norm(w: Writer, layer: Layer) -> None:
    x, channels = w.source(layer), layer.channels
    affine = (w.kept("weight", (channels,)), w.kept("bias", (channels,)))
    if layer.word == "layer":
        return _layer_norm(w, layer, x, affine)
    if layer.word == "instance":
        return _instance_norm(w, layer, x, affine)
    if w.setting.training:
        batches = w.tensor(f"{layer.name}.batches", (), role="buffer", dtype="int64")
        w.call("aten.add_", (batches,), (batches,), {"other": 1, "alpha": 1})
    running = tuple(w.kept(word, (channels,), role="buffer") for word in ("mean", "var"))
    out = w.like(layer, x.layout)
    _batch_norm(w, layer.name, (x, *affine, *running), out, w.setting.training)
    w.made(out)


def _batch_norm(
    w: Writer, name: str, operands: tuple[Tensor, ...], out: Tensor, training: bool
) -> None:
    channels = operands[0].shape[1]
    saved = tuple(
        w.tensor(f"{name}.{word}", (channels,), dtype="fp32") for word in ("mean_", "invstd")
    )
    attributes = {"training": training, "momentum": 0.1, "eps": 1e-5}
    w.call("aten.native_batch_norm", operands, (out, *saved), attributes)


def _instance_norm(w: Writer, layer: Layer, x: Tensor, affine: tuple[Tensor, ...]) -> None:
    """A batch norm with one image whose channels are all images' (ATen/native/Normalization)."""
    if x.layout != FIRST:
        x = _copied(w, x, f"{layer.name}.first", FIRST)
    many = w.setting.batch * layer.channels
    repeated = tuple(w.tensor(f"{t.name}.repeated", (many,)) for t in affine)
    for one, more in zip(affine, repeated, strict=True):
        w.call("aten.repeat", (one,), (more,), {"repeats": [w.setting.batch]})
    out = w.like(layer, FIRST)
    wide = (1, many, *layer.sides)
    _batch_norm(w, layer.name, (w.view(x, wide), *repeated), w.view(out, wide), training=True)
    w.made(out)


def _layer_norm(w: Writer, layer: Layer, x: Tensor, affine: tuple[Tensor, ...]) -> None:
    """Over the channels, which lie side by side in channels-last order."""
    if layer.sides and x.layout != LAST and math.prod(layer.sides) > 1:
        x = _copied(w, x, f"{layer.name}.last", LAST)
    shape = (w.setting.batch, *layer.sides, layer.channels)
    out = w.like(layer, LAST if layer.sides else FIRST)
    saved = tuple(
        w.tensor(f"{layer.name}.{word}", (*shape[:-1], 1), dtype="fp32")
        for word in ("mean", "rstd")
    )
    attributes = {"normalized_shape": [layer.channels], "eps": 1e-6}
    operands = (w.view(x, shape), *affine)
    w.call("aten.native_layer_norm", operands, (w.view(out, shape), *saved), attributes)
    w.made(out)


def _act(w: Writer, layer: Layer) -> None:
    x = w.source(layer)
    over = layer.word in IN_PLACE and w.sole(layer.inputs[0])
    out = x if over else w.like(layer, x.layout)
    attributes = {"approximate": "none"} if layer.word == "gelu" else {}
    target = TARGETS.get(layer.word, layer.word)
    w.call(f"aten.{target}{'_' if over else ''}", (x,), (out,), attributes)
    w.made(out)


def _add(w: Writer, layer: Layer) -> None:
    x, y = w.source(layer), w.source(layer, 1)
    over = w.sole(layer.inputs[1])
    out = y if over else w.like(layer, y.layout)
    w.call("aten.add_" if over else "aten.add", (y, x), (out,), {"alpha": 1})
    w.made(out)


def _mul(w: Writer, layer: Layer) -> None:
    x, gate = w.source(layer), w.source(layer, 1)
    out = w.like(layer, x.layout)
    w.call("aten.mul", (gate, x), (out,))
    w.made(out)


def _scale(w: Writer, layer: Layer) -> None:
    x = w.source(layer)
    factors = w.kept("weight", (layer.channels, *(1,) * len(layer.sides)))
    out = w.like(layer, x.layout)
    w.call("aten.mul", (factors, x), (out,))
    w.made(out)


def _concat(w: Writer, layer: Layer) -> None:
    parts = tuple(w.source(layer, which) for which in range(len(layer.inputs)))
    last = all(part.layout == LAST for part in parts)
    out = w.like(layer, LAST if last else FIRST)
    w.call("aten.cat", parts, (out,), {"dim": 1, "lists": {"tensors": len(parts)}})
    w.made(out)


def _slice(w: Writer, layer: Layer) -> None:
    x = w.source(layer)
    out = w.view(x, w.shape(layer), "strided")
    w.call("aten.slice", (x,), (out,), {"dim": 1, "start": 0, "end": layer.channels})
    w.made(out)


def _pool(w: Writer, layer: Layer) -> None:
    x, rank = w.source(layer), len(layer.sides)
    out = w.like(layer, x.layout)
    attributes: dict[str, Any] = {
        name: [value] * rank
        for name, value in (
            ("kernel_size", layer.kernel), ("stride", layer.stride), ("padding", layer.padding),
        )
    }  # fmt: skip
    if layer.word == "adaptive":
        w.call(f"aten._adaptive_avg_pool{rank}d", (x,), (out,), {"output_size": [*layer.sides]})
    elif layer.kind == "max_pool":
        places = w.tensor(f"{layer.name}.places", out.shape, layout=out.layout, dtype="int64")
        attributes |= {"dilation": [1] * rank, "ceil_mode": False}
        w.call(f"aten.max_pool{rank}d_with_indices", (x,), (out, places), attributes)
    else:
        attributes |= {"ceil_mode": False, "count_include_pad": True}
        w.call(f"aten.avg_pool{rank}d", (x,), (out,), attributes)
    w.made(out)


def _global_pool(w: Writer, layer: Layer) -> None:
    x = w.source(layer)
    out = w.like(layer, FIRST)
    dims = list(range(2, len(x.shape)))
    w.call("aten.mean", (x,), (out,), {"dim": dims, "keepdim": bool(layer.sides)})
    w.made(out)


def _shuffle(w: Writer, layer: Layer) -> None:
    """Channels seen as a matrix, turned and copied; the copy is in channels-first order."""
    x, shape = w.source(layer), w.shape(layer)
    turned = w.view(x, shape, "strided")
    out = w.like(layer, FIRST)
    w.call("aten.clone", (turned,), (out,), {"memory_format": FIRST})
    w.made(out)


def _gather(w: Writer, layer: Layer) -> None:
    x = w.source(layer)
    index = w.tensor(f"{layer.name}.index", (layer.channels,), role="buffer", dtype="int64")
    out = w.like(layer, FIRST)
    w.call("aten.index_select", (x, index), (out,), {"dim": 1})
    w.made(out)


def _pixel_shuffle(w: Writer, layer: Layer) -> None:
    x = w.source(layer)
    factor = layer.sides[0] // x.shape[2]
    out = w.like(layer, FIRST)
    w.call("aten.pixel_shuffle", (x,), (out,), {"upscale_factor": factor})
    w.made(out)


_LAYERS: Final = {
    "input": _input, "conv": _conv, "linear": _linear, "norm": _norm, "act": _act, "add": _add,
    "mul": _mul, "scale": _scale, "concat": _concat, "slice": _slice, "max_pool": _pool,
    "avg_pool": _pool, "global_pool": _global_pool, "shuffle": _shuffle, "gather": _gather,
    "pixel_shuffle": _pixel_shuffle,
}  # fmt: skip
