"""Convolutions of volumes: segmentation of scans, video, and what lies between them."""

from __future__ import annotations

import random

from validate.bench import ops
from validate.bench.draws_sizes import spread

# (channels in, out, depth, height, kernel, stride): square maps of the size at the input.
_SCANS = (
    (1, 16, 64, 128, 3, 1), (1, 32, 64, 128, 3, 1), (4, 32, 64, 128, 3, 1), (2, 32, 64, 96, 3, 1),
    (16, 16, 64, 128, 3, 1), (32, 32, 32, 128, 3, 1), (32, 32, 64, 128, 3, 1),
    (32, 64, 64, 128, 3, 2), (32, 64, 32, 64, 3, 1), (64, 64, 32, 64, 3, 1), (64, 64, 32, 64, 2, 2),
    (64, 128, 32, 64, 3, 2), (128, 128, 16, 32, 3, 1), (128, 256, 16, 32, 3, 2),
    (256, 256, 8, 16, 3, 1), (256, 320, 8, 16, 3, 2), (320, 320, 4, 8, 3, 1),
    (96, 32, 64, 96, 3, 1), (192, 64, 32, 64, 3, 1), (32, 3, 64, 128, 1, 1), (64, 32, 32, 64, 1, 1),
    (16, 2, 64, 128, 1, 1),
)  # fmt: skip
_VIDEOS = (
    (3, 64, 16, 112, 3, 1), (3, 64, 8, 112, 7, 2), (3, 64, 16, 64, 3, 2), (64, 64, 16, 56, 3, 1),
    (64, 128, 16, 56, 3, 1), (64, 128, 16, 56, 3, 2), (128, 128, 8, 28, 3, 1),
    (128, 256, 8, 28, 3, 2), (256, 256, 4, 14, 3, 1), (256, 512, 4, 14, 3, 2),
    (512, 512, 2, 7, 3, 1), (64, 256, 8, 56, 1, 1), (256, 64, 8, 56, 1, 1), (512, 128, 8, 28, 1, 1),
    (128, 512, 8, 28, 1, 1), (1024, 256, 8, 14, 1, 1), (64, 128, 16, 56, 1, 2),
    (128, 128, 9, 64, 3, 1), (256, 256, 5, 64, 3, 1), (512, 512, 5, 32, 3, 1),
    (16, 128, 5, 32, 3, 1), (3, 768, 8, 112, 8, 8), (1, 32, 16, 112, 4, 4), (3, 96, 16, 112, 4, 4),
)  # fmt: skip


def volume(u: list[float], rng: random.Random) -> ops.Op:
    """A layer of a 3-D network, half of them of another width and size, or free channels."""
    scan = rng.random() < 0.5
    c_in, c_out, depth, side, kernel, stride = rng.choice(_SCANS if scan else _VIDEOS)
    n = rng.choice((1, 1, 2, 2, 4)) if scan else spread(u[0], 1, 32)
    height = width = side
    pick = rng.random()
    if pick < 0.35:  # a relative of the layer
        scale = rng.choice((0.5, 0.75, 1.5, 2.0))
        c_in, c_out = (c if c <= 4 else max(1, round(c * scale / 8) * 8) for c in (c_in, c_out))
        depth, height, width = (
            max(kernel, round(size * rng.choice((0.5, 0.75, 1, 1.25))))
            for size in (depth, side, side)
        )
    elif pick < 0.6:  # channels that networks begin and end with
        c_in, c_out = (max(1, round(spread(x, 1, 64))) for x in u[1:3])
        if rng.random() < 0.6:
            c_in, c_out = (max(4, c // 4 * 4) if c > 4 else c for c in (c_in, c_out))
    padding = 0 if kernel in (1, stride) else kernel // 2
    return {"op": "conv3d", "n": n, "c_in": c_in, "depth": depth, "h": height, "w": width,
            "c_out": c_out, "kernel": kernel, "stride": stride, "padding": padding}  # fmt: skip
