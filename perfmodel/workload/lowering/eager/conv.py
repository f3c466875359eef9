"""Convolutions: cuDNN calls, with the bias and the gradients as PyTorch splits them.

A convolution with half-precision operands in NCHW order includes cuDNN's conversions: the operator
is priced with the layout of its tensors, conversions are not added. The bias of a cuDNN
convolution is a kernel of its own (ATen/native/cudnn/ConvShared.cpp, ``cudnn_convolution`` takes
none); PyTorch's own depth-wise kernel adds it as it goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from perfmodel.workload.lowering.eager.columns import column_work
from perfmodel.workload.lowering.eager.conv_scratch import conv_scratch
from perfmodel.workload.lowering.kernel import Kernel, Traffic
from perfmodel.workload.lowering.site import Site, Work, item_bytes, numel
from perfmodel.workload.lowering.stream import OFFSETS, in_turn, stream, turning
from perfmodel.workload.op import Conv2d, Conv3d, Op
from perfmodel.workload.program import Tensor

WIDEST: Final = 64
"""Taps along an axis of a filter that tensor cores multiply in groups of any size."""
GROUPS_OF_ANY_FILTER: Final = (16, 32, 64)
"""Channels a group for which they multiply wider ones, too."""


def convolution(site: Site) -> Work:
    """The library kernel, and the bias where cuDNN leaves it to a kernel of its own."""
    x, weight, out = site.inputs[0], site.inputs[1], site.outputs[0]
    bias = site.inputs[2] if len(site.inputs) > 2 else None
    if 0 in x.shape or 0 in out.shape:
        return Work("conv")
    op = conv_op(site, x, weight, out, "fwd")
    if isinstance(op, Conv2d) and _too_wide(weight):
        op = replace(op, dtype="fp32")
    native = is_native_depthwise(site, x, weight, out)
    others = (weight,) if bias is None or not native else (weight, bias)
    order = layout(x, weight, out)
    kernels, scratch = reordered(site, x, order)
    operands = others if scratch else (x, *others)
    kernels.append(site.kernel("conv", op, reads=operands, extra_reads=scratch, writes=(out,)))
    if bias is not None and not native:
        kernels.append(bias_kernel(site, out, bias, "conv"))
    return Work("conv", tuple(kernels), scratch + _workspace(site, x, weight, out, order))


def _too_wide(weight: Tensor) -> bool:
    """Whether the library multiplies in fp32, group by group, since the filter is too wide.

    By times and names of kernels of 15 convolutions on an H100 (cuDNN 9.19, half precision): 128
    taps in a row take 1.9 ms with 48 channels a group (positions of wav2vec 2.0), 3.9 with 192 and
    7.4 with 512 and no groups: 10 to 20 TFLOP/s. With 16, 32 or 64, and to 64 taps, it is 0.4 ms
    at most.
    """
    channels = weight.shape[1]
    wide = max(weight.shape[2:]) > WIDEST
    return wide and channels > 1 and channels not in GROUPS_OF_ANY_FILTER


def _workspace(site: Site, x: Tensor, weight: Tensor, out: Tensor, order: str) -> Traffic:
    """The block that cuDNN takes for its copies; PyTorch's own kernels take none."""
    if is_native_depthwise(site, x, weight, out):
        return ()
    rate = conv_dtype(site, x)
    size = conv_scratch(site, x, weight, out, order=order, rate=rate)
    return ((site.temporary(1), size),) if size else ()


def reordered(site: Site, x: Tensor, order: str) -> tuple[list[Kernel], Traffic]:
    """The copy that PyTorch makes of an image in another order than the convolution runs in."""
    wanted = "channels_last" if order == "nhwc" else "contiguous"
    either = x.shape[1] == 1 or numel(x.shape[2:]) == 1 if len(x.shape) > 2 else True
    if x.layout == wanted or (either and x.layout != "strided"):
        return [], ()
    elements = numel(x.shape)
    size = elements * item_bytes(x.dtype)
    scratch = ((site.temporary(), size),)
    copy = stream("copy", elements, size, size, _turning(x, order) * elements)
    kernel = site.kernel(
        "copy", copy, name=f"{site.name}: reorder", reads=(x,), writes=(), extra_writes=scratch,
        host="conv", note="reorders elements",
    )  # fmt: skip
    return [kernel], scratch


def _turning(x: Tensor, order: str) -> float:
    """Operations an element that a copy of an image into the other order takes."""
    channels, places, width = x.shape[1], numel(x.shape[2:]), item_bytes(x.dtype)
    near, far = (channels, places) if order == "nchw" else (places, channels)
    return turning(near * width, far)


def convolution_backward(site: Site) -> Work:
    """Input gradient, weight gradient and bias gradient, as the output mask asks for them."""
    grad, x, weight = site.inputs[:3]
    mask = list(site.attribute("output_mask", (True, True, len(site.outputs) > 2)))
    outputs = iter(site.outputs)
    kernels, scratch = _gathered(site, grad)
    for wanted, direction in zip(mask[:2], ("dgrad", "wgrad"), strict=True):
        if not wanted:
            continue
        out = next(outputs)
        other = weight if direction == "dgrad" else x
        op = conv_op(site, x, weight, grad, direction)
        name = f"{site.name}: {'input' if direction == 'dgrad' else 'weight'}"
        kernels.append(
            site.kernel("conv", op, name=name, reads=(grad, other), writes=(out,), host="conv")
        )
    if len(mask) > 2 and mask[2]:
        out = next(outputs)
        elements = numel(grad.shape)
        work = float(elements)
        if layout(x, weight, grad) == "nhwc":  # down columns
            rows, width = elements // max(1, numel(out.shape)), item_bytes(grad.dtype)
            work = column_work(rows, elements, site.device, width=width)
        op_sum = stream("sum", elements, site.bytes(grad), site.bytes(out), work)
        kernels.append(
            site.kernel(
                "reduction",
                op_sum,
                name=f"{site.name}: bias",
                reads=(grad,),
                writes=(out,),
                host="conv",
            )
        )
    scratch += _workspace(site, x, weight, grad, layout(x, weight, grad))
    return Work("composite" if len(kernels) > 1 else "conv", tuple(kernels), scratch)


def _gathered(site: Site, grad: Tensor) -> tuple[list[Kernel], Traffic]:
    """The copy of a gradient that is a part of a larger one, as behind a concatenation."""
    if grad.layout != "strided":
        return [], ()
    elements = numel(grad.shape)
    size = elements * item_bytes(grad.dtype)
    scratch = ((site.temporary(), size),)
    copy = stream("copy", elements, size, size, OFFSETS * elements)
    kernel = site.kernel(
        "copy", copy, name="convolution: reorder", reads=(grad,), writes=(), extra_writes=scratch,
        host="conv", note="strided reads", turns=in_turn(elements, item_bytes(grad.dtype), False),
    )  # fmt: skip
    return [kernel], scratch


def bias_kernel(site: Site, out: Tensor, bias: Tensor, host: str) -> Kernel:
    """Adds one value a channel in place."""
    size, elements = site.bytes(out), numel(out.shape)
    op = stream("bias", elements, size, size, elements, out.dtype)
    return site.kernel(
        "pointwise", op, name=f"{site.name}: bias", reads=(out, bias), writes=(out,), host=host,
        turns=in_turn(elements, item_bytes(out.dtype), False),
    )  # fmt: skip


def is_native_depthwise(site: Site, x: Tensor, weight: Tensor, out: Tensor) -> bool:
    """Whether PyTorch's own depth-wise kernel runs instead of cuDNN's."""
    groups = int(site.attribute("groups", 1))
    if len(x.shape) not in (3, 4) or groups == 1 or groups != x.shape[1]:
        return False
    return layout(x, weight, out) == "nchw" and x.dtype != "fp16"


def layout(*tensors: Tensor) -> str:
    """The order in which cuDNN runs: channels last if an operand asks for it.

    The result shows it where operands do not: filters of one channel or one tap are in either.
    """
    return "nhwc" if any(t.layout == "channels_last" for t in tensors) else "nchw"


def conv_dtype(site: Site, x: Tensor) -> str:
    """The format of the multiplications."""
    return site.convolution if x.dtype == "fp32" else x.dtype


def conv_op(site: Site, x: Tensor, weight: Tensor, out: Tensor, direction: str) -> Op:
    """The priced convolution; ``out`` is the output or its gradient.

    A transposed convolution is the input gradient of the convolution that maps its output to its
    input, and the other way round.
    """
    rank = len(weight.shape) - 2
    groups = int(site.attribute("groups", 1))
    transposed = bool(site.attribute("transposed", False)) or "transpose" in site.name
    stride = _each(site.attribute("stride", 1), rank)
    padding = _each(site.attribute("padding", 0), rank)
    dilation = _each(site.attribute("dilation", 1), rank)
    kernel = list(weight.shape[2:])
    image, result = x, out
    if transposed:
        image, result = out, x
        direction = {"fwd": "dgrad", "dgrad": "fwd", "wgrad": "wgrad"}[direction]
    batch = image.shape[0] if len(image.shape) == rank + 2 else 1
    c_in, c_out = image.shape[-rank - 1], result.shape[-rank - 1]
    sides = list(image.shape[-rank:])
    _check_sides(sides, result.shape[-rank:], kernel, stride, padding, dilation)
    dtype = conv_dtype(site, x)
    if rank == 3:
        order = layout(x, weight, out)
        return _conv3d(
            batch, c_in, sides, c_out, kernel, stride, padding, dilation, groups, direction, dtype,
            order,
        )  # fmt: skip
    if rank == 1:
        sides, kernel = [1, *sides], [1, *kernel]
        stride, padding, dilation = [1, *stride], [0, *padding], [1, *dilation]
    square = len(set(kernel)) == len(set(stride)) == len(set(padding)) == len(set(dilation)) == 1
    return Conv2d(
        batch, c_in, sides[0], sides[1], c_out, kernel[0], stride[0], padding[0], groups,
        layout(x, weight, out), direction, dtype,
        kernel_w=None if square else kernel[1],
        stride_w=None if square else stride[1],
        padding_w=None if square else padding[1],
        dilation=None if dilation == [1, 1] else dilation[0],
        dilation_w=None if dilation[0] == dilation[1] else dilation[1],
    )  # fmt: skip


def _check_sides(
    sides: Sequence[int],
    after: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> None:
    """Refuse attributes that make another image of the input than the one that is recorded."""
    said = [
        (side + 2 * pad - wide * (taps - 1) - 1) // step + 1
        for side, taps, step, pad, wide in zip(
            sides, kernel, stride, padding, dilation, strict=True
        )
    ]
    if said != list(after):
        raise ValueError(f"its attributes make {said} of {list(sides)}, not {list(after)}")


def _conv3d(
    batch: int,
    c_in: int,
    sides: list[int],
    c_out: int,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    direction: str,
    dtype: str,
    order: str,
) -> Op:
    cubic = len(set(kernel)) == len(set(stride)) == len(set(padding)) == 1
    return Conv3d(
        batch, c_in, sides[0], sides[1], sides[2], c_out, kernel[0], stride[0], padding[0],
        groups, direction, dtype,
        kernel_h=None if cubic else kernel[1],
        kernel_w=None if cubic else kernel[2],
        stride_h=None if cubic else stride[1],
        stride_w=None if cubic else stride[2],
        padding_h=None if cubic else padding[1],
        padding_w=None if cubic else padding[2],
        dilation=None if max(dilation) == 1 else dilation[0],
        layout=order,
    )  # fmt: skip


def _each(value: object, rank: int) -> list[int]:
    """One value an axis; a single one holds for all, ``"same"`` is what keeps a length."""
    if isinstance(value, int):
        return [value] * rank
    if isinstance(value, list | tuple):
        values = [int(item) for item in value]
        return values * rank if len(values) == 1 else values
    return [0] * rank
