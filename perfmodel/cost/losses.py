r"""The cross-entropy of logits: a softmax in PyTorch's steps, and one block that gathers and sums.

Logits of two bytes are copied to four first. Rows of at most 2,048 are reduced by a warp, which
holds them; longer ones by a block of 1,024 threads, two at once on a unit, which goes over them
three times: for the maximum, the sum and the result. It keeps a row between the three where that
fits 48 KiB of shared memory in whole vectors, else finds it again in the unit's own cache, in the
last-level cache or in memory. With :math:`s` steps of 4,096 elements a row takes

.. math::

    c_\text{row} + s\,(c_\text{load} + o\,c_\text{far} + l\,c_\text{back})

clocks alone, as norms do (:mod:`perfmodel.cost.norms`). At last one block gathers the losses of the
targets, a thread for sixteen of them (:func:`perfmodel.cost.memory_bound.loss_steps`).

Reference
---------
PyTorch, aten/src/ATen/native/cuda/SoftMax.cu (host_softmax), PersistentSoftmax.cuh, Loss.cu.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from perfmodel.cost.device import Device
from perfmodel.cost.memory_bound import (
    IN_STEPS,
    cached_writes,
    loss_steps,
    not_held,
    pushed_out,
    rows_in_turns,
)
from perfmodel.cost.parts import Floats, Parts, combine

COEFFICIENTS: Final = IN_STEPS | {
    "short_cycles": "clocks of a warp for a row of 2,048",
    "unit_room": "bytes of rows that a unit's own cache keeps [B]",
    "work_cycles": "clocks of a unit that a step takes where others fill its waits",
    "reuse_room": "share of the last-level cache in which operands survive until they come back",
    "again_passes": "passes that come back to a row after the first, from the cache if it is there",
    "loss_seconds": "a step of the block that gathers and sums the losses [s]",
    "floor_seconds": "start and end of the kernels in a stream [s]",
    "overlap_exponent": "how sharply the parts overlap",
}
_SHORT: Final = 2048.0
_STEP: Final = 4096.0
_WORD: Final = 4.0
_KEPT: Final = 12256.0
"""Longest row that shared memory holds in full precision."""
_VECTOR: Final = 4.0
_BLOCKS, _RESIDENT_WARPS, _FEW, _WARP = 2.0, 64.0, 128.0, 32.0


def loss_parts(
    s: Mapping[str, Floats], element: float, device: Device, coefficients: Mapping[str, float]
) -> Parts:
    """Time of cross-entropies and its parts, arrays of shape (N,) [s].

    Parameters
    ----------
    s : mapping of array
        ``tokens vocab read`` of the operator.
    element : float
        Bytes of one logit [B].
    device : Device
        The chip.
    coefficients : mapping
        Values of :data:`COEFFICIENTS`.
    """
    c, rows, cols = coefficients, s["tokens"], s["vocab"]
    short = cols <= _SHORT
    single = _WORD * rows * cols
    copied = element < _WORD
    outside = not_held(s["read"], device, c["reuse_room"])
    if copied:  # what has just been copied is there, unless there is too much of it
        outside = 1.0 - np.minimum(1.0, cached_writes(single, device.cache, 0.5) / single)
    held = (cols < _KEPT) & (cols % _VECTOR == 0.0)
    each = rows / device.units
    # A warp holds one long row or two short ones, and is as wide as the row where that is narrower.
    narrow = 2.0 ** np.ceil(np.log2(np.maximum(cols, 2.0)))
    together = np.where(narrow <= _FEW, 2.0, 1.0) * np.maximum(_WARP / narrow, 1.0)
    most = np.where(short, _RESIDENT_WARPS * together, _BLOCKS)
    beside = np.clip(np.ceil(each), 1.0, _BLOCKS)
    beyond = np.where(held, 0.0, pushed_out(1.0, beside * cols * _WORD, c["unit_room"]))
    steps = np.ceil(cols / _STEP)
    step = c["load_cycles"] + outside * c["far_cycles"] + beyond * c["back_cycles"]
    alone = c["row_cycles"] + np.where(short, cols / _SHORT * c["short_cycles"], steps * step)
    busy = each * cols / _STEP * c["work_cycles"]
    rows_time = rows_in_turns(each, most, alone, busy, device, c["wave_blur"])
    flying = np.minimum(1.0, most / np.maximum(each, 1e-9)) * 2.0 * single
    pushed = np.where(held | short, 0.0, pushed_out(c["again_passes"], flying, device.cache))
    kept = cached_writes(single, device.cache, c["write_in_cache"])
    passes = (3.0 if copied else 1.0) * (single - kept)
    first = s["read"] if copied else outside * s["read"]
    memory = (first + passes + pushed * single) / (device.bandwidth * c["bandwidth_efficiency"])
    floor = c["floor_seconds"] + c["loss_seconds"] * loss_steps(rows)
    return combine(rows_time, memory, np.zeros_like(memory), floor, c["overlap_exponent"])
