"""Topologies as data: directed links with rates, and the route from any device to any other.

Every builder returns a :class:`Topology`. Parallel paths between the same two stages (the spines of
a fat tree, the routers of a dragonfly group) are one link of their summed rate: packets are taken
to be spread evenly, as adaptive routing does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import NetworkError

Floats = NDArray[np.float64]
Route = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """Devices, directed links and routes.

    Parameters
    ----------
    name : str
        ``"switch"``, ``"torus 4x4x4"`` ...
    devices : int
        Numbered from 0.
    capacity : array of shape (links,)
        Rate of every directed link [B/s].
    latency : array of shape (links,)
        Time to cross it [s].
    names : tuple of str
        What each link is.
    path : callable
        (device, device) -> links on the way, in order.
    domain : int
        Devices that are neighbours in one innermost domain: 0 to domain - 1, and so on.
    """

    name: str
    devices: int
    capacity: Floats
    latency: Floats
    names: tuple[str, ...]
    path: Callable[[int, int], Route]
    domain: int

    def route(self, source: int, target: int) -> Route:
        """Links from one device to another; none to itself.

        Raises
        ------
        NetworkError
            If a device does not exist.
        """
        for device in (source, target):
            if not 0 <= device < self.devices:
                raise NetworkError(
                    f"{self.name}: device", device, f"0 to {self.devices - 1}",
                    repair="number devices from 0",
                )  # fmt: skip
        return () if source == target else self.path(source, target)

    def delay(self, source: int, target: int) -> float:
        """Latency of the route [s]."""
        return float(self.latency[list(self.route(source, target))].sum())


class _Links:
    """Collects links while a topology is built."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.rates: list[float] = []
        self.delays: list[float] = []

    def add(self, name: str, rate: float, delay: float = 0.0) -> int:
        self.names.append(name)
        self.rates.append(rate)
        self.delays.append(delay)
        return len(self.names) - 1

    def finish(
        self, name: str, devices: int, path: Callable[[int, int], Route], domain: int | None = None
    ) -> Topology:
        rates, delays = np.array(self.rates), np.array(self.delays)
        return Topology(name, devices, rates, delays, tuple(self.names), path, domain or devices)


def fully_connected(devices: int, bandwidth: float, latency: float = 0.0) -> Topology:
    """A link of ``bandwidth`` each way between every two devices."""
    links = _Links()
    table = {
        (a, b): links.add(f"{a}>{b}", bandwidth, latency)
        for a in range(devices)
        for b in range(devices)
        if a != b
    }
    return links.finish("fully connected", devices, lambda a, b: (table[a, b],))


def switch(devices: int, bandwidth: float, latency: float = 0.0) -> Topology:
    """One non-blocking switch: every device has ``bandwidth`` in and out (NVSwitch, NVL72)."""
    links = _Links()
    out = [links.add(f"{d}>switch", bandwidth, latency) for d in range(devices)]
    into = [links.add(f"switch>{d}", bandwidth) for d in range(devices)]
    return links.finish("switch", devices, lambda a, b: (out[a], into[b]))


def ring(devices: int, bandwidth: float, latency: float = 0.0) -> Topology:
    """Devices in a circle, a link each way between neighbours; the shorter way round is taken."""
    return torus((devices,), (True,), bandwidth, latency)


def torus(
    dims: Sequence[int], wraps: Sequence[bool], bandwidth: float, latency: float = 0.0
) -> Topology:
    """A torus (or mesh, where an axis does not close), routed axis by axis.

    Parameters
    ----------
    dims, wraps : sequence
        Length of every axis, and whether it closes.
    bandwidth : float
        One link, one direction [B/s].
    """
    devices = int(np.prod(dims))
    strides = [int(np.prod(dims[axis + 1 :])) for axis in range(len(dims))]
    links = _Links()
    table: dict[tuple[int, int, int], int] = {}
    for device in range(devices):
        for axis, (side, wrap) in enumerate(zip(dims, wraps, strict=True)):
            place = device // strides[axis] % side
            for way in (1, -1):
                inside = 0 <= place + way < side
                if side > 1 and (inside or (wrap and side > 2)):
                    table[device, axis, way] = links.add(
                        f"{device} axis {axis} {way:+d}", bandwidth, latency
                    )

    def path(a: int, b: int) -> Route:
        steps: list[int] = []
        here = a
        for axis, (side, wrap) in enumerate(zip(dims, wraps, strict=True)):
            place, goal = here // strides[axis] % side, b // strides[axis] % side
            ahead = (goal - place) % side
            closes = wrap and side > 2
            way = (1 if ahead <= side - ahead else -1) if closes else (1 if goal > place else -1)
            while place != goal:
                steps.append(table[here, axis, way])
                moved = (place + way) % side
                here += (moved - place) * strides[axis]
                place = moved
        return tuple(steps)

    return links.finish(f"torus {'x'.join(map(str, dims))}", devices, path)


def tree(
    devices: int,
    levels: Sequence[tuple[int, float]],
    bandwidth: float,
    latency: float = 0.0,
    name: str = "tree",
) -> Topology:
    """A tree of switches: PCIe trees, fat trees of two or three tiers, with oversubscription.

    Parameters
    ----------
    levels : sequence of (devices below one switch, rate of its way up)
        From the leaves upwards; the last level is the root and its rate is not used. A fat tree of
        two tiers without oversubscription is ``[(32, 32 * bandwidth), (devices, 0)]``.
    bandwidth : float
        Of one device into its leaf, one direction [B/s].
    """
    links = _Links()
    out = [links.add(f"{d}>leaf", bandwidth, latency) for d in range(devices)]
    into = [links.add(f"leaf>{d}", bandwidth) for d in range(devices)]
    ups: list[list[tuple[int, int]]] = []
    for level, (below, rate) in enumerate(levels[:-1]):
        count = -(-devices // below)
        ups.append(
            [
                (
                    links.add(f"level {level} switch {s} up", rate, latency),
                    links.add(f"level {level} switch {s} down", rate),
                )
                for s in range(count)
            ]
        )

    def path(a: int, b: int) -> Route:
        up, down = [out[a]], [into[b]]
        for level, (below, _) in enumerate(levels[:-1]):
            if a // below == b // below:
                break
            up.append(ups[level][a // below][0])
            down.append(ups[level][b // below][1])
        return (*up, *reversed(down))

    return links.finish(name, devices, path)


def fat_tree(
    devices: int,
    per_leaf: int,
    bandwidth: float,
    *,
    per_pod: int | None = None,
    oversubscription: float = 1.0,
    latency: float = 0.0,
) -> Topology:
    """Two tiers, or three with ``per_pod``; ``oversubscription`` at the leaves' way up."""
    rate = per_leaf * bandwidth / oversubscription
    levels = [(per_leaf, rate)]
    if per_pod is not None:
        levels.append((per_pod, rate * per_pod / per_leaf))
    levels.append((devices, 0.0))
    return tree(devices, levels, bandwidth, latency, f"fat tree of {len(levels)} tiers")


def rail_optimised(
    nodes: int, rails: int, bandwidth: float, inside: float, latency: float = 0.0
) -> Topology:
    """Card i of every node on switch i; another rail is reached through the node.

    Devices are numbered node by node. A message to another rail first goes over the node's own
    switch (``inside`` B/s a device) to the device on that rail, as NCCL's PXN does.
    """
    links = _Links()
    devices = nodes * rails
    out = [links.add(f"{d}>rail {d % rails}", bandwidth, latency) for d in range(devices)]
    into = [links.add(f"rail {d % rails}>{d}", bandwidth) for d in range(devices)]
    send = [links.add(f"{d}>node {d // rails}", inside) for d in range(devices)]
    take = [links.add(f"node {d // rails}>{d}", inside) for d in range(devices)]

    def path(a: int, b: int) -> Route:
        if a // rails == b // rails:
            return (send[a], take[b])
        proxy = a // rails * rails + b % rails
        first = () if proxy == a else (send[a], take[proxy])
        return (*first, out[proxy], into[b])

    return links.finish("rail-optimised", devices, path, rails)


def dragonfly(
    groups: int,
    per_group: int,
    bandwidth: float,
    *,
    global_bandwidth: float,
    latency: float = 0.0,
    global_latency: float = 0.0,
) -> Topology:
    """Groups that are non-blocking inside, each with a global link to each other group.

    Parameters
    ----------
    global_bandwidth : float
        Between one pair of groups, one direction [B/s].
    """
    links = _Links()
    devices = groups * per_group
    out = [links.add(f"{d}>group", bandwidth, latency) for d in range(devices)]
    into = [links.add(f"group>{d}", bandwidth) for d in range(devices)]
    across = {
        (a, b): links.add(f"group {a}>{b}", global_bandwidth, global_latency)
        for a in range(groups)
        for b in range(groups)
        if a != b
    }

    def path(a: int, b: int) -> Route:
        first, last = a // per_group, b // per_group
        return (out[a], *((across[first, last],) if first != last else ()), into[b])

    return links.finish("dragonfly", devices, path)


def mesh(
    devices: int, edges: Sequence[tuple[int, int, int]], bandwidth: float, latency: float = 0.0
) -> Topology:
    """Direct links (device, device, how many), shortest routes, the wider first among equals."""
    links = _Links()
    table: dict[tuple[int, int], int] = {}
    next_to: dict[int, list[tuple[int, int]]] = {device: [] for device in range(devices)}
    for a, b, count in edges:
        for one, other in ((a, b), (b, a)):
            table[one, other] = links.add(f"{one}>{other}", count * bandwidth, latency)
            next_to[one].append((-count, other))

    def path(a: int, b: int) -> Route:
        ways: dict[int, Route] = {a: ()}
        front = [a]
        while b not in ways:
            if not front:
                raise NetworkError(
                    "mesh: route", (a, b), "two devices that are connected",
                    repair="add the missing links",
                )  # fmt: skip
            fresh: list[int] = []
            for here in front:
                for _, there in sorted(next_to[here]):
                    if there not in ways:
                        ways[there] = (*ways[here], table[here, there])
                        fresh.append(there)
            front = fresh
        return ways[b]

    return links.finish("mesh", devices, path)


def hierarchy(inner: Topology, copies: int, outer: Topology, owner: Sequence[int]) -> Topology:
    """``copies`` of a domain, joined by an outer topology through shared ports.

    Parameters
    ----------
    inner : Topology
        One domain.
    outer : Topology
        Joins the ports; port ``p`` of domain ``d`` is its device ``d * ports + p``.
    owner : sequence of int
        The port (network card) that each device of a domain uses: affinity.
    """
    ports = outer.devices // copies
    if len(owner) != inner.devices or max(owner) >= ports:
        raise NetworkError(
            "hierarchy: owner", list(owner), f"a port below {ports} for {inner.devices} devices",
            repair="list one card for every device of the domain",
        )  # fmt: skip
    size, width = inner.devices, len(inner.capacity)
    shift = copies * width

    def path(a: int, b: int) -> Route:
        one, other = a // size, b // size
        if one == other:
            return tuple(one * width + link for link in inner.route(a % size, b % size))
        ends = one * ports + owner[a % size], other * ports + owner[b % size]
        return tuple(shift + link for link in outer.route(*ends))

    names = [f"domain {d}: {name}" for d in range(copies) for name in inner.names]
    return Topology(
        f"{copies} x {inner.name} in {outer.name}",
        copies * size,
        np.concatenate([np.tile(inner.capacity, copies), outer.capacity]),
        np.concatenate([np.tile(inner.latency, copies), outer.latency]),
        (*names, *outer.names),
        path,
        size,
    )
