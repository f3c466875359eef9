r"""Matrix products: tiles, waves, split-K, power.

A product of an ``m x k`` by a ``k x n`` matrix is cut into output tiles; every unit of the chip
works on one at a time, so the tiles run in waves. For a tile :math:`t_m \times t_n` and a split of
``k`` into ``s`` parts

.. math::

    w = \lceil \lceil m/t_m \rceil \lceil n/t_n \rceil \, b \, s / U \rceil, \qquad
    t_\text{compute} = w \left( \frac{2 t_m t_n k_s}{\eta(t) P / U} + \frac{c_\text{tile}}{f}
    \right), \qquad
    \eta(t) = \eta_\infty \frac{h}{h + h_0}, \quad h = \frac{t_m t_n}{t_m + t_n}

where ``h`` is the tile's arithmetic intensity: small tiles starve on operand traffic. Operands
reach a unit at no more than :math:`\beta` bytes a clock and all units together at no more than the
last-level cache delivers; a tile's result leaves it at so many bytes a clock when its sum is done.
Device memory delivers the unique bytes at a fraction :math:`\eta_b` of its peak, after a latency
that operands still in the cache do not pay. Persistent kernels hand out tiles as units come free,
which blurs the waves, and pay for the queue once. The power limit stretches the whole: a chip at
its limit lowers its clock until :math:`(\epsilon_F F + \epsilon_B B) / t` is what it may draw. The
library is taken to choose the fastest tile and split.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.device import Device, energy_scale
from perfmodel.cost.gemm_thin import is_thin, queued_parts, thin_times
from perfmodel.cost.parts import Floats, Parts, soft_max

COEFFICIENTS = {
    "compute_efficiency": "share of the peak that an infinitely large tile would reach",
    "tile_half_intensity": "tile intensity m n / (m + n) at which half of it is reached [elements]",
    "tile_overhead_cycles": "fill and drain of one tile's pipeline [clocks]",
    "operand_bytes_per_clock": "bytes a clock at which one unit can take in operands",
    "bandwidth_efficiency": "share of the memory peak that streaming reaches",
    "write_in_cache": "share of the last-level cache that can hold freshly written output",
    "joules_per_flop": "energy of one operation on a chip of 2020 [J]",
    "energy_halving_years": "time in which the energy of an operation halves [years]",
    "joules_per_byte": "energy of one byte from device memory [J]",
    "store_bytes_per_clock": "bytes a clock at which one unit writes a finished tile",
    "shared_bytes_per_second": "rate at which the last-level cache feeds all units [B/s]",
    "wave_blur": "0: tiles run in whole waves; 1: units share them evenly",
    "queue_seconds": "what handing out more tiles than units costs once [s]",
    "split_overhead_seconds": "extra time of a reduction over split parts [s]",
    "split_bytes_per_second": "rate at which that reduction moves the parts' sums [B/s]",
    "latency_seconds": "wait for the first operands where they are not in the cache [s]",
    "reuse_room": "share of the last-level cache in which operands survive until they come back",
    "single_rate": "rate of tiles whose rows start on single elements, against others",
    "floor_seconds": "start and end of a kernel in a stream of kernels [s]",
    "overlap_exponent": "how sharply arithmetic and memory overlap",
}

TILES = ((256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64), (64, 32), (32, 64))
SPLITS = (1, 2, 4, 8, 16)
# As many parts as fill the chip, of at least so much of k and at most so many.
FILL, LEAST_DEPTH, MOST_PARTS = 0, 256.0, 20.0
PRODUCT_SPLITS = (1, FILL)
# A stream of calls cycles through operands of this many bytes in at most so many sets.
STREAM_BYTES, MOST_SETS = 400e6, 48.0
# Terms that a kernel's table leaves out do not matter to it.
_WITHOUT = {
    "store_bytes_per_clock": np.inf,
    "shared_bytes_per_second": np.inf,
    "wave_blur": 0.0,
    "queue_seconds": 0.0,
    "split_bytes_per_second": np.inf,
    "latency_seconds": 0.0,
    "reuse_room": 0.0,
    "single_rate": 1.0,
}
# Weight gradients add up over all places of all images: few tiles, and many parts.
MANY_SPLITS = (1, 2, 8, 32, 128)
_CHUNK = 4096


def gemm_parts(
    m: Floats,
    n: Floats,
    k: Floats,
    batch: Floats,
    element: float,
    out_element: float,
    device: Device,
    coefficients: Mapping[str, float],
    *,
    traffic: Floats | None = None,
    even: Floats | float = 64.0,
    splits: tuple[int, ...] = SPLITS,
    tiles: tuple[tuple[int, int], ...] = TILES,
) -> Parts:
    """Time of ``batch`` products of ``m x k`` by ``k x n``.

    Parameters
    ----------
    m, n, k, batch : array, shape (N,)
        Sizes [elements].
    element, out_element : float
        Bytes of one operand element and of one output element.
    device : Device
        The chip.
    coefficients : mapping
        Values of :data:`COEFFICIENTS`.
    traffic : array, optional
        Unique bytes moved to and from device memory [B]; by default operands and output once.
    even : array, optional
        Largest power of two that divides every row in memory [elements].
    splits : tuple of int
        Parts that ``k`` may be cut into.
    tiles : tuple of tuple of int
        Tiles that the library has.

    Returns
    -------
    Parts
        Arrays of shape (N,).

    Reference
    ---------
    NVIDIA, "Matrix Multiplication Background User's Guide" (tile and wave quantisation).
    """
    arrays = [np.atleast_1d(np.asarray(value, dtype=float)) for value in (m, n, k, batch)]
    if traffic is None:
        traffic = arrays[3] * (
            element * (arrays[0] * arrays[2] + arrays[1] * arrays[2])
            + out_element * arrays[0] * arrays[1]
        )
    columns = np.broadcast_arrays(*arrays, *(np.asarray(x, dtype=float) for x in (traffic, even)))
    size = columns[0].size
    pieces = [
        _chunk(
            *(column[start : start + _CHUNK] for column in columns),
            element=element,
            out_element=out_element,
            device=device,
            c=coefficients,
            splits=splits,
            shapes=tiles,
        )
        for start in range(0, size, _CHUNK)
    ]
    whole = [np.concatenate(column) for column in zip(*pieces, strict=True)]
    return Parts(*whole)


def _chunk(
    m: Floats,
    n: Floats,
    k: Floats,
    batch: Floats,
    traffic: Floats,
    even: Floats,
    *,
    element: float,
    out_element: float,
    device: Device,
    c: Mapping[str, float],
    splits: tuple[int, ...],
    shapes: tuple[tuple[int, int], ...],
) -> tuple[Floats, ...]:
    """Every (tile, split) of a slice of the operators; the fastest is kept."""
    c = _WITHOUT | dict(c)
    slower = np.where(even < 2.0, 1.0 / c["single_rate"], 1.0)
    unit_peak = device.peak / device.units
    memory = traffic / (device.bandwidth * c["bandwidth_efficiency"])
    flops = 2.0 * m * n * k * batch
    scale = energy_scale(device, c["energy_halving_years"])
    power = (scale * c["joules_per_flop"] * flops + c["joules_per_byte"] * traffic) / device.power
    best = np.full(m.shape, np.inf)
    compute = np.zeros(m.shape)
    once = np.zeros(m.shape)
    choice = np.zeros(m.shape)
    for index, (rows, columns) in enumerate(shapes):
        intensity = rows * columns / (rows + columns)
        efficiency = c["compute_efficiency"] * intensity / (intensity + c["tile_half_intensity"])
        per_k = 2.0 * rows * columns / (unit_peak * efficiency)
        high, wide = np.minimum(rows, m), np.minimum(columns, n)
        taken = (high + wide) * element
        per_element = np.maximum(per_k, taken / (c["operand_bytes_per_clock"] * device.clock))
        stored = high * wide * (out_element / (c["store_bytes_per_clock"] * device.clock))
        end = c["tile_overhead_cycles"] / device.clock + stored
        tiles = np.ceil(m / rows) * np.ceil(n / columns) * batch
        for number, split in enumerate(splits):
            parts = _parts(split, tiles, k, device.units)
            turns = tiles * (parts / device.units)
            waves = np.ceil(turns)
            waves = np.where(turns > 1.0, waves - c["wave_blur"] * (waves - turns), 1.0)
            depth = np.ceil(k / parts / 32.0) * 32.0
            time = waves * (depth * per_element * slower + end)
            time = np.maximum(time, tiles * parts * depth * taken / c["shared_bytes_per_second"])
            more = np.where(turns > 1.0, c["queue_seconds"], 0.0)
            if split != 1:
                sums = parts * m * n * batch * (4.0 / c["split_bytes_per_second"])
                more = c["split_overhead_seconds"] + sums
                more = np.where((parts > 1.0) & (k >= 128.0 * parts), more, np.inf)
            total = np.maximum(time, memory) + more
            better = total < best
            best = np.where(better, total, best)
            compute = np.where(better, time, compute)
            once = np.where(better, more, once)
            choice = np.where(better, float(index * len(splits) + number), choice)
    outside = _outside(m, n, k, batch, element, device, c["reuse_room"])
    floor = c["floor_seconds"] + once + c["latency_seconds"] * outside
    seconds = floor + soft_max((compute, memory, power), c["overlap_exponent"])
    whole = (seconds, compute, memory, power, floor, choice)
    if "thin_wait_cycles" not in c:
        return whole
    return _few_rows(whole, (m, n, k, batch, traffic), outside, device, c, len(TILES) * len(splits))


def _few_rows(
    whole: tuple[Floats, ...],
    sizes: tuple[Floats, ...],
    outside: Floats,
    device: Device,
    c: Mapping[str, float],
    forms: int,
) -> tuple[Floats, ...]:
    """The tiled product, or where it runs one of the kernels of :mod:`perfmodel.cost.gemm_thin`."""
    m, n, k, batch, traffic = sizes
    parts = queued_parts(m, n, k, batch, device)
    if parts.any():
        wait = parts * c["thin_turn_seconds"]
        chosen = np.full(m.shape, forms + 1.0)
        whole = _where(parts > 0.0, (whole[0] + wait, *whole[1:4], whole[4] + wait, chosen), whole)
    thin = is_thin(m, n, k, batch, device) & (parts == 0.0)
    if not thin.any():
        return whole
    seconds, compute, memory, floor = thin_times(m, n, k, batch, traffic, device, c, outside)
    chosen = np.full(m.shape, float(forms))
    return _where(thin, (seconds, compute, memory, np.zeros(m.shape), floor, chosen), whole)


def _where(
    here: NDArray[np.bool_], mine: tuple[Floats, ...], theirs: tuple[Floats, ...]
) -> tuple[Floats, ...]:
    return tuple(np.where(here, one, other) for one, other in zip(mine, theirs, strict=True))


def _parts(split: int, tiles: Floats, k: Floats, units: int) -> Floats:
    """Parts that ``k`` is cut into: ``split``, or what fills the chip."""
    if split != FILL:
        return np.full(tiles.shape, float(split))
    fitting = np.minimum(np.floor(units / tiles), np.floor(k / LEAST_DEPTH))
    return np.asarray(np.clip(fitting, 1.0, MOST_PARTS))


def _outside(
    m: Floats, n: Floats, k: Floats, batch: Floats, element: float, device: Device, room: float
) -> Floats:
    """1 where operands come from device memory, 0 where they are still in the cache.

    A stream of calls takes its operands in turn from sets of them; what all sets need in the
    cache decides.
    """
    if room <= 0.0 or device.cache <= 0.0:
        return np.ones(m.shape)
    needed = stream_bytes(batch * (m * k + n * k) * element)
    return np.asarray(1.0 / (1.0 + (room * device.cache / needed) ** 4))


def stream_bytes(read: Floats) -> Floats:
    """Operands of all sets that a stream of calls goes round, of ``read`` bytes each [B]."""
    return np.asarray(read * np.clip(STREAM_BYTES / read, 1.0, MOST_SETS))
