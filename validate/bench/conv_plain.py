"""Convolutions of ordinary sizes, free of any network: what a stranger would think of."""

from __future__ import annotations

import random

from validate.bench import ops
from validate.bench.draws import Draw
from validate.bench.draws_sizes import pow2, snap, spread

# Sides of feature maps in networks and their inputs; the first line is met most.
_SIDES = (
    (7, 14, 28, 56, 112, 224, 8, 16, 32, 64, 128, 256),
    (10, 12, 20, 24, 40, 48, 80, 96, 160, 192, 320, 384, 512, 6, 13, 26, 52, 104, 18, 36, 72, 144),
    (9, 15, 17, 19, 25, 33, 35, 38, 65, 71, 73, 75, 97, 129, 147, 149, 150, 299, 300, 100, 200),
)
_WIDTHS = (16, 24, 32, 32, 48, 64, 64, 96, 128, 128, 160, 192, 256, 256, 320, 384, 512, 512, 640,
           768, 1024, 1024, 1280, 1536, 2048)  # fmt: skip
_BATCHES = (3, 5, 6, 10, 12, 20, 24, 40, 48, 50, 80, 96, 100, 160, 192)


def _side(u: float, rng: random.Random) -> int:
    if rng.random() < 0.3:
        return spread(u, 4, 320)
    return rng.choice(rng.choices(_SIDES, (60, 25, 15))[0])


def _width(u: float, rng: random.Random) -> int:
    if rng.random() < 0.4:
        return rng.choice(_WIDTHS)
    return snap(spread(u, 8, 2048), rng, 0.04, (8, 16, 32, 64))


def _dense(u: list[float], rng: random.Random) -> dict[str, int]:
    kernel = rng.choices((1, 3, 5, 7, 2, 4), (38, 44, 7, 5, 3, 3))[0]
    stride = rng.choices((1, 2), (72, 28))[0] if kernel % 2 else 2 if kernel == 2 else 4
    padding = kernel // 2 if kernel % 2 and rng.random() < 0.94 else 0
    if kernel == 4 and rng.random() < 0.5:
        stride, padding = 2, 1
    c_in = 3 if rng.random() < 0.05 else _width(u[2], rng)
    pick = rng.random()
    ratios = (1, 1, 2, 4, 0.5, 0.25)
    if c_in > 3 and pick < 0.55:
        c_out = max(8, round(c_in * rng.choice(ratios)))
    else:
        c_out = _width(u[3] if c_in > 3 else 0.5 * u[3], rng)
    return {"c_in": c_in, "c_out": c_out, "kernel": kernel, "stride": stride, "padding": padding,
            "groups": 1}  # fmt: skip


def _depthwise(u: list[float], rng: random.Random) -> dict[str, int]:
    kernel = rng.choices((3, 5, 7, 9, 11), (55, 22, 19, 2, 2))[0]
    channels = _width(u[2], rng)
    return {"c_in": channels, "c_out": channels, "kernel": kernel, "padding": kernel // 2,
            "stride": rng.choices((1, 2), (72, 28))[0], "groups": channels}  # fmt: skip


def _grouped(u: list[float], rng: random.Random) -> dict[str, int]:
    kernel = rng.choices((3, 1, 5, 7), (72, 16, 8, 4))[0]
    groups = rng.choice((2, 2, 3, 4, 4, 8, 8, 16, 32, 32, 64))
    width = min(rng.choice((4, 8, 8, 16, 16, 24, 32, 32, 48, 64, 96, 128)), 2048 // groups)
    out = width if rng.random() < 0.75 else 2 * width
    return {"c_in": groups * width, "c_out": groups * out, "kernel": kernel,
            "padding": kernel // 2, "stride": rng.choices((1, 2), (72, 28))[0],
            "groups": groups}  # fmt: skip


_KINDS = {"dense": _dense, "depthwise": _depthwise, "grouped": _grouped}


def draw(kind: str) -> Draw:
    """Quasi-random shapes of a kind: dense, depthwise or grouped."""
    shape = _KINDS[kind]

    def one(u: list[float], rng: random.Random) -> ops.Op:
        n = pow2(spread(u[0], 1, 256)) if rng.random() < 0.75 else rng.choice(_BATCHES)
        h = _side(u[1], rng)
        w = h if rng.random() < 0.85 else max(4, round(h * rng.choice((0.5, 0.75, 1.333, 2.0))))
        op = shape(u, rng)
        least = max(1, op["kernel"] - 2 * op["padding"])
        return {"op": "conv2d", "n": n, "h": max(h, least), "w": max(w, least), **op}

    return one
