r"""Sums down columns: as many threads as PyTorch gives each, and the last block of a column.

A block of 512 threads (fewer, where each sums a vector of columns) lies along the columns first,
then along the rows. Where a thread would still go through 256 rows or more, several blocks share a
column: each leaves what it found in memory, and the last to end adds that up, one load after
another. With :math:`v` the rows of a thread and :math:`l` the loads of that last block,

.. math::

    t = t_0 + a v + b\,l + \text{bytes} / \text{bandwidth}.

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
