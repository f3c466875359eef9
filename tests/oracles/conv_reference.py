"""Every convolution algorithm in NumPy: what its kernels compute, pass by pass.

Small and slow on purpose: the definition against which counts and fast kernels are held. Arrays are
``x (n, c_in, h, w)``, ``weight (c_out, c_in / groups, k, k)``, ``y (n, c_out, p, q)``; arithmetic
follows the type of the arrays, so arrays of counting objects count it. A :class:`Ledger` records
every pass over memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(slots=True)
class Ledger:
    """Elements that the passes of an algorithm read and write, intermediate buffers apart."""

    read: int = 0
    written: int = 0
    scratch_read: int = 0
    scratch_written: int = 0
    buffers: dict[str, int] = field(default_factory=dict)

    def move(self, read: int = 0, written: int = 0) -> None:
        """Operands and results."""
        self.read += read
        self.written += written

    def scratch(self, name: str, size: int, *, read: int = 0, written: int = 0) -> None:
        """Passes over a buffer of ``size`` elements."""
        self.buffers[name] = size
        self.scratch_read += read
        self.scratch_written += written

    @property
    def workspace(self) -> int:
        """Elements of all buffers."""
        return sum(self.buffers.values())


def direct(x: Array, weight: Array, stride: int, padding: int, groups: int) -> Array:
    """The definition: one sum over the taps for every output."""
    k = weight.shape[2]
    padded = pad(x, padding)
    n, _, height, width = padded.shape
    p, q = (height - k) // stride + 1, (width - k) // stride + 1
    y = zeros((n, weight.shape[0], p, q), x)
    for i in range(p):
        for j in range(q):
            window = padded[:, :, i * stride : i * stride + k, j * stride : j * stride + k]
            y[:, :, i, j] = _grouped(window.reshape(n, -1), weight, groups)
    return y


def direct_wgrad(x: Array, dy: Array, kernel: int, stride: int, padding: int, groups: int) -> Array:
    """Gradient of the filters by definition."""
    padded = pad(x, padding)
    c_in, (c_out, p, q) = x.shape[1], dy.shape[1:]
    per_in, per_out = c_in // groups, c_out // groups
    grad = zeros((c_out, per_in, kernel, kernel), x)
    for a in range(kernel):
        for b in range(kernel):
            seen = padded[:, :, a : a + (p - 1) * stride + 1 : stride, :][
                ..., b : b + (q - 1) * stride + 1 : stride
            ]
            for g in range(groups):
                outs = slice(g * per_out, (g + 1) * per_out)
                left = as_rows(dy[:, outs]).T
                right = as_rows(seen[:, g * per_in : (g + 1) * per_in])
                grad[outs, :, a, b] = matmul(left, right)
    return grad


def direct_dgrad(
    dy: Array, weight: Array, sides: tuple[int, int], stride: int, padding: int, groups: int
) -> Array:
    """Gradient of the input by definition: every tap scatters its share."""
    n, k = dy.shape[0], weight.shape[2]
    per_in, per_out = weight.shape[1], weight.shape[0] // groups
    h, w = sides
    grad = zeros((n, per_in * groups, h + 2 * padding, w + 2 * padding), dy)
    p, q = dy.shape[2:]
    for a in range(k):
        for b in range(k):
            rows = slice(a, a + (p - 1) * stride + 1, stride)
            columns = slice(b, b + (q - 1) * stride + 1, stride)
            for out in range(weight.shape[0]):
                ins = slice(out // per_out * per_in, (out // per_out + 1) * per_in)
                share = dy[:, out, None] * weight[out, :, a, b][None, :, None, None]
                grad[:, ins, rows, columns] = grad[:, ins, rows, columns] + share
    return grad[:, :, padding : padding + h, padding : padding + w]


def im2col(
    x: Array, weight: Array, stride: int, padding: int, groups: int, ledger: Ledger
) -> Array:
    """Patches written out, then one matrix product a group."""
    n, k = x.shape[0], weight.shape[2]
    patches, p, q = _patches(x, k, stride, padding)
    ledger.move(read=x.size)
    ledger.scratch("patches", patches.size, written=patches.size)
    y = _grouped(patches, weight, groups)
    ledger.scratch("patches", patches.size, read=patches.size)
    ledger.move(read=weight.size, written=y.size)
    return as_maps(y, n, p, q)


def im2col_dgrad(
    dy: Array,
    weight: Array,
    sides: tuple[int, int],
    stride: int,
    padding: int,
    groups: int,
    ledger: Ledger,
) -> Array:
    """The product gives the gradient of the patches; each is added where it came from."""
    (n, _, p, q), k = dy.shape, weight.shape[2]
    h, w = sides
    per_in, per_out = weight.shape[1], weight.shape[0] // groups
    columns = []
    for g in range(groups):
        outs = slice(g * per_out, (g + 1) * per_out)
        columns.append(matmul(as_rows(dy[:, outs]), weight[outs].reshape(per_out, -1)))
    patches = np.concatenate(columns, axis=1).reshape(n, p, q, per_in * groups, k, k)
    ledger.move(read=dy.size + weight.size)
    ledger.scratch("patches", patches.size, written=patches.size)
    grad = zeros((n, per_in * groups, h + 2 * padding, w + 2 * padding), dy)
    for i in range(p):
        for j in range(q):
            rows, cols = slice(i * stride, i * stride + k), slice(j * stride, j * stride + k)
            grad[:, :, rows, cols] = grad[:, :, rows, cols] + patches[:, i, j]
    ledger.scratch("patches", patches.size, read=patches.size)
    ledger.move(written=n * per_in * groups * h * w)
    return grad[:, :, padding : padding + h, padding : padding + w]


def im2col_wgrad(
    x: Array, dy: Array, kernel: int, stride: int, padding: int, groups: int, ledger: Ledger
) -> Array:
    """Patches again, then output gradient times patches."""
    patches, _, _ = _patches(x, kernel, stride, padding)
    ledger.move(read=x.size)
    ledger.scratch("patches", patches.size, written=patches.size)
    per_in, per_out = x.shape[1] // groups, dy.shape[1] // groups
    columns = per_in * kernel * kernel
    parts = [
        matmul(
            as_rows(dy[:, g * per_out : (g + 1) * per_out]).T,
            patches[:, g * columns : (g + 1) * columns],
        )
        for g in range(groups)
    ]
    grad = np.concatenate(parts, axis=0).reshape(dy.shape[1], per_in, kernel, kernel)
    ledger.scratch("patches", patches.size, read=patches.size)
    ledger.move(read=dy.size, written=grad.size)
    return grad


def kn2row(x: Array, weight: Array, padding: int, ledger: Ledger) -> Array:
    """One product with all taps at every input position, then shifted maps are added (step 1)."""
    n, _, h, w = x.shape
    c_out, k = weight.shape[0], weight.shape[2]
    p, q = h + 2 * padding - k + 1, w + 2 * padding - k + 1
    taps = weight.transpose(2, 3, 0, 1).reshape(k * k * c_out, -1)
    maps = matmul(as_rows(x), taps.T).reshape(n, h, w, k, k, c_out)
    ledger.move(read=x.size + weight.size)
    ledger.scratch("maps", maps.size, written=maps.size)
    y = zeros((n, c_out, p, q), x)
    for a in range(k):
        for b in range(k):
            added = _shift_add(y, maps[:, :, :, a, b, :].transpose(0, 3, 1, 2), a, b, padding)
            ledger.scratch("maps", maps.size, read=added)
    ledger.move(written=y.size)
    return y


def kn2row_accumulating(x: Array, weight: Array, padding: int, ledger: Ledger) -> Array:
    """The same, one tap at a time through a buffer of one map (step 1)."""
    n, _, h, w = x.shape
    c_out, k = weight.shape[0], weight.shape[2]
    p, q = h + 2 * padding - k + 1, w + 2 * padding - k + 1
    y = zeros((n, c_out, p, q), x)
    for a in range(k):
        for b in range(k):
            one = as_maps(matmul(as_rows(x), weight[:, :, a, b].T), n, h, w)
            ledger.move(read=x.size + weight[:, :, a, b].size)
            ledger.scratch("map", one.size, written=one.size)
            added = _shift_add(y, one, a, b, padding)
            ledger.scratch("map", one.size, read=added)
            ledger.move(read=added, written=added)
    return y


def kn2row_wgrad(x: Array, dy: Array, kernel: int, padding: int, ledger: Ledger) -> Array:
    """A product of shifted input and output gradient for every tap; nothing is copied (step 1)."""
    (_, c_in, h, w), (_, c_out, p, q) = x.shape, dy.shape
    grad = zeros((c_out, c_in, kernel, kernel), x)
    for a in range(kernel):
        for b in range(kernel):
            (r0, r1), (s0, s1) = inside(h, p, a, padding), inside(w, q, b, padding)
            left = as_rows(dy[:, :, r0:r1, s0:s1])
            top, side = a - padding, b - padding
            right = as_rows(x[:, :, r0 + top : r1 + top, s0 + side : s1 + side])
            grad[:, :, a, b] = matmul(left.T, right)
            ledger.move(read=left.size + right.size, written=c_out * c_in)
    return grad


def scalar_matrix(x: Array, weight: Array, padding: int) -> Array:
    """Every weight scales one shifted input map into an output map (step 1)."""
    n, c_in, h, w = x.shape
    c_out, k = weight.shape[0], weight.shape[2]
    y = zeros((n, c_out, h + 2 * padding - k + 1, w + 2 * padding - k + 1), x)
    for o in range(c_out):
        for c in range(c_in):
            for a in range(k):
                for b in range(k):
                    _shift_add(y[:, o : o + 1], x[:, c : c + 1], a, b, padding, weight[o, c, a, b])
    return y


def as_forward_dgrad(
    forward: Callable[[Array, Array, int], Array], dy: Array, weight: Array, padding: int
) -> Array:
    """Input gradient of a step-1 convolution by any forward algorithm.

    Channels change places, the filter is turned by 180 degrees, the padding becomes ``k - 1 - p``.
    """
    turned = weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    return forward(dy, turned, weight.shape[2] - 1 - padding)


def matmul(left: Array, right: Array) -> Array:
    """Matrix product; for counting objects every product and every sum into zero is performed."""
    if left.dtype != object:
        return np.asarray(left @ right)
    total = zeros((left.shape[0], right.shape[1]), left)
    for column in range(left.shape[1]):
        total = total + left[:, column, None] * right[None, column, :]
    return total


def inside(length: int, outputs: int, tap: int, padding: int) -> tuple[int, int]:
    """Outputs whose tap falls on the input rather than on the padding: a half-open range."""
    return max(0, padding - tap), max(0, min(outputs, length + padding - tap))


def _shift_add(y: Array, maps: Array, a: int, b: int, padding: int, factor: Any = None) -> int:
    (r0, r1) = inside(maps.shape[2], y.shape[2], a, padding)
    (s0, s1) = inside(maps.shape[3], y.shape[3], b, padding)
    top, side = a - padding, b - padding
    part = maps[:, :, r0 + top : r1 + top, s0 + side : s1 + side]
    scaled = part if factor is None else part * factor
    y[:, :, r0:r1, s0:s1] = y[:, :, r0:r1, s0:s1] + scaled
    return int(part.size)


def _grouped(patches: Array, weight: Array, groups: int) -> Array:
    banks = weight.reshape(groups, weight.shape[0] // groups, -1)
    width = banks.shape[2]
    parts = [matmul(patches[:, g * width : (g + 1) * width], banks[g].T) for g in range(groups)]
    return np.concatenate(parts, axis=1)


def _patches(x: Array, k: int, stride: int, padding: int) -> tuple[Array, int, int]:
    padded = pad(x, padding)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(2, 3))
    windows = windows[:, :, ::stride, ::stride]
    p, q = windows.shape[2:4]
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(x.shape[0] * p * q, -1), p, q


def as_rows(x: Array) -> Array:
    """Maps as a matrix with one row a pixel."""
    return x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1])


def as_maps(rows: Array, n: int, p: int, q: int) -> Array:
    """Back from rows to maps."""
    return rows.reshape(n, p, q, -1).transpose(0, 3, 1, 2)


def pad(x: Array, padding: int) -> Array:
    """Zeros all around."""
    n, c, h, w = x.shape
    padded = zeros((n, c, h + 2 * padding, w + 2 * padding), x)
    padded[:, :, padding : padding + h, padding : padding + w] = x
    return padded


def zeros(shape: tuple[int, ...], like: Array) -> Array:
    """Zeros of the type of ``like``."""
    if like.dtype != object:
        return np.zeros(shape, dtype=like.dtype)
    return np.full(shape, type(like.reshape(-1)[0])(0), dtype=object)
