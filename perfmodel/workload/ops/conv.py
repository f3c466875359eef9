"""Convolutions in two and three dimensions, forward and both gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from perfmodel.errors import WorkloadError
from perfmodel.workload.dtype import output_dtype
from perfmodel.workload.ops.base import Count, Op, Size, product, storage

DIRECTIONS = ("fwd", "dgrad", "wgrad")


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a convolution: sizes of the input, the kernel and its steps."""

    length: Size
    kernel: Size
    stride: Size
    before: Size
    after: Size
    dilation: Size

    @property
    def reach(self) -> Size:
        """Inputs between the first tap and the last, both counted."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def outputs(self) -> Size:
        """Outputs: ``(length + before + after - reach) // stride + 1``."""
        return (self.length + self.before + self.after - self.reach) // self.stride + 1


class _Conv(Op):
    """What convolutions of any number of axes share; a subclass has the sizes and the axes."""

    __slots__ = ()

    in_place: ClassVar[bool] = False

    n: Size
    c_in: Size
    c_out: Size
    groups: Size
    direction: str
    dtype: str

    def __post_init__(self) -> None:
        Op.__post_init__(self)
        divides = (self.c_in % self.groups == 0) & (self.c_out % self.groups == 0)
        if not np.all(divides):
            raise WorkloadError(
                f"{self.family}: groups",
                self.groups,
                f"a divisor of c_in ({self.c_in}) and c_out ({self.c_out})",
                repair="choose groups that divide both channel counts",
            )
        for axis in self.axes:
            if not np.all(axis.length + axis.before + axis.after >= axis.reach):
                raise WorkloadError(
                    f"{self.family}: kernel",
                    axis.kernel,
                    f"at most the padded input ({axis.length} + {axis.before} + {axis.after}, "
                    f"taps {axis.dilation} apart)",
                    repair="enlarge the input or the padding, or take a smaller kernel",
                )

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes that the kernel moves along."""
        raise NotImplementedError

    @property
    def taps(self) -> Count:
        """Positions of the kernel."""
        return product(*(axis.kernel for axis in self.axes))

    @property
    def input_elements(self) -> Count:
        """Elements of the input tensor."""
        return product(self.n, self.c_in, *(axis.length for axis in self.axes))

    @property
    def weight_elements(self) -> Count:
        """Elements of the filter bank."""
        return product(self.c_out, self.c_in // self.groups) * self.taps

    @property
    def output_elements(self) -> Count:
        """Elements of the output tensor."""
        return product(self.n, self.c_out, *(axis.outputs for axis in self.axes))

    @property
    def flops(self) -> Count:
        return 2 * self.output_elements * product(self.c_in // self.groups) * self.taps

    @property
    def bytes_read(self) -> Count:
        operands = {
            "fwd": (self.input_elements, self.weight_elements),
            "dgrad": (self.output_elements, self.weight_elements),
            "wgrad": (self.input_elements, self.output_elements),
        }[self.direction]
        return storage(self.dtype, operands[0] + operands[1])

    @property
    def bytes_written(self) -> Count:
        result = {
            "fwd": self.output_elements,
            "dgrad": self.input_elements,
            "wgrad": self.weight_elements,
        }[self.direction]
        return storage(output_dtype(self.dtype), result)


@dataclass(frozen=True, slots=True)
class Conv2d(_Conv):
    """Convolution of an n x c_in x h x w tensor; square unless the sizes ending in ``_w`` say more.

    Parameters
    ----------
    n, c_in, h, w, c_out : int or array
        Images, channels and sides of the input, channels of the output.
    kernel, stride, padding : int or array
        Of the rows; of the columns too, unless ``kernel_w``, ``stride_w``, ``padding_w`` are given.
        Padding stands on both sides.
    groups : int or array
        Groups of channels, each convolved on its own.
    dilation, dilation_w : int or array, optional
        Distance of neighbouring taps; 1 if left out, ``dilation_w`` as ``dilation``.
    padding_end, padding_end_w : int or array, optional
        Padding below and to the right, where it differs from that above and to the left; the
        right takes ``padding_end`` if neither it nor ``padding_w`` is given.

    Notes
    -----
    FLOPs are the usual dense count ``2 n h_out w_out c_out (c_in / groups) kernel kernel_w``,
    products with padding zeros included, and the same in all three directions.
    Bytes: ``fwd`` reads input and weight, writes output; ``dgrad`` reads output gradient and
    weight, writes input gradient; ``wgrad`` reads input and output gradient, writes weight
    gradient. A transposed convolution is a ``dgrad``: :func:`transposed`.
    """

    family: ClassVar[str] = "conv2d"
    may_be_zero: ClassVar[frozenset[str]] = frozenset(
        {"padding", "padding_w", "padding_end", "padding_end_w"}
    )
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
    kernel_w: Size | None = None
    stride_w: Size | None = None
    padding_w: Size | None = None
    dilation: Size | None = None
    dilation_w: Size | None = None
    padding_end: Size | None = None
    padding_end_w: Size | None = None

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Rows and columns."""
        dilation = _first(self.dilation, 1)
        across = _first(self.padding_w, self.padding)
        below = _first(self.padding_end, self.padding)
        right = _first(self.padding_end_w, below if self.padding_w is None else across)
        return (
            Axis(self.h, self.kernel, self.stride, self.padding, below, dilation),
            Axis(
                self.w,
                _first(self.kernel_w, self.kernel),
                _first(self.stride_w, self.stride),
                across,
                right,
                _first(self.dilation_w, dilation),
            ),
        )

    @property
    def h_out(self) -> Size:
        """Output rows."""
        return self.axes[0].outputs

    @property
    def w_out(self) -> Size:
        """Output columns."""
        return self.axes[1].outputs


@dataclass(frozen=True, slots=True)
class Conv3d(_Conv):
    """Convolution of an n x c_in x d x h x w tensor; counted as :class:`Conv2d`.

    Cubic unless ``kernel_h``, ``kernel_w`` and the like say more; ``kernel``, ``stride`` and
    ``padding`` are then those of the depth, and an axis without its own takes those of the axis
    before. ``dilation`` holds for all three. Layout ``nhwc`` is channels last, ``n d h w c``.
    """

    family: ClassVar[str] = "conv3d"
    may_be_zero: ClassVar[frozenset[str]] = frozenset({"padding", "padding_h", "padding_w"})
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "direction": DIRECTIONS,
        "layout": ("nhwc", "nchw"),
    }

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
    kernel_h: Size | None = None
    kernel_w: Size | None = None
    stride_h: Size | None = None
    stride_w: Size | None = None
    padding_h: Size | None = None
    padding_w: Size | None = None
    dilation: Size | None = None
    layout: str = "nchw"

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Depth, rows and columns."""
        kernels = _along(self.kernel, self.kernel_h, self.kernel_w)
        strides = _along(self.stride, self.stride_h, self.stride_w)
        paddings = _along(self.padding, self.padding_h, self.padding_w)
        dilation = _first(self.dilation, 1)
        return tuple(
            Axis(length, kernel, stride, padding, padding, dilation)
            for length, kernel, stride, padding in zip(
                (self.d, self.h, self.w), kernels, strides, paddings, strict=True
            )
        )


def transposed(
    n: Size,
    c_in: Size,
    h: Size,
    w: Size,
    c_out: Size,
    kernel: Size,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: Size = 1,
    *,
    kernel_w: Size | None = None,
    stride_w: Size | None = None,
    padding_w: Size | None = None,
    output_padding_w: Size | None = None,
    dilation: Size | None = None,
    layout: str = "nhwc",
    direction: str = "fwd",
    dtype: str = "bf16",
) -> Conv2d:
    """The convolution whose gradient a transposed convolution of an n x c_in x h x w tensor is.

    Sizes as frameworks give them: ``c_in`` and the sides of what it reads, ``c_out`` of what it
    makes, whose rows are ``(h - 1) stride - 2 padding + dilation (kernel - 1) + 1 +
    output_padding``. Its forward pass is the input gradient of a convolution that goes the other
    way, its input gradient that convolution's forward pass.

    Raises
    ------
    WorkloadError
        If the output padding is not below the step (the convolution back would be another one).

    Examples
    --------
    >>> op = transposed(1, 64, 14, 14, 32, kernel=4, stride=2, padding=1)
    >>> op.direction, op.h, op.h_out
    ('dgrad', 28, 14)
    """
    far = _first(dilation, 1)
    axes = (
        (h, kernel, stride, padding, output_padding),
        (
            w,
            _first(kernel_w, kernel),
            _first(stride_w, stride),
            _first(padding_w, padding),
            _first(output_padding_w, output_padding),
        ),
    )
    sides = []
    for length, side, step, pad, extra in axes:
        if not np.all(extra < step):
            raise WorkloadError(
                "transposed convolution: output_padding",
                extra,
                f"below the step ({step})",
                repair="lower output_padding, or raise the stride",
            )
        sides.append((length - 1) * step - 2 * pad + far * (side - 1) + 1 + extra)
    return Conv2d(
        n, c_out, sides[0], sides[1], c_in, kernel, stride, padding, groups, layout,
        {"fwd": "dgrad", "dgrad": "fwd"}.get(direction, direction), dtype, kernel_w, stride_w,
        padding_w, dilation,
    )  # fmt: skip


def _first(value: Size | None, otherwise: Size) -> Size:
    return otherwise if value is None else value


def _along(first: Size, second: Size | None, third: Size | None) -> tuple[Size, Size, Size]:
    middle = _first(second, first)
    return first, middle, _first(third, middle)
