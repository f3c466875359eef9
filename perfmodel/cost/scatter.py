r"""Sums into scattered rows: rounds of a fixed grid, atomics in the cache, conflicts on a line.

One index a row (``index_add``): PyTorch starts 8 blocks of 128 threads a unit, and each thread goes
through its values one after another, since the place of a sum is known only when its index has been
read. With ``E`` values on ``U`` units:

.. math::

    t = t_0 + \left( \left( \left\lceil \frac{E}{1024\, U} \right\rceil \frac{c_r}{f} \right)^p +
        \left(\frac{B}{\eta_b W}\right)^p + \left(\frac{E}{32\,L} \frac{c_l}{f}\right)^p
        \right)^{1/p}

At most 16 rows take another kernel, which adds them one after another: :math:`t_0 + R\, c_r / f`.
One index a value (``scatter_add``): a thread for 8 values, no rounds, so the atomics themselves
decide, :math:`E / (a\, U f)`.

Requests of 32 threads that meet on one of the :math:`L` lines of 128 bytes follow each other. Types
of two bytes have no such atomic in that kernel: a thread reads, adds and tries to swap until nobody
came between. Of all threads on a word one goes on and the others try again, so that a word with
:math:`v` values takes as many turns, each of a way to the cache and back and of a swap a thread.

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
from perfmodel.cost.parts import Floats, Parts, combine

COEFFICIENTS: Final = {
    "bandwidth_efficiency": "share of the memory peak that streaming reaches",
    "write_in_cache": "share of the last-level cache that keeps the rows that are added to",
    "row_cycles": "clocks of a round, or of a row where they follow each other",
    "atomics_per_clock": "sums a clock that one unit sends",
    "line_cycles": "clocks between two requests to one line of the cache",
    "sectors_per_clock": "sectors of 32 bytes a clock that are added to, for each unit",
    "turn_cycles": "clocks until all threads on a word know whose swap went through",
    "swaps_per_clock": "swaps a clock that one unit tries",
    "floor_seconds": "start and end of the kernel in a stream [s]",
    "overlap_exponent": "how sharply the parts overlap",
}
FEW_ROWS: Final = 16
"""Most rows that are added one after another (Indexing.cu)."""
GRID_THREADS: Final = 8 * 128
"""Threads a unit of the other kernel."""
VALUES_A_THREAD: Final = 8.0
_WARP, _LINE, _SECTOR, _WORD, _RESIDENT = 32.0, 128.0, 32.0, 4.0, 2048.0


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
    values = s["rows"] * s["cols"]
    target = s["targets"] * s["cols"] * element
    # What is added to is read and written; what the cache keeps of it is neither.
    kept = 2.0 * cached_writes(s["written"], device.cache, c["write_in_cache"])
    memory = (s["read"] + s["written"] - kept) / (device.bandwidth * c["bandwidth_efficiency"])
    if base == "scatter_add_few":
        work = s["rows"] * c["row_cycles"] / device.clock
    else:
        if base == "scatter_add_rows":
            rounds = np.ceil(values / (GRID_THREADS * device.units))
            work = rounds * c["row_cycles"] / device.clock
        else:
            work = values / (c["atomics_per_clock"] * device.units * device.clock)
        queued = values / _WARP / np.ceil(target / _LINE) * c["line_cycles"] / device.clock
        swapped = base == "scatter_add_values" and element < _WORD
        # A swap goes to the cache twice, to read and to try.
        sectors = (1.0 + swapped) * s["rows"] * np.maximum(1.0, s["cols"] * element / _SECTOR)
        spread = sectors / (c["sectors_per_clock"] * device.units * device.clock)
        work = np.sqrt(work**2 + queued**2 + spread**2)
        if swapped:
            work = np.hypot(work, _retries(values, target, device, c))
    floor = np.full_like(memory, c["floor_seconds"])
    return combine(work, memory, np.zeros_like(memory), floor, c["overlap_exponent"])


def _retries(values: Floats, target: Floats, device: Device, c: Mapping[str, float]) -> Floats:
    """Time of the turns on words that several threads want at once [s]."""
    words = np.ceil(target / _WORD)
    threads = np.minimum(values / VALUES_A_THREAD, device.units * _RESIDENT)
    # A thread takes its values in turn, and waits for most of the time for something else.
    crowd = (threads / (VALUES_A_THREAD * words)) ** 2
    turn = c["turn_cycles"] + threads / (c["swaps_per_clock"] * device.units)
    return np.asarray(crowd / (1.0 + crowd) * values / words * turn / device.clock)
