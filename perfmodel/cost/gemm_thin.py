r"""Products of few rows on the vector units: kernels without tiles.

For one row, and for up to eight where there are no matrix units for the operands, a library leaves
its tiled kernels for one whose blocks each make eight columns of the result for all rows at once,
walking the whole of ``k``:

.. math::

    t = t_0 + \text{soft\_max}\left( \frac{g(m)\, k}{f} \max\left(c_\text{wait},
        \frac{\lceil n/8 \rceil b}{U} c_\text{step}\right), \frac{B}{\eta_b W} \right),
    \qquad g(m) = \max(1, m / m_0)

A block alone waits :math:`c_\text{wait}` clocks for every step of ``k``; many on a unit hide each
other's waits and share its arithmetic, :math:`c_\text{step}` clocks a step. A single row is a
matrix-vector product, whose threads share ``k`` too: it waits for memory alone.

A few small shapes are cut into hundreds of parts instead, which add their sums to the result one
after another: ten times as long, and what the library does.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.device import Device
from perfmodel.cost.parts import Floats, soft_max

COEFFICIENTS = {
    "thin_floor_seconds": "start and end of a kernel without tiles [s]",
    "thin_wait_cycles": "clocks that its block alone takes for one step of k",
    "thin_step_cycles": "clocks that a step takes of a unit with many blocks",
    "thin_rows": "rows from which on a step takes longer",
    "thin_turn_seconds": "what a part waits for the one before it to add its sum [s]",
    "thin_bandwidth_efficiency": "share of the memory peak that its streaming reaches",
}
MOST_ROWS = 8.0
COLUMNS = 8.0
# Where cuBLAS 13 was seen to keep its tiles all the same, by the names of the kernels that ran:
# narrow results of some depth (wider ones too at eight rows), and large products.
NARROW, SHORT, LARGE = (448.0, 1024.0), (100.0, 900.0), 7e8
# Rows of single bf16 elements, which no matrix instruction takes as they lie.
SINGLE_ROWS, SINGLE_DEPTH, SINGLE_WIDTH, SINGLE_SLANT = 4.0, (130.0, 1700.0), 4000.0, 1.27
# Small products of 7 to 16 rows go to parts that wait for each other, as many as there are units,
# twice as many or half as many, by the width of the result: all of 18 such products that were seen,
# and none of 130 beside them in rows, width, depth, work or layout.
QUEUED_ROWS, QUEUED_DEPTH, QUEUED_WORK = (7.0, 16.0), 100.0, 2.0**21
QUEUED_LEAST_WIDTH, QUEUED_WIDTH = 64.0, 5.85


def is_thin(m: Floats, n: Floats, k: Floats, batch: Floats, device: Device) -> NDArray[np.bool_]:
    """Where a kernel without tiles runs, shape (N,); sizes in elements."""
    full = m >= MOST_ROWS
    wide = (n > np.where(full, NARROW[1], NARROW[0])) | (k <= np.where(full, SHORT[1], SHORT[0]))
    few = (m <= MOST_ROWS) & wide & (m * n * k <= LARGE) & (batch <= 1.0)
    return np.asarray((m <= 1.0) | (few & (device.peak <= device.vector)))


def is_thin_single(m: Floats, n: Floats, k: Floats, batch: Floats) -> NDArray[np.bool_]:
    """Where few bf16 rows that start on single elements run without tiles, shape (N,).

    Where the result is about as wide as the sum is deep, or at up to four rows the sum is not deep:
    31 of 34 linear layers that did by their names, and none of 29 that did not.
    """
    low, high = SINGLE_DEPTH
    shallow = (m <= SINGLE_ROWS) & (k <= high)
    deep = (k > low) | (n > SINGLE_WIDTH)
    few = (m <= MOST_ROWS) & (batch <= 1.0)
    return np.asarray(few & ((k <= SINGLE_SLANT * n) | shallow) & deep)


def queued_parts(
    m: Floats, n: Floats, k: Floats, batch: Floats, device: Device, *, along_k: bool = True
) -> Floats:
    """Parts that add their sums to the result in turn, shape (N,); 0 where there are none.

    cuBLAS 13 was seen to cut ``k`` of small fp32 products into more parts than it has steps, where
    both factors lie along ``k`` in memory (``along_k``).
    """
    rows = QUEUED_ROWS
    small = (m >= rows[0]) & (m <= rows[1]) & (k > QUEUED_DEPTH) & (n > QUEUED_LEAST_WIDTH)
    small = small & (m * n * k <= QUEUED_WORK) & (batch <= 1.0) & along_k
    # Twice the units up to 193 columns of an H100, half the units up to 772.
    turns = 2.0 ** np.floor(np.log2(QUEUED_WIDTH * 66.0 / n))
    small = small & (turns >= 0.5) & (device.peak <= device.vector)
    return np.asarray(np.where(small, device.units * np.minimum(turns, 2.0), 0.0))


def thin_times(
    m: Floats,
    n: Floats,
    k: Floats,
    batch: Floats,
    traffic: Floats,
    device: Device,
    c: Mapping[str, float],
    outside: Floats,
) -> tuple[Floats, Floats, Floats, Floats]:
    """Seconds, arithmetic, memory and floor of the kernel without tiles, arrays (N,) [s].

    ``outside`` is 1 where the first operands come from device memory, 0 where from the cache.
    """
    blocks = np.ceil(n / COLUMNS) * batch / device.units
    wait = np.where(m > 1.0, c["thin_wait_cycles"], 0.0)
    step = np.maximum(wait, blocks * c["thin_step_cycles"])
    compute = np.maximum(1.0, m / c["thin_rows"]) * k * step / device.clock
    compute = np.where(m > 1.0, compute, 0.0)
    memory = traffic / (device.bandwidth * c["thin_bandwidth_efficiency"])
    floor = c["thin_floor_seconds"] + c["latency_seconds"] * outside
    return floor + soft_max((compute, memory), c["overlap_exponent"]), compute, memory, floor
