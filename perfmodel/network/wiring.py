"""The topology of a loaded cluster: its innermost domains, their cards, and the fabric."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from perfmodel.network.placement import domain_tier
from perfmodel.network.topology import (
    Topology,
    fully_connected,
    hierarchy,
    mesh,
    ring,
    switch,
    torus,
    tree,
)

if TYPE_CHECKING:
    from perfmodel.hardware.cluster import Cluster, Tier


def of_cluster(cluster: Cluster) -> Topology:
    """The topology of a loaded cluster: its innermost domains, cards with affinity, and fabric."""
    index = domain_tier(cluster)
    inner = _domain(cluster.tiers[index], cluster.tiers[:index])
    outside = cluster.tiers[index + 1 :]
    if not outside:
        return inner
    copies = -(-cluster.devices // inner.devices)
    first = outside[0]
    cards = max(first.nics_per_node, 1)
    owner = [0] * inner.devices
    for card, behind in enumerate(first.affinity):
        for device in behind:
            if device < inner.devices:
                owner[device] = card
    rate = first.bandwidth * inner.devices / cards
    latency = first.latency or 0.0
    levels = [
        (tier.span * cards // inner.devices, tier.span * tier.bandwidth / wider.oversubscription)
        for tier, wider in pairwise(outside)
    ]
    levels.append((copies * cards, 0.0))
    if first.oversubscription > 1.0:
        levels.insert(0, (cards, cards * rate / first.oversubscription))
    fabric = tree(copies * cards, levels, rate, latency, first.topology)
    return hierarchy(inner, copies, fabric, owner)


def _domain(tier: Tier, within: tuple[Tier, ...]) -> Topology:
    latency = tier.latency or 0.0
    if tier.topology == "torus":
        return torus(tier.dims, tier.wraps, tier.link_bandwidth, latency)
    if tier.topology == "mesh" and tier.edges:
        edges = list(tier.edges)
        have = {(min(a, b), max(a, b)) for a, b, _ in edges}
        for narrow in within:  # pairs that share a package
            count = round(narrow.links_per_device / max(narrow.span - 1, 1))
            for first in range(0, tier.span, narrow.span):
                for a in range(first, first + narrow.span):
                    for b in range(a + 1, first + narrow.span):
                        if (a, b) not in have:
                            edges.append((a, b, count))
        return mesh(tier.span, edges, tier.link_bandwidth, latency)
    if tier.topology == "mesh":
        each = tier.bandwidth / max(tier.span - 1, 1)
        return fully_connected(tier.span, each, latency)
    if tier.topology == "ring":
        return ring(tier.span, tier.bandwidth / 2.0, latency)
    return switch(tier.span, tier.bandwidth / max(tier.oversubscription, 1.0), latency)
