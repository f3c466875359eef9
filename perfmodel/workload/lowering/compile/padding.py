"""Where the compiler pads memory.

Matrix products whose rows do not start on 16 bytes are padded where arithmetic bounds them. Strides
of more than 1,024 elements are rounded up to 128 bytes; a reshape that does not fit into such
memory is copied.

References
----------
torch/_inductor/fx_passes/pad_mm.py: ``should_pad_common``, ``is_mm_compute_bound``;
torch/_inductor/ir.py, ``Layout._pad_strides``; torch/_inductor/config.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from perfmodel.workload.lowering.compile.graph import Graph
from perfmodel.workload.lowering.site import Work, item_bytes
from perfmodel.workload.op import Gemm

BALANCE: Final = 295.0
"""Operations for each byte above which a product counts as bound by arithmetic [FLOP/B]."""

TURNED_COLUMNS: Final = 850
"""Columns of a product from which on padding pays although its left operand is transposed.

The compiler times both forms. What is spared for each element of the operand is ``2 columns``
operations at some 147 TFLOP/s without alignment less 700 with it; the library's copy across axes
takes 8 ps an element and counts 1.1-fold (an H100: 768 columns stayed, 1,024 were padded).
"""
ACROSS: Final = 9.5
"""Time in which a right operand is padded across its rows, for each element [ps].

The compiler copies it into rows with PyTorch's own kernels (8 ps), fills what is new, and counts
all that 1.1-fold.
"""
ODD_RATE: Final = 94.0
EVEN_RATE: Final = 222.0
PADDED_RATE: Final = 650.0
"""Arithmetic of products whose result has odd rows, even rows, and rows of 16 bytes [TFLOP/s].

An H100's 512 by 50,257 by 768 (422 us), and prices of measured products of odd lines.
"""
PAD: Final = "pad"
"""The step that copies an operand into padded memory."""
LONG_STRIDE: Final = 1024
STRIDE_BYTES: Final = 128
_ALIGNED: Final = 16
_PADDED: Final = ("bf16", "fp16", "fp32", "tf32")


def padded(
    graph: Graph, operands: Sequence[int], work: Work, *, turned: bool, across: bool = False
) -> tuple[list[int], Work]:
    """The operands, copied into padded memory where that pays, and the padded product.

    ``turned`` says that the left operand is transposed, and that the product was taken for its own
    transpose, whose rows start where they should; ``across`` that the right one is transposed.
    """
    op = work.kernels[0].ops[0] if len(work.kernels) == 1 else None
    if not isinstance(op, Gemm) or len(operands) != 2 or op.dtype not in _PADDED:
        return list(operands), work
    m, n, k, batch = (int(size) for size in (op.m, op.n, op.k, op.batch))
    if turned:
        m, n = n, m
        if n < TURNED_COLUMNS:
            return list(operands), work
    step = _ALIGNED // item_bytes(op.dtype)
    starts = (m, n, k) if turned else (n, k)  # how many rows there are is no matter of alignment
    bound = m * n * k / (m * k + n * k + m * n) >= BALANCE
    if not bound or all(size % step == 0 for size in starts):
        return list(operands), work
    if across and not turned and k % step == 0 and not _pays_across(m, n):
        return list(operands), work
    wide = [-(-size // step) * step for size in (m, n, k)]
    sides = ((wide[0], wide[2]) != (m, k), (wide[1], wide[2]) != (n, k))
    result = [
        graph.map(PAD, (arg,), graph.values[arg].shape, graph.values[arg].dtype, 0, heavy=True)
        if changed
        else arg
        for arg, changed in zip(operands, sides, strict=True)
    ]
    larger = Gemm(wide[0], wide[1], wide[2], batch, op.dtype, trans=op.trans)
    return result, replace(work, kernels=(replace(work.kernels[0], ops=(larger,)),))


def _pays_across(rows: int, columns: int) -> bool:
    """Whether padding a transposed right operand spares what copying it costs."""
    plain = ODD_RATE if columns % 2 else EVEN_RATE
    return 2 * rows * (1 / plain - 1.1 / PADDED_RATE) > ACROSS


def padded_strides(shape: Sequence[int], width: int) -> list[int]:
    """Strides of a buffer of elements of ``width`` bytes, the outermost first.

    Examples
    --------
    >>> padded_strides((8, 3, 49, 32), 2)
    [4800, 1600, 32, 1]
    """
    step = max(1, STRIDE_BYTES // width)
    strides: list[int] = []
    stride = 1
    for size in reversed(shape):
        if strides and stride > LONG_STRIDE:
            stride = -(-stride // step) * step
        strides.append(stride)
        stride *= size
    return strides[::-1]


def room(shape: Sequence[int], width: int) -> int:
    """Elements that such a buffer takes; 0 where no stride is rounded up."""
    taken = padded_strides(shape, width)[0] * shape[0] if shape else 0
    return taken if taken > math.prod(shape) else 0


def fits(shape: Sequence[int], target: Sequence[int], width: int) -> bool:
    """Whether a reshape of padded memory is a view of it.

    Examples
    --------
    >>> fits((8, 3, 49, 32), (24, 49, 32), 2), fits((8, 3, 49, 32), (24, 49 * 32), 2)
    (True, True)
    >>> fits((8, 49, 3, 32), (8 * 49, 96), 2)
    False
    """
    strides = padded_strides(shape, width)
    inner, ends = 1, {1}
    for size in reversed(target):
        inner *= size
        ends.add(inner)
    inner = 1
    for axis in range(len(shape) - 1, 0, -1):
        inner *= shape[axis]
        gap = strides[axis - 1] != strides[axis] * shape[axis]
        if gap and shape[axis - 1] > 1 and inner not in ends:
            return False
    return True
