r"""What pruning and quantisation take away from a convolution: weights, arithmetic, bytes.

With the filters of a layer as a matrix of :math:`c_o` rows and :math:`k^2 c_i` columns and
:math:`P` output pixels of all images:

==================  ====================  ======================  ===============================
removed             weights               multiply-adds           also
==================  ====================  ======================  ===============================
output channel      :math:`k^2 c_i`       :math:`k^2 c_i P`       the next layer's input channel
input channel       :math:`k^2 c_o`       :math:`k^2 c_o P`       :math:`k^2` rows of the patches
connection          :math:`k^2`           :math:`k^2 P`           nothing, see below
layer               all                   all                     may need a projection instead
==================  ====================  ======================  ===============================

(Course material gives :math:`k^2` weights and :math:`k^2 c_i H W` operations for an output channel;
the weights are those of a single connection, and the pixels are those of the output.)

A removed connection (a filter's two-dimensional slice) leaves holes in a dense matrix: time is
saved only where a whole block of the product becomes empty (time: :mod:`perfmodel.cost.pruning`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from perfmodel.errors import WorkloadError
from perfmodel.workload.dtype import bytes_per_element
from perfmodel.workload.ops.conv import Conv2d

_POINT: Final[dict[str, Any]] = {
    "kernel": 1,
    "stride": 1,
    "padding": 0,
    **dict.fromkeys(
        ("kernel_w", "stride_w", "padding_w", "dilation", "dilation_w", "padding_end",
         "padding_end_w")
    ),
}  # fmt: skip
QUANTISED_BITS: Final = {64: "fp64", 32: "fp32", 16: "fp16", 8: "int8", 4: "int4"}
"""Number formats by their bits."""


@dataclass(frozen=True, slots=True)
class Savings:
    """What a change of a layer takes away; negative is an increase.

    Parameters
    ----------
    weights : int
        Parameters.
    flops : int
        Arithmetic [FLOP].
    bytes_moved : float
        Operands and results across device memory [B].
    """

    weights: int
    flops: int
    bytes_moved: float

    def __add__(self, other: Savings) -> Savings:
        return Savings(
            self.weights + other.weights,
            self.flops + other.flops,
            self.bytes_moved + other.bytes_moved,
        )


def savings(before: Conv2d, after: Conv2d | None) -> Savings:
    """Difference of two layers; ``None`` is a layer that is gone."""
    none = Savings(0, 0, 0.0)
    old, new = (
        none
        if op is None
        else Savings(int(op.weight_elements), int(op.flops), float(op.bytes_moved))
        for op in (before, after)
    )
    return old + Savings(-new.weights, -new.flops, -new.bytes_moved)


def prune_outputs(op: Conv2d, count: int, following: Conv2d | None = None) -> tuple[Conv2d, ...]:
    """The layer without ``count`` output channels, and the layer behind it without those inputs.

    Raises
    ------
    WorkloadError
        If not one channel a group would be left, or the layers do not follow one another.
    """
    left = _left(op, int(op.c_out), count, "output channels")
    layer = replace(op, c_out=left)
    if following is None:
        return (layer,)
    if following.c_in != op.c_out:
        raise WorkloadError(
            "pruning: following layer",
            following.c_in,
            f"as many input channels as the pruned layer has outputs ({op.c_out})",
            repair="give the layer that reads the pruned one",
        )
    return layer, prune_inputs(following, count)


def prune_inputs(op: Conv2d, count: int) -> Conv2d:
    """The layer without ``count`` input channels; a depth-wise layer loses its outputs with them.

    Raises
    ------
    WorkloadError
        If not one channel a group would be left.
    """
    if op.groups == op.c_in and op.c_in == op.c_out:
        left = _left(replace(op, groups=1), int(op.c_in), count, "channels")
        return replace(op, c_in=left, c_out=left, groups=left)
    return replace(op, c_in=_left(op, int(op.c_in), count, "input channels"))


def prune_connections(op: Conv2d, count: int) -> Savings:
    """Weights and arithmetic of ``count`` connections, each one tap window of one filter.

    Bytes saved are those of the weights alone: maps are read and written as before.
    """
    total = int(op.c_out) * int(op.c_in) // int(op.groups)
    if not 0 <= count <= total:
        raise WorkloadError(
            "pruning: connections",
            count,
            f"from 0 to {total}",
            repair="remove fewer connections",
        )
    taps = int(op.taps)
    pixels = int(op.output_elements) // int(op.c_out)
    return Savings(
        taps * count, 2 * taps * pixels * count, taps * count * bytes_per_element(op.dtype)
    )


def separable(op: Conv2d) -> tuple[Conv2d, Conv2d]:
    """A depth-wise and a pointwise layer in place of a dense one.

    Raises
    ------
    WorkloadError
        If the layer has groups already.
    """
    if op.groups != 1:
        raise WorkloadError(
            "separable: groups",
            op.groups,
            "1, a dense convolution",
            repair="give the dense layer that it shall replace",
        )
    depthwise = replace(op, c_out=op.c_in, groups=op.c_in)
    pointwise = replace(op, h=op.h_out, w=op.w_out, **_POINT)
    return depthwise, pointwise


def separable_ratio(op: Conv2d) -> float:
    """Arithmetic of the separable pair against the dense layer: ``1 / c_out + 1 / k**2``."""
    return 1.0 / int(op.c_out) + 1.0 / int(op.taps)


def quantised(op: Conv2d, bits: int) -> Conv2d:
    """The layer with operands of another width.

    Raises
    ------
    WorkloadError
        If no format of that width is known.
    """
    if bits not in QUANTISED_BITS:
        raise WorkloadError(
            "quantisation: bits",
            bits,
            ", ".join(map(str, QUANTISED_BITS)),
            repair="use one of the widths",
        )
    return replace(op, dtype=QUANTISED_BITS[bits])


def _left(op: Conv2d, channels: int, count: int, what: str) -> int:
    left = channels - count
    if count < 0 or left < op.groups or left % int(op.groups):
        raise WorkloadError(
            f"pruning: {what}",
            count,
            f"a multiple of {op.groups} that leaves at least {op.groups} of {channels}",
            repair="remove the same number of channels from every group",
        )
    return left
