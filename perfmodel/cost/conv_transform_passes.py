"""Passes of the convolution algorithms that work on transformed tiles."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from perfmodel.cost.conv_passes import Built, Pass, as_forward, sizes_of, stream
from perfmodel.workload.ops.conv import Conv2d
from perfmodel.workload.ops.dense import Gemm
from perfmodel.workload.winograd import Winograd, transform_flops

FFT_TILES: Final = (8, 16, 32, 64)


def winograd(f: Winograd) -> Callable[[Conv2d], Built]:
    """The builder of F(m x m, 3 x 3)."""

    def build(op: Conv2d) -> Built:
        s = sizes_of(as_forward(op))
        tiles = s.n * -(-s.p // f.m) * -(-s.q // f.m)
        square = f.t**2
        data, sums = s.e * square * tiles * s.ci, s.e * square * tiles * s.co
        bank = s.co * s.ci // s.g
        filters = s.e * square * bank
        into = tiles * s.ci * transform_flops(f.data)
        flops = 2 * square * tiles * s.co * s.ci // s.g
        if op.direction == "wgrad":
            gemm = Gemm(s.co // s.g, s.ci // s.g, tiles, square * s.g, s.dtype)
            passes = (
                stream("input transform", into, read=s.e * s.x, scratch_written=data, buffer=data),
                stream("gradient transform", tiles * s.co * transform_flops(f.output.T),
                        read=s.e * s.y, scratch_written=sums, buffer=sums),
                Pass("product", gemm, flops, 0, 0,
                     ((data, data), (sums, sums), (filters, filters))),
                stream("filter transform", bank * transform_flops(f.filter.T),
                        written=s.e * s.weight, scratch_read=filters, buffer=filters),
            )  # fmt: skip
        else:
            gemm = Gemm(tiles, s.co // s.g, s.ci // s.g, square * s.g, s.dtype)
            passes = (
                stream("input transform", into, read=s.e * s.x, scratch_written=data, buffer=data),
                stream("filter transform", bank * transform_flops(f.filter),
                        read=s.e * s.weight, scratch_written=filters, buffer=filters),
                Pass("product", gemm, flops, 0, 0,
                     ((data, data), (filters, filters), (sums, sums))),
                stream("output transform", tiles * s.co * transform_flops(f.output),
                        written=s.e * s.y, scratch_read=sums, buffer=sums),
            )  # fmt: skip
        return passes, data + sums + filters

    return build


def fft(op: Conv2d) -> Built:
    """The tile with the least arithmetic among :data:`FFT_TILES`."""
    tiles = [tile for tile in FFT_TILES if tile >= 2 * int(op.kernel)] or [FFT_TILES[-1]]
    built = [fft_passes(op, tile) for tile in tiles]
    return min(built, key=lambda one: sum(part.flops for part in one[0]))


def fft_passes(op: Conv2d, tile: int) -> Built:
    """Overlap-save with tiles of one side; a real transform costs ``5 T^2 log2 T``."""
    s = sizes_of(as_forward(op))
    m = tile - s.k + 1
    tiles = s.n * -(-s.p // m) * -(-s.q // m)
    places = tile * (tile // 2 + 1)
    bank = s.co * s.ci // s.g
    data, sums = s.spectral * places * tiles * s.ci, s.spectral * places * tiles * s.co
    filters = s.spectral * places * bank
    transform = round(5 * tile**2 * math.log2(tile))
    flops = 8 * places * tiles * bank
    half = "fp64" if s.dtype == "fp64" else "fp32"
    # a complex product as a real one of doubled depth and width
    if op.direction == "wgrad":
        gemm = Gemm(s.co // s.g, 2 * (s.ci // s.g), 2 * tiles, places * s.g, half)
        first = ("gradient transform", tiles * s.co * transform, s.e * s.y, sums)
        last = ("filter transform", bank * transform, s.e * s.weight, filters)
    else:
        gemm = Gemm(tiles, 2 * (s.co // s.g), 2 * (s.ci // s.g), places * s.g, half)
        first = ("filter transform", bank * transform, s.e * s.weight, filters)
        last = ("output transform", tiles * s.co * transform, s.e * s.y, sums)
    return (
        stream("input transform", tiles * s.ci * transform, read=s.e * s.x,
                scratch_written=data, buffer=data),
        stream(first[0], first[1], read=first[2], scratch_written=first[3], buffer=first[3]),
        Pass("product", gemm, flops, 0, 0, ((data, data), (filters, filters), (sums, sums))),
        stream(last[0], last[1], written=last[2], scratch_read=last[3], buffer=last[3]),
    ), data + sums + filters  # fmt: skip
