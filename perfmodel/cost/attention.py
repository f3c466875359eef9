r"""Fused attention: blocks of queries or keys over units, or a stream through the key-value cache.

Forward, one block of queries runs on one unit and walks along the keys; backward, one block of keys
walks along the queries. With :math:`b` rows a block and :math:`s` steps of a block that sees all of
the other side,

.. math::

    t_\text{compute} = \max\left( w \left(\frac{c_\text{block}}{f} + \bar s\, t_s\right),
        \frac{c_\text{block}}{f} + s\, t_s \right), \qquad
    t_s = \frac{F_\text{step}}{\eta P / U} + \frac{c_\text{step}}{f},

where :math:`w` are the waves of blocks over the units, and :math:`\bar s` the steps that the mask
leaves of a block in the mean: a causal mask makes them differ, they are dealt out as they finish,
and where there are few of them the longest decides. Heads are worked on in multiples of 64.
Backward, gradients of queries are summed in fp32 in memory and rounded by another kernel, and
those of keys that queries share are summed by one more.

In decoding (one query a sequence) a block holds 16 of the queries that share a key head and
streams keys and values, cut into parts over the units (:func:`splits_of`), which one more kernel
sums. In full precision other kernels run (:mod:`perfmodel.cost.attention_full`), and none that is
fused where queries share keys (:mod:`perfmodel.cost.attention_steps`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from perfmodel.cost.attention_full import backward_seconds, forward_seconds
from perfmodel.cost.attention_steps import shares_keys, steps_parts
from perfmodel.cost.device import Device, energy_scale
from perfmodel.cost.parts import Floats, Parts, combine, waves

COEFFICIENTS = {
    "compute_efficiency": "share of the matrix peak inside a block",
    "block_overhead_cycles": "start, softmax tail and write-back of one block [clocks]",
    "step_overhead_cycles": "cost of one step of a block beyond its arithmetic [clocks]",
    "wave_blur": "0: waves are quantised; 1: units share the work evenly",
    "bandwidth_efficiency": "share of the memory peak that streaming reaches",
    "head_padding": "how far heads cost what whole multiples of 64 do, as an exponent",
    "wide_efficiency": "rate of kernels of heads above 128, as a share of the others'",
    "unit_bytes_per_clock": "memory rate that one block of decoding can draw [B/clock]",
    "head_cycles": "its cost of 128 keys of a head of 128 [clocks]",
    "short_share": "the same of 64 of few keys, as a share of it",
    "single_rate": "rate of one block alone on a unit in full precision, as a share of the unit's",
    "wide_single_rate": "the same of heads above 64",
    "widest_efficiency": "rate of kernels of heads above 128 in full precision, as a share",
    "turn_seconds": "turn of one part of the keys at the gradients of queries [s]",
    "blocks_per_unit": "blocks of heads of 128 that a unit runs at once in decoding",
    "combine_seconds": "kernel that sums the parts of split keys [s]",
    "query_passes": "fp32 copies of the queries' gradients that pass memory",
    "shared_passes": "the same of gradients of keys that queries share, a copy each query head",
    "shared_seconds": "kernel that sums those [s]",
    "group_seconds": "what each query head of a key head adds to it [s]",
    "joules_per_flop": "energy of one operation on a chip of 2020 [J]",
    "energy_halving_years": "time in which the energy of an operation halves [years]",
    "joules_per_byte": "energy of one byte from device memory [J]",
    "floor_seconds": "start and end of the kernels in a stream [s]",
    "overlap_exponent": "how sharply arithmetic and memory overlap",
}
# Terms that older fits leave out.
_WITHOUT: Final = {
    "head_padding": 1.0, "wide_efficiency": 0.7, "unit_bytes_per_clock": 37.0,
    "head_cycles": 905.0, "short_share": 0.89, "blocks_per_unit": 2.17, "combine_seconds": 3.1e-6,
    "query_passes": 4.4, "shared_passes": 2.5, "shared_seconds": 3e-6, "group_seconds": 2e-7,
    "single_rate": 0.6,
}  # fmt: skip
FORWARD, BACKWARD, DECODE = "attention_fwd", "attention_bwd", "attention_decode"
STEPS: Final = "attention_steps"
"""Before the direction: several kernels one after another."""
_PRODUCTS: Final = {FORWARD: 2.0, BACKWARD: 5.0}
_BLOCK, _SMALL_BLOCK = 128.0, 64.0
_WIDEST: Final = 128.0
"""Widest head of the usual kernels."""
_HEAD_STEP: Final = 64.0
_GRADIENT: Final = 4.0  # bytes of a sum in fp32
_DECODE_ROWS: Final = 16.0
_SHORT, _TINY, _UNCUT, _MOST_SPLITS = 256.0, 32.0, 512.0, 64.0
"""Keys of decoding that take tiles of 64, and of 32; that are not cut; and the most parts."""


def attention_parts(
    kernel: str,
    sizes: Mapping[str, Floats],
    device: Device,
    coefficients: Mapping[str, float],
    *,
    full: bool = False,
) -> Parts:
    """Time of scaled dot-product attention and its parts, arrays of shape (N,) [s].

    Parameters
    ----------
    kernel : str
        :data:`FORWARD`, :data:`BACKWARD` or :data:`DECODE`; or one that begins with :data:`STEPS`.
    sizes : mapping of array
        ``batch q_heads kv_heads q_len kv_len head_dim`` [elements], ``flops`` that the mask leaves,
        ``read`` and ``written`` [B] of the operator.
    device : Device
        The chip.
    coefficients : mapping
        Values of :data:`COEFFICIENTS`; forward, backward and decoding have their own.
    full : bool
        Operands of full precision, which kernels with smaller blocks take.

    Reference
    ---------
    Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning", 2023;
    PyTorch, aten/src/ATen/native/transformers/cuda (which library runs, and the splits).
    """
    c, s = _WITHOUT | dict(coefficients), sizes
    if kernel.startswith(STEPS):
        return steps_parts(s, device, c, backward=kernel.endswith("bwd"))
    traffic = s["read"] + s["written"]
    floor = np.full_like(traffic, c["floor_seconds"])
    moved = traffic
    if kernel == DECODE:
        compute, busy, more = _decode(s, device, c)
        floor = floor + more
        moved = traffic / busy
    elif full:
        walk = backward_seconds if kernel == BACKWARD else forward_seconds
        compute = walk(s, device, c)
        if kernel == BACKWARD:
            prepared = _GRADIENT * s["batch"] * s["q_heads"] * s["head_dim"] * s["q_len"]
            floor = floor + c["query_passes"] * prepared / device.bandwidth
    else:
        compute = _walk(kernel, s, device, c)
    if kernel == BACKWARD and not full:
        heads = s["batch"] * s["q_heads"] * s["head_dim"]
        shared = shares_keys(s)
        sums = c["query_passes"] * s["q_len"] + c["shared_passes"] * shared * s["kv_len"]
        moved = traffic + _GRADIENT * heads * sums
        group = s["q_heads"] / s["kv_heads"]
        floor = floor + shared * (c["shared_seconds"] + c["group_seconds"] * group)
    memory = moved / (device.bandwidth * c["bandwidth_efficiency"])
    if full:  # far from the power limit
        return combine(compute, memory, np.zeros_like(memory), floor, c["overlap_exponent"])
    scale = energy_scale(device, c["energy_halving_years"])
    joules = scale * c["joules_per_flop"] * s["flops"] + c["joules_per_byte"] * traffic
    return combine(compute, memory, joules / device.power, floor, c["overlap_exponent"])


def _walk(kernel: str, s: Mapping[str, Floats], device: Device, c: Mapping[str, float]) -> Floats:
    """Blocks of one side that walk along the other: queries forward, keys backward [s]."""
    own, other = s["q_len"], s["kv_len"]
    if kernel == BACKWARD:
        own, other = other, own
    heads, width = s["batch"] * s["q_heads"], s["head_dim"]
    wide = width > _WIDEST
    rows = np.where(wide & (kernel == BACKWARD), _SMALL_BLOCK, _BLOCK)
    blocks = heads * np.ceil(own / rows)
    steps = np.ceil(other / _BLOCK)
    whole = 2.0 * _PRODUCTS[kernel] * heads * own * other * width
    seen = np.minimum(1.0, s["flops"] / whole)
    padded = np.ceil(width / _HEAD_STEP) * _HEAD_STEP
    work = 2.0 * _PRODUCTS[kernel] * rows * _BLOCK * width
    work = work * (padded / width) ** c["head_padding"]
    peak = device.peak / device.units * c["compute_efficiency"]
    rate = peak * np.where(wide, c["wide_efficiency"], 1.0)
    step = work / rate + c["step_overhead_cycles"] / device.clock
    start = c["block_overhead_cycles"] / device.clock
    # Blocks on the edge of a mask are worked on whole.
    mean = np.maximum(steps * seen + 1.0 - seen, 1.0)
    turns = waves(blocks / device.units, c["wave_blur"])
    return np.asarray(np.maximum(turns * (start + mean * step), start + steps * step))


def _decode(
    s: Mapping[str, Floats], device: Device, c: Mapping[str, float]
) -> tuple[Floats, Floats, Floats]:
    """Compute time [s], share of the memory's rate that the blocks draw, and what comes after [s].

    Query heads that share a key head are rows of one block; few keys take square tiles. Two blocks
    share a value head of 256.
    """
    heads, group, keys = s["batch"] * s["kv_heads"], s["q_heads"] / s["kv_heads"], s["kv_len"]
    short = keys <= _SHORT
    tall = np.ceil(group / np.where(short, _SMALL_BLOCK, _DECODE_ROWS))
    splits = splits_of(heads * tall, keys, device.units)
    blocks = heads * tall * splits * np.where(s["head_dim"] > _WIDEST, 2.0, 1.0)
    tile = np.where(short, np.where(keys <= _TINY, _TINY, _SMALL_BLOCK), _BLOCK)
    width = _HEAD_STEP * np.ceil(s["head_dim"] / _HEAD_STEP)
    step = c["step_overhead_cycles"] + c["head_cycles"] * width / _BLOCK * np.where(
        short, c["short_share"] * tile / _SMALL_BLOCK, 1.0
    )
    one = c["block_overhead_cycles"] + np.ceil(np.ceil(keys / tile) / splits) * step
    # As many run at once on a unit as keys and values of their tiles fit its memory.
    slots = device.units * np.maximum(c["blocks_per_unit"] * _BLOCK / width, 1.0)
    compute = waves(blocks / slots, c["wave_blur"]) * one / device.clock
    drawn = c["unit_bytes_per_clock"] * device.clock * np.minimum(blocks, slots)
    summed = 2.0 * _GRADIENT * splits * heads * group * s["head_dim"] / device.bandwidth
    after = (splits > 1.0) * (c["combine_seconds"] + summed)
    return compute, np.minimum(1.0, drawn / device.bandwidth), after


def splits_of(blocks: Floats, keys: Floats, units: float) -> Floats:
    """Parts in which cuDNN cuts the keys of a decoding step, shape (N,).

    The largest power of two that leaves two blocks a unit and a tile a part; one where there are
    few keys or the blocks fill half of the chip. By the grids of 40 steps of an H100 (cuDNN 9.19).

    Parameters
    ----------
    blocks : array
        Blocks without a cut.
    keys : array
        Keys of a sequence.
    units : float
        Streaming multiprocessors.
    """
    most = np.minimum(2.0 * units / blocks, np.ceil(keys / _BLOCK))
    parts = np.minimum(2.0 ** np.floor(np.log2(np.maximum(most, 1.0))), _MOST_SPLITS)
    return np.where((blocks <= units / 2.0) & (keys > _UNCUT), parts, 1.0)
