r"""Chains that sum along rows: a generated kernel whose programs wait for rows of their own.

The compiler lays a kernel out by powers of two, :math:`r` and :math:`\rho` the next ones of the
elements and the number of rows. Up to 1,024 elements a row stays in registers: where there are few
rows a program of :math:`r / 128` warps (2 to 8) has one of them, of 512 rows on one warp has 1,024
elements of as many as they make (8 at most), and of fewer than 256 elements eight rows have two
warps. A longer row is gone over twice by 16 warps (32 above 8,192 elements; two rows up to 2,048).
With :math:`E` elements of a thread, a program by itself takes

.. math::

    c = c_\text{held} + E\,c_\text{warp} + k\,c_\text{sum} + (1 + k)\,c_\text{join} \log_2 w
    \quad\text{or}\quad c = c_\text{row} + E\,c_\text{load} + k\,c_\text{row sum}

clocks, and :math:`v E c_\text{single}` more, where :math:`k` goes from 0 to 1 with the operations
of an element from four (a sum and an RMS norm) to ten (a layer norm, which sums twice), and
:math:`v` with the loads that 16 bytes take of rows which do not start on such. Its unit works on it
for :math:`c_\text{start}` and so many clocks of 512 elements, of the powers of two and not of the
rows. The first program is waited for, the others take turns, or their unit's own pace, beside the
memory. Rows above 8,192, fewer than two a unit, are cut into parts, whose sums a second kernel adds
up; a third one reads everything again.

Reference
---------
PyTorch, torch/_inductor/choices.py (should_use_persistent_reduction, reduction_split_factor) and
torch/_inductor/runtime/triton_heuristics.py (_persistent_reduction_configs, _reduction_configs);
what they chose for 454 chains of an H100.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.device import Device
from perfmodel.cost.memory_bound import cached_writes, not_held, pushed_out
from perfmodel.cost.parts import Floats, Parts, combine, soft_max, waves

COEFFICIENTS: Final = {
    "bandwidth_efficiency": "share of the memory peak that streaming reaches",
    "write_in_cache": "share of the last-level cache that can hold freshly written output",
    "reuse_room": "share of the last-level cache in which operands survive until they come back",
    "far_cycles": "clocks that the first rows wait for device memory",
    "held_cycles": "clocks of a program whose rows stay in registers, beyond its elements",
    "warp_cycles": "the same of 32 elements of a thread",
    "sum_cycles": "the same of a second sum",
    "join_cycles": "the same of each doubling of warps whose sums are joined",
    "row_cycles": "clocks of a program of a longer row, beyond its elements",
    "load_cycles": "the same of 4 elements of a thread",
    "row_sum_cycles": "the same of a second sum",
    "single_cycles": "clocks of 32 elements of a thread that are loaded singly",
    "rows_per_unit": "programs of 16 warps that a unit holds at once",
    "start_cycles": "clocks of a unit that a program takes where others fill its waits",
    "work_cycles": "the same of 512 elements of longer rows",
    "held_work": "the same of 512 elements in registers",
    "operation_share": "how much longer those of a second sum take, as a share",
    "single_work": "clocks of 512 elements that are loaded singly",
    "wave_blur": "how far the last turn may be part of one",
    "again_passes": "looks at a long row after the first",
    "last_bytes_per_second": "bytes that the last kernel of rows that are cut moves a second",
    "split_seconds": "start and end of the two kernels more of rows that are cut [s]",
    "floor_seconds": "start and end of the kernels in a stream [s]",
    "overlap_exponent": "how sharply the parts overlap",
}
HELD: Final = 1024.0
"""The longest row that stays in registers."""
WHOLE, MANY_ROWS = 8192.0, 2.0
"""The longest row that is never cut, and rows a unit from which none is."""
_FEW, _MANY, _PAIRED, _WIDE = 256.0, 1024.0, 2048.0, 8192.0
_LEAST, _MOST = 4.0, 10.0  # operations of an element with one sum, and with two
_WORK, _LOAD, _SHARP = 512.0, 16, 4.0
# Registers of a thread: 16 and 1.2 an element, as compiled. A unit has 65,536 of them, 64 warps.
_REGISTERS, _BESIDE, _EACH, _WARPS, _PROGRAMS = 65536.0 / 32.0, 16.0, 1.2, 64.0, 32.0


@dataclass(frozen=True, slots=True)
class Layout:
    """How the compiler lays out a kernel, arrays of shape (N,).

    ``held`` rows stay in registers and ``cut`` ones are parts of rows, ``cols`` long; ``programs``
    of ``warps`` have ``rows`` each, and their threads ``elements`` in all steps, of ``done`` that
    the program goes over.
    """

    held: NDArray[np.bool_]
    cut: NDArray[np.bool_]
    cols: Floats
    programs: Floats
    rows: Floats
    warps: Floats
    elements: Floats
    done: Floats


def layout(rows: Floats, cols: Floats, units: int) -> Layout:
    """The layout of kernels over so many rows of so many elements, shape (N,)."""
    held, cut = cols <= HELD, (cols > WHOLE) & (rows < MANY_ROWS * units)
    parts = np.where(cut, np.ceil(cols / WHOLE), 1.0)
    count, length = rows * parts, cols / parts
    most, wide = _doubled(count), _doubled(length)
    alone, many = wide >= _FEW, most >= _MANY
    one_warp = np.clip(HELD / wide, 1.0, 8.0)
    short = np.where(alone, np.where(many, one_warp, 1.0), np.minimum(8.0, most))
    each = np.where(held, short, np.where(wide <= _PAIRED, np.minimum(2.0, most), 1.0))
    few = np.where(many, 1.0, np.clip(wide / 128.0, 2.0, 8.0))
    warps = np.where(wide <= _WIDE, 16.0, 32.0)
    warps = np.where(held, np.where(alone, few, 2.0), warps)
    done = np.where(wide <= _PAIRED, each * wide, np.ceil(length / 1024.0) * 1024.0)
    elements = each * wide / (32.0 * warps)
    return Layout(held, cut, length, np.ceil(count / each), each, warps, elements, done)


def loads(cols: Floats, element: float) -> Floats:
    """Loads of a thread for 16 bytes of rows of so many elements, 1 to 8; shape (N,)."""
    size = (cols * element).astype(np.int64)
    return np.asarray(_LOAD / np.minimum(np.maximum(size & -size, 1), _LOAD))


def chain_parts(
    s: Mapping[str, Floats], element: float, device: Device, coefficients: Mapping[str, float]
) -> Parts:
    """Time of chains that sum along rows, and its parts, arrays of shape (N,) [s].

    Parameters
    ----------
    s : mapping of array
        ``rows cols flops read written`` of the operator.
    element : float
        Bytes of one element [B].
    device : Device
        The chip.
    coefficients : mapping
        Values of :data:`COEFFICIENTS`.
    """
    c, rows, cols = coefficients, s["rows"], s["cols"]
    of = layout(rows, cols, device.units)
    outside = not_held(s["read"], device, c["reuse_room"])
    second = np.clip((s["flops"] / (rows * cols) - _LEAST) / (_MOST - _LEAST), 0.0, 1.0)
    singly = (loads(cols, element) - 1.0) / 7.0
    filled = np.minimum(1.0, of.cols / _doubled(of.cols))
    joined = (1.0 + second) * np.log2(of.warps) * c["join_cycles"]
    short = c["held_cycles"] + second * c["sum_cycles"] + joined
    long = c["row_cycles"] + second * c["row_sum_cycles"]
    of_one = np.where(of.held, c["warp_cycles"] / 32.0, c["load_cycles"] / 4.0)
    of_one = of_one + filled * singly * c["single_cycles"] / 32.0
    waits = np.where(of.held, short, long) + of.elements * of_one
    of_work = np.where(of.held, c["held_work"], c["work_cycles"])
    of_work = of_work * (1.0 + second * c["operation_share"]) * of.done
    of_work = of_work + singly * c["single_work"] * of.rows * of.cols
    work = c["start_cycles"] + of_work / _WORK
    room = np.minimum(_REGISTERS / (_BESIDE + _EACH * of.elements), _WARPS) / of.warps
    together = np.where(of.warps > 16.0, 2.0, c["rows_per_unit"])
    together = np.where(of.held, np.clip(room, 1.0, _PROGRAMS), together)
    each = of.programs / device.units
    turns = np.maximum(waves(each / together, c["wave_blur"]) - 1.0, 0.0)
    more = np.maximum(waves(each, c["wave_blur"]) - 1.0, 0.0)
    rows_time = soft_max((turns * (waits + work), more * work), _SHARP) / device.clock
    # The second look goes to memory where all rows that the chip works on exceed its cache.
    flying = np.minimum(1.0, together / np.maximum(each, 1e-9))
    again = pushed_out(c["again_passes"] * s["read"], flying * s["read"], device.cache)
    written = s["written"] - cached_writes(s["written"], device.cache, c["write_in_cache"])
    once = of.held | of.cut
    traffic = outside * s["read"] + np.where(of.cut, 0.0, written) + np.where(once, 0.0, again)
    memory = traffic / (device.bandwidth * c["bandwidth_efficiency"])
    last = c["split_seconds"] + (s["read"] + s["written"]) / c["last_bytes_per_second"]
    first = (outside * c["far_cycles"] + waits + work) / device.clock
    floor = c["floor_seconds"] + first + np.where(of.cut, last, 0.0)
    return combine(rows_time, memory, np.zeros_like(memory), floor, c["overlap_exponent"])


def _doubled(count: Floats) -> Floats:
    """The next power of two, shape (N,)."""
    return np.asarray(2.0 ** np.ceil(np.log2(np.maximum(count, 1.0))))
