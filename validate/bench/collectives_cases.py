"""What to measure: operations, sizes, groups, alone and beside other work, most useful first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any

MAIN_OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
PAIR_OPS = ("p2p", "p2p_bidir")
ROOTED_OPS = ("broadcast", "reduce", "gather", "scatter")
UNEVEN = "all_to_all_uneven"  # rank j is sent (j + 1) parts of every other rank
GEMM = "gemm 8192x8192x4096 bf16"  # busies the matrix units
SHORT = "gemm 4096x4096x2048 bf16"  # the same in kernels a tenth as long
COPY = "copy 512 MiB"  # busies the memory
KIB, MIB, GIB = 2**10, 2**20, 2**30


@dataclass(frozen=True)
class Case:
    """One thing to measure. ``groups`` are lists of global ranks that run at the same time.

    ``mode`` is ``graph``, ``eager``, or ``urgent``: a graph on a stream of high priority.
    ``beside`` names a kernel, or a collective of a second communicator ("all_gather 67108864").
    ``drawn`` cases go to a table of their own, which judges and is never fitted.
    """

    op: str
    size: int
    groups: tuple[tuple[int, ...], ...]
    label: str
    mode: str = "graph"
    beside: str = ""
    drawn: bool = False

    @property
    def world(self) -> int:
        """Ranks in one group."""
        return len(self.groups[0])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the worker."""
        return asdict(self)


def cases(
    devices: int, smallest: int = KIB, largest: int = 2 * GIB, seed: int | None = None
) -> Iterator[Case]:
    """Everything worth measuring on so many GPUs; sizes fit the rank count.

    Parameters
    ----------
    devices : int
        GPUs of the host.
    smallest, largest : int
        Sizes [B].
    seed : int, optional
        Draw the sizes at random instead, for all operations, and add what runs at once.
    """
    for case in _plan(devices) if seed is None else _drawn_plan(devices, seed):
        unit = case.world * 16  # every rank's part stays aligned
        size = max(1, round(case.size / unit)) * unit
        if smallest <= size <= largest:
            yield replace(case, size=size)


def _plan(devices: int) -> list[Case]:
    octaves = [KIB * 2**i for i in range(22)]
    halves = [KIB * 3 * 2**i // 2 for i in range(21)]
    fours = octaves[::2]
    around = [256 * KIB * 4**i for i in range(7)]
    worlds = list(dict.fromkeys(w for w in (devices, 2, 4, 8) if w <= devices))
    everyone = _first(devices)

    def alone(sizes: list[int], ops: tuple[str, ...], mode: str = "graph") -> list[Case]:
        return [
            Case(op, size, _first(world), str(world), mode)
            for world in worlds
            for size in sizes
            for op in (*ops, *(PAIR_OPS if world == 2 and ops is MAIN_OPS else ()))
        ]

    plan = alone(octaves, MAIN_OPS)
    plan += [
        Case(op, size, everyone, str(devices), "graph", beside)
        for size in around
        for beside in (GEMM, COPY)
        for op in MAIN_OPS
    ]
    for part in (w for w in worlds if 2 * w <= devices):
        at_once = tuple(tuple(range(i, i + part)) for i in range(0, devices - part + 1, part))
        ops = ("all_reduce", "all_gather", "all_to_all") + (PAIR_OPS if part == 2 else ())
        label = f"{len(at_once)}x{part}"
        plan += [Case(op, size, at_once, label) for size in fours for op in ops]
    plan += alone(fours, MAIN_OPS, "eager")
    plan += alone(octaves, ROOTED_OPS)
    if devices > 3:
        plan += [Case(op, size, _first(3), "3") for size in octaves for op in MAIN_OPS]
    plan += alone(halves, MAIN_OPS)
    if devices > 2:
        plan += [
            Case(op, size, _first(2), "2", "graph", GEMM) for size in around for op in MAIN_OPS
        ]
    return plan


def _drawn_plan(devices: int, seed: int) -> list[Case]:
    """Sizes at random, one from each of equal spans of log(size); then work at once.

    What runs at once has fixed sizes to be fitted on, and drawn ones to judge by.
    """
    random = Random(seed)

    def sizes(count: int, low: float = 10.0, high: float = 31.0) -> list[int]:
        span = (high - low) / count
        return [round(2 ** (low + span * (i + random.random()))) for i in range(count)]

    worlds = list(dict.fromkeys(w for w in (devices, 2, 3, 4, 8) if w <= devices))
    plan = [
        Case(op, size, _first(world), str(world), "graph", drawn=True)
        for world in worlds
        for op in (*MAIN_OPS, *(PAIR_OPS if world == 2 else ()), *ROOTED_OPS, UNEVEN)
        for size in sizes(14)
    ]
    everyone, name = _first(devices), str(devices)
    ops = (*MAIN_OPS, *(PAIR_OPS[:1] if devices == 2 else ()))
    fixed = [256 * KIB * 4**i for i in range(7)]
    plan += [
        Case(op, size, everyone, name, "graph", beside)
        for size in fixed
        for beside in (GEMM, COPY)
        for op in ops
    ]
    plan += [
        Case(op, size, everyone, name, "graph", beside, drawn=True)
        for beside, count in ((GEMM, 3), (COPY, 3), (SHORT, 2))
        for op in ops
        for size in sizes(count, 18.0, 30.0)
    ]
    plan += [
        Case(op, size, everyone, name, mode, beside)
        for size in (MIB, 16 * MIB, 256 * MIB)
        for mode, beside in (("graph", SHORT), ("urgent", GEMM))
        for op in ops
    ]
    plan += [
        Case(op, size, everyone, name, "graph", f"{other} {64 * MIB}")
        for size in (MIB, 16 * MIB, 256 * MIB)
        for other in ("all_gather", "all_to_all")
        for op in ops
    ]
    plan += [
        Case(op, size, everyone, name, "eager", drawn=True)
        for op in (*MAIN_OPS, *(PAIR_OPS if devices == 2 else ()))
        for size in sizes(5)
    ]
    return plan


def _first(world: int) -> tuple[tuple[int, ...], ...]:
    return (tuple(range(world)),)
