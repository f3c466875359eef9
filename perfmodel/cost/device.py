"""The numbers of a chip that a kernel's time depends on, as plain SI floats.

The mechanisms are functions of this small value rather than of a hardware description, so that a
formula can be tested, swept and fitted without a file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from perfmodel.hardware import Accelerator

Tiles = tuple[tuple[int, int], ...]
# Share of GDDR that holds the bits that correct errors, and of its transfers that carry them
# (NVIDIA, "Tesla V100 GPU Architecture", 2017, p. 23: 6.25 %; HBM has room of its own).
INLINE_ECC = 1.0 / 16.0
# Share of its peak that a memory comes to whose maker says nothing of it: what A40, A100 and H100
# do in plain streams. The kernels' shares are fitted to such chips, and hold for another as much
# better or worse as its maker says it is.
DELIVERED = 0.9
# Tiles of the kernels that cuBLAS runs fp32 products in, one and batched, where it has fewer than
# the mechanism's. By the kernel names in NeuSight's tables, 7,470 of 7,476 batched products of
# A100 and L4 ran in ampere_sgemm_128x128_nn; of a P100 2,656 of 2,662 in 128 x 64, and its 1,811
# linear layers in tiles of 4,096 elements. Of a V100 395 batched products ran in 64 x 64 and 325
# in 32 x 128 of 726, of a T4 1,888 in 64 x 128, 480 in 64 x 64 and 257 in 32 x 128 of 2,630 (rows
# x columns). On an H100 18 tiles of sm80_xmma and cutlass_80_simt were seen; these hold nine
# products in ten.
_HOPPER: Tiles = (
    (32, 32), (32, 64), (64, 64), (64, 128), (128, 64), (64, 256), (128, 128), (128, 256),
    (256, 128),
)  # fmt: skip
PRODUCT_TILES: dict[str, Tiles] = {
    "pascal": ((32, 128), (128, 32), (64, 64)),
    "hopper": _HOPPER,
}
BATCHED_TILES: dict[str, Tiles] = {
    "hopper": _HOPPER,
    "pascal": ((128, 64), (64, 128)),
    "volta": ((64, 64), (32, 128), (128, 32)),
    "turing": ((64, 128), (64, 64), (32, 128)),
    "ampere": ((128, 128),),
    "ada": ((128, 128),),
}
# Lanes that the four schedulers of an NVIDIA SM issue to in a clock, two operations each.
SM_ISSUE = 256.0


@dataclass(frozen=True, slots=True)
class Device:
    """What the kernel formulas see of an accelerator.

    Parameters
    ----------
    peak : float
        Dense peak rate of the operator's arithmetic [FLOP/s].
    vector : float
        Peak rate of the vector units in fp32 [FLOP/s]; infinite where nobody published it, so
        that it bounds nothing.
    bandwidth : float
        Peak rate of device memory, without the bits that correct errors [B/s]; of a chip whose
        memory delivers more or less of its peak than others', as much more or less.
    cache : float
        Capacity of the last-level on-chip cache shared by all units [B]; 0 if there is none.
    units : int
        Streaming multiprocessors, compute units or matrix units that work independently.
    clock : float
        Boost clock [Hz].
    power : float
        Power limit [W]; infinite where it is not known, so that it bounds nothing.
    year : float
        Year of the first chip made in its process; energy per operation falls with it.
    wires : float
        Peak rate of device memory with those bits, which nothing can beat [B/s]; 0 where it is
        ``bandwidth``.
    cache_copies : int
        Times that the cache keeps what all units read.
    product_tiles, batched_tiles : tuple of tuple of int
        Tiles that fp32 products, one or batched, run in; none where libraries have them all.
    issue_share : float
        Share of the instructions that a unit can issue which fp32 arithmetic at its full rate
        takes; 0 where that is not known.
    """

    peak: float
    vector: float
    bandwidth: float
    cache: float
    units: int
    clock: float
    power: float = math.inf
    year: float = 2020.0
    wires: float = 0.0
    cache_copies: int = 1
    product_tiles: Tiles = ()
    batched_tiles: Tiles = ()
    issue_share: float = 0.0


def device_of(accelerator: Accelerator, dtype: str, *, matrix: bool) -> Device:
    """The view of ``accelerator`` for arithmetic in ``dtype``.

    Parameters
    ----------
    accelerator : Accelerator
        A hardware description.
    dtype : str
        Type of the operands.
    matrix : bool
        Whether the kernel runs on the matrix units; a type that has none there runs on the vector
        units.

    Raises
    ------
    SpecError
        If the description does not say how fast the chip is in that type.
    """
    vector = accelerator.peaks.vector.get("fp32", math.inf)
    issue = _issue_share(accelerator)
    carried = 1.0 - INLINE_ECC if accelerator.memory.inline_ecc else 1.0
    carried *= (accelerator.memory.delivered or DELIVERED) / DELIVERED
    return Device(
        peak=accelerator.peak(dtype) if matrix else vector,
        vector=vector if matrix or not issue else vector / issue,
        bandwidth=float(accelerator.memory_bandwidth) * carried,
        cache=float(accelerator.last_level_cache or accelerator.l2_capacity or 0.0),
        units=int(accelerator.require("units")),
        clock=accelerator.require("clock_boost"),
        power=accelerator.tdp or math.inf,
        year=float(accelerator.made or 2020),
        wires=float(accelerator.memory_bandwidth),
        cache_copies=accelerator.cache.l2_partitions,
        product_tiles=PRODUCT_TILES.get(accelerator.family, ()),
        batched_tiles=BATCHED_TILES.get(accelerator.family, ()),
        issue_share=issue,
    )


def _issue_share(accelerator: Accelerator) -> float:
    """fp32 arithmetic against the instructions that an SM issues.

    Four schedulers issue to 128 lanes a clock since Volta, whether 64 (V100, T4, A100) or 128 (A40,
    L4, H100) of them do fp32 arithmetic. Kernels that stream do little but fetch, convert and look
    up: they end at the schedulers. Products in fp32 need other instructions between theirs: these
    are free where half of the issue slots are.
    """
    lanes = accelerator.per_clock.vector.get("fp32")
    if accelerator.unit_name != "SM" or not lanes:
        return 0.0
    return min(1.0, lanes / SM_ISSUE)


def energy_scale(device: Device, halving_years: float) -> float:
    """Energy of an operation against that of a chip of 2020: it halves every so many years.

    Reference
    ---------
    Koomey et al., "Implications of historical trends in the electrical efficiency of computing",
    2011 (the trend; the halving time of the arithmetic units is a fitted coefficient).
    """
    return float(2.0 ** ((2020.0 - device.year) / halving_years))
