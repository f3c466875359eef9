r"""Attention in full precision: CUTLASS kernels without matrix units, a few blocks on each unit.

PyTorch runs its memory-efficient kernels. Forward, a block holds :math:`b_q` queries and walks
along the keys in steps of :math:`b_k`: 64 and 64 for heads up to 64, else 32 and 128, values in
pieces of 128. Backward, a block holds 64 keys and walks along the queries, 64 a step for heads up
to 64, else 128. With :math:`r` blocks at once on a unit a step takes

.. math::

    t_s = \left\lVert \frac{F_s}{\eta_1 \eta P / U} + \frac{c_\text{step}}{f},\;
        r \frac{F_s}{\eta P / U} \right\rVert_8

since one block alone waits for its own operands (:math:`\eta_1`); registers leave room for three
blocks forward, two backward, and one with wide heads. The time of all is

.. math::

    t = \max\left( w \left(\frac{c_\text{block}}{f} + \bar s\, t_s\right),
        \frac{c_\text{block}}{f} + s\, t_s \right)

with :math:`w` turns of :math:`r` blocks a unit, :math:`s` steps of the longest block and
:math:`\bar s` of the mean one, which a causal mask shortens.

Backward, the keys of a head are cut into parts (:func:`key_parts`), which add their gradients of
the queries up in memory. Beforehand PyTorch copies the gradient of the output, multiplies it by
the output and sums the products, in kernels of their own.

Reference
---------
PyTorch, aten/src/ATen/native/transformers/cuda/mem_eff_attention/kernel_forward.h,
kernel_backward.h and attention_backward.cu (the blocks, and the parts of the keys); grids and
registers by the names of the kernels of 11 attentions on an H100.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.device import Device
from perfmodel.cost.parts import Floats, soft_max, waves

_NARROW, _MIDDLE = 64.0, 128.0
"""Widest heads of the kernels of narrow and of middle heads."""
_TILE, _SMALL_TILE, _LARGE_TILE = 64.0, 32.0, 128.0
_PIECE: Final = 32.0
_FEW_KEYS, _MANY_HEADS, _MOST_PARTS = 128.0, 256.0, 200.0
_SHARP: Final = 8.0


def forward_seconds(s: Mapping[str, Floats], device: Device, c: Mapping[str, float]) -> Floats:
    """Blocks of queries that walk along the keys, shape (N,) [s].

    Parameters
    ----------
    s : mapping of array
        Sizes as :func:`perfmodel.cost.attention.attention_parts` takes them, ``causal`` among them.
    device : Device
        The chip.
    c : mapping
        Coefficients of attention.
    """
    width, causal = s["head_dim"], s["causal"] > 0.0
    narrow = width <= _NARROW
    rows = np.where(narrow, _TILE, _SMALL_TILE)
    step = np.where(narrow, _TILE, _LARGE_TILE)
    tiles, keys = np.ceil(s["q_len"] / rows), _up(s["kv_len"], _PIECE)
    # The last block of queries sees all keys, the mean one half of them and half a block.
    most = np.where(causal, np.minimum(tiles * rows, keys), keys)
    mean = np.where(causal, np.minimum((tiles + 1.0) * rows / 2.0, keys), keys)
    blocks = s["batch"] * s["q_heads"] * tiles
    scores = _up(width, _PIECE)
    values = _up(width, np.where(narrow, _NARROW, _MIDDLE))

    def block(seen: Floats) -> tuple[Floats, Floats]:
        # Blocks of a mask that end within a step take it whole.
        partly = seen / step + (1.0 - rows / step) / 2.0
        steps = np.where(seen < most, np.maximum(partly, 1.0), np.ceil(seen / step))
        return steps, 2.0 * rows * (steps * step * scores + seen * values)

    return _time(blocks, block(mean), block(most), ~narrow, np.full_like(blocks, 3.0), device, c)


def backward_seconds(s: Mapping[str, Floats], device: Device, c: Mapping[str, float]) -> Floats:
    """Blocks of keys that walk along the queries, shape (N,) [s]; parameters as forward."""
    width = s["head_dim"]
    narrow = width <= _NARROW
    rows = np.where(narrow, _TILE, _LARGE_TILE)
    scores = _up(width, _PIECE)
    padded = _up(width, np.where(narrow, _NARROW, _MIDDLE))
    heads = s["batch"] * s["q_heads"]
    parts = key_parts(heads, s["kv_len"], width)
    keys = np.ceil(s["kv_len"] / _TILE)
    turns = np.ceil(keys / parts)
    steps = np.ceil(s["q_len"] / rows)
    mean = turns * np.where(s["causal"] > 0.0, (steps + 1.0) / 2.0, steps)
    # Sums along queries and keys end where those end, in pieces.
    filled = _up(s["q_len"], _PIECE) / (steps * rows)
    kept = _up(s["kv_len"], _PIECE) / (keys * _TILE)
    one = 2.0 * rows * _TILE * (2.0 * scores + (2.0 * filled + kept) * padded)
    most = turns * steps
    slots = np.where(narrow, 2.0, 1.0)
    return _time(heads * parts, (mean, mean * one), (most, most * one), ~narrow, slots, device, c)


def key_parts(heads: Floats, keys: Floats, width: Floats) -> Floats:
    """Parts in which the backward kernel cuts the keys of a head, shape (N,).

    A part a block of 64 keys; none where heads fill the chip and keys are few, and not many where
    heads are so wide that gradients of keys are kept in memory.

    Parameters
    ----------
    heads : array
        Sequences times query heads.
    keys, width : array
        Keys of a sequence, elements of a head.

    Reference
    ---------
    PyTorch, attention_backward.cu, "Keys splitting heuristic".
    """
    parts = np.ceil(keys / _TILE)
    parts = np.where((heads >= _MANY_HEADS) & (keys <= _FEW_KEYS), 1.0, parts)
    room = np.maximum(np.floor(_MOST_PARTS / heads), 1.0)
    return np.asarray(np.where(width > _MIDDLE, np.minimum(parts, room), parts))


def _up(value: Floats, step: Floats | float) -> Floats:
    return np.asarray(np.ceil(value / step) * step)


def _time(
    blocks: Floats,
    mean: tuple[Floats, Floats],
    most: tuple[Floats, Floats],
    wide: NDArray[np.bool_],
    slots: Floats,
    device: Device,
    c: Mapping[str, float],
) -> Floats:
    """Blocks, as many at once on a unit as ``slots``, of so many steps and operations [s]."""
    each = blocks / device.units
    beside = np.clip(np.ceil(each), 1.0, slots)
    unit = device.peak * c["compute_efficiency"] / device.units
    rate = unit * np.where(wide, c["wide_efficiency"], 1.0)

    def walk(steps: Floats, work: Floats) -> Floats:
        alone = work / (rate * c["single_rate"]) + steps * c["step_overhead_cycles"] / device.clock
        return soft_max((alone, beside * work / rate), _SHARP)

    start = c["block_overhead_cycles"] / device.clock
    turns = waves(each / slots, c["wave_blur"])
    return np.asarray(np.maximum(turns * (start + walk(*mean)), start + walk(*most)))
