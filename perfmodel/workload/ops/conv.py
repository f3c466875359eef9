"""Convolutions in two and three dimensions, forward and both gradients."""

# ruff: noqa: D102 - flops and bytes are documented once, on Op
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from perfmodel.errors import WorkloadError
from perfmodel.workload.dtype import output_dtype
from perfmodel.workload.ops.base import Count, Op, Size, product, storage

DIRECTIONS = ("fwd", "dgrad", "wgrad")


def output_length(length: Size, kernel: Size, stride: Size, padding: Size) -> Size:
    """Outputs along one axis: ``(length + 2 padding - kernel) // stride + 1``."""
    return (length + 2 * padding - kernel) // stride + 1


@dataclass(frozen=True, slots=True)
class Conv2d(Op):
    """Square convolution of an n x c_in x h x w tensor.

    Notes
    -----
    FLOPs are the usual dense count ``2 n h_out w_out c_out (c_in / groups) kernel**2``, products
    with padding zeros included, and the same in all three directions.
    Bytes: ``fwd`` reads input and weight, writes output; ``dgrad`` reads output gradient and
    weight, writes input gradient; ``wgrad`` reads input and output gradient, writes weight
    gradient.
    """

    family: ClassVar[str] = "conv2d"
    may_be_zero: ClassVar[frozenset[str]] = frozenset({"padding"})
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "layout": ("nhwc", "nchw"),
        "direction": DIRECTIONS,
    }

    n: Size
    c_in: Size
    h: Size
    w: Size
    c_out: Size
    kernel: Size
    stride: Size = 1
    padding: Size = 0
    groups: Size = 1
    layout: str = "nhwc"
    direction: str = "fwd"
    dtype: str = "bf16"

    def __post_init__(self) -> None:
        Op.__post_init__(self)
        _check_geometry(self)

    @property
    def h_out(self) -> Size:
        """Output rows."""
        return output_length(self.h, self.kernel, self.stride, self.padding)

    @property
    def w_out(self) -> Size:
        """Output columns."""
        return output_length(self.w, self.kernel, self.stride, self.padding)

    @property
    def input_elements(self) -> Count:
        """Elements of the input tensor."""
        return product(self.n, self.c_in, self.h, self.w)

    @property
    def weight_elements(self) -> Count:
        """Elements of the filter bank."""
        return product(self.c_out, self.c_in // self.groups, self.kernel, self.kernel)

    @property
    def output_elements(self) -> Count:
        """Elements of the output tensor."""
        return product(self.n, self.c_out, self.h_out, self.w_out)

    @property
    def flops(self) -> Count:
        return (
            2 * self.output_elements * product(self.c_in // self.groups, self.kernel, self.kernel)
        )

    @property
    def bytes_read(self) -> Count:
        return _bytes_read(self)

    @property
    def bytes_written(self) -> Count:
        return _bytes_written(self)


@dataclass(frozen=True, slots=True)
class Conv3d(Op):
    """Cubic convolution of an n x c_in x d x h x w tensor; counted as :class:`Conv2d`."""

    family: ClassVar[str] = "conv3d"
    may_be_zero: ClassVar[frozenset[str]] = frozenset({"padding"})
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"direction": DIRECTIONS}

    n: Size
    c_in: Size
    d: Size
    h: Size
    w: Size
    c_out: Size
    kernel: Size
    stride: Size = 1
    padding: Size = 0
    groups: Size = 1
    direction: str = "fwd"
    dtype: str = "bf16"

    def __post_init__(self) -> None:
        Op.__post_init__(self)
        _check_geometry(self)

    @property
    def input_elements(self) -> Count:
        """Elements of the input tensor."""
        return product(self.n, self.c_in, self.d, self.h, self.w)

    @property
    def weight_elements(self) -> Count:
        """Elements of the filter bank."""
        k = self.kernel
        return product(self.c_out, self.c_in // self.groups, k, k, k)

    @property
    def output_elements(self) -> Count:
        """Elements of the output tensor."""
        lengths = (
            output_length(length, self.kernel, self.stride, self.padding)
            for length in (self.d, self.h, self.w)
        )
        return product(self.n, self.c_out, *lengths)

    @property
    def flops(self) -> Count:
        k = self.kernel
        return 2 * self.output_elements * product(self.c_in // self.groups, k, k, k)

    @property
    def bytes_read(self) -> Count:
        return _bytes_read(self)

    @property
    def bytes_written(self) -> Count:
        return _bytes_written(self)


def _check_geometry(op: Conv2d | Conv3d) -> None:
    divides = (op.c_in % op.groups == 0) & (op.c_out % op.groups == 0)
    if not np.all(divides):
        raise WorkloadError(
            f"{op.family}: groups",
            op.groups,
            f"a divisor of c_in ({op.c_in}) and c_out ({op.c_out})",
            repair="choose groups that divide both channel counts",
        )
    sides = (op.h, op.w) if isinstance(op, Conv2d) else (op.d, op.h, op.w)
    for side in sides:
        if not np.all(side + 2 * op.padding >= op.kernel):
            raise WorkloadError(
                f"{op.family}: kernel",
                op.kernel,
                f"at most the padded input ({side} + 2 x {op.padding})",
                repair="enlarge the input or the padding, or take a smaller kernel",
            )


def _bytes_read(op: Conv2d | Conv3d) -> Count:
    operands = {
        "fwd": (op.input_elements, op.weight_elements),
        "dgrad": (op.output_elements, op.weight_elements),
        "wgrad": (op.input_elements, op.output_elements),
    }[op.direction]
    return storage(op.dtype, operands[0] + operands[1])


def _bytes_written(op: Conv2d | Conv3d) -> Count:
    result = {
        "fwd": op.output_elements,
        "dgrad": op.input_elements,
        "wgrad": op.weight_elements,
    }[op.direction]
    return storage(output_dtype(op.dtype), result)
