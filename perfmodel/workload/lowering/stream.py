"""Streaming kernels from their totals: a priced operator whose bytes add up."""

from __future__ import annotations

from typing import Final

from perfmodel.workload.lowering.site import arithmetic
from perfmodel.workload.op import Elementwise, Fused, Op
from perfmodel.workload.ops.streams import ELEMENTWISE

OFFSETS: Final = 16.0
"""Operations an element that a kernel of PyTorch takes to find its operands where they are not flat
vectors of one shape: 2.3 ps on an H100, from DRAM or from cache (profiled element-wise kernels)."""
TURNED: Final = 52.0
"""The same where operands run along different axes, so that neighbours lie far apart: 7.5 ps."""
_LINE: Final = 128.0
_WARP: Final = 32.0
_MET_AGAIN: Final = 0.45
_FAR: Final = 400.0
"""Bytes of a line and threads of a warp; which part of its lines a block meets again where it comes
back at once, and after how many elements it does not."""
CASTING: Final = 10.4
"""Operations an element and operand of a kernel whose operands have several formats, which it asks
for at every load and store: 1.45 ps (``LoadWithCast``, ATen/native/cuda/CUDALoops.cuh)."""
_THREADS: Final = 128
_ITEMS: Final = 4
"""Threads of a block of PyTorch's element-wise kernels, and the most elements that each takes."""
_WIDE: Final = 4
"""Bytes of a result from which on a thread takes half as many (``gpu_kernel_impl_nocast``)."""
_CLOSE = 0.02
_ROUND = 0.05
_FINEST = 64


def turning(step: float, apart: float) -> float:
    """Operations an element that a kernel takes to read an operand in another order than its own.

    Neighbours of the result lie ``step`` bytes apart in the operand: on lines of 128 bytes of their
    own unless they are closer. After ``apart`` elements the kernel comes to the next element of a
    line that it has read: within a warp, or a little later from the cache (fits most of some 100
    profiled copies and additions of 16 to 2,048 channels on an H100 within a tenth).

    Parameters
    ----------
    step : float
        Distance of neighbours in the operand [B].
    apart : float
        Elements of the result until the operand's own neighbour is asked for.
    """
    again = _MET_AGAIN * (1.0 - min(1.0, apart / _FAR)) if step >= _LINE else 0.0
    return TURNED * min(1.0, step / _LINE) * min(1.0, apart / _WARP) * (1.0 - again)


def in_turn(elements: int, width: int, casting: bool) -> float:
    """Elements beyond its first that a thread of an element-wise kernel waits for one by one.

    A kernel over flat vectors loads them at once. One that works out places, or asks for formats,
    does so element by element, in the order in which it also stores them, so that each waits for
    memory anew (``launch_legacy_kernel`` and ``launch_unrolled_kernel``,
    ATen/native/cuda/CUDALoops.cuh).

    Parameters
    ----------
    elements : int
        Of the result.
    width : int
        Bytes of an element of the result.
    casting : bool
        Whether it asks for formats.

    Examples
    --------
    >>> in_turn(8192, 2, False), in_turn(8192, 4, False), in_turn(8192, 4, True)
    (3.0, 1.0, 3.0)
    >>> in_turn(100, 2, False)
    0.0
    """
    most = _ITEMS if casting or width < _WIDE else _ITEMS // 2
    return max(0.0, min(most, -(-elements // _THREADS)) - 1.0)


def stream(
    chain: str, elements: int, read: int, written: int, flops: float = 0.0, dtype: str = "fp32"
) -> Fused:
    """A kernel over ``elements`` that moves ``read`` and ``written`` bytes in all [B].

    A :class:`~perfmodel.workload.op.Fused` operator counts whole bytes an element. Operands that
    are broadcast have fewer: then the elements are taken in blocks of 2, 4 ... 64, the smallest
    that keeps the traffic within 2 %.
    """
    elements = max(1, elements)
    moved = max(1, read + written)
    block = 1
    while True:
        count = -(-elements // block)
        each_read, each_written = round(read / count), round(written / count)
        error = abs(count * (each_read + each_written) - moved) / moved
        if error <= _CLOSE or block >= _FINEST or block >= elements:
            break
        block *= 2
    if error > _CLOSE or each_read + each_written == 0:
        # next to nothing for each element: the total is what matters
        count, each_read, each_written = 1, max(read, 1 - min(1, written)), written
    operations = max(0, round(flops / count))
    return Fused(chain, count, each_read, each_written, operations, arithmetic(dtype))


def in_rows(
    chain: str, rows: int, cols: int, read: int, written: int, flops: float, dtype: str
) -> Fused:
    """A kernel that sums along ``rows`` rows of ``cols`` elements, and moves so many bytes [B].

    A flat one where whole bytes an element miss the traffic by more than 5 %.
    """
    elements = rows * cols
    each_read, each_written = round(read / elements), round(written / elements)
    moved = max(1, read + written)
    if abs(elements * (each_read + each_written) - moved) > _ROUND * moved:
        return stream(chain, elements, read, written, flops, dtype)
    operations = max(0, round(flops / elements))
    form = arithmetic(dtype)
    return Fused(chain, elements, each_read, each_written, operations, form, rows)


def map_op(
    chain: str,
    elements: int,
    read: int,
    written: int,
    flops: float,
    dtype: str,
    width: int,
) -> Op:
    """An element-wise kernel: the measured kind where name and traffic are exactly that kind's."""
    if chain in ELEMENTWISE and dtype in ("bf16", "fp16", "fp32") and elements > 0:
        tensors_in, tensors_out, _ = ELEMENTWISE[chain]
        if (read, written) == (tensors_in * elements * width, tensors_out * elements * width):
            return Elementwise(chain, elements, dtype)
    return stream(chain, elements, read, written, flops, dtype)
