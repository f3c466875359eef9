"""A cluster: nodes joined by a fabric, seen as tiers of ever wider and slower reach.

A ``Tier`` is what the network model works on: how many devices it spans, what one device can send
into it, and its shape. Tiers follow from the node and cluster files; none is written by hand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import Field

from perfmodel.errors import SpecError
from perfmodel.hardware.accelerator import Accelerator, Count, Table, Text, Year
from perfmodel.hardware.fields import Duration, Power
from perfmodel.hardware.link import Link
from perfmodel.hardware.node import Domain, Node, ScaleOut


class ClusterFile(Table):
    """A cluster file: which node, how many, and the fabric where it differs from the node's."""

    name: Text
    vendor: Text
    node: Text
    nodes: Count
    year: Year | None = None
    note: str | None = None
    power: Power | None = None
    switch_hop_latency: Duration | None = None
    scale_out: ScaleOut | None = None
    sources: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tier:
    """One reach of the network.

    Parameters
    ----------
    name : str
        The link's file name, ``"nvlink4"``.
    span : int
        Devices inside, inner tiers included.
    bandwidth : float
        What one device can send into this tier, one way [B/s]: all of its links, or its share of
        the node's NICs when every device sends.
    latency : float or None
        One small message, one way [s].
    topology : str
        ``"switch"``, ``"mesh"``, ``"ring"``, ``"torus"``, ``"pcie-tree"``, ``"fat-tree"``,
        ``"rail"``, ``"dragonfly"``.
    link : Link
        The link it is made of.
    links_per_device : float
        Links of one device (a fraction where NICs are shared).
    efficiency_key : str or None
        Names the fitted efficiency of this tier.
    oversubscription : float
        How many times less than ``bandwidth`` is left when all devices leave the group at once.
    nics_per_node : int
        NICs in use, for a tier between nodes; 0 inside.
    rail_optimized : bool
        NIC i of every node on switch i.
    edges : tuple of (device, device, links)
        An irregular mesh.
    dims, wraps : tuple
        A torus slice: length of each axis, and whether it closes.
    affinity : tuple of tuple of int
        Devices behind each NIC.
    """

    name: str
    span: int
    bandwidth: float
    latency: float | None
    topology: str
    link: Link
    links_per_device: float
    efficiency_key: str | None = None
    oversubscription: float = 1.0
    nics_per_node: int = 0
    rail_optimized: bool = False
    edges: tuple[tuple[int, int, int], ...] = ()
    dims: tuple[int, ...] = ()
    wraps: tuple[bool, ...] = ()
    affinity: tuple[tuple[int, ...], ...] = ()

    @property
    def link_bandwidth(self) -> float:
        """Rate of a single link, one way [B/s]."""
        return self.link.bandwidth_per_direction


@dataclass(frozen=True, slots=True)
class Cluster:
    """So many nodes of one kind, so many devices used in each.

    ``tiers`` runs from the innermost outwards; the last one spans every device. ``file`` is the
    cluster's file where it came from one.
    """

    name: str
    accelerator: Accelerator
    node: Node
    nodes: int
    devices_per_node: int
    tiers: tuple[Tier, ...]
    host_link: Link | None = None
    file: ClusterFile | None = None

    @property
    def devices(self) -> int:
        """Devices in use."""
        return self.nodes * self.devices_per_node

    def tier_of(self, devices: int) -> Tier:
        """The innermost tier that holds that many devices placed side by side.

        Raises
        ------
        SpecError
            If the cluster has fewer.
        """
        for tier in self.tiers:
            if devices <= tier.span:
                return tier
        raise SpecError(
            f"{self.name}: group",
            devices,
            f"at most its {self.devices} devices",
            repair="ask for a smaller group, or load the cluster with more nodes",
        )

    def __repr__(self) -> str:
        reach = " > ".join(f"{tier.name} x{tier.span}" for tier in self.tiers)
        return (
            f"Cluster({self.name}: {self.nodes} x {self.devices_per_node} "
            f"{self.accelerator.name}; {reach})"
        )


def torus_slice(
    devices: int, max_dims: tuple[int, ...], *, granule: int = 1
) -> tuple[int, ...] | None:
    """The most cube-like box of ``devices`` that fits into ``max_dims``; ``None`` if there is none.

    Axes are ascending. Among the boxes the one with the smallest longest axis wins, then the one
    with the largest shortest axis; a slice of at least one whole cube prefers axes
    that are multiples of ``granule``.

    Examples
    --------
    >>> torus_slice(128, (16, 16, 16), granule=4)
    (4, 4, 8)
    >>> torus_slice(32, (16, 16))
    (4, 8)
    """
    best: tuple[tuple[int, int, int], tuple[int, ...]] | None = None
    whole = devices >= granule ** len(max_dims)
    for box in _boxes(devices, len(max_dims)):
        if any(side > top for side, top in zip(box, sorted(max_dims), strict=True)):
            continue
        ragged = whole and sum(side % granule != 0 for side in box)
        rank = (ragged, box[-1], -box[0])
        if best is None or rank < best[0]:
            best = (rank, box)
    return None if best is None else best[1]


def _boxes(volume: int, axes: int, smallest: int = 1) -> list[tuple[int, ...]]:
    if axes == 1:
        return [(volume,)] if volume >= smallest else []
    return [
        (side, *rest)
        for side in range(smallest, math.isqrt(volume) + 1 if axes == 2 else volume + 1)
        if volume % side == 0 and side**axes <= volume
        for rest in _boxes(volume // side, axes - 1, side)
    ]


def domain_tier(domain: Domain, name: str, link: Link, inner: int, devices: int) -> Tier:
    """The tier that a node's domain makes for a job of ``devices`` devices.

    ``inner`` is the span of the tier inside it; links that stay within that are not counted.
    """
    if domain.topology == "torus":
        return _torus_tier(domain, name, link, devices)
    span = min(domain.span or devices, devices)
    if domain.edges:
        inside = sum(
            2 * count
            for first, second, count in domain.edges
            if max(first, second) < span and first // inner != second // inner
        )
        links = inside / span
    else:
        links = float(domain.links_per_device or 0)
        if domain.topology == "mesh":
            # All-to-all wiring: links to devices that the job leaves idle carry nothing.
            links *= max(span - inner, 1) / max((domain.span or inner + 1) - inner, 1)
    return Tier(
        name=name,
        span=span,
        bandwidth=links * link.bandwidth_per_direction,
        latency=link.latency,
        topology=domain.topology,
        link=link,
        links_per_device=links,
        efficiency_key=domain.efficiency_key,
        edges=tuple(edge for edge in domain.edges if max(edge[0], edge[1]) < span),
    )


def torus_slices(domain: Domain, devices: int) -> int:
    """How many equal slices of a torus domain hold ``devices``; 0 if no number does.

    One, as long as a box of that size is sold; otherwise the fewest.
    """
    largest = math.prod(domain.max_dims)
    for slices in range(max(1, math.ceil(devices / largest)), devices + 1):
        if devices % slices == 0 and torus_slice(devices // slices, domain.max_dims) is not None:
            return slices
        if slices > 64 * math.ceil(devices / largest):
            break
    return 0


def _torus_tier(domain: Domain, name: str, link: Link, devices: int) -> Tier:
    granule = domain.wrap_multiple or 1
    dims = torus_slice(devices, domain.max_dims, granule=granule)
    if dims is None:
        raise SpecError(
            f"{name}: slice",
            devices,
            f"a number of devices that makes a box inside {domain.max_dims}",
            repair="choose a number of nodes whose devices factor, such as a power of two",
        )
    wraps = tuple(side >= granule and side % granule == 0 and side > 2 for side in dims)
    links = sum(2 if wrap else min(side - 1, 2) for side, wrap in zip(dims, wraps, strict=True))
    return Tier(
        name=name,
        span=devices,
        bandwidth=max(links, 1) * link.bandwidth_per_direction,
        latency=link.latency,
        topology="torus",
        link=link,
        links_per_device=float(links),
        efficiency_key=domain.efficiency_key,
        dims=dims,
        wraps=wraps,
    )


def fabric_tiers(
    fabric: ScaleOut, name: str, link: Link, nodes: int, used: int, devices_per_node: int
) -> tuple[Tier, ...]:
    """The tiers between nodes: inside a group, then across groups when the job is wider than one.

    ``used`` of the node's ``devices_per_node`` devices take part; NICs that none of them sits
    behind stay idle.
    """
    groups = fabric.affinity or _even_affinity(fabric.nics_per_node, devices_per_node)
    active = tuple(nic for nic in groups if any(device < used for device in nic))
    links = len(active) / used

    def tier(span: int, oversubscription: float) -> Tier:
        return Tier(
            name=name,
            span=span,
            bandwidth=links * link.bandwidth_per_direction,
            latency=link.latency,
            topology=fabric.topology,
            link=link,
            links_per_device=links,
            efficiency_key=fabric.efficiency_key,
            oversubscription=oversubscription,
            nics_per_node=len(active),
            rail_optimized=fabric.rail_optimized,
            affinity=active,
        )

    group = fabric.group_nodes
    if group is not None and group < nodes:
        return tier(group * used, 1.0), tier(nodes * used, fabric.oversubscription)
    if group is not None:
        return (tier(nodes * used, 1.0),)
    return (tier(nodes * used, fabric.oversubscription),)


def _even_affinity(nics: int, devices: int) -> tuple[tuple[int, ...], ...]:
    if nics >= devices:
        return tuple((nic * devices // nics,) for nic in range(nics))
    return tuple(
        tuple(device for device in range(devices) if device * nics // devices == nic)
        for nic in range(nics)
    )
