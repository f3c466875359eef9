r"""Chains that sum along rows: a generated kernel whose program waits for a row, step after step.

A compiler gives a row to one program. Up to 1,024 elements stay in its registers, and where there
are many rows a warp takes 1,024 elements of one or of several; of a longer row a program loads
2,048 elements a step, and goes over it again for its result, which finds it in the unit's own
cache, in the last-level cache or in memory. With :math:`s` steps a long row takes

.. math::

    c = c_\text{row} + s\,(c_\text{load} + k\,c_\text{op} + u\,c_\text{single}
        + l\,c_\text{back})

clocks, where :math:`k` are the operations of an element beyond the four of a sum and an RMS norm (a
layer norm, which carries mean and deviation along, has ten), and :math:`u` says how far rows that
do not start on 16 bytes are loaded element by element. A short row of :math:`n` waits once,
:math:`c = c_\text{held} + c_\text{warp}\, n / 512 + k\,c_\text{op}\, n / 2048`. Rows take turns, or
the unit's own pace, as norms do (:mod:`perfmodel.cost.norms`), after the first ones have waited for
memory, :math:`o\,c_\text{far}`. Rows above 8,192, fewer than two a unit, are cut into
parts, whose sums a second kernel adds up; a third one reads everything again. No row waits then.

Reference
---------
PyTorch, torch/_inductor/choices.py (should_use_persistent_reduction, reduction_split_factor) and
torch/_inductor/runtime/triton_heuristics.py (_persistent_reduction_configs, _reduction_configs).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from perfmodel.cost.device import Device
from perfmodel.cost.memory_bound import (
    IN_STEPS,
    cached_writes,
    not_held,
    pushed_out,
    rows_in_turns,
)
from perfmodel.cost.parts import Floats, Parts, combine

COEFFICIENTS: Final = IN_STEPS | {
    "far_cycles": "clocks that the first rows wait for device memory",
    "held_cycles": "clocks of a row that stays in registers, beyond its elements",
    "warp_cycles": "the same of 512 elements of it",
    "operation_cycles": "clocks of 2,048 elements for each operation beyond four",
    "held_per_unit": "elements of such rows that a unit holds at once",
    "unit_room": "bytes of rows that a unit's own cache keeps [B]",
    "start_cycles": "clocks of a unit that a row takes where others fill its waits",
    "work_cycles": "the same of 512 elements",
    "operation_work": "the same of 512 elements of whole steps, for each operation beyond four",
    "uneven_share": "how much longer those of two bytes that are loaded singly take, as a share",
    "single_cycles": "clocks that a step of such rows takes longer",
    "reuse_room": "share of the last-level cache in which operands survive until they come back",
    "again_passes": "looks at a long row after the first",
    "split_seconds": "start and end of the two kernels more of rows that are cut [s]",
    "floor_seconds": "start and end of the kernels in a stream [s]",
    "overlap_exponent": "how sharply the parts overlap",
}
HELD: Final = 1024.0
"""The longest row that stays in registers."""
STEP: Final = 2048.0
"""Elements of a longer one that its threads load at once."""
OPERATIONS: Final = 4.0
"""Of an element of a sum and an RMS norm."""
WHOLE, MANY_ROWS = 8192.0, 2.0
"""The longest row that is never cut, and rows a unit from which none is."""
_WORK: Final = 512.0
_LOAD: Final = 16  # bytes that a thread loads at once at most


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
    each = rows / device.units
    held, cut = cols <= HELD, (cols > WHOLE) & (each < MANY_ROWS)
    outside = not_held(s["read"], device, c["reuse_room"])
    most = np.where(held, np.maximum(c["held_per_unit"] / cols, 1.0), c["rows_per_unit"])
    kept = np.clip(np.ceil(each), 1.0, most) * s["read"] / rows
    beyond = pushed_out(1.0, kept, c["unit_room"])
    steps = np.ceil(cols / STEP)
    far = outside * c["far_cycles"]
    more = np.maximum(s["flops"] / (rows * cols) - OPERATIONS, 0.0)
    singly = (loads(cols, element) - 1.0) / 7.0
    step = c["load_cycles"] + more * c["operation_cycles"] + singly * c["single_cycles"]
    step = step + beyond * c["back_cycles"]
    short = c["held_cycles"] + cols / _WORK * c["warp_cycles"]
    short = short + cols / STEP * more * c["operation_cycles"]
    alone = np.where(held, short, c["row_cycles"] + steps * step)
    work = (1.0 + singly * c["uneven_share"]) * cols * c["work_cycles"]
    work = work + np.where(held, 0.0, steps * STEP * more * c["operation_work"])
    busy = each * (c["start_cycles"] + work / _WORK)
    rows_time = rows_in_turns(each, most, alone, busy, device, c["wave_blur"])
    rows_time = np.where(cut, busy / device.clock, rows_time)
    # The second look goes to memory where all rows that the chip works on exceed its cache.
    flying = np.where(cut, 1.0, np.minimum(1.0, most / np.maximum(each, 1e-9)))
    again = pushed_out(c["again_passes"] * s["read"], flying * s["read"], device.cache)
    written = s["written"] - cached_writes(s["written"], device.cache, c["write_in_cache"])
    traffic = outside * s["read"] + written + np.where(held, 0.0, again)
    memory = traffic / (device.bandwidth * c["bandwidth_efficiency"])
    floor = c["floor_seconds"] + far / device.clock + np.where(cut, c["split_seconds"], 0.0)
    return combine(rows_time, memory, np.zeros_like(memory), floor, c["overlap_exponent"])
