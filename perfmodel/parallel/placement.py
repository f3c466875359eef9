"""Where the groups of a plan stand in the cluster.

Devices are numbered with the tensor parallel rank fastest, then context, data (with the experts
spread over the three), and pipeline stages slowest: Megatron's order tp-cp-ep-dp-pp. A group of
``size`` members that stand ``stride`` apart has as many members in one innermost domain (NVLink
domain, node) as fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.hardware import Cluster
from perfmodel.parallel.grid import PlanGrid
from perfmodel.parallel.plan import Plan

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Group:
    """Members of a communication group, and how many of them share a domain (arrays)."""

    size: Ints
    local: Ints


def domain_devices(cluster: Cluster) -> int:
    """Devices of the innermost domain: the NVLink domain, or the node if that is more."""
    spans = [tier.span for tier in cluster.tiers]
    index = 0
    while index + 1 < len(spans) and spans[index + 1] <= cluster.devices_per_node:
        index += 1
    return min(spans[index], cluster.devices)


def group(size: Any, stride: Any, domain: int) -> Group:
    """A group of ``size`` members ``stride`` devices apart.

    Examples
    --------
    >>> int(group(16, 4, 8).local)
    2
    """
    size, stride = np.asarray(size), np.asarray(stride)
    local = np.clip(domain // stride, 1, size)
    return Group(size, local)


def tensor_group(grid: PlanGrid, domain: int) -> Group:
    """Ranks that share a layer's matrices."""
    return group(grid.tp, 1, domain)


def context_group(grid: PlanGrid, domain: int) -> Group:
    """Ranks that share a sequence."""
    return group(grid.cp, grid.tp, domain)


def data_group(grid: PlanGrid, domain: int) -> Group:
    """Ranks that hold the same dense parameters: data times context parallel."""
    return group(grid.dp * grid.cp, grid.tp, domain)


def shard_group(grid: PlanGrid, domain: int) -> Group:
    """Ranks that share one copy of the sharded states of dense parameters."""
    return group(grid.zero_group, grid.tp, domain)


def replica_group(grid: PlanGrid, domain: int) -> Group:
    """Ranks that hold the same shard (HSDP)."""
    return group(grid.dp * grid.cp // grid.zero_group, grid.tp * grid.zero_group, domain)


def expert_group(grid: PlanGrid, domain: int) -> Group:
    """Ranks that exchange tokens of routed experts."""
    return group(grid.ep, grid.expert_tp, domain)


def expert_data_group(grid: PlanGrid, domain: int) -> Group:
    """Ranks that hold the same experts."""
    stride = grid.ep * grid.expert_tp
    return group(grid.tp * grid.cp * grid.dp // stride, stride, domain)


def pipeline_local(grid: PlanGrid, domain: int) -> Ints:
    """2 where neighbouring stages share a domain, 1 where the sends leave it."""
    inside = grid.tp * grid.cp * grid.dp * grid.pp <= domain
    return np.where(inside, 2, 1)


def ranks(plan: Plan) -> dict[str, NDArray[np.int64]]:
    """The coordinates of every device of a plan, in device order.

    Returns
    -------
    dict of (world,) arrays
        ``tp``, ``cp``, ``dp``, ``pp``, and ``expert_tp``, ``ep``, ``expert_dp`` for expert layers.
    """
    device = np.arange(plan.world)
    coordinates: dict[str, NDArray[np.int64]] = {}
    left = device
    for name in ("tp", "cp", "dp", "pp"):
        degree = getattr(plan, name)
        coordinates[name] = left % degree
        left = left // degree
    stage = device % (plan.tp * plan.cp * plan.dp)
    coordinates["expert_tp"] = stage % plan.experts_tensor
    coordinates["ep"] = stage // plan.experts_tensor % plan.ep
    coordinates["expert_dp"] = stage // (plan.experts_tensor * plan.ep)
    return coordinates
