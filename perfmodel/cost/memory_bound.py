r"""Kernels that move bytes: norms, softmax, element-wise work, gathers, optimisers.

.. math::

    t = t_0 + \left( \left(\frac{B_\text{dram}}{\eta_b W}\right)^p +
        \left(\max\left(1, \frac{r}{U R}\right)
        \frac{c_\text{row} + b_r / \beta}{f}\right)^p +
        \left(\frac{F}{\eta_c P}\right)^p \right)^{1/p}

:math:`B_\text{dram}` counts the passes that the implementation makes over its operand, less the
part of the output that stays in the last-level cache because nothing pushes it out. A row of
:math:`b_r` bytes is the work of one block of threads, which takes in :math:`\beta` bytes a clock
and has a start and a reduction besides; a unit holds :math:`R` rows at a time, so that few long
rows leave most of the chip idle. For optimisers a "row" is the chunk that PyTorch gives to one
block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from perfmodel.cost.device import Device
from perfmodel.cost.parts import Floats, Parts, combine, soft_max, waves

COEFFICIENTS: Final = {
    "bandwidth_efficiency": "share of the memory peak that streaming reaches",
    "write_in_cache": "share of the last-level cache that can hold freshly written output",
    "row_cycles": "clocks that a row takes beyond its bytes",
    "row_bytes_per_clock": "bytes a clock that the block of one row moves",
    "round_cycles": "clocks of a round of look-ups value by value",
    "scalar_floor_seconds": "start and end of the kernel of those [s]",
    "scalar_cost": "how much longer a looked-up row takes that is no multiple of 16 bytes",
    "rows_per_unit": "rows that one unit works on at a time",
    "extra_passes": "passes over the operand beyond the unique bytes, as a multiple of those",
    "again_passes": "passes that come back to a row after the first, from the cache if it is there",
    "rows_in_flight": "rows that one unit has begun and not finished",
    "compute_efficiency": "share of the vector peak that the arithmetic reaches",
    "copy_bytes_per_clock": "bytes a clock that a unit reads and writes at most where it copies",
    "through_bytes_per_clock": "bytes a clock and unit that the last-level cache passes on",
    "reuse_room": "share of the last-level cache in which operands survive until they come back",
    "latency_seconds": "wait for the first operands where they are not in the cache [s]",
    "odd_start": "how much longer a copy of a number of bytes that is no multiple of 4 starts",
    "loss_seconds": "a step of the block that gathers and sums the losses [s]",
    "floor_seconds": "start and end of the kernels in a stream [s]",
    "overlap_exponent": "how sharply the parts overlap",
}
IN_STEPS: Final = {
    "bandwidth_efficiency": COEFFICIENTS["bandwidth_efficiency"],
    "write_in_cache": COEFFICIENTS["write_in_cache"],
    "row_cycles": "clocks that a row takes beyond its steps",
    "load_cycles": "clocks of a step whose operands are in the last-level cache",
    "far_cycles": "what they take more from device memory",
    "back_cycles": "the same of a row's second look beyond the unit's own cache",
}
"""Of rows that wait for their loads step after step (:func:`rows_in_turns`)."""
GATHER_THREADS = 8.0 * 128.0
"""Threads a unit that copy rows value by value."""
PAGE: Final = 4096.0
"""Bytes of a page, of which the driver copies whole ones faster than words [B]."""
# A stream of calls cycles through operands of this many bytes in at most so many sets.
STREAM_BYTES, MOST_SETS = 400e6, 48.0
_SHARP = 8.0


def cached_writes(written: Floats, cache: float, share: float) -> Floats:
    """Bytes of an output that never reach device memory in a steady stream of calls [B].

    An output smaller than ``share * cache`` is overwritten where it lies; a larger one leaves the
    cache before it is written again.
    """
    if cache <= 0.0 or share <= 0.0:
        return np.zeros_like(written)
    room = share * cache
    return np.asarray(written / (1.0 + (written / room) ** 4))


def not_held(read: Floats, device: Device, room: float) -> Floats:
    """Share of operands that come from device memory, the rest being still in the cache; (N,).

    A stream of calls takes its operands in turn from sets of them; what all sets need in the
    cache decides.
    """
    needed = stream_bytes(np.maximum(read, 1.0))
    return pushed_out(1.0, needed, room * device.cache)


def pushed_out(amount: Floats | float, needed: Floats, room: float) -> Floats:
    """The part of an amount that a cache no longer holds, shape (N,).

    All of it where the bytes that are ``needed`` at once exceed by far what there is ``room`` for.
    """
    return np.asarray(amount / (1.0 + (room / needed) ** 4))


def loss_steps(losses: Floats) -> Floats:
    """Steps in which one block gathers so many losses: a thread for 16 of them, 32 to 1,024 in all.

    Reference
    ---------
    PyTorch, aten/src/ATen/native/cuda/Loss.cu, ``nll_loss_threads``.
    """
    threads = np.clip(2.0 ** np.round(np.log2(np.maximum(losses / 16.0, 1.0))), 32.0, 1024.0)
    return np.asarray(np.ceil(losses / threads))


def stream_bytes(read: Floats) -> Floats:
    """Operands of all sets that a stream of calls goes round, of ``read`` bytes each [B]."""
    return np.asarray(read * np.clip(STREAM_BYTES / read, 1.0, MOST_SETS))


def _second_pass(moved: Floats, rows: Floats, device: Device, c: Mapping[str, float]) -> Floats:
    """Share of a second pass over a row that the cache no longer holds.

    A norm reads its row for the sums and once more to scale it; in between, all rows that the
    chip works on pass through the last-level cache, with what is written of them.
    """
    flying = moved * np.minimum(1.0, c["rows_in_flight"] * device.units / np.maximum(rows, 1.0))
    return pushed_out(1.0, flying, device.cache)


def rows_in_turns(
    rows: Floats, together: Floats | float, alone: Floats, busy: Floats, device: Device, blur: float
) -> Floats:
    """Time of rows that a unit works on some at a time, shape (N,) [s].

    Each waits for its loads step after step, in turns of those that run ``together``; where they
    fill each other's waits the unit's own pace counts.

    Parameters
    ----------
    rows : array
        Rows of a unit.
    together : array
        How many of them it holds at once.
    alone, busy : array
        Clocks of one row by itself, and of all rows at the unit's own pace.
    device : Device
        The chip.
    blur : float
        How far the last turn may be part of one (:func:`~perfmodel.cost.parts.waves`).
    """
    turns = waves(rows / together, blur)
    return np.asarray(soft_max((turns * alone, busy), _SHARP) / device.clock)


def memory_parts(
    read: Floats,
    written: Floats,
    rows: Floats,
    flops: Floats,
    device: Device,
    coefficients: Mapping[str, float],
    *,
    row_bytes: Floats | float = 0.0,
    copies: Floats | float = 0.0,
    through: Floats | None = None,
    losses: Floats | None = None,
    started: Floats | float = 1.0,
) -> Parts:
    """Time of a kernel that streams ``read`` and ``written`` bytes in ``rows`` rows.

    Parameters
    ----------
    read, written : array, shape (N,)
        Unique bytes [B].
    rows : array
        Independent rows or gathers; 0 where there is none.
    flops : array
        Vector arithmetic [FLOP].
    device : Device
        The chip; ``peak`` is its vector peak.
    coefficients : mapping
        Values of :data:`COEFFICIENTS`.
    row_bytes : array
        Bytes that the block of one row moves [B].
    copies : array
        1 where the kernel is the driver's own copy, which its units may bound (:func:`by_words`).
    through : array, optional
        What passes the last-level cache, where that is more than goes to memory [B].
    losses : array, optional
        Losses that one block gathers and sums.
    started : array, optional
        Share of the kernels that there are.
    """
    c = coefficients
    passed = (read + written) * (1.0 + c["extra_passes"])
    outside: Floats | float = 1.0
    if c.get("latency_seconds", 0.0) > 0.0:
        outside = not_held(read, device, c["reuse_room"])
    kept = cached_writes(written, device.cache, c["write_in_cache"])
    traffic = passed - (1.0 - outside) * read - kept
    if c.get("again_passes", 0.0) > 0.0:
        traffic = traffic + c["again_passes"] * read * _second_pass(read + written, rows, device, c)
    memory = traffic / (device.bandwidth * c["bandwidth_efficiency"])
    each = c["row_cycles"] + row_bytes / c["row_bytes_per_clock"]
    turns = np.maximum(1.0, rows / (device.units * c["rows_per_unit"]))
    rows_time = np.where(rows > 0.0, turns * each / device.clock, 0.0)
    compute = flops / (device.vector * c["compute_efficiency"])
    if np.any(copies):
        compute = compute + copies * passed_on(read + written, device, c)
    work = np.maximum(compute, rows_time)
    if "through_bytes_per_clock" in c:
        rate = c["through_bytes_per_clock"] * device.units * device.clock
        work = np.maximum(work, (passed if through is None else through) / rate)
    floor = np.full_like(memory, c["floor_seconds"]) * started
    floor = floor + c.get("latency_seconds", 0.0) * outside
    if losses is not None:
        floor = floor + c.get("loss_seconds", 0.0) * loss_steps(losses)
    return combine(work, memory, np.zeros_like(memory), floor, c["overlap_exponent"])


def scalar_gather_parts(
    read: Floats,
    written: Floats,
    values: Floats,
    device: Device,
    coefficients: Mapping[str, float],
) -> Parts:
    """Time of look-ups of rows that are no multiple of 16 bytes, shape (N,).

    PyTorch copies them value by value: a fixed grid of 8 blocks of 128 threads a unit goes over all
    ``values`` in rounds, and each waits for an index and for what stands there.

    Reference
    ---------
    PyTorch, aten/src/ATen/native/cuda/Indexing.cu (indexSelectLargeIndex).
    """
    c = coefficients
    rounds = np.ceil(values / (GATHER_THREADS * device.units))
    work = rounds * c["round_cycles"] / device.clock
    kept = cached_writes(written, device.cache, c["write_in_cache"])
    memory = (read + written - kept) / (device.bandwidth * c["bandwidth_efficiency"])
    floor = np.full_like(memory, c["scalar_floor_seconds"])
    return combine(work, memory, np.zeros_like(memory), floor, c["overlap_exponent"])


def copy_parts(moved: Floats, device: Device, coefficients: Mapping[str, float]) -> Parts:
    """Time of copies of ``moved`` bytes within device memory, shape (N,).

    What they write leaves the cache at once. Where copies end at the units rather than at the
    memory, ``copy_bytes_per_clock`` says how many bytes each passes on; whole pages do not
    (:func:`by_words`).
    """
    c = coefficients
    start = c["floor_seconds"] * np.where(moved % 4.0 > 0.0, c.get("odd_start", 1.0), 1.0)
    none = np.zeros_like(moved)
    memory = 2.0 * moved / (device.bandwidth * c["bandwidth_efficiency"])
    units = by_words(moved) * passed_on(2.0 * moved, device, c)
    return combine(units, memory, none, start, c["overlap_exponent"])


def by_words(moved: Floats) -> Floats:
    """1 where a copy of so many bytes goes word by word, 0 where it is of whole pages; (N,).

    Of 4,096 bytes: copies of whole numbers of them stream as fast as kernels do, others of any
    size at two thirds of that. Operands then start on such a page, too, one behind another.
    """
    return np.asarray(moved % PAGE > 0.0, dtype=np.float64)


def passed_on(moved: Floats, device: Device, c: Mapping[str, float]) -> Floats:
    """Time in which the units of a chip copy ``moved`` bytes, reads and writes; shape (N,) [s]."""
    rate = c.get("copy_bytes_per_clock", np.inf)
    return np.asarray(moved / (rate * device.units * device.clock))
