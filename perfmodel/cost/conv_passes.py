"""Passes of the convolution algorithms that need no transform."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from perfmodel.workload.dtype import bytes_per_element
from perfmodel.workload.ops.base import Op
from perfmodel.workload.ops.conv import Conv2d
from perfmodel.workload.ops.dense import Gemm
from perfmodel.workload.ops.streams import Fused


@dataclass(frozen=True, slots=True)
class Pass:
    """One kernel of an algorithm.

    Parameters
    ----------
    name : str
        What it does.
    op : Op
        The operator that it is priced as; its own byte count is what a run without cache moves.
    flops : int
        Arithmetic [FLOP].
    read, written : int
        Operands and results of the convolution [B].
    scratch : tuple of (int, int)
        Traffic to an intermediate buffer and that buffer's size [B].
    operands : int
        Bytes that arithmetic units take in from caches one by one, where a kernel has no reuse in
        registers; 0 where tiles are reused [B].
    """

    name: str
    op: Op
    flops: int
    read: int = 0
    written: int = 0
    scratch: tuple[tuple[int, int], ...] = ()
    operands: int = 0

    def traffic(self, cache: float = 0.0) -> float:
        """Bytes across device memory: buffers that fit the cache stay there [B]."""
        buffers = sum(moved for moved, size in self.scratch if size > cache)
        return float(self.read + self.written + buffers)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a convolution as plain integers; ``e`` is the size of an element [B]."""

    n: int
    ci: int
    h: int
    w: int
    co: int
    k: int
    stride: int
    padding: int
    g: int
    p: int
    q: int
    e: int
    dtype: str
    taps: int

    @property
    def x(self) -> int:
        """Elements of the input."""
        return self.n * self.ci * self.h * self.w

    @property
    def y(self) -> int:
        """Elements of the output."""
        return self.n * self.co * self.p * self.q

    @property
    def weight(self) -> int:
        """Elements of the filters."""
        return self.co * self.ci // self.g * self.taps

    @property
    def spectral(self) -> int:
        """Bytes of a complex number: double where the maps are."""
        return 16 if self.dtype == "fp64" else 8


Built = tuple[tuple[Pass, ...], int]
"""Passes, and the bytes of workspace."""


def sizes_of(op: Conv2d) -> Sizes:
    """The sizes of one convolution."""
    names = (
        "n", "c_in", "h", "w", "c_out", "kernel", "stride", "padding", "groups", "h_out", "w_out"
    )  # fmt: skip
    n, ci, h, w, co, k, stride, padding, g, p, q = (int(getattr(op, name)) for name in names)
    e = max(1, math.ceil(bytes_per_element(op.dtype)))
    return Sizes(n, ci, h, w, co, k, stride, padding, g, p, q, e, op.dtype, int(op.taps))


def as_forward(op: Conv2d) -> Conv2d:
    """The forward convolution that the input gradient of a step-1 convolution is."""
    if op.direction != "dgrad":
        return op
    return replace(
        op, c_in=op.c_out, c_out=op.c_in, h=op.h_out, w=op.w_out,
        padding=op.kernel - 1 - op.padding, direction="fwd",
    )  # fmt: skip


def stream(
    name: str,
    flops: int,
    read: int = 0,
    written: int = 0,
    scratch_read: int = 0,
    scratch_written: int = 0,
    buffer: int = 0,
) -> Pass:
    """A pass of a vector kernel."""
    op = Fused(name, 1, read + scratch_read, written + scratch_written, flops)
    moved = ((scratch_read + scratch_written, buffer),) if buffer else ()
    return Pass(name, op, flops, read, written, moved)


def inside_taps(length: int, outputs: int, kernel: int, stride: int, padding: int) -> list[int]:
    """For every tap along one axis the outputs for which it falls on the input."""
    counts = []
    for tap in range(kernel):
        first = max(0, -(-(padding - tap) // stride))
        last = min(outputs, (length - 1 + padding - tap) // stride + 1)
        counts.append(max(0, last - first))
    return counts


def taps_inside(s: Sizes) -> int:
    """Taps of all outputs of one map that fall on the input."""
    down = inside_taps(s.h, s.p, s.k, s.stride, s.padding)
    return sum(down) * sum(inside_taps(s.w, s.q, s.k, s.stride, s.padding))


def direct(op: Conv2d) -> Built:
    """The convolution itself: implicit matrix product."""
    one = Pass("convolution", op, int(op.flops), int(op.bytes_read), int(op.bytes_written))
    return (one,), 0


def im2col(op: Conv2d) -> Built:
    """Patches written out, and one product."""
    s = sizes_of(op)
    rows, columns = s.n * s.p * s.q, s.ci * s.taps
    bytes_ = s.e * rows * columns
    x, y, weight = s.e * s.x, s.e * s.y, s.e * s.weight
    flops = 2 * rows * columns * s.co // s.g
    # one tap at every pixel: the input itself is the matrix
    plain = s.taps == 1 and all((a.stride, a.before, a.after) == (1, 0, 0) for a in op.axes)
    if op.direction == "wgrad":
        gemm = Gemm(s.co // s.g, columns // s.g, rows, s.g, s.dtype)
        ends = (y, weight)
    elif op.direction == "dgrad":
        gemm = Gemm(rows, columns // s.g, s.co // s.g, s.g, s.dtype)
        ends = (y + weight, 0)
    else:
        gemm = Gemm(rows, s.co // s.g, columns // s.g, s.g, s.dtype)
        ends = (weight, y)
    if plain:
        ends = (ends[0] + (x if op.direction != "dgrad" else 0),
                ends[1] + (x if op.direction == "dgrad" else 0))  # fmt: skip
        return (Pass("product", gemm, flops, *ends),), 0
    product = Pass("product", gemm, flops, *ends, ((bytes_, bytes_),))
    if op.direction == "dgrad":
        back = stream("col2im", rows * columns, written=x, scratch_read=bytes_, buffer=bytes_)
        return (product, back), bytes_
    gather = stream("im2col", 0, read=x, scratch_written=bytes_, buffer=bytes_)
    return (gather, product), bytes_


def kn2row(op: Conv2d) -> Built:
    """One product with all taps, and shifted additions."""
    if op.direction == "wgrad":
        return _kn2row_wgrad(op)
    s = sizes_of(as_forward(op))
    pixels = s.n * s.h * s.w
    maps = s.e * pixels * s.k**2 * s.co
    product = Gemm(pixels, s.k**2 * s.co // s.g, s.ci // s.g, s.g, s.dtype)
    added = s.n * s.co * taps_inside(s)
    return (
        Pass("product", product, 2 * pixels * s.k**2 * s.co * s.ci // s.g,
             s.e * (s.x + s.weight), 0, ((maps, maps),)),
        stream("shift-add", added, written=s.e * s.y, scratch_read=s.e * added, buffer=maps),
    ), maps  # fmt: skip


def kn2row_accumulating(op: Conv2d) -> Built:
    """The same, one tap at a time; the input and the running sum are met again at every tap."""
    if op.direction == "wgrad":
        return _kn2row_wgrad(op)
    s = sizes_of(as_forward(op))
    pixels = s.n * s.h * s.w
    maps, x, y = s.e * pixels * s.co, s.e * s.x, s.e * s.y
    weight = s.e * s.co * s.ci // s.g
    gemm = Gemm(pixels, s.co // s.g, s.ci // s.g, s.g, s.dtype)
    passes: list[Pass] = []
    for rows, columns in _windows(s):
        added = s.n * s.co * rows * columns
        # an endless cache brings the input in once and takes every output out once
        again = ((x, x),) if passes else ()
        passes.append(
            Pass("product", gemm, 2 * pixels * s.co * s.ci // s.g,
                 weight + (0 if passes else x), 0, ((maps, maps), *again))
        )  # fmt: skip
        out = min(s.e * added, y)
        y -= out
        op_ = Fused("shift-add", 1, 2 * s.e * added, s.e * added, added)
        held = ((s.e * added, maps), (2 * s.e * added - out, s.e * s.y))
        passes.append(Pass("shift-add", op_, added, 0, out, held))
    return tuple(passes), maps


def _windows(s: Sizes) -> list[tuple[int, int]]:
    """Height and width of the part of the output that each tap reaches from inside the input."""
    down = inside_taps(s.h, s.p, s.k, 1, s.padding)
    across = inside_taps(s.w, s.q, s.k, 1, s.padding)
    return [(rows, columns) for rows in down for columns in across]


def _kn2row_wgrad(op: Conv2d) -> Built:
    s = sizes_of(op)
    passes = []
    new = [s.e * s.x, s.e * s.y]
    for rows, columns in _windows(s):
        gemm = Gemm(s.co // s.g, s.ci // s.g, max(1, s.n * rows * columns), s.g, s.dtype)
        taken = [s.e * s.n * rows * columns * channels for channels in (s.ci, s.co)]
        # what an earlier tap has read may still be there
        first = [min(one, left) for one, left in zip(taken, new, strict=True)]
        new = [left - one for left, one in zip(new, first, strict=True)]
        again = [all_ - one for all_, one in zip(taken, first, strict=True)]
        passes.append(
            Pass("product", gemm, 2 * s.n * rows * columns * s.ci * s.co // s.g, sum(first),
                 s.e * s.ci * s.co // s.g, ((again[0], s.e * s.x), (again[1], s.e * s.y)))
        )  # fmt: skip
    return tuple(passes), 0


def scalar_matrix(op: Conv2d) -> Built:
    """Scaled additions of shifted maps; the running output plane is held in cache if it fits."""
    s = sizes_of(as_forward(op))
    work = 2 * s.n * s.co * (s.ci // s.g) * taps_inside(s)
    plane, image = s.e * s.p * s.q, s.e * s.ci // s.g * s.h * s.w
    touched = s.e * work // 2
    # result read and written again by every scaled addition; input read once for each output map
    again = ((max(0, 2 * touched - s.e * s.y), plane), (max(0, touched - s.e * s.x), image))
    ends = (s.e * (s.x + s.weight), s.e * s.y)
    if op.direction == "wgrad":
        # inner products instead: nothing accumulates in memory
        again = ((max(0, touched - s.e * s.y), plane), (max(0, touched - s.e * s.x), image))
        ends = (s.e * (s.x + s.y), s.e * s.weight)
    kernel = Fused("scaled additions", 1, ends[0] + sum(moved for moved, _ in again), ends[1], work)
    # two operands and, for an addition in place, the result come and go with every product
    operands = touched * (2 if op.direction == "wgrad" else 3)
    return (Pass("scaled additions", kernel, work, *ends, again, operands),), 0
