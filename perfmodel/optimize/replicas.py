"""Unequal data-parallel batches: how many micro-batches each replica should run.

Replicas of different speed share a step. Replica r takes ``fixed[r] + per_micro_batch[r] * n`` for
n micro-batches; the step ends with the slowest. Handing the micro-batches out one by one to the
replica that would finish first is optimal: times grow with n, so no exchange can help.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from perfmodel.errors import PlanError


def split_micro_batches(
    per_micro_batch: Sequence[float], fixed: Sequence[float], total: int, *, least: int = 1
) -> tuple[tuple[int, ...], float]:
    """Micro-batches of each replica, and the time of the slowest [s].

    Parameters
    ----------
    per_micro_batch, fixed : sequences of R floats
        Seconds for each micro-batch, and once (pipeline fill, optimiser).
    total : int
        Micro-batches to hand out.
    least : int
        The fewest a replica must run.

    Raises
    ------
    PlanError
        If there are fewer micro-batches than the replicas need.

    Examples
    --------
    >>> split_micro_batches([1.0, 2.0], [0.0, 0.0], 9)
    ((6, 3), 6.0)
    """
    pace, offset = np.asarray(per_micro_batch, float), np.asarray(fixed, float)
    count = len(pace)
    if total < least * count or count == 0:
        raise PlanError(
            "split_micro_batches: total",
            total,
            f"at least {least} for each of {count} replicas",
            repair="raise the global batch, or use fewer replicas",
        )
    # All at once up to what an even continuous split allows, then one by one.
    level = (total + (offset / pace).sum()) / (1 / pace).sum()
    share = np.maximum(np.floor((level - offset) / pace).astype(int) - 1, least)
    while share.sum() > total:
        reducible = np.flatnonzero(share > least)
        ends = offset[reducible] + pace[reducible] * share[reducible]
        share[reducible[int(ends.argmax())]] -= 1
    heap = [(offset[r] + pace[r] * (share[r] + 1), r) for r in range(count)]
    heapq.heapify(heap)
    for _ in range(total - int(share.sum())):
        end, r = heapq.heappop(heap)
        share[r] += 1
        heapq.heappush(heap, (end + pace[r], r))
    return tuple(int(n) for n in share), float((offset + pace * share).max())
