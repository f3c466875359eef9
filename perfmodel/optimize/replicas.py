"""Unequal data-parallel batches: how many micro-batches each replica should run.

Replicas of different speed share a step. Replica r takes ``fixed[r] + per_micro_batch[r] * n`` for
n micro-batches; the step ends with the slowest. Handing the micro-batches out one by one to the
replica that would finish first is optimal: times grow with n, so no exchange can help.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perfmodel.errors import Infeasible, PlanError
from perfmodel.hardware import Cluster
from perfmodel.network import collective_seconds
from perfmodel.optimize.answer import MilpPlan
from perfmodel.optimize.planner import milp_plan
from perfmodel.units import format_seconds
from perfmodel.workload.transformer import ModelConfig, load_model, parameters


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


@dataclass(frozen=True, slots=True)
class UnequalReplicas:
    """Replicas on different clusters that share a step.

    ``batches`` are the sequences each runs, ``plans`` its own pipeline plan, ``exchange`` the time
    to reduce the gradients between them [s], ``step_time`` the slowest plus the exchange [s].
    """

    batches: tuple[int, ...]
    plans: tuple[MilpPlan, ...]
    exchange: float
    step_time: float

    def explain(self) -> str:
        """As text."""
        lines = [f"{format_seconds(self.step_time)} a step, {format_seconds(self.exchange)} of it"
                 " to reduce gradients between the replicas"]  # fmt: skip
        lines += [
            f"{batch} sequences: {plan.explain()}"
            for batch, plan in zip(self.batches, self.plans, strict=True)
        ]
        return "\n".join(lines)


def plan_replicas(
    model: ModelConfig | str,
    clusters: Sequence[Cluster],
    global_batch_size: int,
    seq_len: int,
    *,
    granule: int | None = None,
    **options: Any,
) -> UnequalReplicas:
    """One replica of the whole model on each of two clusters, with batches to match their speed.

    The time of a replica grows with its batch, so the best split is where the two cross: found by
    bisection over multiples of ``granule``, each replica planned exactly at every split tried.
    Gradients of both replicas are summed over the slower network: every device of the smaller
    cluster exchanges its share.

    Parameters
    ----------
    model, clusters, global_batch_size, seq_len
        What is trained, on which two clusters.
    granule : int, optional
        Batches are multiples of it; by default a 32nd of the global batch.
    options
        For :func:`~perfmodel.optimize.planner.milp_plan`.

    Raises
    ------
    PlanError
        If there are not two clusters, or the batch cannot be split.
    Infeasible
        If the model does not fit on one of them.
    """
    if len(clusters) != 2:
        raise PlanError(
            "plan_replicas: clusters",
            len(clusters),
            "two clusters",
            repair="give two, or put all devices into one pipeline with milp_plan",
        )
    unit = granule or max(1, global_batch_size // 32)
    parts = global_batch_size // unit
    if parts < 2 or global_batch_size % unit:
        raise PlanError(
            "plan_replicas: granule",
            unit,
            f"a divisor of the global batch {global_batch_size}, less than half of it",
            repair="choose a smaller granule",
        )
    known: dict[tuple[int, int], MilpPlan] = {}

    def plan(which: int, share: int) -> MilpPlan:
        if (which, share) not in known:
            known[which, share] = milp_plan(
                model, clusters[which], share * unit, seq_len, keep=1, **options
            )
        found = known[which, share]
        if not found.stages:
            raise Infeasible(
                f"replica on {clusters[which].name}",
                found.status,
                "a plan that fits",
                repair=found.explain().replace("\n", "; "),
            )
        return found

    low, high = 1, parts - 1
    while low < high:
        middle = (low + high) // 2
        if plan(0, middle).step_time >= plan(1, parts - middle).step_time:
            high = middle
        else:
            low = middle + 1
    # The first split at which cluster 0 is the slower one, or the one before it.
    shares = [share for share in (low - 1, low) if 1 <= share < parts]

    def slowest(share: int) -> float:
        return max(plan(0, share).step_time, plan(1, parts - share).step_time)

    best = min(shares, key=slowest)
    config = load_model(model) if isinstance(model, str) else model
    per_device = 4.0 * parameters(config) / min(cluster.devices for cluster in clusters)
    exchange = _exchange(clusters, per_device)
    return UnequalReplicas(
        (best * unit, (parts - best) * unit),
        (plan(0, best), plan(1, parts - best)),
        exchange,
        slowest(best) + exchange,
    )


def _exchange(clusters: Sequence[Cluster], size: float) -> float:
    """An all-reduce of ``size`` bytes between partners across the slower of the two fabrics [s].

    Raises
    ------
    PlanError
        If neither cluster has a fabric to the outside.
    """
    times = [
        float(collective_seconds("all_reduce", size, 2, cluster, ranks_per_node=1))
        for cluster in clusters
        if cluster.nodes > 1
    ]
    if not times:
        raise PlanError(
            "plan_replicas: clusters",
            "two single nodes",
            "at least one cluster of several nodes, whose fabric joins the two",
            repair="load a cluster with more nodes",
        )
    return max(times)
