"""Reductions with few results and many terms run in two stages.

References
----------
torch/_inductor/choices.py, ``reduction_split_factor``; torch/_inductor/ir.py, ``num_splits``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from perfmodel.workload.lowering.compile.buffers import DEALT, Buffer, Read
from perfmodel.workload.lowering.compile.places import samples
from perfmodel.workload.lowering.device import Device

WARP: Final = 32
MOST_EACH: Final = 512
NO_SPLIT: Final = 8192
_STAGES: Final = 8
_DEEPER: Final = 4


def stages(numel: int, reduced: int, chip: Device, *, inner: bool) -> int:
    """Parts that each sum is split into; 1 where one kernel does it all."""
    if numel > 1 and (reduced <= WARP or numel >= many_rows(chip)):
        return 1
    total, device = numel * reduced, chip.units * chip.threads
    if inner or numel == 1:
        if numel >= 2 * chip.units or reduced <= NO_SPLIT:
            return 1
        threads = 8 * WARP
        if total <= WARP * device:
            size = WARP
        elif total < MOST_EACH * device:
            blocks = -(-(device // (2 * threads)) // numel)
            size = _even(reduced, -(-reduced // (threads * blocks)), 30)
        else:
            size = _even(reduced, MOST_EACH, 50)
        return max(1, -(-reduced // (size * threads)))
    each, blocks_of = 4, -(-numel // 128)
    if total < WARP * device:
        size = WARP
    elif total < MOST_EACH * device:
        blocks = -(-(device // (8 * WARP)) // blocks_of)
        size = _even(reduced, -(-reduced // (each * blocks)), 20)
    else:
        size = _even(reduced, MOST_EACH, 50)
    return max(1, -(-reduced // (each * size)))


def _even(total: int, wanted: int, reach: int) -> int:
    """The divisor of ``total`` nearest to ``wanted`` if it is within reach."""
    for distance in range(reach):
        for candidate in (wanted - distance, wanted + distance):
            if candidate > 0 and total % candidate == 0:
                return max(candidate, WARP)
    return max(1, wanted)


def many_rows(chip: Device) -> int:
    """Rows from which on there is one loop a row, of whatever length."""
    return chip.units * 2 * WARP


def mixed_rows(rows: int, units: int) -> int:
    """Rows that a block goes through where row and column sums share a kernel: 16 to 128.

    As in torch/_inductor/codegen/simd.py, ``_codegen_mix_order_reduction``: a power of two that
    leaves eight blocks a unit.
    """
    each = max(1, rows // (8 * units))
    return min(max(1 << (each.bit_length() - 1), 16), 128)


def staged(buffer: Buffer, chip: Device, *, inner: bool) -> list[Buffer]:
    """A reduction as its stages."""
    if buffer.reduced == 1:
        return [buffer]
    parts = stages(buffer.numel, buffer.reduced, chip, inner=inner)
    if parts == 1:
        return [buffer]
    numel, width = buffer.numel * parts, 4
    # numbers of stages are negative, and differ from stage to stage
    number = -_STAGES * buffer.value.number - 1 - sum(read.buffer < 0 for read in buffer.reads)
    first = replace(buffer.value, number=number, name=f"{buffer.value.name} part")
    # results of strided sums are dealt out across parts: no producer's loop follows that order
    turned = tuple(
        read if inner else Read(read.buffer, (DEALT, *read.places), read.bytes)
        for read in buffer.reads
    )
    partial = replace(
        buffer,
        value=first,
        reads=turned,
        whole=(buffer.numel, buffer.reduced),
        numel=numel,
        reduced=max(2, -(-buffer.reduced // parts)),
        written=numel * width,
    )
    places = tuple(samples(numel).tolist())
    final = replace(
        buffer,
        reduced=parts,
        reads=(Read(first.number, places, numel * width),),
        operations=float(numel),
        steps=(buffer.value.name,),
        nodes=(buffer.value.node,),
    )
    if buffer.value.name == "moments" and parts < buffer.reduced:
        return [*_parts(partial, chip), *staged(final, chip, inner=inner)]
    return [*_parts(partial, chip), final]


def _parts(partial: Buffer, chip: Device) -> list[Buffer]:
    """A first stage; one of groups of channels that lie last splits again, as strided sums do."""
    parts = stages(partial.numel, partial.reduced, chip, inner=False) if partial.crossed else 1
    if parts == 1:
        return [partial]
    numel, width = partial.numel * parts, 4
    number = partial.value.number - _DEEPER
    deeper = replace(
        partial,
        value=replace(partial.value, number=number),
        numel=numel,
        reduced=max(2, -(-partial.reduced // parts)),
        written=numel * width,
    )
    rest = replace(
        partial,
        reduced=parts,
        reads=(Read(number, tuple(samples(numel).tolist()), numel * width),),
        operations=float(numel),
        steps=(partial.value.name,),
        nodes=(partial.value.node,),
        whole=(),
    )
    return [deeper, rest]
