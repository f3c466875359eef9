"""Products of groups on Hopper: the two kernels that PyTorch has for them.

A group with few rows or columns is cut into tiles of 64 x 128, any other into 128 x 256; nothing
is split along ``k``. Units work in pairs on two tiles one below the other, whose columns' operand
they share: a group whose rows end in the first of the two leaves the second unit idle. With few
rows half of the units wait so, and what the others draw through the last-level cache bounds them
before the memory does, on a chip with a faster memory all the more.

Reference
---------
PyTorch, ``aten/src/ATen/native/cuda/GroupMM.cu`` (tiles, their choice, clusters of 2 x 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.device import Device
from perfmodel.cost.gemm import gemm_parts
from perfmodel.cost.parts import Floats, Parts, combine

SMALL, LARGE = (64, 128), (128, 256)
# Rows or columns of a group up to which its tiles are small.
FEW = 128.0


def grouped_parts(
    m: Floats,
    n: Floats,
    k: Floats,
    groups: Floats,
    element: float,
    out_element: float,
    device: Device,
    coefficients: Mapping[str, float],
    *,
    traffic: Floats,
    **further: Any,
) -> Parts:
    """Time of ``groups`` products of ``m x k`` by ``k x n`` each, arrays of shape (N,) [s].

    Arguments are those of :func:`~perfmodel.cost.gemm.gemm_parts`, which ``further`` reaches; the
    coefficients have ``cluster_rows`` and ``through_bytes_per_clock`` besides. ``choice`` is 0 for
    small tiles and 1 for large ones.
    """
    few = (np.floor(m) <= FEW) | (n <= FEW)
    both = [
        gemm_parts(
            m, n, k, groups, element, out_element, device, coefficients,
            traffic=traffic, splits=(1,), tiles=(tile,), **further,
        )
        for tile in (SMALL, LARGE)
    ]  # fmt: skip
    compute, memory, power, floor = (
        np.where(few, *(getattr(one, part) for one in both))
        for part in ("compute", "memory", "power", "floor")
    )
    through = _through(m, n, groups, few, traffic, device, coefficients)
    exponent = coefficients["overlap_exponent"]
    return combine(
        np.maximum(compute, through), memory, power, floor, exponent, np.where(few, 0.0, 1.0)
    )


def _through(
    m: Floats,
    n: Floats,
    groups: Floats,
    few: NDArray[np.bool_],
    traffic: Floats,
    device: Device,
    c: Mapping[str, float],
) -> Floats:
    """What the busy units take to draw ``traffic`` through the last-level cache [s]."""
    rows, columns = (np.where(few, *sides) for sides in zip(SMALL, LARGE, strict=True))
    below, beside = np.ceil(m / rows), np.ceil(n / columns) * groups
    pair = c["cluster_rows"]
    turns = np.ceil(below / pair) * pair * beside / device.units
    whole = np.ceil(turns)
    turns = np.maximum(whole - c["wave_blur"] * (whole - turns), 1.0)
    rate = c["through_bytes_per_clock"] * device.clock
    return np.asarray(turns * traffic / (below * beside * rate))
