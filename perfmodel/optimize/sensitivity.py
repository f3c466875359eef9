"""What one more gigabyte, or a tenth more bandwidth, would buy; and plans side by side.

Each lever is a changed cluster, planned again from scratch: the best plan may move to other degrees
and other cuts, so a derivative at the old plan would understate it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from perfmodel.errors import PlanError, nearest_name
from perfmodel.hardware import Cluster
from perfmodel.hardware.cluster import Tier
from perfmodel.optimize.answer import MilpPlan
from perfmodel.optimize.planner import milp_plan
from perfmodel.optimize.space import Piece
from perfmodel.workload.transformer import ModelConfig

LEVERS: Final = ("memory", "network", "links")
"""One more gigabyte of memory; 10 % more bandwidth between nodes; inside them."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """The effect of one lever.

    ``before`` and ``after`` are values of the objective, ``gap`` the larger of their proven gaps.
    """

    lever: str
    change: str
    before: float
    after: float
    gap: float

    @property
    def gain(self) -> float:
        """Share of the objective saved; uncertain by the gap."""
        return 1 - self.after / self.before

    def __str__(self) -> str:
        return f"{self.change}: {self.before:.6g} -> {self.after:.6g} ({self.gain:.2%} saved)"


def changed_cluster(cluster: Cluster, lever: str) -> tuple[Cluster, str]:
    """The cluster with one lever pulled, and what that means in words.

    Raises
    ------
    PlanError
        For an unknown lever.
    """
    if lever == "memory":
        chip = cluster.accelerator
        more = chip.memory.model_copy(update={"capacity": chip.memory.capacity + 1e9})
        changed = replace(cluster, accelerator=chip.model_copy(update={"memory": more}))
        return changed, "1 GB more memory on every device"
    if lever in ("network", "links"):
        outer = lever == "network"
        tiers = tuple(
            _faster(tier) if (tier.nics_per_node > 0) == outer else tier for tier in cluster.tiers
        )
        where = "between nodes" if outer else "inside a node"
        return replace(cluster, tiers=tiers), f"10 % more bandwidth {where}"
    raise PlanError(
        "sensitivity: lever",
        lever,
        ", ".join(LEVERS),
        nearest=nearest_name(lever, LEVERS),
        repair="name a known lever",
    )


def _faster(tier: Tier) -> Tier:
    link = tier.link.model_copy(
        update={
            name: None if getattr(tier.link, name) is None else 1.1 * getattr(tier.link, name)
            for name in ("bandwidth_per_direction", "achievable_per_direction")
        }
    )
    return replace(tier, bandwidth=1.1 * tier.bandwidth, link=link)


def sensitivities(
    model: ModelConfig | str | Sequence[Piece],
    clusters: Cluster | Sequence[Cluster],
    global_batch_size: int,
    seq_len: int,
    *,
    levers: Sequence[str] = LEVERS,
    base: MilpPlan | None = None,
    **options: Any,
) -> tuple[Sensitivity, ...]:
    """Plan again with each lever pulled on every cluster.

    Parameters
    ----------
    model, clusters, global_batch_size, seq_len, options
        As for :func:`~perfmodel.optimize.planner.milp_plan`.
    levers : sequence of str
        Of :data:`LEVERS`.
    base : MilpPlan, optional
        The plan without changes, if it is known already.
    """
    given = (clusters,) if isinstance(clusters, Cluster) else tuple(clusters)
    if base is None:
        base = milp_plan(model, given, global_batch_size, seq_len, **options)
    found = []
    for lever in levers:
        changed, words = zip(*(changed_cluster(cluster, lever) for cluster in given), strict=True)
        plan = milp_plan(model, changed, global_batch_size, seq_len, **options)
        found.append(Sensitivity(lever, words[0], base.value, plan.value, max(base.gap, plan.gap)))
    return tuple(found)
