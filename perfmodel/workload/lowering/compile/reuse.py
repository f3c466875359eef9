"""Which buffers of a compiled graph share a block, and when blocks are taken and given back.

A loop may write over an operand that dies with it. A buffer that is dead goes into a pool; a later
one of the same format and size takes its block over, which then never goes back in between. That is
done where the block follows at once, or where holding it does not raise the estimated peak. Blocks
that a library call takes for itself (all but products) come from the allocator, but may be handed
on.

References
----------
torch/_inductor/codegen/wrapper.py: ``AllocateLine``, ``FreeIfNotReusedLine``,
``EfficientPeakEstimate``; torch/_inductor/scheduler.py, ``decide_inplace_update``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

Form = tuple[str, int]
"""Format and elements: what two buffers must share to share a block."""


@dataclass(frozen=True, slots=True)
class Need:
    """A buffer that a step brings to memory.

    Parameters
    ----------
    buffer : int
    bytes : int
        Its size [B].
    form : (str, int)
    own : bool
        Whether a library call takes the block itself.
    over : int or None
        The dying operand that it is written over.
    """

    buffer: int
    bytes: int
    form: Form
    own: bool = False
    over: int | None = None


@dataclass(frozen=True, slots=True)
class Demand:
    """What a step brings to memory, and what dies with it."""

    needs: tuple[Need, ...]
    dies: tuple[int, ...]


@dataclass(slots=True)
class Blocks:
    """The plan: ``block`` of each buffer; what is taken before a step and given back behind it."""

    block: dict[int, int] = field(default_factory=dict)
    taken: list[list[tuple[int, int]]] = field(default_factory=list)
    returned: list[list[int]] = field(default_factory=list)


def share_blocks(demands: Sequence[Demand], memory: Sequence[int], given: Iterable[int]) -> Blocks:
    """Blocks of all buffers of a graph.

    Parameters
    ----------
    demands : sequence of Demand
        In the order in which they run.
    memory : sequence of int
        Estimated bytes at each step [B].
    given : iterable of int
        Buffers that stood before: loops may write over them, the pool does not get them.
    """
    plan = Blocks({number: number for number in given})
    outside = set(plan.block)
    estimate = np.array(memory, dtype=float)
    highest = float(estimate.max()) if len(estimate) else 0.0
    pool: defaultdict[Form, list[tuple[int, int]]] = defaultdict(list)
    forms: dict[int, Form] = {}
    handed: dict[int, int] = {}
    for at, demand in enumerate(demands):
        taken: list[tuple[int, int]] = []
        for need in demand.needs:
            block = _found(need, at, pool, estimate, highest, plan, handed)
            if block is None:
                block = need.buffer
                taken.append((block, need.bytes))
            plan.block[need.buffer] = block
            forms[need.buffer] = need.form
        written = {need.over for need in demand.needs if need.over is not None}
        dead = [number for number in demand.dies if number not in written]
        for number in dead:
            if number in forms:
                pool[forms[number]].append((number, at))
        plan.taken.append(taken)
        plan.returned.append(dead)
    for at, dead in enumerate(plan.returned):
        plan.returned[at] = [
            plan.block[n] for n in dead if n in plan.block and (n in outside or n not in handed)
        ]
    return plan


def _found(
    need: Need,
    at: int,
    pool: defaultdict[Form, list[tuple[int, int]]],
    estimate: np.ndarray,
    highest: float,
    plan: Blocks,
    handed: dict[int, int],
) -> int | None:
    """A block that another buffer has left, or None."""
    if need.over is not None:
        return plan.block[need.over]
    if need.own or not pool[need.form]:
        return None
    number, since = pool[need.form][-1]
    between = estimate[since + 1 : at]
    if since + 1 != at:
        most = float(between.max()) if len(between) else 0.0
        if need.bytes + most > highest:
            return None
        estimate[since + 1 : at] += need.bytes
    pool[need.form].pop()
    handed[number] = need.buffer
    return plan.block[number]
