r"""Attention in full precision: CUTLASS kernels without matrix units, a few blocks on each unit.

PyTorch runs its memory-efficient kernels. Forward, a block holds :math:`b_q` queries and walks
along the keys in steps of :math:`b_k`: 64 and 64 for heads up to 64, else 32 and 128, values in
pieces of 128. Backward, a block holds 64 keys and walks along the queries, 64 a step for heads up
to 64, else 128. With :math:`r` blocks at once on a unit a step takes

.. math::

    t_s = \left\lVert \frac{F_s}{\eta_1 \eta P / U} + \frac{c_\text{step}}{f},\;
        r \frac{F_s}{\eta P / U} \right\rVert_8

since one block alone waits for its own operands (:math:`\eta_1`); registers leave room for three
narrow or two wide blocks forward, two or one backward. Like blocks run in whole turns of
:math:`r` a unit and a last one of those that are left, as far as turns stay together
(:math:`c_\text{blur}`). Behind a causal mask blocks differ: units share them evenly, and end half
of the longest one apart,

.. math::

    t = \max\left( \frac{n}{r U} \left(\frac{c_\text{block}}{f} + \bar s\, t_s\right)
        + \frac{t_\text{longest}}{2},\; t_\text{longest} \right)

with :math:`n` blocks of :math:`\bar s` steps in the mean.

Backward, the keys of a head are cut into parts (:func:`key_parts`), which add their gradients of
the queries up in memory, one after another: where there are many parts and few queries, that queue
decides. Beforehand PyTorch copies the gradient of the output, multiplies it by
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

from perfmodel.cost.device import Device
from perfmodel.cost.parts import Floats, soft_max

_NARROW, _MIDDLE = 64.0, 128.0
"""Widest heads of the kernels of narrow and of middle heads."""
_TILE, _SMALL_TILE, _LARGE_TILE = 64.0, 32.0, 128.0
_PIECE: Final = 32.0
_FEW_KEYS, _MANY_HEADS, _MOST_PARTS = 128.0, 256.0, 200.0
_SHARP: Final = 8.0
_NARROW_TURN: Final = 0.5  # of half the bytes
_TAIL: Final = 0.5
"""Unlike blocks of units end as far apart as this share of the longest one in the mean."""
_ALIKE: Final = 1.01


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
    most = np.where(causal, np.minimum(tiles * rows, keys), keys)
    # Behind a mask blocks see more and more keys, up to the last one or to all keys.
    rising = np.where(causal, np.minimum(np.ceil(keys / rows), tiles), 0.0)
    seen = (rows * rising * (rising + 1.0) / 2.0 + (tiles - rising) * keys) / tiles
    last = np.ceil(most / step)
    walked = (_climbed(rising, step / rows) + (tiles - rising) * last) / tiles
    blocks = s["batch"] * s["q_heads"] * tiles
    scores = _up(width, _PIECE)
    values = _up(width, np.where(narrow, _NARROW, _MIDDLE))

    def block(steps: Floats, seen: Floats) -> tuple[Floats, Floats]:
        return steps, 2.0 * rows * (steps * step * scores + np.minimum(seen, most) * values)

    # Of heads with a single tile of queries, and values of one piece, no two run beside.
    lonely = (width <= _MIDDLE) & (tiles == 1.0)
    slots = np.where(narrow, 3.0, np.where(lonely, 1.0, 2.0))
    pace = _paces(width, c)
    return _time(blocks, block(walked, seen), block(last, most), pace, slots, device, c)


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
    # Behind a mask the first block of keys is met by all queries, later ones by fewer.
    passed = _climbed(keys, rows / _TILE) / keys - 1.0
    mean = turns * np.where(s["causal"] > 0.0, np.maximum(steps - passed, 1.0), steps)
    # Sums along queries and keys end where those end, in pieces.
    filled = _up(s["q_len"], _PIECE) / (steps * rows)
    kept = _up(s["kv_len"], _PIECE) / (keys * _TILE)
    one = 2.0 * rows * _TILE * (2.0 * scores + (2.0 * filled + kept) * padded)
    most = turns * steps
    slots = np.where(narrow, 2.0, 1.0)
    blocks, pace = heads * parts, _paces(width, c)
    worked = _time(blocks, (mean, mean * one), (most, most * one), pace, slots, device, c)
    # Parts of a head add to the same gradients of queries, one after another.
    room = np.maximum(blocks / (device.units * slots), 1.0)
    rate = device.peak * c["compute_efficiency"] / device.units * pace[0] * pace[1]
    turn = c.get("turn_seconds", 0.0) * np.where(narrow, _NARROW_TURN, 1.0)
    queue = room * (one / rate + parts * turn)
    return np.asarray(np.where(parts > 1.0, np.maximum(worked, queue), worked))


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


def _climbed(blocks: Floats, each: Floats) -> Floats:
    """Sum of 1, 2, 3 ... steps of so many blocks, where ``each`` blocks in turn take as many."""
    whole = np.floor(blocks / each)
    return np.asarray((whole + 1.0) * (blocks - each * whole / 2.0))


def _up(value: Floats, step: Floats | float) -> Floats:
    return np.asarray(np.ceil(value / step) * step)


def _paces(width: Floats, c: Mapping[str, float]) -> tuple[Floats, Floats]:
    """Rates of the kernels of such heads, and of one of their blocks alone, as shares; (N,)."""
    wide, widest = width > _NARROW, width > _MIDDLE
    share = np.where(wide, c["wide_efficiency"], 1.0)
    share = np.where(widest, c.get("widest_efficiency", c["wide_efficiency"]), share)
    alone = np.where(wide, c.get("wide_single_rate", c["single_rate"]), c["single_rate"])
    return np.asarray(share), np.asarray(alone)


def _time(
    blocks: Floats,
    mean: tuple[Floats, Floats],
    most: tuple[Floats, Floats],
    pace: tuple[Floats, Floats],
    slots: Floats,
    device: Device,
    c: Mapping[str, float],
) -> Floats:
    """Blocks, as many at once on a unit as ``slots``, of so many steps and operations [s]."""
    each = blocks / device.units
    unit = device.peak * c["compute_efficiency"] / device.units
    rate, single = unit * pace[0], pace[1]
    start = c["block_overhead_cycles"] / device.clock

    def walk(steps: Floats, work: Floats, beside: Floats) -> Floats:
        alone = work / (rate * single) + steps * c["step_overhead_cycles"] / device.clock
        return start + soft_max((alone, beside * work / rate), _SHARP)

    beside = np.clip(np.ceil(each), 1.0, slots)
    turns = each / slots
    full = np.floor(turns)
    left = np.ceil(each - full * slots)
    flow = turns * walk(*mean, slots)
    even = full * walk(*mean, slots) + np.where(left > 0.0, walk(*mean, np.maximum(left, 1.0)), 0.0)
    longest = walk(*most, beside)
    blur = c["wave_blur"]
    same = np.maximum(blur * flow + (1.0 - blur) * even, longest)
    tail = _TAIL * walk(*most, np.ones_like(each))
    mixed = np.maximum(flow + tail, longest)
    return np.asarray(np.where(most[0] > mean[0] * _ALIKE, mixed, same))
