r"""Sums down columns and along rows: as many threads as PyTorch gives each.

A block of 512 threads (fewer, where each sums a vector of columns) lies along the columns first,
then along the rows. Where a thread would still go through 256 rows or more, several blocks share a
column: each leaves what it found in memory, and the last to end adds that up, one load after
another. With :math:`v` the rows of a thread and :math:`l` the loads of that last block,

.. math::

    t = t_0 + a v + b\,l + \text{bytes} / \text{bandwidth}.

Along a row go the 32 threads of a warp, or more of a block's where rows are few; each loads four
elements at a time where rows are made of fours, so that a row takes a certain time however short
it is. With :math:`w` times as many warps as run at once, and :math:`k` loads of a thread,

.. math::

    t = t_0 + t_1 + a_1 k + w (b_0 + b_1 k).

Reference
---------
ATen/native/cuda/Reduce.cuh, ``setReduceConfig`` (PyTorch 2.11).
"""

from __future__ import annotations

from perfmodel.workload.lowering.device import H100, Device

# fitted on profiled sums and means of tuned models on an H100 (74 shapes, median error 8 %), in
# operations that the device could do meanwhile: 4.3 us, 51 ns a row, 0.43 us a load
_BEGIN, _ROW, _LOAD = 3.05e7, 3.6e5, 3.08e6
_BYTE = 2.1  # 7.1 operations in the time of 3.35 bytes
_MOST_THREADS, _WARP = 512, 32
# profiled means, sums and tests along rows (16 shapes of 49 to 2,048 elements, median error 8 %):
# 0.4 and 0.2 us at the beginning, 1.7 and 0.45 us each time all warps have a row
_ROW_BEGIN, _ROW_TURN = (2.8e6, 1.4e6), (1.18e7, 3.07e6)
_HIGHEST, _VECTOR = _MOST_THREADS // _WARP, 4
_SHARED, _FEWEST = 256, 16


def column_work(rows: int, elements: int, device: Device = H100, *, width: int = 4) -> float:
    """Operations that take as long as sums down columns of so many rows.

    Parameters
    ----------
    rows : int
        Elements that one result sums.
    elements : int
        All that are read.
    device : Device
        How many blocks run at once.
    width : int
        Bytes of an element [B].
    """
    values, loads = column_blocks(rows, max(1, elements // max(1, rows)), device)
    waiting = _BEGIN + _ROW * values + _LOAD * loads + _BYTE * elements * width
    return max(float(elements), waiting)


def row_work(rows: int, cols: int, device: Device = H100) -> float:
    """Operations that take as long as so many sums along rows of ``cols`` elements.

    Examples
    --------
    >>> row_work(65536, 64) > 4 * row_work(8192, 64)
    True
    """
    height = min(_power(rows), _HIGHEST)
    lanes = min(_power(cols), _MOST_THREADS // height)
    values = -(-cols // lanes)
    if values >= min(_SHARED, height * _FEWEST):  # the block's other rows of threads take a part
        values = -(-values // height)
    loads = values if cols % _VECTOR else -(-values // _VECTOR)
    turns = rows * max(_WARP, lanes) / (device.units * device.threads)
    begin, turn = (one + more * loads for one, more in (_ROW_BEGIN, _ROW_TURN))
    return begin + turns * turn


def column_blocks(rows: int, columns: int, device: Device = H100) -> tuple[int, int]:
    """Rows that a thread goes through, and what the last block of a column loads after it.

    Examples
    --------
    >>> column_blocks(512, 768), column_blocks(50176, 192)
    ((128, 0), (16, 196))
    """
    vector = next(size for size in (4, 2, 1) if columns % size == 0)
    most, lanes = _MOST_THREADS // vector, max(1, columns // vector)
    width = min(_power(lanes), most, _WARP)
    height = min(_power(rows), most // width)
    width = min(_power(lanes), most // height)
    blocks = -(-lanes // width)
    if rows < height * _FEWEST and rows < _SHARED:
        return rows, 0
    values = -(-rows // height)
    room = device.units * (device.threads // (width * height))
    if values < _SHARED or blocks > room:
        return values, 0
    shared = max(min(-(-room // blocks), -(-values // _FEWEST)), -(-values // _SHARED))
    return -(-values // shared), -(-shared // height) if shared > 1 else 0


def _power(number: int) -> int:
    """The largest power of two that is not larger."""
    return 1 << (max(1, number).bit_length() - 1)
