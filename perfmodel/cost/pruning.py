"""Time that pruning and quantisation really save, with whole tiles and real formats.

Arithmetic falls in proportion to what is removed; time falls in the steps in which a matrix unit
takes tiles, and not at all where the layer waits for memory or the start of a kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from perfmodel.cost.price import price
from perfmodel.cost.structured import structured_product
from perfmodel.errors import SpecError, WorkloadError
from perfmodel.hardware import Accelerator
from perfmodel.workload.ops.conv import Conv2d
from perfmodel.workload.ops.dense import Gemm, Spmm
from perfmodel.workload.pruning import QUANTISED_BITS, quantised


@dataclass(frozen=True, slots=True)
class Realised:
    """A layer before and after a change.

    Parameters
    ----------
    before, after : float
        Time [s].
    flops_ratio : float
        Arithmetic left, as a share.
    """

    before: float
    after: float
    flops_ratio: float

    @property
    def time_ratio(self) -> float:
        """Time left, as a share."""
        return self.after / self.before

    @property
    def realised(self) -> float:
        """Time saved for each share of arithmetic saved: 1 is perfect, 0 is nothing."""
        saved = 1.0 - self.flops_ratio
        return (1.0 - self.time_ratio) / saved if saved > 0.0 else 1.0


def realised(before: Conv2d, after: Conv2d, accelerator: Accelerator) -> Realised:
    """Time of a layer before and after pruning."""
    old, new = (float(price(op, accelerator).seconds) for op in (before, after))
    return Realised(old, new, int(after.flops) / int(before.flops))


def channel_staircase(op: Conv2d, accelerator: Accelerator, *, axis: str = "c_out") -> Any:
    """Time of a layer for every number of channels up to its own, array (c,) [s].

    Parameters
    ----------
    axis : str
        ``"c_out"`` or ``"c_in"``.

    Raises
    ------
    WorkloadError
        For another axis, or a layer with groups.
    """
    if axis not in ("c_out", "c_in") or op.groups != 1:
        raise WorkloadError(
            "channel staircase",
            f"axis {axis}, groups {op.groups}",
            "axis c_out or c_in of a layer with one group",
            repair="use a dense layer",
        )
    counts = np.arange(1, int(getattr(op, axis)) + 1)
    many = replace(op, c_out=counts) if axis == "c_out" else replace(op, c_in=counts)
    return price(many, accelerator).seconds


def skipped_blocks(keep: Any, rows: int, columns: int) -> float:
    """Share of the blocks of a filter matrix that hold no connection and can be skipped.

    Parameters
    ----------
    keep : (c_out, c_in) bool array
        Connections that stay.
    rows, columns : int
        Output and input channels that one block of the product covers.
    """
    keep = np.asarray(keep, dtype=bool)
    down, across = -(-keep.shape[0] // rows), -(-keep.shape[1] // columns)
    padded = np.zeros((down * rows, across * columns), dtype=bool)
    padded[: keep.shape[0], : keep.shape[1]] = keep
    blocks = padded.reshape(down, rows, across, columns).any(axis=(1, 3))
    return float(1.0 - blocks.mean())


def as_product(op: Conv2d) -> Gemm:
    """The matrix product that a layer is, weights as its left operand."""
    taps = int(op.taps)
    groups = int(op.groups)
    m = int(op.n) * int(op.h_out) * int(op.w_out)
    n, k, batch = int(op.c_out) // groups, int(op.c_in) // groups * taps, groups
    return Gemm(n, m, k, batch, op.dtype)


def sparse_seconds(op: Conv2d, density: float, accelerator: Accelerator) -> float:
    """A layer with unstructured zeros as a sparse matrix times the patches [s].

    Values and indices are gathered on vector units; the patches have to be there as a matrix.
    """
    product = as_product(op)
    nnz = max(1, round(density * int(product.m) * int(product.k)))
    sparse = Spmm(product.m, product.n, product.k, nnz, dtype=op.dtype)
    return float(price(sparse, accelerator).seconds) * int(product.batch)


def crossover_density(op: Conv2d, accelerator: Accelerator) -> float:
    """Density below which the sparse product is faster than the dense layer; 0 if it never is.

    Found by bisection: sparse time grows with the density.
    """
    dense = float(price(op, accelerator).seconds)
    if sparse_seconds(op, 0.0, accelerator) >= dense:
        return 0.0
    low, high = 0.0, 1.0
    if sparse_seconds(op, 1.0, accelerator) < dense:
        return 1.0
    for _ in range(30):
        middle = 0.5 * (low + high)
        if sparse_seconds(op, middle, accelerator) < dense:
            low = middle
        else:
            high = middle
    return low


def structured_seconds(op: Conv2d, accelerator: Accelerator) -> float:
    """A layer with two of four weights kept, on matrix units that skip the others [s].

    Like the unstructured product, it takes the patches as a matrix; groups run one by one.

    Raises
    ------
    SpecError
        If the chip has no 2:4 sparsity.
    """
    product = as_product(op)
    one = structured_product(product.m, product.n, product.k, op.dtype, accelerator)
    return float(one) * int(product.batch)


def quantised_seconds(
    op: Conv2d, accelerator: Accelerator
) -> tuple[tuple[int, str, float | None], ...]:
    """Time of a layer from 64-bit to 4-bit operands; ``None`` where the chip has no such format.

    Returns
    -------
    tuple of (bits, format, seconds or None)
    """
    found: list[tuple[int, str, float | None]] = []
    for bits, dtype in QUANTISED_BITS.items():
        try:
            seconds: float | None = float(price(quantised(op, bits), accelerator).seconds)
        except SpecError:
            seconds = None
        found.append((bits, dtype, seconds if seconds and math.isfinite(seconds) else None))
    return tuple(found)
