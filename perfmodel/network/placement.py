"""Where a group of ranks lies on a cluster, and what it can send over the links it crosses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from perfmodel.errors import NetworkError
from perfmodel.network.algorithms import Floats
from perfmodel.network.coefficients import tier_coefficients
from perfmodel.network.tori import torus_numbers

if TYPE_CHECKING:
    from perfmodel.hardware.cluster import Cluster, Tier


@dataclass(frozen=True, slots=True)
class Reach:
    """Rates that groups see, one device one direction.

    Parameters
    ----------
    bandwidth_in, bandwidth_out : array
        Inside the innermost domain, and across domains (infinite where none is crossed) [B/s].
    share_in : array or float
        How the group's size thins the inside links out (PCIe trees).
    dims, wraps : tuple
        The torus, if the domain is one.
    link_bandwidth : float
        One link of the domain [B/s].
    """

    bandwidth_in: Floats
    bandwidth_out: Floats
    share_in: Floats | float = 1.0
    dims: tuple[int, ...] = ()
    wraps: tuple[bool, ...] = ()
    link_bandwidth: float = 0.0


def domain_tier(cluster: Cluster) -> int:
    """Index of the innermost domain: the NVLink domain, or the whole node where that is wider."""
    spans = [tier.span for tier in cluster.tiers]
    index = 0
    while index + 1 < len(spans) and spans[index + 1] <= cluster.devices_per_node:
        index += 1
    return index


def reach(cluster: Cluster, ranks: Floats, local: Floats) -> Reach:
    """What groups of ``ranks`` members, ``local`` of them in each domain, can send.

    Members of a mesh use only the links to each other; a torus group uses the links of its own
    slice; outside, a device has its share of its node's cards, thinned by the oversubscription of
    every tier it crosses.
    """
    index = domain_tier(cluster)
    inner = cluster.tiers[index]
    members = np.minimum(local, inner.span)
    bandwidth_in = _inside(cluster.tiers[: index + 1], members)
    groups = np.ceil(ranks / local)
    devices = groups * inner.span
    bandwidth_out = np.full(ranks.shape, np.inf)
    reached = np.asarray(groups <= 1)
    for tier in cluster.tiers[index + 1 :]:
        rate = tier.bandwidth / max(tier.oversubscription, 1.0)
        bandwidth_out = np.where(reached, bandwidth_out, np.minimum(bandwidth_out, rate))
        reached = reached | (devices <= tier.span)
    return Reach(
        bandwidth_in,
        bandwidth_out,
        tier_coefficients(cluster, inner).group_share(members),
        inner.dims if inner.topology == "torus" else (),
        inner.wraps if inner.topology == "torus" else (),
        inner.link_bandwidth,
    )


def _inside(tiers: tuple[Tier, ...], members: Floats) -> Floats:
    """The narrowest tier that the members cross inside the domain [B/s]."""
    bandwidth = np.full(members.shape, np.inf)
    held = np.asarray(members <= 1)
    inner = 1
    for tier in tiers:
        rate = _tier_rate(tier, members, inner)
        bandwidth = np.where(held, bandwidth, np.minimum(bandwidth, rate))
        held = held | (members <= tier.span)
        inner = tier.span
    return np.where(np.isfinite(bandwidth), bandwidth, tiers[-1].bandwidth)


def _tier_rate(tier: Tier, members: Floats, inner: int) -> Floats:
    if tier.topology == "torus":
        links, _, _ = torus_numbers(members, tier.dims, tier.wraps)
        return np.asarray(np.maximum(links, 1.0) * tier.link_bandwidth, dtype=np.float64)
    if tier.topology == "mesh" and tier.edges:
        return _edge_rate(tier, members, inner)
    if tier.topology == "mesh":
        part = np.clip(members - 1.0, 1.0, None) / max(tier.span - 1, 1)
        return np.asarray(tier.bandwidth * np.minimum(part, 1.0), dtype=np.float64)
    return np.full(members.shape, tier.bandwidth / max(tier.oversubscription, 1.0))


def _edge_rate(tier: Tier, members: Floats, inner: int) -> Floats:
    """Irregular meshes: the mean links that the first so many devices have to other packages."""
    unique, inverse = np.unique(members, return_inverse=True)
    rates = []
    for count in unique:
        links = sum(
            2 * number
            for one, other, number in tier.edges
            if max(one, other) < count and one // inner != other // inner
        )
        rates.append(max(links / max(count, 1.0), 1.0) * tier.link_bandwidth)
    return np.array(rates, dtype=np.float64)[inverse.reshape(members.shape)]


def check_group(op: str, size: Floats, ranks: Floats, local: Floats, cluster: Cluster) -> None:
    """Raise :class:`NetworkError` unless the groups exist on the cluster."""
    fine = np.isfinite(size) & (size >= 0)
    if not fine.all():
        raise NetworkError(
            f"collective {op}: size_bytes",
            float(size[~fine].flat[0]),
            "a finite number of bytes that is not negative",
            repair="give the size of the larger buffer in bytes",
        )
    for name, value in (("world", ranks), ("ranks_per_node", local)):
        whole = np.isfinite(value) & (value >= 1) & (value == np.floor(value))
        if not whole.all():
            raise NetworkError(
                f"collective {op}: {name}",
                float(value[~whole].flat[0]),
                "a whole number of at least 1",
                repair="count the members of the group",
            )
    if ranks.size == 0:
        return
    span = cluster.tiers[domain_tier(cluster)].span
    if np.minimum(local, ranks).max() > span:
        raise NetworkError(
            f"collective {op}: ranks_per_node",
            int(np.minimum(local, ranks).max()),
            f"at most {span}, the devices of the innermost domain of this cluster",
            repair="spread the group over more domains",
        )
    if ranks.max() > cluster.devices:
        raise NetworkError(
            f"collective {op}: world",
            int(ranks.max()),
            f"at most {cluster.devices}, the devices of this cluster",
            repair="load the cluster with more nodes",
        )
