"""One call of a convolution library on the same layer: what a schedule has to beat.

Two calls compute any layer without moving a channel: the dense convolution whose weights are zero
outside the groups, and, for equal groups side by side, the grouped one. Both are priced as any
operator, times what was measured over the price on layers that may be fitted on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perfmodel.cost.conv_groups import group_width
from perfmodel.cost.price import price
from perfmodel.hardware.accelerator import Accelerator
from perfmodel.optimize.grouped.problem import GroupedConv
from perfmodel.workload.ops.conv import Conv2d


@dataclass(frozen=True, slots=True)
class Library:
    """Measured over priced time by call and by whether :func:`regular`; 1 where absent."""

    factors: tuple[tuple[str, bool, float], ...] = ()

    def factor(self, call: str, fits: bool) -> float:
        """What a price is multiplied by."""
        known = {(name, flag): value for name, flag, value in self.factors}
        return known.get((call, fits), 1.0)


def library_calls(conv: GroupedConv) -> dict[str, Conv2d]:
    """Calls that compute the layer on its channels as they lie: ``grouped``, ``dense``."""
    found = {}
    if conv.equal:
        found["grouped"] = library_call(
            conv, conv.in_channels, conv.out_channels, len(conv.groups), "nhwc"
        )
    found["dense"] = library_call(conv, conv.in_channels, conv.out_channels, 1, "nhwc")
    return found


def library_call(conv: GroupedConv, c_in: int, c_out: int, groups: int, layout: str) -> Conv2d:
    """A convolution over the layer's images with other channels."""
    return Conv2d(
        conv.batch, c_in, conv.height, conv.width, c_out, conv.kernel, conv.stride, conv.padding,
        groups, layout, dtype=conv.dtype,
        dilation=None if conv.dilation == 1 else conv.dilation,
    )  # fmt: skip


def regular(op: Conv2d) -> bool:
    """Whether the library has a kernel of its own for these channels.

    Dense ones want multiples of eight, grouped ones groups that need no padding
    (:mod:`perfmodel.cost.conv_groups`). Prices know both; the factors of the two differ where a
    layer's operands lie beside others, as they do here.
    """
    c_in, c_out = int(op.c_in) // int(op.groups), int(op.c_out) // int(op.groups)
    if int(op.groups) == 1:
        return c_in % 8 == 0 and c_out % 8 == 0
    return bool(c_in == c_out == group_width(np.array(c_in), np.array(c_out)))


def library_seconds(
    conv: GroupedConv, accelerator: Accelerator, library: Library
) -> tuple[tuple[str, float], ...]:
    """Expected time of every call of :func:`library_calls`, fastest first [s]."""
    found = [
        (name, float(price(op, accelerator).seconds) * library.factor(name, regular(op)))
        for name, op in library_calls(conv).items()
    ]
    return tuple(sorted(found, key=lambda one: one[1]))
