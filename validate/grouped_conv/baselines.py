"""What a user of PyTorch can do today. Every function returns one callable per input set.

Loops get their inputs split (and gathered) beforehand and leave their outputs apart, which spares
them the slicing, gathering and concatenation that a network would add: they are lower bounds of
what a user sees.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from validate.grouped_conv.layer import Layer

Calls = list[Callable[[], object]]
LAST = torch.channels_last


def _options(layer: Layer) -> dict[str, int]:
    conv = layer.conv
    return {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}


def _device_weights(layer: Layer) -> list[torch.Tensor]:
    return [w.to(layer.packed.device) for w in layer.weights]


def grouped(layer: Layer, inputs: list[torch.Tensor], *, nhwc: bool) -> Calls:
    """``F.conv2d(groups=g)``, equal groups only."""
    layout = LAST if nhwc else torch.contiguous_format
    weight = torch.cat(_device_weights(layer)).contiguous(memory_format=layout)
    images = [x.permute(0, 3, 1, 2).contiguous(memory_format=layout) for x in inputs]
    options = _options(layer)
    groups = len(layer.conv.groups)
    return [lambda x=x: F.conv2d(x, weight, groups=groups, **options) for x in images]


def padded(layer: Layer, inputs: list[torch.Tensor], *, nhwc: bool) -> Calls:
    """Every group padded with zeros to the widest one, then ``F.conv2d(groups=g)``."""
    conv = layer.conv
    layout = LAST if nhwc else torch.contiguous_format
    wide, tall = int(conv.inputs.max()), int(conv.outputs.max())
    count, k = len(conv.groups), conv.kernel
    device = layer.packed.device
    weight = torch.zeros(count * tall, wide, k, k, device=device, dtype=layer.packed.dtype)
    for index, w in enumerate(_device_weights(layer)):
        weight[index * tall : index * tall + w.shape[0], : w.shape[1]] = w
    weight = weight.contiguous(memory_format=layout)
    images = []
    for x in inputs:
        image = torch.zeros(
            conv.batch, count * wide, conv.height, conv.width, device=device, dtype=x.dtype
        )
        nchw = x.permute(0, 3, 1, 2)
        for index, group in enumerate(conv.groups):
            chosen = nchw[:, torch.tensor(group.channels, device=device)]
            image[:, index * wide : index * wide + len(group.channels)] = chosen
        images.append(image.contiguous(memory_format=layout))
    options = _options(layer)
    return [lambda x=x: F.conv2d(x, weight, groups=count, **options) for x in images]


def dense(layer: Layer, inputs: list[torch.Tensor]) -> Calls:
    """One dense convolution whose weights are zero outside the groups."""
    conv = layer.conv
    device, k = layer.packed.device, conv.kernel
    shape = (conv.out_channels, conv.in_channels, k, k)
    weight = torch.zeros(shape, device=device, dtype=layer.packed.dtype)
    at = 0
    for group, w in zip(conv.groups, _device_weights(layer), strict=True):
        weight[at : at + group.outputs, torch.tensor(group.channels, device=device)] = w
        at += group.outputs
    weight = weight.contiguous(memory_format=LAST)
    images = [x.permute(0, 3, 1, 2) for x in inputs]
    options = _options(layer)
    return [lambda x=x: F.conv2d(x, weight, **options) for x in images]


def _split(layer: Layer, inputs: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    device = layer.packed.device
    return [
        [
            x.permute(0, 3, 1, 2)[:, torch.tensor(group.channels, device=device)].contiguous(
                memory_format=LAST
            )
            for group in layer.conv.groups
        ]
        for x in inputs
    ]


def loop(layer: Layer, inputs: list[torch.Tensor]) -> Calls:
    """One convolution a group, one after another in one stream."""
    weights = [w.contiguous(memory_format=LAST) for w in _device_weights(layer)]
    options = _options(layer)

    def call(parts: list[torch.Tensor]) -> list[torch.Tensor]:
        return [F.conv2d(x, w, **options) for x, w in zip(parts, weights, strict=True)]

    return [lambda parts=parts: call(parts) for parts in _split(layer, inputs)]


def streams(
    layer: Layer, inputs: list[torch.Tensor], width: int, order: list[int] | None = None
) -> Calls:
    """One convolution a group, dealt to ``width`` streams that fork and join."""
    weights = [w.contiguous(memory_format=LAST) for w in _device_weights(layer)]
    options = _options(layer)
    sides = [torch.cuda.Stream() for _ in range(width)]
    turn = list(range(len(weights))) if order is None else order

    def call(parts: list[torch.Tensor]) -> list[object]:
        here = torch.cuda.current_stream()
        for side in sides:
            side.wait_stream(here)
        made: list[object] = [None] * len(turn)
        for place, group in enumerate(turn):
            with torch.cuda.stream(sides[place % width]):
                made[group] = F.conv2d(parts[group], weights[group], **options)
        for side in sides:
            here.wait_stream(side)
        return made

    return [lambda parts=parts: call(parts) for parts in _split(layer, inputs)]
