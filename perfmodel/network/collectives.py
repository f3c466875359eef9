"""The time of a collective on a cluster: placement, algorithm and protocol, as array expressions.

A group of ``world`` ranks has ``ranks_per_node`` members in each innermost domain (NVLink domain,
node) and so spans ``ceil(world / ranks_per_node)`` of them. Every algorithm becomes a latency chain
and a byte count on the inside and on the outside links; the slower side decides the rate, every
step pays its own side's latency, and the cheapest (algorithm, protocol) is what the library runs.
Where the link was measured, a smooth residual corrects what the mechanism misses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfmodel.errors import NetworkError, nearest_name
from perfmodel.hardware import Hardware, cluster_of
from perfmodel.network.algorithms import ALGORITHMS, Floats, check_op
from perfmodel.network.coefficients import PROTOCOLS, LinkCoefficients, Way, tier_coefficients
from perfmodel.network.placement import Reach, check_group, domain_tier, reach
from perfmodel.network.sides import CHOICES, DISPATCH, DISPATCH_SHARE, SHARP, STAGED, Sides, split
from perfmodel.network.tori import torus_numbers

# Standard deviation of log(measured / predicted) of operations that a link's fit did not see: the
# published table's coefficients on our own all-to-all, gather, scatter and point-to-point.
UNSEEN: Final = 0.2


@dataclass(frozen=True, slots=True)
class Priced:
    """Prices of collectives; all fields broadcast together.

    Parameters
    ----------
    seconds, lower, low, high : array
        The prediction, what the wire alone would take, and the ends of the 90 % interval [s].
    latency, moving : array
        The part of the mechanism's time that does not, and that does, grow with the size [s].
    calibrated : array of bool
        Whether measurements of this link and operation surround the point.
    choice : array of int
        Index into ``choices``.
    choices : tuple of str
        ``"ring/simple"`` ...
    """

    seconds: Floats
    lower: Floats
    low: Floats
    high: Floats
    latency: Floats
    moving: Floats
    calibrated: NDArray[np.bool_]
    choice: NDArray[np.intp]
    choices: tuple[str, ...]


def collective_seconds(
    op: str,
    size_bytes: ArrayLike,
    world: ArrayLike,
    cluster: Hardware,
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
    cluster : Cluster, str or Path
        Tiers of links, innermost first; or the name or file of a node or cluster.
    ranks_per_node : array_like
        Members of the group inside one innermost domain. The devices of a node that are not
        members are taken to run the same collective in groups of their own at the same time, so a
        group has only its members' share of the node's network cards.
    algorithm, protocol : str, optional
        Forced instead of chosen by cost; then no measured residual is applied.

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
    return price_collective(
        op,
        size_bytes,
        world,
        cluster,
        ranks_per_node=ranks_per_node,
        algorithm=algorithm,
        protocol=protocol,
    ).seconds


def price_collective(
    op: str,
    size_bytes: ArrayLike,
    world: ArrayLike,
    cluster: Hardware,
    *,
    ranks_per_node: ArrayLike,
    algorithm: str | None = None,
    protocol: str | None = None,
) -> Priced:
    """As :func:`collective_seconds`, with interval, lower bound and choice."""
    check_op(op)
    cluster = cluster_of(cluster)
    size, ranks, local = _numbers(
        op, {"size_bytes": size_bytes, "world": world, "ranks_per_node": ranks_per_node}
    )
    check_group(op, size, ranks, local, cluster)
    local = np.minimum(local, ranks)
    index = domain_tier(cluster)
    inside = tier_coefficients(cluster, cluster.tiers[index])
    outer = cluster.tiers[index + 1 :]
    outside = tier_coefficients(cluster, outer[0]) if outer else None
    return price(
        op,
        size,
        ranks,
        local,
        reach(cluster, ranks, local),
        inside,
        outside,
        algorithm=algorithm,
        protocol=protocol,
    )


def _numbers(op: str, given: Mapping[str, ArrayLike]) -> tuple[Floats, ...]:
    """What is given as numbers of one shape, or an error that names it."""
    arrays = []
    for name, value in given.items():
        array = np.asarray(value)
        if array.dtype.kind not in "iuf" and array.size:
            raise NetworkError(
                f"collective {op}: {name}",
                f"<{type(value).__name__}>",
                "a number, or an array of numbers",
                repair="give it without a unit or quotes",
            )
        arrays.append(array.astype(float))
    try:
        return np.broadcast_arrays(*arrays)
    except ValueError:
        raise NetworkError(
            f"collective {op}: {', '.join(given)}",
            f"<shapes {', '.join(str(array.shape) for array in arrays)}>",
            "shapes that broadcast together",
            repair="give each a number, or arrays of one shape",
        ) from None


def price(
    op: str,
    size: Floats,
    ranks: Floats,
    local: Floats,
    links: Reach,
    inside: LinkCoefficients,
    outside: LinkCoefficients | None,
    *,
    algorithm: str | None = None,
    protocol: str | None = None,
) -> Priced:
    """Price groups whose reach and coefficients are known already; arguments as arrays of SI."""
    names = _algorithms(op, algorithm, links)
    _check_protocol(protocol)
    best = latency = moving = np.full(size.shape, np.inf)
    choice = np.zeros(size.shape, dtype=np.intp)
    choices: list[str] = []
    groups = np.ceil(ranks / local)
    several = bool(np.any(groups > 1))
    for name in names:
        if name == "tree" and not several and algorithm is None and op == "all_reduce":
            continue  # inside one domain it is a chain, never ahead of the ring
        sides = _torus_sides(op, size, ranks, links) if name == "torus" else None
        sides = sides or split(op, name, size, ranks, local)
        allowed = _allowed(name, algorithm, local, inside)
        if allowed is False:
            continue
        for label, within, across in _ways(name, inside, outside, protocol, several):
            chain, wire = _terms(sides, size, links, within, across, groups)
            seconds = chain + wire
            if allowed is not True:
                seconds = np.where(allowed, seconds, np.inf)
            better = seconds < best
            if better.any():
                choice = np.where(better, len(choices), choice)
                latency = np.where(better, chain, latency)
                moving = np.where(better, wire, moving)
                best = np.where(better, seconds, best)
            choices.append(f"{name}/{label}")
    return _finish(
        op, size, ranks, groups, links, inside, outside, best, latency, moving, choice,
        tuple(choices), forced=algorithm not in (None, DISPATCH) or protocol is not None,
    )  # fmt: skip


def _finish(
    op: str,
    size: Floats,
    ranks: Floats,
    groups: Floats,
    links: Reach,
    inside: LinkCoefficients,
    outside: LinkCoefficients | None,
    best: Floats,
    latency: Floats,
    moving: Floats,
    choice: NDArray[np.intp],
    choices: tuple[str, ...],
    *,
    forced: bool,
) -> Priced:
    """Apply the residual of whichever link decides, and put an interval around the result."""
    many = ranks > 1
    factor: Floats = np.ones(size.shape)
    spread = np.full(size.shape, inside.spread)
    known = np.zeros(size.shape, dtype=bool)
    out = groups > 1
    for link, where, count in ((inside, ~out, ranks), (outside, out, groups)):
        if link is None or not where.any():
            continue
        seen = link.correction is not None and op in link.correction.tables
        spread = np.where(where, link.spread if seen else max(link.spread, UNSEEN), spread)
        if link.correction is None or forced:
            continue
        residual, deviation = link.correction.at(op, size, count)
        covered = link.correction.covers(op, size, count)
        factor = np.where(where, np.exp(residual), factor)
        inflated = np.where(covered, deviation, np.maximum(2.0 * deviation, link.spread))
        spread = np.where(where & np.isfinite(inflated), inflated, spread)
        known = np.where(where, covered & link.fitted, known)
    seconds = np.where(many, best * factor, 0.0)
    lower = np.where(many, _wire_bound(op, size, ranks, groups, links), 0.0)
    lower = np.minimum(lower, seconds)
    reach90 = np.exp(1.645 * spread)
    return Priced(
        seconds=seconds,
        lower=lower,
        low=np.maximum(seconds / reach90, lower),
        high=seconds * reach90,
        latency=np.where(many, latency, 0.0),
        moving=np.where(many, moving, 0.0),
        calibrated=known | ~many,
        choice=choice,
        choices=choices,
    )


def _wire_bound(op: str, size: Floats, ranks: Floats, groups: Floats, links: Reach) -> Floats:
    """What must leave some device, or some domain, at the datasheet's rate [s]."""
    share = (ranks - 1.0) / ranks if op not in ("broadcast", "reduce", "p2p") else 1.0
    inner = size * share / links.bandwidth_in
    cut = np.where(groups > 1, size * share / (links.bandwidth_out * (ranks / groups)), 0.0)
    crossing = cut * np.where(op == "all_to_all", 0.0, 1.0)
    return np.asarray(np.where(groups > 1, crossing, inner), dtype=np.float64)


def _terms(
    sides: Sides,
    size: Floats,
    links: Reach,
    within: Way,
    across: Way,
    groups: Floats,
) -> tuple[Floats, Floats]:
    """(latency, time on the wire) of the mechanism."""
    shared = links.bandwidth_in * links.share_in
    time_in = within.moving(sides.wire_in, size, shared, sides.steps_in)
    if np.isfinite(within.copy):
        time_in = time_in + sides.copied / (within.copy * shared)
    chain = within.base + sides.steps_in * within.step
    if across is within and not (groups > 1).any():
        return chain, time_in
    time_out = across.moving(sides.wire_out, size, links.bandwidth_out, sides.steps_out)
    chain = np.where(groups > 1, within.base + across.base, within.base)
    chain = chain + sides.steps_in * within.step + sides.steps_out * across.step
    return chain, (time_in + time_out if sides.serial else np.maximum(time_in, time_out))


def _torus_sides(op: str, size: Floats, ranks: Floats, links: Reach) -> Sides | None:
    """All axes at once; the rate in ``links`` is already that of all useful links."""
    _, hops, crossing = torus_numbers(ranks, links.dims, links.wraps)
    share = (ranks - 1.0) / np.maximum(ranks, 1.0)
    turns = 2.0 if op == "all_reduce" else 1.0
    wire = turns * share * size
    if op in ("broadcast", "reduce", "p2p"):
        wire = size
    if op == "all_to_all":  # busiest link: crossing * size; expressed at the rate of all links
        wire = crossing * size * links.bandwidth_in / links.link_bandwidth
    if op == "p2p":  # one pair: one link
        wire = size * links.bandwidth_in / links.link_bandwidth
        hops = np.ones_like(hops)
    zero = np.zeros_like(size)
    return Sides(turns * hops, wire, zero, zero, zero)


def _algorithms(op: str, algorithm: str | None, links: Reach) -> tuple[str, ...]:
    torus = bool(links.dims)
    if algorithm is None:
        return ("torus",) if torus else CHOICES[op]
    known = list(ALGORITHMS[op])
    known += ["hierarchical"] if op in STAGED else []
    known += ["torus"] if torus else []
    known += [DISPATCH] if op == "all_to_all" else [SHARP] if op == "all_reduce" else []
    if torus and algorithm == DISPATCH and op == "all_to_all":
        return ("torus",)  # links of a torus have no other library
    if algorithm not in known:
        raise NetworkError(
            f"collective {op}: algorithm",
            algorithm,
            ", ".join(known),
            nearest=nearest_name(algorithm, known),
            repair="choose an algorithm that exists for this operation, or leave it out",
        )
    return (algorithm,)


def _allowed(
    name: str, forced: str | None, local: Floats, inside: LinkCoefficients
) -> bool | NDArray[np.bool_]:
    """Whether the library would consider it by itself."""
    if name != "in_network" or forced is not None:
        return True
    if inside.in_network_from is None:
        return False
    return np.asarray(local >= inside.in_network_from)


def _at_least(way: Way, share: float) -> Way:
    return way if way.share >= share else replace(way, share=share)


def _check_protocol(protocol: str | None) -> None:
    if protocol is not None and protocol not in PROTOCOLS:
        raise NetworkError(
            "collective: protocol",
            protocol,
            ", ".join(PROTOCOLS),
            nearest=nearest_name(protocol, PROTOCOLS),
            repair="choose one of the accepted protocols, or leave it out",
        )


def _ways(
    name: str,
    inside: LinkCoefficients,
    outside: LinkCoefficients | None,
    protocol: str | None,
    several: bool,
) -> list[tuple[str, Way, Way]]:
    """(label, inside, outside) for every protocol that the algorithm can take."""

    def pick(link: LinkCoefficients, way: str) -> Way:
        if way == "direct_ll" and way not in link.ways:
            way = "direct"
        return link.ways.get(way, link.ways["simple"])

    outer = outside if several and outside is not None else inside
    if name in ("direct", DISPATCH):
        quick = "direct_ll" in inside.ways or "direct_ll" in outer.ways
        least = DISPATCH_SHARE if name == DISPATCH and several else 0.0
        return [
            (way, pick(inside, way), _at_least(pick(outer, way), least))
            for way in (("direct_ll", "direct") if quick else ("direct",))
        ]
    if name == SHARP:
        return [(SHARP, pick(inside, "in_network"), pick(outer, "simple"))]
    if name == "in_network":
        return [
            ("in_network", pick(inside, "in_network"), pick(outer, way))
            for way in (PROTOCOLS[1:] if several else PROTOCOLS[-1:])
        ]
    wanted = [
        way
        for way in PROTOCOLS
        if protocol in (None, way) and (way in inside.ways or way in outer.ways)
    ]
    return [(way, pick(inside, way), pick(outer, way)) for way in wanted or ["simple"]]
