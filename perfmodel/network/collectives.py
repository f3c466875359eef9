"""The time of a collective on a cluster: placement, algorithm and protocol, as array expressions.

A group of ``world`` ranks has ``ranks_per_node`` members in each innermost domain (NVLink domain,
node) and so spans ``ceil(world / ranks_per_node)`` of them. Every algorithm becomes a latency chain
and a byte count on the inside and on the outside links; the slower side decides the rate, every
step pays its own side's latency, and the cheapest (algorithm, protocol) is what the library runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import ArrayLike

from perfmodel.errors import NetworkError, nearest_name
from perfmodel.network.algorithms import Floats, check_op, traffic
from perfmodel.network.protocols import PROTOCOLS, Protocol, default_protocols, link_kind

if TYPE_CHECKING:
    from perfmodel.hardware.cluster import Cluster, Tier

# What a library chooses from by itself; "hierarchical" is how frameworks stage it by hand.
CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "all_reduce": ("ring", "tree"),
    "all_gather": ("ring",),
    "reduce_scatter": ("ring",),
    "all_to_all": ("direct",),
    "broadcast": ("ring", "tree"),
    "reduce": ("ring", "tree"),
    "gather": ("direct",),
    "scatter": ("direct",),
    "p2p": ("direct",),
}
FORCED: Final[dict[str, tuple[str, ...]]] = {
    op: (*names, "hierarchical") if op in ("all_reduce", "all_gather", "reduce_scatter") else names
    for op, names in CHOICES.items()
}


@dataclass(frozen=True, slots=True)
class Sides:
    """Steps and bytes per device of one algorithm, inside and outside the innermost domain."""

    steps_in: Floats
    wire_in: Floats
    steps_out: Floats
    wire_out: Floats
    serial: bool = False


@dataclass(frozen=True, slots=True)
class _Links:
    """Rates and latencies that a group sees, arrays over the groups."""

    bandwidth_in: Floats
    latency_in: Floats
    bandwidth_out: Floats
    latency_out: Floats
    kind_in: str
    kind_out: str


def collective_seconds(
    op: str,
    size_bytes: ArrayLike,
    world: ArrayLike,
    cluster: Cluster,
    *,
    ranks_per_node: ArrayLike,
    algorithm: str | None = None,
    protocol: str | None = None,
) -> Floats:
    """Time of a collective [s].

    Parameters
    ----------
    op : str
        all_reduce, all_gather, reduce_scatter, all_to_all, broadcast, reduce, gather, scatter, p2p.
    size_bytes : array_like
        The larger buffer of a rank, as nccl-tests counts it [B].
    world : array_like
        Ranks in the group; 1 costs exactly 0.
    cluster : Cluster
        Tiers of links, innermost first.
    ranks_per_node : array_like
        Members of the group inside one innermost domain. The devices of a node that are not
        members are taken to run the same collective in groups of their own at the same time, so a
        group has only its members' share of the node's network cards.
    algorithm, protocol : str, optional
        Forced instead of chosen by cost.

    Returns
    -------
    array
        Of the broadcast shape of ``size_bytes``, ``world`` and ``ranks_per_node``.

    Raises
    ------
    NetworkError
        On an unknown operation, algorithm or protocol; on a negative or non-finite size; on a group
        larger than the cluster, or with more local members than a domain has devices.
    """
    check_op(op)
    size, ranks, local = np.broadcast_arrays(
        np.asarray(size_bytes, float), np.asarray(world, float), np.asarray(ranks_per_node, float)
    )
    _check(op, size, ranks, local, cluster)
    local = np.minimum(local, ranks)
    groups = np.ceil(ranks / local)
    links = _links(cluster, groups)
    names = _names(op, algorithm)
    kinds = _protocols(links, protocol, bool(np.any(groups > 1)))
    best: Floats | None = None
    for name in names:
        sides = split(op, name, size, ranks, local, groups)
        for inside, outside in kinds:
            seconds = _price(sides, links, inside, outside, groups)
            best = seconds if best is None else np.minimum(best, seconds)
    if best is None:  # _names and _protocols never return nothing
        raise NetworkError(op, (algorithm, protocol), "a choice", repair="leave both out")
    return np.where(ranks > 1, best, 0.0)


def split(
    op: str, algorithm: str, size: Floats, ranks: Floats, local: Floats, groups: Floats
) -> Sides:
    """Steps and bytes of an algorithm on either side of the domain's border.

    ``ring`` crosses every border once a turn, with the local members' cards in parallel; ``tree``
    runs a chain inside and two binary trees outside; ``direct`` sends each peer its own block;
    ``hierarchical`` scatters inside, works outside on 1/local of the data, gathers inside.
    """
    zero = np.zeros_like(size)
    outer = groups > 1
    if algorithm == "hierarchical":
        inner = traffic(op, "ring", size, local)
        part = size if op != "all_reduce" else size / local
        across = traffic(op, "ring", part, groups)
        if op != "all_reduce":
            across_wire = across.wire / local
        else:
            across_wire = across.wire
        return Sides(inner.steps, inner.wire, across.steps, across_wire, serial=True)
    flat = traffic(op, algorithm, size, ranks)
    if algorithm == "tree":
        turns = 2.0 if op == "all_reduce" else 1.0
        steps_out = turns * np.ceil(np.log2(np.maximum(groups, 1.0)) - 1e-12)
        steps_in = np.where(outer, turns * (local - 1.0), flat.steps)
        return Sides(steps_in, flat.wire, steps_out, np.where(outer, flat.wire / local, zero))
    if algorithm == "ring" and op != "all_to_all":
        turns = 2.0 if op == "all_reduce" else 1.0
        steps_out = np.where(outer, turns * (groups - 1.0), zero)
        wire_in = np.where(local > 1, flat.wire, zero)
        return Sides(
            flat.steps - steps_out, wire_in, steps_out, np.where(outer, flat.wire / local, zero)
        )
    # direct: of p - 1 peers, local - 1 are inside
    peers = np.maximum(ranks - 1.0, 1.0)
    inside = np.where(ranks > 1, (local - 1.0) / peers, 0.0)
    return Sides(
        flat.steps * inside,
        flat.wire * inside,
        flat.steps * (1.0 - inside),
        flat.wire * (1.0 - inside),
    )


def _price(
    sides: Sides, links: _Links, inside: Protocol, outside: Protocol, groups: Floats
) -> Floats:
    rate_in = np.minimum(inside.share * links.bandwidth_in, inside.cap)
    rate_out = np.minimum(outside.share * links.bandwidth_out, outside.cap)
    time_in = sides.wire_in / rate_in
    time_out = sides.wire_out / rate_out
    moving = time_in + time_out if sides.serial else np.maximum(time_in, time_out)
    chain = sides.steps_in * (inside.step + links.latency_in) + sides.steps_out * (
        outside.step + links.latency_out
    )
    base = np.where(groups > 1, max(inside.base, outside.base), inside.base)
    return np.asarray(base + chain + moving, dtype=np.float64)


def _names(op: str, algorithm: str | None) -> tuple[str, ...]:
    if algorithm is None:
        return CHOICES[op]
    if algorithm not in FORCED[op]:
        raise NetworkError(
            f"collective {op}: algorithm",
            algorithm,
            ", ".join(FORCED[op]),
            nearest=nearest_name(algorithm, FORCED[op]),
            repair="choose an algorithm that exists for this operation, or leave it out",
        )
    return (algorithm,)


def _protocols(
    links: _Links, protocol: str | None, outer: bool
) -> tuple[tuple[Protocol, Protocol], ...]:
    if protocol is not None and protocol not in PROTOCOLS:
        raise NetworkError(
            "collective: protocol",
            protocol,
            ", ".join(PROTOCOLS),
            nearest=nearest_name(protocol, PROTOCOLS),
            repair="choose one of the accepted protocols, or leave it out",
        )
    inside = {each.name: each for each in default_protocols(links.kind_in)}
    outside = {each.name: each for each in default_protocols(links.kind_out)} if outer else inside
    pairs = [
        (inside.get(name, inside["simple"]), outside.get(name, outside["simple"]))
        for name in PROTOCOLS
        if (name in inside or name in outside) and protocol in (None, name)
    ]
    return tuple(pairs) or ((inside["simple"], outside["simple"]),)


def domain_tier(cluster: Cluster) -> int:
    """Index of the innermost domain's tier: the NVLink domain, or the whole node if that is more."""
    spans = [tier.span for tier in cluster.tiers]
    index = 0
    while index + 1 < len(spans) and spans[index + 1] <= cluster.devices_per_node:
        index += 1
    return index


def _links(cluster: Cluster, groups: Floats) -> _Links:
    """The tiers that groups of so many domains cross; the narrowest of them sets the rate."""
    tiers = cluster.tiers
    index = domain_tier(cluster)
    inner = tiers[index]
    shape = groups.shape
    bandwidth_in = min(_usable(tier) for tier in tiers[: index + 1])
    outer = tiers[index + 1 :]
    bandwidth_out = np.full(shape, np.inf)
    latency_out = np.zeros(shape)
    devices = groups * inner.span
    reached = np.asarray(groups <= 1)
    for tier in outer:
        crossed = ~reached
        bandwidth_out = np.where(crossed, np.minimum(bandwidth_out, _usable(tier)), bandwidth_out)
        latency_out = np.where(crossed, np.maximum(latency_out, tier.latency), latency_out)
        reached = reached | (devices <= tier.span)
    latency_in = max(tier.latency for tier in tiers[: index + 1])
    kind_out = link_kind(outer[0].name, outer[0].topology) if outer else "net"
    return _Links(
        np.full(shape, bandwidth_in),
        np.full(shape, latency_in),
        bandwidth_out,
        latency_out,
        link_kind(inner.name, inner.topology),
        kind_out,
    )


def _usable(tier: Tier) -> float:
    return tier.bandwidth / max(tier.oversubscription, 1.0)


def _check(op: str, size: Floats, ranks: Floats, local: Floats, cluster: Cluster) -> None:
    if not np.all(np.isfinite(size)) or np.any(size < 0):
        bad = size[~(np.isfinite(size) & (size >= 0))].flat[0]
        raise NetworkError(
            f"collective {op}: size_bytes",
            float(bad),
            "a finite number of bytes that is not negative",
            repair="give the size of the larger buffer in bytes",
        )
    for name, value in (("world", ranks), ("ranks_per_node", local)):
        wrong = ~(np.isfinite(value) & (value >= 1) & (value == np.floor(value)))
        if np.any(wrong):
            raise NetworkError(
                f"collective {op}: {name}",
                float(value[wrong].flat[0]),
                "a whole number of at least 1",
                repair="count the members of the group",
            )
    span = cluster.tiers[domain_tier(cluster)].span
    if np.any(np.minimum(local, ranks) > span):
        raise NetworkError(
            f"collective {op}: ranks_per_node",
            int(np.minimum(local, ranks).max()),
            f"at most {span}, the devices of the innermost domain of this cluster",
            repair="spread the group over more domains",
        )
    if np.any(ranks > cluster.devices):
        raise NetworkError(
            f"collective {op}: world",
            int(ranks.max()),
            f"at most {cluster.devices}, the devices of this cluster",
            repair="load the cluster with more nodes",
        )
