"""Pooling and resampling: windows over an image, and what their addresses cost.

These kernels of PyTorch work out an address for every output, or run few blocks for long; neither
the cache nor more bandwidth makes them faster. Constants are operations an output, as a device
runs them in element-wise kernels, from kernels profiled on an H100.
"""

from __future__ import annotations

from typing import Final

from perfmodel.workload.lowering.eager.reduction import bicubic_turns, taps
from perfmodel.workload.lowering.site import Site, Work, item_bytes, numel
from perfmodel.workload.lowering.stream import stream
from perfmodel.workload.program import Tensor

_AVERAGE: Final = 160.0  # divisions of 64-bit indices, whatever the window
_AVERAGE_FIRST: Final = 78.0  # channels first: 11.4 ps
_BILINEAR: Final = 65.0
_NEAREST: Final = 40.0
_LINE: Final = 5e5  # what the device could do in a turn of a thread: 73 ns
_THREADS: Final = 1024
_FULL: Final = 0.71  # blocks of max-pooling a unit, from which on more of them take longer
_OUTPUT, _TAP = 4.6e6, 0.7e6  # operations that the device could do while a thread finds one output


def pool(site: Site) -> Work:
    """Windows over an image, each read in full: what overlaps comes from the cache."""
    out = site.outputs[0]
    elements = numel(out.shape)
    if elements == 0:
        return Work("reduction")
    inside = site.inputs[:1] if "upsample" in site.name else site.inputs
    read = sum(site.bytes(tensor) for tensor in inside)
    written = sum(site.bytes(tensor) for tensor in site.outputs)
    last = site.inputs[0].layout == "channels_last" and len(out.shape) == 4
    each = float(taps(site))
    if site.name == "avg_pool2d":
        each = _AVERAGE if last else _AVERAGE_FIRST
    elif last and "nearest2d" in site.name:
        each = _NEAREST
    elif last and "bilinear" in site.name:
        each = _BILINEAR
    elif site.attribute("kernel_size"):
        read = max(read, elements * taps(site) * item_bytes(site.inputs[0].dtype))
    flops = elements * each
    if last and site.name == "max_pool2d_with_indices":
        flops = max(flops, _blocks_of_windows(out, taps(site), site.device.units))
    if site.name == "upsample_linear1d":  # a thread a place goes through all images and channels
        turns = numel(out.shape[:-1]) * -(-out.shape[-1] // (site.device.units * 2048))
        flops = max(flops, _LINE * turns)
    flops = max(flops, bicubic_turns(site, out))
    op = stream(site.name, elements, read, written, flops)
    return Work("reduction", (site.kernel("pool", op, reads=inside),))


def _blocks_of_windows(out: Tensor, window: int, units: int) -> float:
    """What the device could do while each thread goes through its outputs, one after another."""
    batch, channels, height, width = out.shape
    blocks, outputs = max_pool_launch(batch, channels, height, width)
    return outputs * (_OUTPUT + _TAP * window) * max(1.0, blocks / (_FULL * units))


def max_pool_launch(batch: int, channels: int, height: int, width: int) -> tuple[int, int]:
    """Blocks of PyTorch's channels-last max-pooling, and outputs that a thread goes through.

    As in ``ATen/native/cuda/DilatedMaxPool2d.cu``; sizes are those of the output.
    """
    across = min(_power(channels), 32)
    wide = min(_power(width), _THREADS // across)
    high = min(_power(height), _THREADS // across // wide)
    across = min(_power(channels), _THREADS // (wide * high))
    strides = -(-channels // (across * 4))
    columns, rows = -(-width // (wide * 2)), -(-height // (high * 2))
    mine = -(-channels // (across * strides))
    outputs = mine * -(-width // (columns * wide)) * -(-height // (rows * high))
    return batch * strides * columns * rows, outputs


def _power(value: int) -> int:
    """The largest power of two that is not above a value."""
    return 1 << (max(1, value).bit_length() - 1)
