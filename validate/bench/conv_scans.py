"""Scans: ordinary convolutions, each varied finely along one dimension at a time.

A draw at random says how far off a prediction is; a scan says what the true curve does between two
shapes that a draw would hold: steps of waves, kernels that change, sizes that no tile fits.
"""

from __future__ import annotations

import random
from typing import Any

from validate.bench import ops, plan

Entry = dict[str, Any]

# kind, pass, layout, dtype, images, side, channels in, channels out, kernel, stride, groups
BASES = (
    ("conv2d", "fwd", "nhwc", "bf16", 32, 56, 64, 64, 3, 1, 1),
    ("conv2d", "fwd", "nhwc", "bf16", 32, 28, 128, 128, 3, 1, 1),
    ("conv2d", "fwd", "nhwc", "bf16", 16, 14, 256, 256, 3, 1, 1),
    ("conv2d", "fwd", "nhwc", "bf16", 8, 16, 512, 512, 3, 1, 1),
    ("conv2d", "fwd", "nhwc", "bf16", 32, 28, 128, 256, 3, 2, 1),
    ("conv2d", "fwd", "nhwc", "bf16", 32, 56, 64, 256, 1, 1, 1),
    ("conv2d", "fwd", "nhwc", "bf16", 16, 14, 1024, 256, 1, 1, 1),
    ("conv2d", "fwd", "nhwc", "bf16", 32, 112, 3, 64, 7, 2, 1),
    ("conv2d", "fwd", "nhwc", "tf32", 16, 28, 128, 128, 3, 1, 1),
    ("conv2d", "fwd", "nhwc", "fp32", 16, 14, 256, 256, 3, 1, 1),
    ("conv2d", "fwd", "nchw", "bf16", 32, 28, 128, 128, 3, 1, 1),
    ("conv2d", "fwd", "nchw", "bf16", 32, 28, 512, 128, 1, 1, 1),
    ("conv2d", "fwd", "nchw", "tf32", 32, 28, 128, 512, 1, 1, 1),
    ("conv2d", "dgrad", "nhwc", "bf16", 32, 28, 128, 128, 3, 1, 1),
    ("conv2d", "dgrad", "nhwc", "bf16", 16, 14, 256, 1024, 1, 1, 1),
    ("conv2d", "dgrad", "nhwc", "bf16", 32, 56, 64, 128, 3, 2, 1),
    ("conv2d", "dgrad", "nchw", "tf32", 16, 28, 128, 128, 3, 1, 1),
    ("conv2d", "dgrad", "nhwc", "fp32", 16, 14, 256, 256, 3, 1, 1),
    ("conv2d", "wgrad", "nhwc", "bf16", 32, 28, 128, 128, 3, 1, 1),
    ("conv2d", "wgrad", "nhwc", "bf16", 16, 14, 256, 1024, 1, 1, 1),
    ("conv2d", "wgrad", "nhwc", "bf16", 32, 56, 64, 128, 3, 2, 1),
    ("conv2d", "wgrad", "nchw", "bf16", 32, 28, 128, 512, 1, 1, 1),
    ("conv2d", "wgrad", "nchw", "tf32", 32, 14, 256, 512, 1, 1, 1),
    ("conv2d", "wgrad", "nchw", "fp32", 16, 28, 128, 128, 3, 1, 1),
    ("conv2d", "fwd", "nhwc", "bf16", 32, 28, 192, 192, 3, 1, 192),
    ("conv2d", "fwd", "nhwc", "bf16", 32, 14, 384, 384, 7, 1, 384),
    ("conv2d", "fwd", "nchw", "bf16", 32, 14, 480, 480, 5, 1, 480),
    ("conv2d", "dgrad", "nhwc", "bf16", 32, 28, 192, 192, 3, 1, 192),
    ("conv2d", "wgrad", "nhwc", "bf16", 32, 28, 192, 192, 3, 1, 192),
    ("conv2d", "wgrad", "nhwc", "fp32", 16, 28, 144, 144, 5, 1, 144),
    ("conv2d", "fwd", "nhwc", "bf16", 32, 56, 128, 128, 3, 1, 32),
    ("conv2d", "dgrad", "nhwc", "bf16", 32, 28, 256, 256, 3, 1, 32),
    ("conv2d", "wgrad", "nhwc", "bf16", 32, 14, 512, 512, 3, 1, 32),
    ("conv2d", "fwd", "nchw", "tf32", 32, 28, 256, 256, 3, 1, 32),
    ("conv3d", "fwd", "nhwc", "bf16", 4, 16, 64, 64, 3, 1, 1),
    ("conv3d", "wgrad", "nchw", "bf16", 2, 16, 64, 64, 3, 1, 1),
)
_IMAGES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 32, 36, 40, 48, 56, 64)
_SIDES = (4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112)
_WIDTHS, _GROUPS = (1, 2, *range(4, 68, 4)), (*range(2, 9), *range(10, 66, 4))

_Base = tuple[str, str, str, str, int, int, int, int, int, int, int]


def build(seed: int = 1) -> list[Entry]:
    """Every scan's operators, each once, in an order of chance.

    ``seed`` decides the order alone.
    """
    found: dict[str, Entry] = {}
    for base in BASES:
        for op in points(base):
            if plan.valid(op):
                found.setdefault(ops.key(op), op)
    entries = list(found.values())
    random.Random(seed).shuffle(entries)
    return entries


def points(base: _Base) -> list[Entry]:
    """A base's operator along each of its dimensions: images, side, channels in and out, groups."""
    _, _, _, _, _, side, c_in, c_out, _, _, groups = base
    made = [_op(base, n=x) for x in _IMAGES]
    near = range(max(4, side - 6), side + 7)
    made += [_op(base, side=x) for x in sorted({*near, *_SIDES})]
    if groups == 1:
        made += [_op(base, c_in=x) for x in _channels(c_in)]
        made += [_op(base, c_out=x) for x in _channels(c_out)]
    elif groups == c_in:
        made += [_op(base, c_in=x, c_out=x, groups=x) for x in _channels(c_in)]
    else:  # wider groups, then more of them
        a, b = c_in // groups, c_out // groups
        made += [_op(base, c_in=groups * x, c_out=groups * x * b // a) for x in _WIDTHS]
        made += [_op(base, c_in=a * x, c_out=b * x, groups=x) for x in _GROUPS]
    return made


def _channels(at: int) -> list[int]:
    """Even sizes around a number of channels, doublings of it, and a few that no vector fits."""
    if at < 8:
        return [1, 2, 3, 4, 5, 6, 7, 8, 12, 16]
    step = max(8, at // 96 * 8)
    even = {x for x in range(at - 10 * step, at + 9 * step, step) if x >= 8}
    odd = {at - 4, at - 3, at - 2, at - 1, at + 1}
    return sorted(even | odd | {at // 4, at // 2, 2 * at, 4 * at})


def _op(base: _Base, **changed: int) -> Entry:
    kind, which, layout, dtype, n, side, c_in, c_out, kernel, stride, groups = base
    side = changed.get("side", side)
    return {
        "op": kind,
        "n": changed.get("n", n),
        **({"depth": side} if kind == "conv3d" else {}),
        "h": side,
        "w": side,
        "c_in": changed.get("c_in", c_in),
        "c_out": changed.get("c_out", c_out),
        "kernel": kernel,
        "stride": stride,
        "padding": kernel // 2,
        "groups": changed.get("groups", groups),
        "pass": which,
        "layout": layout,
        "dtype": dtype,
    }
