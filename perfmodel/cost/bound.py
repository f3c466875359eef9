r"""The first of the three steps: a time that no implementation can beat.

.. math::

    t \ge \max\left(\frac{F}{g\,P},\ \frac{B_r + \max(0, B_w - C)}{W}\right)

Operands come from device memory; a result need not reach it before the next kernel starts, so what
the last-level cache of capacity ``C`` can hold is not counted. ``g`` is the largest saving of
arithmetic that an exact algorithm allows: Winograd's :math:`F(4 \times 4, 3 \times 3)` needs a
quarter of the multiplications of a 3 x 3 convolution, and skipping the padding saves its share.
"""

from __future__ import annotations

import numpy as np

from perfmodel.cost.device import Device
from perfmodel.cost.parts import Floats
from perfmodel.cost.tasks import Task

WINOGRAD_GAIN = 4.0


def lower_bound(task: Task, device: Device) -> tuple[Floats, Floats]:
    """Arithmetic and memory bounds of every operator, arrays of shape (N,) [s].

    Reference
    ---------
    Williams, Waterman, Patterson, "Roofline", 2009; Lavin and Gray, "Fast Algorithms for
    Convolutional Neural Networks", 2016 (arithmetic saved by Winograd's algorithms).
    """
    sizes = task.sizes
    bandwidth = device.wires or device.bandwidth
    if task.base == "copy_host":
        moved = sizes["bytes"] / bandwidth
        return np.zeros_like(moved), moved
    flops = sizes["flops"]
    read = sizes["read"]
    if task.convolution:
        unit_step = (sizes["steps"] == 1.0) & (sizes["taps"] > 1.0)
        flops = flops * sizes["inside"] / np.where(unit_step, WINOGRAD_GAIN, 1.0)
        # A strided kernel may skip input that no output sees.
        read = read * sizes["seen"]
    if task.base.startswith("embedding"):
        # Rows looked up twice come from the cache: only distinct rows must be read.
        row = sizes["dim"] * task.element
        read = np.minimum(read, 0.5 * sizes["distinct"] * row)
    if task.base == "spmm":
        # Nor which rows of the dense factor are met: those of one sparse row are sure to be.
        met = np.minimum(sizes["k"], np.ceil(sizes["nnz"] / sizes["m"]))
        read = read - (sizes["k"] - met) * sizes["n"] * task.element
    if task.base.startswith("scatter_add"):
        # Nobody knows how many different rows are added to: only what is added is sure to move.
        read = sizes["rows"] * sizes["cols"] * task.element
        return flops / device.peak, read / bandwidth
    memory = (read + np.maximum(0.0, sizes["written"] - device.cache)) / bandwidth
    return flops / device.peak, memory
