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

Batches in fp32, in TF32 where rows do not start on 16 bytes, and in bf16 where they start on
single elements leave the tiles too. Where the
right factor lies along ``n`` in memory a block makes 64 columns of up to five rows (of six to eight
rows two blocks half each), and each of its threads walks all of ``k`` alone: a step waits whatever
else runs, half as long where 256 and not 128 threads share a block.

.. math::

    t = t_0 + \text{soft\_max}\left( \frac{k}{f} \left(c_\text{block} \frac{128}{T}
        + \frac{\lceil n/64 \rceil \lceil m/5 \rceil b}{U} c_\text{turn} \right),
        \frac{B}{\eta_b W} \right)

Large products of few rows, whose columns share the work of a sum, are told apart and priced as
tiles. A few small shapes are cut into hundreds of parts instead, which add their sums to the result
one after another: three to ten times as long, and what the library does.
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
    "thin_block_cycles": "clocks that a step of k waits where a block makes 64 columns",
    "thin_block_turn_cycles": "clocks that each such block on a unit adds to a step",
    "thin_turn_seconds": "what a part waits for the one before it to add its sum [s]",
    "thin_bandwidth_efficiency": "share of the memory peak that its streaming reaches",
}
MOST_ROWS, HALF_ROWS = 8.0, 4.0
COLUMNS = 8.0
# Where cuBLAS 13 runs what in fp32, by the names of the kernels of 2,666 linear layers of 2 to 8
# rows (96 % of them so). Narrow results have tiles unless k is short; so have wide ones of hardly
# any depth.
NARROW, SHORT, SHALLOW = (780.0, 1052.0), 94.0, 0.025
# A narrow result is served without tiles again where the sum is deep, but not too deep for it.
NARROW_DEEP, NARROW_WORK, NARROW_SLANT = 496.0, 1.03e6, 9.95
SHORT_WORK = 1.5e5
# Weights (n k) above which columns share their sums. Of five to eight rows, small wide products do
# too, by the names of the 29 kernels that ran and by the times of 45 more.
LARGE = np.array([np.inf, np.inf, np.inf, 1.65e8, 1.65e8, 7.3e7, 7.3e7, 4.2e7, 4.2e7])
SMALL_ROWS, SMALL_WIDTH = 5.0, 772.0
LARGE_DEPTH, LARGE_WIDTH = (9536.0, 6528.0), 6780.0
FULL_WIDTH, FULL_SLANT = 9784.0, (0.24, 5.22)
# Rows of single bf16 elements, which no matrix instruction takes as they lie.
SINGLE_ROWS, SINGLE_DEPTH, SINGLE_WIDTH, SINGLE_SLANT = 4.0, (130.0, 1700.0), 4000.0, 1.27
# Small products go to parts that wait for each other. Of 7 to 16 rows, twice as many parts as there
# are units, as many, or half as many, by the width of the result, where both factors lie along
# ``k``; in other layouts narrow ones alone. Of 17 to 128 rows, where three tiles of 64 columns make
# the width. By the names of the kernels that ran: 233 of 235 such products that were named, and
# none of 2,500 beside them in rows, width, depth, work or layout.
# Work is below 2^21: of 35 products of just so much none was cut, and all 14 of up to 3 % less.
QUEUED_ROWS, QUEUED_DEPTH, QUEUED_WORK = (7.0, 16.0), 94.0, 2.0**21
QUEUED_LEAST_WIDTH, QUEUED_LEAST_OTHER, QUEUED_MOST_OTHER = 92.0, 68.0, 194.0
QUEUED_WIDTH = 5.85
# Wide ones in any layout, by their times: at 5 to 8 rows, where columns share the sums, 74 of 75
# took about 10 us more, and at 13 to 16 rows, where one tile walks all of k, 11 of 12 half of it.
QUEUED_WIDE_ROWS = 13.0
QUEUED_TILE, QUEUED_TILE_ROWS, QUEUED_TILE_DEPTH = (128.0, 176.0), 128.0, 32.0
# Batches of 2 to 8 rows, by the names of the kernels of 2,833 in fp32: none below 2^21
# multiplications (and none of 767 in TF32), and 94 % of all by these limits. Others have tiles.
BATCH_WORK, BLOCK_COLUMNS, BLOCK_ROWS = 2.0**21, 64.0, 5.0
PLAIN_DEPTH, PLAIN_ROWS, PLAIN_BATCH, PLAIN_BLOCKS = 97.0, 4.0, 143.0, 1014.0
ALONG_DEPTH, ALONG_BLOCKS = 124.0, 807.0
# Rows of single elements in bf16: 97 % of 1,222 batches.
HALF_MOST_ROWS, BF16_BLOCKS, BF16_DEPTH = 16.0, 700.0, 42.0
BF16_BATCH, BF16_ROWS = (63.0, 134.0), (4.0, 13.0)
BATCH_TRANS = {"fp32": ("nn", "tn"), "tf32": ("nn", "tn"), "bf16": ("nn",)}
UNEVEN = {"tf32": 4.0, "bf16": 2.0}
"""Rows are uneven below so many elements side by side, by format."""
# Of 1,756 batches that run so, 256 threads to a block, for 87 %; else 128.
WIDE_RESULTS, WIDE_BLOCKS, TWO_GROUPS = 51136.0, 2694.0, (2096.0, 240.0, 92.0)
FEWER = 2.0 / 3.0
"""Parts against units where a tile is 64 rows or columns wide."""


def is_thin(m: Floats, n: Floats, k: Floats, batch: Floats, device: Device) -> NDArray[np.bool_]:
    """Where a kernel without tiles runs, shape (N,); sizes in elements."""
    few = (m <= MOST_ROWS) & (batch <= 1.0)
    if device.peak > device.vector or not few.any():
        return np.asarray(m <= 1.0)
    full, weights = m >= MOST_ROWS, n * k
    wide = n > np.where(full, NARROW[1], NARROW[0])
    low = m <= HALF_ROWS
    shallow = np.where(low, (k <= SHORT) & (weights > SHORT_WORK), k <= SHALLOW * n)
    deep = (n > np.where(m <= 2.0, 0.65, 1.0) * NARROW_DEEP) & (weights > NARROW_WORK)
    deep = deep & (k <= NARROW_SLANT * n) & (m < MOST_ROWS)
    thin = np.where(wide, ~shallow, (k <= SHORT) | deep) & ~is_shared(m, n, k, batch, device)
    return np.asarray((m <= 1.0) | (few & thin))


def is_thin_batch(
    m: Floats, n: Floats, k: Floats, batch: Floats, even: Floats, trans: str, dtype: str
) -> NDArray[np.bool_]:
    """Where a batch of few rows runs without tiles, shape (N,); sizes in elements.

    In fp32 two to eight rows; in TF32 only where rows do not start on 16 bytes (``even``, the
    largest power of two that divides them [elements]), and in bf16, up to 16 rows, only where they
    start on single elements: matrix instructions do not take those.
    """
    none = np.zeros(np.shape(m), dtype=bool)
    if trans not in BATCH_TRANS.get(dtype, ()):
        return none
    most = HALF_MOST_ROWS if dtype == "bf16" else MOST_ROWS
    few = (m > 1.0) & (m <= most) & (batch > 1.0) & (m * n * k * batch >= BATCH_WORK)
    few = few & (even < UNEVEN.get(dtype, np.inf))
    if not few.any() or (dtype == "tf32" and trans == "nn"):
        return np.asarray(few)
    blocks = np.ceil(n / BLOCK_COLUMNS) * batch
    if trans == "tn":
        return np.asarray(few & (k > ALONG_DEPTH) & (blocks <= ALONG_BLOCKS))
    if dtype == "bf16":
        many = np.where(m > BF16_ROWS[1], batch > BF16_BATCH[0], batch > BF16_BATCH[1])
        few = few & (blocks <= BF16_BLOCKS) & (k > BF16_DEPTH)
        return np.asarray(few & (~many | ((m <= BF16_ROWS[0]) & (batch > BF16_BATCH[1]))))
    deep = (k >= PLAIN_DEPTH) | (m <= PLAIN_ROWS)
    return np.asarray(few & np.where(batch > PLAIN_BATCH, blocks <= PLAIN_BLOCKS, deep))


def is_shared(m: Floats, n: Floats, k: Floats, batch: Floats, device: Device) -> NDArray[np.bool_]:
    """Where columns of 64 share the work of a sum, shape (N,); sizes in elements.

    Large products of few rows, and some small ones.
    """
    few = (m > 1.0) & (m <= MOST_ROWS) & (batch <= 1.0)
    if device.peak > device.vector or not few.any():
        return np.zeros(np.shape(m), dtype=bool)
    rows = np.clip(np.ceil(m), 0.0, MOST_ROWS).astype(np.intp)
    full, weights = m >= MOST_ROWS, n * k
    small = (m >= SMALL_ROWS) & (m * weights < QUEUED_WORK) & (k > QUEUED_DEPTH)
    small = small & (n > SMALL_WIDTH)
    some = full & (n > NARROW[0]) & (n <= NARROW[1]) & (k > SHALLOW * n) & (k <= FULL_SLANT[0] * n)
    small = small | some
    low = m <= HALF_ROWS
    deep = (k > np.where(m <= 2.0, *LARGE_DEPTH)) & (n > LARGE_WIDTH)
    large = np.where(
        low, deep | ((weights > LARGE[rows]) & (k > LARGE_DEPTH[1])), weights > LARGE[rows]
    )
    large = large & (n > NARROW[0])
    odd = full & (n > NARROW[1]) & ((k > FULL_SLANT[1] * n) | ((n > FULL_WIDTH) & (weights > 6e6)))
    return np.asarray(few & (small | large | odd))


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

    cuBLAS 13 was seen to cut ``k`` of small fp32 products into more parts than it has steps, most
    often where both factors lie along ``k`` in memory (``along_k``).
    """
    low, high = QUEUED_ROWS
    small = (m * n * k < QUEUED_WORK) & (batch <= 1.0) & (device.peak <= device.vector)
    few = small & (m >= low) & (m <= high) & (k > QUEUED_DEPTH)
    wide = n > QUEUED_LEAST_WIDTH
    beyond = small & (k > QUEUED_DEPTH) & (n > SMALL_WIDTH)
    rest = np.where(beyond & (m >= SMALL_ROWS) & (m <= MOST_ROWS), 0.25, 0.0)
    rest = np.where(beyond & (m >= QUEUED_WIDE_ROWS) & (m <= high), 0.125, rest)
    if not along_k:
        few = few & (n > QUEUED_LEAST_OTHER) & (n <= QUEUED_MOST_OTHER)
        return np.asarray(device.units * np.where(few, np.where(wide, 2.0, FEWER), rest))
    # Twice the units up to 193 columns of an H100, half the units up to 772.
    turns = 2.0 ** np.floor(np.log2(QUEUED_WIDTH * 66.0 / n))
    few = few & wide & (turns >= 0.5)
    three = (n > QUEUED_TILE[0]) & (n <= QUEUED_TILE[1]) & (k >= QUEUED_TILE_DEPTH)
    more = small & three & (m > high) & (m <= QUEUED_TILE_ROWS)
    parts = np.where(few, np.minimum(turns, 2.0), np.where(more, FEWER / np.ceil(m / 64.0), rest))
    return np.asarray(device.units * parts)


def thin_times(
    m: Floats,
    n: Floats,
    k: Floats,
    batch: Floats,
    traffic: Floats,
    device: Device,
    c: Mapping[str, float],
    outside: Floats,
    plain: NDArray[np.bool_] | None = None,
) -> tuple[Floats, Floats, Floats, Floats]:
    """Seconds, arithmetic, memory and floor of the kernel without tiles, arrays (N,) [s].

    ``outside`` is 1 where the first operands come from device memory, 0 where from the cache;
    ``plain`` tells where blocks make 64 columns, by default nowhere.
    """
    blocks = np.ceil(n / COLUMNS) * batch / device.units
    wait = np.where(m > 1.0, c["thin_wait_cycles"], 0.0)
    step = np.maximum(wait, blocks * c["thin_step_cycles"])
    compute = np.maximum(1.0, m / c["thin_rows"]) * k * step / device.clock
    compute = np.where(m > 1.0, compute, 0.0)
    if plain is not None and plain.any():
        compute = np.where(plain, _plain_steps(m, n, k, batch, device, c) / device.clock, compute)
    memory = traffic / (device.bandwidth * c["thin_bandwidth_efficiency"])
    floor = c["thin_floor_seconds"] + c["latency_seconds"] * outside
    return floor + soft_max((compute, memory), c["overlap_exponent"]), compute, memory, floor


def _plain_steps(
    m: Floats, n: Floats, k: Floats, batch: Floats, device: Device, c: Mapping[str, float]
) -> Floats:
    """Clocks of all steps of ``k`` where blocks make 64 columns, shape (N,)."""
    groups, across = np.ceil(m / BLOCK_ROWS), np.ceil(n / BLOCK_COLUMNS) * batch
    least, most, shallow = TWO_GROUPS
    columns = n * batch
    few = (groups > 1.0) & (columns > least) & (across <= most) & (k > shallow)
    wide = np.where(columns > WIDE_RESULTS, across <= WIDE_BLOCKS, few)
    wait = c["thin_block_cycles"] * np.where(wide, 0.5, 1.0)
    each = c["thin_block_turn_cycles"] * (groups * across / device.units)
    return np.asarray(k * (wait + each))
