r"""Sums into scattered rows: rounds of a fixed grid, atomics in the cache, conflicts on a line.

One index a row (``index_add``): PyTorch starts 8 blocks of 128 threads a unit, and each thread goes
through its values one after another, since the place of a sum is known only when its index has been
read. With ``E`` values on ``U`` units:

.. math::

    t = t_0 + \left( \left( \left\lceil \frac{E}{1024\, U} \right\rceil \frac{c_r}{f} \right)^p +
        \left(\frac{B}{\eta_b W}\right)^p + \left(\frac{E\,s}{32\,L} \frac{c_l}{f}\right)^p
        + \left(\frac{R}{T} \frac{c_w}{f}\right)^p \right)^{1/p}

At most 16 rows take another kernel, which adds them one after another: :math:`t_0 + R\, c_r / f`.
One index a value (``scatter_add``): blocks of 128 threads, each of which adds up to 8 values in
turn, no rounds, so the atomics themselves decide, :math:`E / (a\, U f)`.

Requests of 32 threads that meet on one of the :math:`L` lines of 128 bytes follow each other, a
sector of it (of :math:`s` that they meet) after another; and so do sums into one word, of which
:math:`R` rows make :math:`R / T` to each of :math:`T` targets: a million values into one word take
1.76 ns each. Values of two bytes are added in pairs with a zero beside them; only where the pair
would begin before the tensor or end behind it (odd columns of the first target; of single columns
the last of an odd number of targets) a thread reads, adds and tries to swap until nobody came
between. Of the values that such a word gets, each waits for a turn, which is longer the more
threads of the chip try at once.

Reference
---------
PyTorch, ATen/native/cuda/Indexing.cu (indexFuncSmallIndex, indexFuncLargeIndex),
ScatterGatherKernel.cu and KernelUtils.cuh (fastAtomicAdd).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from perfmodel.cost.device import Device
from perfmodel.cost.memory_bound import cached_writes
from perfmodel.cost.parts import Floats, Parts, combine, soft_max

COEFFICIENTS: Final = {
    "bandwidth_efficiency": "share of the memory peak that streaming reaches",
    "write_in_cache": "share of the last-level cache that keeps the rows that are added to",
    "row_cycles": "clocks of a round, or of a row where they follow each other",
    "full_round_share": "clocks of a round in full precision, as a share of the others'",
    "atomics_per_clock": "sums a clock that one unit sends",
    "line_cycles": "clocks between two requests to one line of the cache, for each sector of it",
    "word_cycles": "clocks between two sums into one word",
    "sectors_per_clock": "sectors of 32 bytes a clock that are added to, for each unit",
    "turn_cycles": "clocks until all threads on a word know whose swap went through",
    "try_cycles": "how many clocks the first of those that try at once makes a turn longer",
    "value_seconds": "wait of a thread for one of its values [s]",
    "floor_seconds": "start and end of the kernel in a stream [s]",
    "overlap_exponent": "how sharply the parts overlap",
}
FEW_ROWS: Final = 16
"""Most rows that are added one after another (Indexing.cu)."""
GRID_THREADS: Final = 8 * 128
"""Threads a unit of the other kernel."""
VALUES_A_THREAD: Final = 8.0
RESIDENT: Final = 2048.0
"""Threads that a unit holds at once."""
_SHARP: Final = 6.0
_SHARP_ROUNDS: Final = 2.0
_THREADS: Final = 128.0
"""Of a block that adds value by value."""
_BLOCK: Final = _THREADS * VALUES_A_THREAD
_CROWDING: Final = 0.78
"""How a turn grows with those that try at once, as an exponent: from 400 to 120,000 on an H100."""
_WARP, _LINE, _SECTOR, _WORD = 32.0, 128.0, 32.0, 4.0
_SURE: Final = 1.0 - 1e-9


def sectors_met(cols: Floats, target: Floats, element: float) -> Floats:
    """Sectors of 32 bytes that one request of 32 threads meets, shape (N,).

    Threads side by side add values of one row, or of several short ones, which fall anywhere.

    Parameters
    ----------
    cols : array
        Values of a row.
    target : array
        Bytes that are added to [B].
    element : float
        Bytes of one value [B].
    """
    rows = np.maximum(_WARP / cols, 1.0)
    each = np.maximum(np.minimum(cols, _WARP) * element / _SECTOR, 1.0)
    sectors = np.maximum(np.ceil(target / _SECTOR), each)
    return np.asarray(sectors * -np.expm1(rows * np.log1p(-np.minimum(each / sectors, 1.0 - 1e-9))))


def scatter_parts(
    base: str,
    element: float,
    sizes: Mapping[str, Floats],
    device: Device,
    coefficients: Mapping[str, float],
) -> Parts:
    """Time of scattered sums and its parts, arrays of shape (N,) [s].

    Parameters
    ----------
    base : str
        ``"scatter_add_few"``, ``"scatter_add_rows"`` or ``"scatter_add_values"``.
    element : float
        Bytes of one value [B].
    sizes : mapping of array
        ``rows cols targets read written`` of the operator.
    device : Device
        The chip.
    coefficients : mapping
        Values of :data:`COEFFICIENTS`.
    """
    c, s = coefficients, sizes
    target = s["targets"] * s["cols"] * element
    # What is added to is read and written; what the cache keeps of it is neither.
    kept = 2.0 * cached_writes(s["written"], device.cache, c["write_in_cache"])
    memory = (s["read"] + s["written"] - kept) / (device.bandwidth * c["bandwidth_efficiency"])
    floor = np.full_like(memory, c["floor_seconds"])
    if base == "scatter_add_few":
        work = s["rows"] * c["row_cycles"] / device.clock
    elif base == "scatter_add_rows":
        work = _in_rounds(s, element, target, device, c)
    else:
        work = _value_by_value(s, element, target, device, c)
        each = np.ceil(s["rows"] * s["cols"] / _THREADS)
        floor = floor + np.minimum(each, VALUES_A_THREAD) * c["value_seconds"]
    return combine(work, memory, np.zeros_like(memory), floor, c["overlap_exponent"])


def _in_rounds(
    s: Mapping[str, Floats], element: float, target: Floats, device: Device, c: Mapping[str, float]
) -> Floats:
    """Time of rows with an index each: rounds of a fixed grid [s]."""
    rounds = np.ceil(s["rows"] * s["cols"] / (GRID_THREADS * device.units))
    each = c["row_cycles"] * (c["full_round_share"] if element >= _WORD else 1.0)
    work = rounds * each / device.clock
    return soft_max((work, *_atomics(s, element, target, device, c)), _SHARP_ROUNDS)


def _value_by_value(
    s: Mapping[str, Floats], element: float, target: Floats, device: Device, c: Mapping[str, float]
) -> Floats:
    """Time of values with an index each: the atomics themselves [s]."""
    work = s["rows"] * s["cols"] / (c["atomics_per_clock"] * device.units * device.clock)
    work = soft_max((work, *_atomics(s, element, target, device, c)), _SHARP)
    return np.maximum(work, _retries(s, device, c)) if element < _WORD else work


def _atomics(
    s: Mapping[str, Floats], element: float, target: Floats, device: Device, c: Mapping[str, float]
) -> tuple[Floats, Floats, Floats]:
    """What sums wait for [s]: others on their line, others on their word, and a chance at all."""
    met = s["rows"] * s["cols"] / _WARP * sectors_met(s["cols"], target, element)
    on_a_line = met / np.ceil(target / _LINE) * c["line_cycles"] / device.clock
    on_a_word = s["rows"] / s["targets"] * c["word_cycles"] / device.clock
    # Two threads add to a word of two values, each to its own half.
    halves = np.where(s["cols"] > 1.0, np.maximum(_WORD / element, 1.0), 1.0)
    sectors = s["rows"] * halves * np.maximum(1.0, s["cols"] * element / _SECTOR)
    return on_a_line, on_a_word, sectors / (c["sectors_per_clock"] * device.units * device.clock)


def alone_words(cols: Floats, targets: Floats) -> Floats:
    """Words of a target whose sums of two bytes are swapped in until one goes through, (N,).

    Two values are added as a pair, unless that would begin before the tensor or end behind it:
    odd columns of the first target, or of single columns the last of an odd number of targets.
    """
    return np.asarray(np.where(cols > 1.0, np.floor(cols / 2.0), targets % 2.0))


def _retries(s: Mapping[str, Floats], device: Device, c: Mapping[str, float]) -> Floats:
    """Time of the turns at words that know no sum of pairs [s].

    One of those that try gets through in each. A thread tries one of its own values at a time, a
    warp goes on when all of its lanes have got through, and of those that do not fit the chip at
    once none tries yet.
    """
    rows, cols, targets = s["rows"], s["cols"], s["targets"]
    each, words = rows / targets, alone_words(cols, targets)
    in_piece = np.maximum(1.0, _WARP / cols)  # rows that the lanes of a warp meet at once
    lanes = np.minimum(words, _WARP / 2.0) * np.maximum(1.0, in_piece / targets)
    met = np.where(cols >= _THREADS, np.maximum(1.0, _BLOCK / cols), VALUES_A_THREAD * in_piece)
    waiting = -np.expm1(met * np.log1p(-np.minimum(1.0 / targets, _SURE)))
    warps = np.ceil(rows * cols / (VALUES_A_THREAD * _WARP)) * waiting
    tries = np.maximum(each * words, 1.0)
    most = np.minimum(tries, np.minimum(warps, RESIDENT / _WARP * device.units) * lanes)
    beside = most * (1.0 - 0.5 * most / tries)  # fewer and fewer, once all have begun
    turn = c["turn_cycles"] + c["try_cycles"] * beside**_CROWDING
    return np.asarray(np.where(words > 0.0, each * turn / device.clock, 0.0))
