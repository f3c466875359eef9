"""Convolutions in two and three dimensions; gradients by convolution_backward with one output."""

from __future__ import annotations

import torch

from validate.bench.ops import Op, conv_out, traffic
from validate.bench.pool import Pool
from validate.bench.timing import Call


def _operands(op: Op, pool: Pool, axes: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """Input, weight and output gradient in the wanted memory layout."""
    dtype, k, g = op["dtype"], op["kernel"], op.get("groups", 1)
    outs = tuple(conv_out(s, k, op["stride"], op["padding"]) for s in axes)
    shapes = (
        (op["n"], op["c_in"], *axes),
        (op["c_out"], op["c_in"] // g, *(k for _ in axes)),
        (op["n"], op["c_out"], *outs),
    )
    if op.get("layout", "nhwc") == "nchw":
        return tuple(pool.take(dtype, *s) for s in shapes)
    last = (0, len(axes) + 1, *range(1, len(axes) + 1))  # channels-last storage, NC... view
    return tuple(pool.take(dtype, s[0], *s[2:], s[1]).permute(*last) for s in shapes)


def make(op: Op, pool: Pool) -> list[Call]:
    """conv2d (keys h, w) or conv3d (depth as well); pass fwd, dgrad or wgrad."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = op["dtype"] == "tf32"
    axes = (op["h"], op["w"]) if op["op"] == "conv2d" else (op["depth"], op["h"], op["w"])
    ones, zeros = [1] * len(axes), [0] * len(axes)
    stride, padding = [op["stride"]] * len(axes), [op["padding"]] * len(axes)
    groups, which = op.get("groups", 1), op.get("pass", "fwd")
    forward = torch.conv2d if len(axes) == 2 else torch.conv3d
    calls: list[Call] = []
    for _ in range(pool.sets(traffic(op)[0])):
        x, w, dy = _operands(op, pool, axes)
        if which == "fwd":
            calls.append(lambda x=x, w=w: forward(x, w, None, stride, padding, ones, groups))
            continue
        mask = [which == "dgrad", which == "wgrad", False]
        calls.append(
            lambda x=x, w=w, dy=dy, mask=mask: torch.ops.aten.convolution_backward(
                dy, x, w, None, stride, padding, ones, False, zeros, groups, mask
            )
        )
    return calls
