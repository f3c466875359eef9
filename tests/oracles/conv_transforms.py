"""Winograd's and Fourier's convolutions in NumPy, forward and weight gradient.

Input gradients are forward convolutions of the output gradient with turned filters:
:func:`tests.oracles.conv_reference.as_forward_dgrad`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from perfmodel.workload.winograd import Winograd
from tests.oracles.conv_reference import Array, Ledger, matmul, pad, zeros


def winograd(x: Array, weight: Array, padding: int, f: Winograd, ledger: Ledger) -> Array:
    """Transformed tiles, a product over channels for each of their places, transformed back."""
    n, c_in, h, w = x.shape
    c_out, t, m = weight.shape[0], f.t, f.m
    p, q = h + 2 * padding - 2, w + 2 * padding - 2
    down, across = -(-p // m), -(-q // m)
    tiles = _tiles(pad(x, padding), down, across, m, t)
    data = _transform(tiles, f.data)
    filters = _transform(weight, f.filter)
    ledger.move(read=x.size + weight.size)
    ledger.scratch("data", data.size, written=data.size, read=data.size)
    ledger.scratch("filters", filters.size, written=filters.size, read=filters.size)
    sums = zeros((n, down, across, c_out, t, t), x)
    for a in range(t):
        for b in range(t):
            left = data[..., a, b].reshape(-1, c_in)
            sums[..., a, b] = matmul(left, filters[:, :, a, b].T).reshape(n, down, across, c_out)
    ledger.scratch("sums", sums.size, written=sums.size, read=sums.size)
    outputs = _transform(sums, f.output)
    y = outputs.transpose(0, 3, 1, 4, 2, 5).reshape(n, c_out, down * m, across * m)[:, :, :p, :q]
    ledger.move(written=y.size)
    return y


def winograd_wgrad(x: Array, dy: Array, padding: int, f: Winograd, ledger: Ledger) -> Array:
    """The transposed algorithm: both operands transformed, products summed over tiles."""
    c_in, (_, c_out, p, q) = x.shape[1], dy.shape
    t, m = f.t, f.m
    down, across = -(-p // m), -(-q // m)
    data = _transform(_tiles(pad(x, padding), down, across, m, t), f.data)
    grads = _transform(_tiles(dy, down, across, m, m), f.output.T)
    ledger.move(read=x.size + dy.size)
    ledger.scratch("data", data.size, written=data.size, read=data.size)
    ledger.scratch("sums", grads.size, written=grads.size, read=grads.size)
    products = zeros((c_out, c_in, t, t), x)
    for a in range(t):
        for b in range(t):
            left = grads[..., a, b].reshape(-1, c_out)
            products[..., a, b] = matmul(left.T, data[..., a, b].reshape(-1, c_in))
    ledger.scratch("filters", products.size, written=products.size, read=products.size)
    grad = _transform(products, f.filter.T)
    ledger.move(written=grad.size)
    return grad


def fft(x: Array, weight: Array, padding: int, tile: int, ledger: Ledger) -> Array:
    """Overlap-save: tiles and filters transformed, multiplied over channels, cut out (step 1)."""
    n, _, h, w = x.shape
    c_out, k = weight.shape[0], weight.shape[2]
    p, q = h + 2 * padding - k + 1, w + 2 * padding - k + 1
    m = tile - k + 1
    down, across = -(-p // m), -(-q // m)
    data = np.fft.rfft2(_tiles(pad(x, padding), down, across, m, tile))
    filters = np.fft.rfft2(weight, (tile, tile)).conj()
    ledger.move(read=x.size + weight.size)
    ledger.scratch("data", data.size, written=data.size, read=data.size)
    ledger.scratch("filters", filters.size, written=filters.size, read=filters.size)
    sums = np.einsum("nijcab,ocab->nijoab", data, filters)
    ledger.scratch("sums", sums.size, written=sums.size, read=sums.size)
    maps = np.fft.irfft2(sums, (tile, tile))[..., :m, :m]
    y = maps.transpose(0, 3, 1, 4, 2, 5).reshape(n, c_out, down * m, across * m)[:, :, :p, :q]
    ledger.move(written=y.size)
    return np.asarray(y)


def fft_wgrad(x: Array, dy: Array, kernel: int, padding: int, tile: int, ledger: Ledger) -> Array:
    """Spectra of input and output gradient, summed over images and tiles (step 1)."""
    p, q = dy.shape[2:]
    m = tile - kernel + 1
    down, across = -(-p // m), -(-q // m)
    data = np.fft.rfft2(_tiles(pad(x, padding), down, across, m, tile))
    grads = np.fft.rfft2(_tiles(dy, down, across, m, m), (tile, tile)).conj()
    ledger.move(read=x.size + dy.size)
    ledger.scratch("data", data.size, written=data.size, read=data.size)
    ledger.scratch("sums", grads.size, written=grads.size, read=grads.size)
    products = np.einsum("nijcab,nijoab->ocab", data, grads)
    ledger.scratch("filters", products.size, written=products.size, read=products.size)
    grad = np.fft.irfft2(products, (tile, tile))[..., :kernel, :kernel]
    ledger.move(written=grad.size)
    return np.asarray(grad)


def radix2(values: Array) -> Array:
    """Discrete Fourier transform of a power-of-two length by halving: 5 n log2 n operations."""
    n = len(values)
    if n == 1:
        return values
    even, odd = radix2(values[0::2]), radix2(values[1::2])
    turn = np.exp(-2j * np.pi * np.arange(n // 2) / n)
    turned = np.array([z * w for z, w in zip(odd, turn, strict=True)], dtype=values.dtype)
    return np.concatenate([even + turned, even - turned])


def _transform(tiles: Array, matrix: Array) -> Array:
    """``matrix @ tile @ matrix.T`` on the last two axes; zeros and signs cost nothing."""
    half = np.stack([_combine(row, np.moveaxis(tiles, -2, 0)) for row in matrix], axis=-2)
    return np.stack([_combine(row, np.moveaxis(half, -1, 0)) for row in matrix], axis=-1)


def _combine(factors: Array, parts: Array) -> Array:
    total: Any = None
    for factor, part in zip(factors, parts, strict=True):
        if factor == 0.0:
            continue
        term = part if abs(factor) == 1.0 else part * abs(factor)
        if total is None:
            total = term if factor > 0 else -term
        else:
            total = total + term if factor > 0 else total - term
    return np.asarray(total)


def _tiles(padded: Array, down: int, across: int, step: int, side: int) -> Array:
    """Tiles ``(n, down, across, channels, side, side)``, zero where they overhang."""
    n, c, h, w = padded.shape
    room = zeros((n, c, (down - 1) * step + side, (across - 1) * step + side), padded)
    h, w = min(h, room.shape[2]), min(w, room.shape[3])
    room[:, :, :h, :w] = padded[:, :, :h, :w]
    windows = np.lib.stride_tricks.sliding_window_view(room, (side, side), axis=(2, 3))
    return windows[:, :, ::step, ::step].transpose(0, 2, 3, 1, 4, 5)
