"""Classes of host calls that have a cost of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from perfmodel.workload.lowering.kernel import HOST_CLASSES, Kernel
from perfmodel.workload.op import Conv2d

HOST_KINDS: Final = (
    *HOST_CLASSES,
    "batch_norm",
    "conv_backward",
    "conv_grouped",
    "conv_beside",
    "gemm_grouped",
    "number",
    "copied",
    "attention_token",
    "extern_gemm",
    "extern_addmm",
    "extern_conv",
    "extern_conv_grouped",
    "extern_conv_backward",
    "extern_attention",
    "extern_attention_token",
)
"""What a call is paid as: the lowering's classes, and parts of them with costs of their own."""


CAST: Final = "_to_copy"
"""In a backward pass no Python calls it, as where autocast does."""
COPIES: Final = (CAST, "clone", "contiguous")
COPIED_FIRST: Final = ("masked_fill: copy", "index_put: copy")
SORTED: Final = 8
"""Sums into places by sorted indices: remainders, strides, positions, two copies of the indices, a
quotient and the values in order, before the sort (``index_put_with_sort_kernel``)."""
REPEATED: Final = 6
"""A repetition looks at its result and at its operand once an axis: 34 dispatches, most of them
views; on a CPU it takes as long as seven additions."""
HOLDING: Final = (
    "max_pool2d_with_indices", "index", "embedding", "gather", "index_select",
    "arange", "full", "zeros", "ones",
)  # fmt: skip
"""Of one kernel, with an operator inside: look-ups look at their table, tensors of numbers are
taken empty and filled."""
IMAGE_CHANNELS: Final = 4
EVEN: Final = 8
TURNED: Final = 3
PADDED: Final = {(False, False): 0, (True, False): 4, (False, True): 3, (True, True): 5}
"""By whether the channels read and written are uneven: copies and the fills before them."""
BINARY: Final = ("add", "sub", "rsub", "mul", "div", "pow", "eq", "ne", "lt", "le", "gt", "ge")
"""With one tensor among their operands, the other is a number."""


def paid_as(kind: str, kernels: Sequence[Kernel]) -> str:
    """Of :data:`HOST_KINDS`: the class of a call, by the kernels that it launches.

    A batch norm has much Python around it; a convolution's backward is one call of the library for
    each gradient; groups of channels are copied or taken one after another by the library; a
    product of groups prepares its problems on the device. A number among the operands becomes a
    tensor of its own first; a copy that is no part of another operator takes its memory in one
    dispatch and fills it in another. Of what a generated wrapper calls, products write into buffers
    of the wrapper, those with an addend by way of cuBLASLt, which is asked for an algorithm each
    time; the others go through PyTorch's dispatcher.
    """
    first = kernels[0].name if kernels else ""
    if kind == "extern":
        return _extern(kernels)
    parts = {
        "batch_norm": kind == "norm" and "batch_norm" in first,
        "conv_backward": any(one.name.startswith("convolution_backward") for one in kernels),
        "conv_grouped": kind == "conv" and any(_grouped(op) for one in kernels for op in one.ops),
        "gemm_grouped": kind == "gemm" and "_grouped_mm" in first,
        "cast": kind == "copy" and first == CAST and kernels[0].phase == "backward",
        "copied": kind == "copy" and first in COPIES,
        "attention_token": kind == "attention" and _token(kernels),
        "number": kind == "pointwise" and first in BINARY and len(kernels[0].reads) == 1,
    }
    return next((name for name, fits in parts.items() if fits), kind)


def _extern(kernels: Sequence[Kernel]) -> str:
    """What a library call of a generated wrapper is paid as."""
    kinds = {kernel.kind for kernel in kernels}
    if "conv" in kinds:
        if any(kernel.phase == "backward" for kernel in kernels):
            return "extern_conv_backward"
        grouped = any(_grouped(op) for kernel in kernels for op in kernel.ops)
        return "extern_conv_grouped" if grouped else "extern_conv"
    if "attention" in kinds:
        return "extern_attention_token" if _token(kernels) else "extern_attention"
    if "gemm" in kinds:
        return "extern_addmm" if kernels[0].name == "addmm" else "extern_gemm"
    return "extern"


def beside(kind: str, kernels: Sequence[Kernel]) -> tuple[int, int]:
    """Calls that a convolution makes itself, to add a bias or to copy an image; their launches."""
    if kind != "conv":
        return 0, 0
    made = [kernel.launches for kernel in kernels if kernel.kind in ("pointwise", "copy")]
    return len(made), sum(made)


def inside(kernels: Sequence[Kernel]) -> int:
    """Operators that the one of a call calls itself, in C++: to copy operands, to take memory.

    A layer norm of an operand that is not contiguous copies it first; a fill or a write in place of
    none copies all of it; a group norm takes three tensors beside; a pooling operator of the
    functional interface is one in another, a look-up and a tensor of numbers hold one; a repetition
    makes views of every axis. Timed between other calls on an H100's host, they take 2 to 5 times
    an operator of one kernel.
    """
    names = [one.name for one in kernels]
    if not names:
        return 0
    if names[0].startswith("native_group_norm:"):
        return 3
    if any(name.startswith("index_put") and name.endswith(": sort") for name in names):
        return SORTED
    if any(getattr(op, "chain", "") == "repeat" for op in kernels[0].ops):
        return REPEATED
    copied = len(names) > 1 and (names[0] == "contiguous" or names[0] in COPIED_FIRST)
    return int(copied or names[0].split(":")[0] in HOLDING)


def library_copies(kernels: Sequence[Kernel]) -> int:
    """Kernels and fills that cuDNN launches around those of a call's half-precision convolutions.

    By the profiles of 40 networks on an H100: channels last, dense kernels of several taps whose
    channels are no multiple of 16 bytes are padded (maps and weights, each filled first and copied;
    the result is cut out), others not; channels first, several taps turn maps, weights and the
    result, unless they read four channels or less. One tap is a product either way.
    """
    return sum(_copies(op) for one in kernels for op in one.ops if isinstance(op, Conv2d))


def _copies(op: Conv2d) -> int:
    taps = op.kernel * (op.kernel if op.kernel_w is None else op.kernel_w)
    if op.groups != 1 or taps == 1 or op.dtype not in ("bf16", "fp16"):
        return 0
    if op.c_in <= IMAGE_CHANNELS:
        return 0
    if op.layout == "nchw":
        return TURNED
    return PADDED[bool(op.c_in % EVEN), bool(op.c_out % EVEN)]


def _token(kernels: Sequence[Kernel]) -> bool:
    """Attention of one query a text, which goes another way through the library."""
    return any(getattr(op, "q_len", 0) == 1 for kernel in kernels for op in kernel.ops)


def _grouped(op: object) -> bool:
    """A convolution of several groups with several channels each."""
    groups = getattr(op, "groups", 1)
    return 1 < groups < getattr(op, "c_in", groups)
