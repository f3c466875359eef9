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
last-level cache delivers. On the vector units a tile alone waits for every step of ``k`` in
proportion to its side, and others on the same unit work meanwhile. A tile's result leaves it at so
many bytes a clock when its sum is done. Device memory delivers the unique bytes at a fraction
:math:`\eta_b` of its peak, after a latency that operands still in the cache do not pay. Persistent
kernels hand out tiles as units come free, which blurs the waves, and pay for the queue once. The
power limit stretches the whole: a chip at its limit lowers its clock until
:math:`(\epsilon_F F + \epsilon_B B) / t` is what it may draw. The
library is taken to choose the fastest tile and split.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.device import Device, energy_scale
from perfmodel.cost.gemm_thin import (
    is_shared,
    is_thin,
    is_thin_batch,
    is_thin_single,
    queued_parts,
    thin_times,
)
from perfmodel.cost.memory_bound import not_held
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
    "step_wait_cycles": "clocks that a tile of 8 x 8 alone on a unit takes for a step of k",
    "cluster_rows": "tiles along m that neighbouring units take together, rows or none",
    "floor_seconds": "start and end of a kernel in a stream of kernels [s]",
    "overlap_exponent": "how sharply arithmetic and memory overlap",
}

TILES = ((256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64), (64, 32), (32, 64))
# Elements of the tile that ``step_wait_cycles`` is stated for.
WAITING_TILE = 64.0
SPLITS = (1, 2, 4, 8, 16)
# As many parts as fill the chip, of at least so much of k and at most so many.
FILL, LEAST_DEPTH, MOST_PARTS = 0, 256.0, 20.0
PRODUCT_SPLITS = (1, FILL)
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
    "step_wait_cycles": 0.0,
    "cluster_rows": 1.0,
}
# Weight gradients add up over all places of all images: few tiles, and many parts.
MANY_SPLITS = (1, 2, 8, 32, 128)
# Operators times forms that are computed at once: what lies in a core's cache.
_CHUNK = 16384


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
    along_k: bool = True,
    dtype: str = "",
    trans: str = "",
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
        Parts that ``k`` may be cut into, the first of them 1.
    tiles : tuple of tuple of int
        Tiles that the library has.
    along_k : bool
        Whether both factors lie along ``k`` in memory, as those of a linear layer.
    dtype : str
        Format of the operands, where a library treats one as no other of its size.
    trans : str
        How the factors of a batch lie in memory, where it is known.

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
    size, step = columns[0].size, max(1, _CHUNK // (len(tiles) * len(splits)))
    pieces = [
        _chunk(
            *(column[start : start + step] for column in columns),
            element=element,
            out_element=out_element,
            device=device,
            c=coefficients,
            splits=splits,
            shapes=tiles,
            along_k=along_k,
            single=along_k and dtype == "bf16",
            dtype=dtype,
            trans=trans,
        )
        for start in range(0, size, step)
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
    along_k: bool,
    single: bool,
    dtype: str,
    trans: str,
) -> tuple[Floats, ...]:
    """Every (tile, split) of a slice of the operators; the fastest is kept."""
    c = _WITHOUT | dict(c)
    slower = np.where(even < 2.0, 1.0 / c["single_rate"], 1.0)
    unit_peak = device.peak / device.units
    memory = traffic / (device.bandwidth * c["bandwidth_efficiency"])
    joules = energy_scale(device, c["energy_halving_years"]) * c["joules_per_flop"]
    power = (joules * (2.0 * m * n * k * batch) + c["joules_per_byte"] * traffic) / device.power
    # Shape (tiles, splits, operators): every tile and every number of parts at once.
    rows, columns = (
        np.array(side, dtype=float)[:, None, None] for side in zip(*shapes, strict=True)
    )
    intensity = rows * columns / (rows + columns)
    efficiency = c["compute_efficiency"] * intensity / (intensity + c["tile_half_intensity"])
    high, wide = np.minimum(rows, m), np.minimum(columns, n)
    taken = (high + wide) * element
    per_element = np.maximum(
        2.0 * rows * columns / (unit_peak * efficiency),
        taken / (c["operand_bytes_per_clock"] * device.clock),
    )
    end = high * wide * (out_element / (c["store_bytes_per_clock"] * device.clock))
    end += c["tile_overhead_cycles"] / device.clock
    below = np.ceil(m / rows)
    if c["cluster_rows"] > 1.0:
        below = np.ceil(below / c["cluster_rows"]) * c["cluster_rows"]
    tiles = below * (np.ceil(n / columns) * batch)
    parts = _parts(splits, tiles, k, device.units)
    turns = tiles * (parts / device.units)
    depth = np.ceil(k / parts / 32.0) * 32.0
    wait = c["step_wait_cycles"] * np.sqrt(rows * columns / WAITING_TILE) / device.clock
    fed = None
    if np.isfinite(c["shared_bytes_per_second"]):
        fed = tiles * (taken / c["shared_bytes_per_second"]), parts * depth
    time, room = _whole_turns(turns, depth, per_element * slower, end, wait, fed, c)
    more = _once(turns, parts, m * n * batch, k, c)
    total = np.maximum(time, memory, out=room)
    total += more
    total = total.reshape(-1, m.size)
    best = np.argmin(total, axis=0)
    each = np.arange(m.size)
    compute, once = time.reshape(total.shape)[best, each], more.reshape(total.shape)[best, each]
    choice = best.astype(np.float64)
    outside = _outside(m, n, k, batch, element, device, c["reuse_room"])
    floor = c["floor_seconds"] + once + c["latency_seconds"] * outside
    seconds = floor + soft_max((compute, memory, power), c["overlap_exponent"])
    whole = (seconds, compute, memory, power, floor, choice)
    if "thin_wait_cycles" not in c:
        return whole
    queued = queued_parts(m, n, k, batch, device, along_k=along_k)
    alone = is_thin_single(m, n, k, batch) & (even < 2.0) & single
    thin = (is_thin(m, n, k, batch, device) | alone) & (queued == 0.0)
    plain = np.zeros(m.shape, dtype=bool)
    if "thin_block_cycles" in c:
        together = is_thin_batch(m, n, k, batch, even, trans, dtype)
        thin = thin | together
        plain = together if trans == "nn" else plain
    sizes = (m, n, k, batch, traffic)
    forms = len(shapes) * len(splits)
    return _few_rows(whole, sizes, queued, thin, plain, outside, device, c, forms)


def _whole_turns(
    turns: Floats,
    depth: Floats,
    each: Floats,
    end: Floats,
    wait: Floats,
    fed: tuple[Floats, Floats] | None,
    c: Mapping[str, float],
) -> tuple[Floats, Floats]:
    """Arithmetic of every form [s], shape (tiles, splits, N), and as much memory to use again.

    ``turns`` of ``depth`` elements of ``k`` that take ``each``, at least ``wait``, and ``end`` of a
    tile; and at least what feeds them, the product of ``fed``, where that is known.
    """
    time = np.ceil(turns)
    room = np.empty_like(time)  # new memory costs more than the work in it
    if c["wave_blur"] > 0.0:
        np.subtract(time, turns, out=room)
        room *= c["wave_blur"]
        time -= room
    np.maximum(time, 1.0, out=time)
    np.multiply(depth, each, out=room)
    room += end
    time *= room
    if c["step_wait_cycles"] > 0.0:
        np.multiply(depth, wait, out=room)
        room += end
        np.maximum(time, room, out=time)
    if fed is not None:
        np.multiply(*fed, out=room)
        np.maximum(time, room, out=time)
    return time, room


def _once(
    turns: Floats, parts: Floats, results: Floats, k: Floats, c: Mapping[str, float]
) -> Floats:
    """What a form takes once [s], shape (tiles, splits, N): the queue, or the sum of the parts."""
    more = np.empty(turns.shape)
    more[:, :1] = np.where(turns[:, :1] > 1.0, c["queue_seconds"], 0.0)
    if turns.shape[1] > 1:
        parts = parts[:, 1:]
        sums = parts * (results * (4.0 / c["split_bytes_per_second"]))
        sums += c["split_overhead_seconds"]
        more[:, 1:] = np.where((parts > 1.0) & (k >= 128.0 * parts), sums, np.inf)
    return more


def _few_rows(
    whole: tuple[Floats, ...],
    sizes: tuple[Floats, ...],
    parts: Floats,
    thin: NDArray[np.bool_],
    plain: NDArray[np.bool_],
    outside: Floats,
    device: Device,
    c: Mapping[str, float],
    forms: int,
) -> tuple[Floats, ...]:
    """The tiled product, or where it runs one of the kernels of :mod:`perfmodel.cost.gemm_thin`."""
    m, n, k, batch, traffic = sizes
    # Columns that share their sums are told apart, and priced as tiles: the correction's business.
    shared = is_shared(m, n, k, batch, device)
    whole = (*whole[:-1], np.where(shared, forms + 2.0, whole[-1]))
    if parts.any():
        wait = parts * c["thin_turn_seconds"]
        chosen = np.where(shared, forms + 2.0, forms + 1.0)
        whole = _where(parts > 0.0, (whole[0] + wait, *whole[1:4], whole[4] + wait, chosen), whole)
    if not thin.any():
        return whole
    seconds, compute, memory, floor = thin_times(m, n, k, batch, traffic, device, c, outside, plain)
    chosen = np.full(m.shape, float(forms))
    return _where(thin, (seconds, compute, memory, np.zeros(m.shape), floor, chosen), whole)


def _where(
    here: NDArray[np.bool_], mine: tuple[Floats, ...], theirs: tuple[Floats, ...]
) -> tuple[Floats, ...]:
    return tuple(np.where(here, one, other) for one, other in zip(mine, theirs, strict=True))


def _parts(splits: tuple[int, ...], tiles: Floats, k: Floats, units: int) -> Floats:
    """Parts that ``k`` is cut into: splits, or what fills the chip.

    Of shape (tiles, splits, N), or (1, splits, 1) where all are given.
    """
    if FILL not in splits:
        return np.array(splits, dtype=float)[None, :, None]
    fitting = np.minimum(np.floor(units / tiles), np.floor(k / LEAST_DEPTH))
    fitting = np.clip(fitting, 1.0, MOST_PARTS)
    each = [fitting if split == FILL else np.full(fitting.shape, float(split)) for split in splits]
    return np.concatenate(each, axis=1)


def _outside(
    m: Floats, n: Floats, k: Floats, batch: Floats, element: float, device: Device, room: float
) -> Floats:
    """1 where operands come from device memory, 0 where they are still in the cache.

    A stream of calls takes its operands in turn from sets of them; what all sets need in the
    cache decides.
    """
    if room <= 0.0 or device.cache <= 0.0:
        return np.ones(m.shape)
    return not_held(batch * (m * k + n * k) * element, device, room)
