r"""Fused attention: blocks of queries over units, or a stream through the key-value cache.

Prefill and training run one block of queries on one unit at a time; a block visits every key block
that its mask leaves. With :math:`b_q` queries a block,

.. math::

    w = \lceil b\,h \lceil q / b_q \rceil / U \rceil, \qquad
    t_\text{compute} = w \left( \frac{F_\text{block}}{\eta P / U} +
    \frac{c_\text{block}}{f} \right).

With a causal mask the blocks differ in length and are dealt out as they finish, so that the waves
blur: the time lies between the even share of the work and the quantised one. In decoding (few
queries) the kernel streams keys and values, split over as many units as the cache length allows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from perfmodel.cost.device import Device, energy_scale
from perfmodel.cost.parts import Floats, Parts, combine

COEFFICIENTS = {
    "compute_efficiency": "share of the matrix peak inside a block",
    "query_block": "queries that one unit holds at a time [elements]",
    "block_overhead_cycles": "start, softmax tail and write-back of one block [clocks]",
    "step_overhead_cycles": "cost of one key block beyond its arithmetic [clocks]",
    "wave_blur": "0: waves are quantised; 1: units share the work evenly",
    "bandwidth_efficiency": "share of the memory peak that streaming reaches",
    "split_length": "keys that one unit takes at least when the cache is split [elements]",
    "unit_bandwidth_share": "memory rate that one unit can draw, in even shares of the peak",
    "joules_per_flop": "energy of one operation on a chip of 2020 [J]",
    "energy_halving_years": "time in which the energy of an operation halves [years]",
    "joules_per_byte": "energy of one byte from device memory [J]",
    "floor_seconds": "start and end of the kernels in a stream [s]",
    "overlap_exponent": "how sharply arithmetic and memory overlap",
}
_KEY_BLOCK = 128.0


def attention_parts(
    batch: Floats,
    q_heads: Floats,
    kv_heads: Floats,
    q_len: Floats,
    kv_len: Floats,
    head_dim: Floats,
    flops: Floats,
    traffic: Floats,
    device: Device,
    coefficients: Mapping[str, float],
) -> Parts:
    """Time of scaled dot-product attention, forward or backward.

    Parameters
    ----------
    batch, q_heads, kv_heads, q_len, kv_len, head_dim : array, shape (N,)
        Sizes [elements].
    flops : array
        Arithmetic that the mask leaves, of the pass in question [FLOP].
    traffic : array
        Unique bytes read and written [B].
    device : Device
        The chip.
    coefficients : mapping
        Values of :data:`COEFFICIENTS`; forward, backward and decoding have their own.

    Reference
    ---------
    Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning", 2023.
    """
    c = coefficients
    # Decoding packs the query heads that share a key head into the rows of one block.
    rows = np.where(q_len == 1, q_heads / kv_heads, q_len)
    heads = np.where(q_len == 1, kv_heads, q_heads)
    per_head = np.ceil(rows / c["query_block"])
    padding = per_head * c["query_block"] / rows
    blocks = batch * heads * per_head
    splits = np.where(
        q_len == 1,
        np.clip(np.ceil(kv_len / c["split_length"]), 1.0, np.maximum(device.units / blocks, 1.0)),
        1.0,
    )
    units = blocks * splits / device.units
    waves = np.maximum(c["wave_blur"] * np.maximum(units, 1.0), 0.0) + (
        1.0 - c["wave_blur"]
    ) * np.ceil(units)
    work = flops * np.where(q_len == 1, 1.0, padding) / (blocks * splits)
    steps = kv_len / (_KEY_BLOCK * splits)
    unit_peak = device.peak / device.units * c["compute_efficiency"]
    compute = waves * (
        work / unit_peak
        + (c["block_overhead_cycles"] + steps * c["step_overhead_cycles"]) / device.clock
    )
    busy = np.minimum(1.0, units * c["unit_bandwidth_share"])
    memory = traffic / (device.bandwidth * c["bandwidth_efficiency"] * busy)
    scale = energy_scale(device, c["energy_halving_years"])
    power = (scale * c["joules_per_flop"] * flops + c["joules_per_byte"] * traffic) / device.power
    return combine(
        compute, memory, power, np.full_like(compute, c["floor_seconds"]), c["overlap_exponent"]
    )
