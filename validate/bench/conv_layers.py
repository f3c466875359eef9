"""Convolutions of networks beyond the bundled ones, at other batches, resolutions and widths."""

from __future__ import annotations

import csv
import functools
import random
from pathlib import Path

from validate.bench import ops
from validate.bench.draws import Draw
from validate.bench.draws_sizes import pow2, spread
from validate.bench.known import NetworkLayer

TABLE = Path(__file__).with_name("convnet_layers_more.csv")
# Resolutions that networks are run at, over the one that a layer was recorded at.
_SIZES = (0.5, 0.571, 0.714, 0.857, 1.0, 1.0, 1.0, 1.0, 1.143, 1.286, 1.714, 2.0, 2.286, 2.857)
_SHAPES = (1.0, 1.0, 1.0, 1.0, 0.75, 1.333, 1.5, 0.5625)


@functools.cache
def layers() -> tuple[NetworkLayer, ...]:
    """Distinct convolutions of about 300 image networks (``convnet_layers_more.csv``)."""
    with TABLE.open(encoding="utf-8", newline="") as handle:
        return tuple(
            NetworkLayer(*(int(row[name]) for name in NetworkLayer._fields))
            for row in csv.DictReader(handle)
        )


def kind(layer: NetworkLayer) -> str:
    """Dense, depthwise or grouped."""
    if layer.groups == 1:
        return "dense"
    return "depthwise" if layer.groups == layer.c_in == layer.c_out else "grouped"


def draw(wanted: str) -> Draw:
    """Layers of a kind; half of them at another resolution, a quarter of another width."""
    chosen = [layer for layer in layers() if kind(layer) == wanted]
    # Layers of one pixel, in every squeeze and excitation, all take the shortest time there is.
    weights = [layer.networks**0.5 * (0.1 if layer.h == 1 else 1.0) for layer in chosen]

    def one(u: list[float], rng: random.Random) -> ops.Op:
        layer = rng.choices(chosen, weights)[0]
        c_in, c_out, h, w, kernel, stride, padding, groups, _ = layer
        n = pow2(spread(u[0], 1, 256)) if rng.random() < 0.7 else spread(u[0], 1, 256)
        if rng.random() < 0.5:
            scale = rng.choice(_SIZES)
            least = max(1, kernel - 2 * padding)
            h, w = (max(least, round(s * scale)) for s in (h, w * rng.choice(_SHAPES)))
        if rng.random() < 0.25:
            scale = rng.choice((0.5, 0.75, 1.25, 1.5, 2.0))
            if wanted == "dense":
                c_in, c_out = (_wide(c, scale) for c in (c_in, c_out))
            elif wanted == "depthwise":
                groups = c_in = c_out = _wide(c_in, scale)
            else:  # as many groups more, of the width they have
                more = max(2, round(groups * scale))
                c_in, c_out = c_in // groups * more, c_out // groups * more
                groups = more
        return {"op": "conv2d", "n": n, "c_in": c_in, "h": h, "w": w, "c_out": c_out,
                "kernel": kernel, "stride": stride, "padding": padding,
                "groups": groups}  # fmt: skip

    return one


def _wide(channels: int, scale: float) -> int:
    return channels if channels <= 4 else max(8, round(channels * scale / 8) * 8)
