r"""The largest values of every row: a softmax, a selection by bits, and a sort of what is chosen.

PyTorch gives a short row to one block, a thread an element up to 1,024, which goes over it once for
every two bits of a value. With :math:`R` rows of :math:`n` values, :math:`w` warps each, on
:math:`U` units,

.. math::

    t = t_0 + \min\left(\frac{w}{16}, 1\right) t_w + \frac{n}{1024} t_n + \left\lVert
        \frac{R}{U} \frac{c_\text{row} + w\,c_\text{warp} + [k > 1]\,c_\text{sort}}{f},\;
        \frac{B}{\eta_b W} \right\rVert_p

where a single value needs no sort, and half of the start. Long rows, and many of some length
(:func:`by_many_blocks`), are shared out among blocks, which take eight bits a pass in kernels of
their own, after a softmax whose block goes along a row in steps of 4,096.

Reference
---------
PyTorch, aten/src/ATen/native/cuda/TensorTopK.cu (sbtopk, mbtopk, should_use_multiblock), Sort.cu.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.device import Device
from perfmodel.cost.parts import Floats, Parts, combine

COEFFICIENTS: Final = {
    "bandwidth_efficiency": "share of the memory peak that streaming reaches",
    "row_cycles": "clocks of a unit that a row takes",
    "warp_cycles": "the same of each of its warps",
    "sort_cycles": "the same of the sort of what is chosen",
    "warp_seconds": "what sixteen warps add to the way of a row through its kernels [s]",
    "loop_seconds": "what every 1,024 values of a row add to it [s]",
    "shared_floor_seconds": "start of the kernels of rows that blocks share [s]",
    "pass_seconds": "what a pass over eight bits adds to it [s]",
    "select_cycles": "clocks of a unit for a value in such a pass",
    "softmax_seconds": "step of the softmax of a long row [s]",
    "single_share": "start where one value is chosen, which needs no sort, as a share of the other",
    "floor_seconds": "start and end of the kernels in a stream [s]",
    "overlap_exponent": "how sharply the parts overlap",
}
_WARP: Final = 32.0
_MANY, _LOOP, _STEP, _BLOCKS = 16.0, 1024.0, 4096.0, 2.0
_BITS, _RADIX = 8.0, 8.0
_SHARED_FROM: Final = (
    (20.0, 20000.0), (40.0, 10000.0), (80.0, 8000.0), (199.0, 5000.0), (799.0, 3000.0),
    (4000.0, 800.0), (np.inf, 400.0),
)  # fmt: skip
"""Most rows, and the shortest ones that are shared out."""


def choice_parts(
    s: Mapping[str, Floats], element: float, device: Device, coefficients: Mapping[str, float]
) -> Parts:
    """Time of choices of the largest values, and its parts, arrays of shape (N,) [s].

    Parameters
    ----------
    s : mapping of array
        ``rows cols k read written`` of the operator.
    element : float
        Bytes of one value [B].
    device : Device
        The chip.
    coefficients : mapping
        Values of :data:`COEFFICIENTS`.
    """
    c, rows, cols = coefficients, s["rows"], s["cols"]
    warps = np.ceil(cols / _WARP)
    several = s["k"] > 1
    shared = by_many_blocks(rows, cols)
    each = c["row_cycles"] + warps * c["warp_cycles"] + several * c["sort_cycles"]
    alone = rows / device.units * each / device.clock
    passes = np.ceil(element * _BITS / _RADIX)
    select = rows * cols * passes * c["select_cycles"] / (device.units * device.clock)
    turns = np.maximum(rows / (_BLOCKS * device.units), 1.0)
    along = turns * cols / _STEP * c["softmax_seconds"]
    work = np.where(shared, select + along, alone)
    memory = (3.0 * s["read"] + s["written"]) / (device.bandwidth * c["bandwidth_efficiency"])
    start = c["floor_seconds"] * np.where(several, 1.0, c["single_share"])
    way = np.minimum(warps / _MANY, 1.0) * c["warp_seconds"] + cols / _LOOP * c["loop_seconds"]
    long_start = c["shared_floor_seconds"] + passes * c["pass_seconds"]
    floor = np.where(shared, long_start, start + way)
    return combine(work, memory, np.zeros_like(memory), floor, c["overlap_exponent"])


def by_many_blocks(rows: Floats, cols: Floats) -> NDArray[np.bool_]:
    """Where PyTorch shares a row out among blocks, shape (N,): the fewer rows, the longer ones."""
    least = np.full(rows.shape, np.inf)
    for most, length in _SHARED_FROM[::-1]:
        least = np.where(rows <= most, length, least)
    return np.asarray(cols >= least)
