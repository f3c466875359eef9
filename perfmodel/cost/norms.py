r"""Norms along rows: a block of threads a row, which waits for its loads step after step.

PyTorch's vectorised kernel gives a row to 128 threads, each of which loads four elements a step, so
that a row of :math:`n` takes :math:`s = \lceil n / 512 \rceil` steps for its sums and as many to be
scaled. A block alone on a unit waits for every one of them; beside others the unit's own pace
counts. With :math:`r` rows at once on each of :math:`U` units (at most :math:`R = 16`),

.. math::

    t_\text{rows} = \left\lVert \max\left(1, \frac{R_\text{all}}{R U}\right)
        \frac{c_\text{row} + s\,(c_\text{load} + o\,c_\text{far} + l\,c_\text{back})}{f},\;
        \frac{R_\text{all}}{U} \frac{c_\text{start} + s\,c_\text{work}}{f} \right\rVert_8

where :math:`o` is the share of the operand that is not in the last-level cache and :math:`l` the
share of the second look at a row that the unit's own cache no longer holds. In full precision a
step loads twice the bytes at a pace of its own. Rows that no vector fits take two older kernels of
512 and 256 threads, at most four rows a unit, with element after element.

Reference
---------
PyTorch, aten/src/ATen/native/cuda/layer_norm_kernel.cu (vectorized_layer_norm_kernel,
RowwiseMomentsCUDAKernel, LayerNormForwardCUDAKernel) and thread_constants.h.
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
    "full_load_share": "clocks of a step in full precision, as a share of the others'",
    "full_left_share": "the same of a step that is left over where others run four at once",
    "full_far_share": "the same of what device memory adds",
    "unit_room": "bytes of rows that a unit's own cache keeps [B]",
    "start_cycles": "clocks of a unit that a row takes where others fill its waits",
    "work_cycles": "the same of a step",
    "reuse_room": "share of the last-level cache in which operands survive until they come back",
    "again_passes": "passes that come back to a row after the first, from the cache if it is there",
    "floor_seconds": "start and end of the kernels in a stream [s]",
    "overlap_exponent": "how sharply the parts overlap",
}
STEP: Final = 512.0
"""Elements of a row that its threads load at once."""
_TOGETHER, _TOGETHER_ODD = 16.0, 4.0
_UNROLLED: Final = 4.0
_WARP: Final = 128.0  # elements that a warp loads in a step
_HALF: Final = 2.0


def loop_steps(cols: Floats) -> tuple[Floats, Floats]:
    """Steps of a row that run four at once, and those left over, one by one; each (N,).

    A loop is unrolled by four. Threads of one row go round equally often or once more: where the
    ones have whole fours and the others do not, a warp of both runs through its own and theirs.
    """
    count = np.floor(cols / STEP)
    some = cols > count * STEP
    most = count + some
    bound = np.floor(most / _UNROLLED) * _UNROLLED
    mixed = cols % _WARP > 0.0
    loose = np.where(mixed & (most == bound), _UNROLLED - 1.0, most - bound)
    return np.asarray(bound), np.asarray(loose)


def norm_parts(
    s: Mapping[str, Floats],
    element: float,
    device: Device,
    coefficients: Mapping[str, float],
    *,
    odd: bool = False,
) -> Parts:
    """Time of norms over rows, and its parts, arrays of shape (N,) [s].

    Parameters
    ----------
    s : mapping of array
        ``rows cols read written`` of the operator.
    element : float
        Bytes of one element [B].
    device : Device
        The chip.
    coefficients : mapping
        Values of :data:`COEFFICIENTS`.
    odd : bool
        Rows that no vector fits.
    """
    c = coefficients
    most = c["rows_per_unit"]
    each = s["rows"] / device.units
    beside = np.clip(np.ceil(each), 1.0, most)
    outside = not_held(s["read"], device, c["reuse_room"])
    kept = beside * s["cols"] * element
    beyond = pushed_out(1.0, kept, c["unit_room"])
    full = element > _HALF
    load = c["load_cycles"] * (c["full_load_share"] if full else 1.0)
    left = c["load_cycles"] * c["full_left_share"]
    far = outside * c["far_cycles"]
    near = far * (c["full_far_share"] if full else 1.0)
    bound, loose = np.ceil(s["cols"] / STEP), np.zeros_like(each)
    if full and not odd:
        bound, loose = loop_steps(s["cols"])
    start = c["row_cycles"] + outside * c["first_cycles"]
    back = beyond * c["back_cycles"]
    alone = start + bound * (load + near + back) + loose * (left + far + back)
    busy = each * (c["start_cycles"] + s["cols"] / STEP * c["work_cycles"])
    rows_time = rows_in_turns(each, most, alone, busy, device, c["wave_blur"])
    # The second look goes to memory where all rows that the chip works on exceed its cache.
    flying = np.minimum(1.0, most / np.maximum(each, 1e-9)) * (s["read"] + s["written"])
    pushed = pushed_out(c["again_passes"] * s["read"], flying, device.cache)
    kept = cached_writes(s["written"], device.cache, c["write_in_cache"])
    traffic = outside * s["read"] + s["written"] - kept + pushed
    memory = traffic / (device.bandwidth * c["bandwidth_efficiency"])
    floor = np.full_like(memory, c["floor_seconds"])
    return combine(rows_time, memory, np.zeros_like(memory), floor, c["overlap_exponent"])
