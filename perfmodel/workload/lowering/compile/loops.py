"""Generated kernels: what the loops of one kernel load, and what it is priced as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from perfmodel.workload.lowering.compile.buffers import Buffer
from perfmodel.workload.lowering.compile.fusion import identity
from perfmodel.workload.lowering.compile.limits import ANGLES
from perfmodel.workload.lowering.compile.scatter import SUM, waiting
from perfmodel.workload.lowering.compile.split import WARP, many_rows
from perfmodel.workload.lowering.device import Device
from perfmodel.workload.lowering.kernel import Kernel, Traffic
from perfmodel.workload.lowering.site import arithmetic
from perfmodel.workload.lowering.stream import in_rows, stream

_GENERATED: Final = 0.5
"""Time of an operation of generated code over that of PyTorch's own kernels, which find every
operand by its strides: profiled activations and norms of compiled models on an H100."""
_IN_TURN: Final = 8  # rows a unit from which on they take turns
_LOOPED: Final = 64  # terms of a row up to which they stay in registers, whatever their order
_ONE_WARP, _ITS_TERMS, _ITS_ROWS, _MANY_ROWS = (256, 1024), 1024, 8, 1024
_ANGLE_WAITS: Final = 1.4e6
"""Terms of a row and rows of which a warp by itself takes 1,024 elements, at most eight rows
(torch/_inductor/runtime/triton_heuristics.py, ``_persistent_reduction_configs``); and what a device
could do while a thread computes one sine after another: 0.2 us each on an H100."""


def loads(members: Sequence[Buffer], made: set[int]) -> dict[int, int]:
    """Bytes that a group loads from each buffer outside it; overlapping accesses count once."""
    found: dict[tuple[int, tuple[int, ...]], int] = {}
    for buffer in members:
        for read in buffer.reads:
            if read.buffer not in made:
                key = read.buffer, read.places
                found[key] = max(found.get(key, 0), read.bytes)
        if buffer.value.scatter and buffer.value.inputs[0] not in made:
            changed = buffer.written if buffer.value.name == SUM else 0
            found.setdefault((buffer.value.inputs[0], ()), changed)
    total: dict[int, int] = {}
    both = _sums_both_ways(members)
    for (number, _), size in found.items():
        seen = total.get(number, 0)
        total[number] = max(seen, size) if both else seen + size
    return total


def _sums_both_ways(members: Sequence[Buffer]) -> bool:
    """Whether rows and columns are summed in one kernel, which loads each element once for both."""
    sums = [member for member in members if member.reduced > 1]
    return any(member.whole for member in sums) and not all(member.whole for member in sums)


def generated(
    members: Sequence[Buffer], reads: Traffic, writes: Traffic, phase: str, device: Device
) -> Kernel:
    """A generated kernel."""
    steps = tuple(dict.fromkeys(step for buffer in members for step in buffer.steps))
    nodes = tuple(sorted({n for buffer in members for n in buffer.nodes if n >= 0}))
    elements = max(buffer.numel * buffer.reduced for buffer in members)
    flops = max(_GENERATED * sum(buffer.operations for buffer in members), _angles(members))
    read, written = (sum(size for _, size in traffic) for traffic in (reads, writes))
    name = "+".join(steps[:12]) + ("+..." if len(steps) > 12 else "")
    again = sum(size for _, size in reads if size >= elements) if _twice(members, device) else 0
    waits = waiting(members, name, reads)
    dtype = arithmetic(members[0].value.dtype)
    rows = 0 if waits or _angles(members) else _rows(members, device)
    ops = waits or (
        in_rows(name, rows, elements // rows, read + again, written, flops, dtype)
        if rows
        else stream(name, elements, read + again, written, flops, dtype),
    )
    kind = "pointwise" if waits else _kind(members)  # most of the time goes into additions
    note = "reordered reads" if any(map(_reordered, members)) else ""
    return Kernel(name, kind, ops, reads, writes, nodes, phase, "triton", note=note)


def _rows(members: Sequence[Buffer], device: Device) -> int:
    """Rows that a kernel sums along, if neighbours in memory lie along them; else 0.

    Few rows wait for their operands, which a step mostly finds in the cache: what they move is
    their price, as of a flat kernel.
    """
    sums = [member for member in members if member.reduced > 1]
    shapes = {(member.numel, member.reduced) for member in sums}
    if len(shapes) != 1 or any(m.whole or m.crossed or _reordered(m) for m in sums):
        return 0
    (rows, terms), full = shapes.pop(), max(m.numel * m.reduced for m in members)
    many = rows >= _IN_TURN * device.units
    return rows if many and rows * terms == full else 0


def _angles(members: Sequence[Buffer]) -> float:
    """Operations in the time in which a thread of a lone warp computes its sines and cosines."""
    angles = len({step for member in members for step in member.steps if step in ANGLES})
    rows = [
        member
        for member in members
        if _ONE_WARP[0] <= member.reduced <= _ONE_WARP[1] and member.numel >= _MANY_ROWS
    ]
    if not (angles and rows):
        return 0.0
    terms = max(member.reduced for member in rows)
    each = terms * max(1, min(_ITS_TERMS // terms, _ITS_ROWS)) / WARP
    return _ANGLE_WAITS * angles * each


def _kind(members: Sequence[Buffer]) -> str:
    """``pointwise``; ``norm`` where rows are summed and written; else ``reduction``."""
    sums = [member for member in members if member.reduced > 1]
    if not sums:
        return "pointwise"
    full = max(member.numel * member.reduced for member in sums)
    return "norm" if any(m.reduced == 1 and 2 * m.numel > full for m in members) else "reduction"


def _twice(members: Sequence[Buffer], device: Device) -> bool:
    """Whether rows do not stay in registers: they are read again, from the cache, for the result.

    So it is for rows of more than 64 elements where there are many, and an operand lies in another
    order (torch/_inductor/ir.py, ``num_splits``; codegen/simd_kernel_features.py,
    ``get_reduction_hint``; choices.py, ``should_use_persistent_reduction``).
    """
    rows = [m for m in members if m.reduced > _LOOPED and not m.whole]
    many = any(m.numel >= many_rows(device) and _reordered(m) for m in rows)
    full = {m.numel * m.reduced for m in rows}
    return many and any(m.reduced == 1 and m.numel in full for m in members)


def _reordered(member: Buffer) -> bool:
    """Whether a loop walks a large operand in another order than it lies in."""
    total = member.numel * member.reduced
    straight = identity(total, total)
    largest = max((read.bytes for read in member.reads), default=0)
    return any(
        2 * read.bytes > largest and read.bytes >= total and read.places != straight
        for read in member.reads
    )
