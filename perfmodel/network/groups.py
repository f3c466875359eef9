"""Groups of ranks on a topology: which links they cross, and collectives that run at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from perfmodel.errors import NetworkError
from perfmodel.network.algorithms import Floats, check_op
from perfmodel.network.contention import FlowNetwork
from perfmodel.network.topology import Topology


@dataclass(frozen=True, slots=True)
class Group:
    """A collective of some ranks.

    Parameters
    ----------
    op : str
        all_reduce, all_gather, reduce_scatter, broadcast, reduce (as rings), all_to_all, p2p.
    size : float
        The larger buffer [B]; for all_to_all a number, or a matrix of bytes from row to column.
    ranks : tuple of int
        Devices, in the order of the ring.
    start : float
        When it begins [s].
    alone : float or None
        What it takes by itself [s], the closed form's answer: it never moves faster than that.
        Without it the links alone decide.
    """

    op: str
    size: float | Floats
    ranks: tuple[int, ...]
    start: float = 0.0
    alone: float | None = None


def ring_usage(topology: Topology, ranks: Sequence[int]) -> dict[int, float]:
    """How many messages of one turn of the rings cross every link, for rings of one byte in all.

    A library runs as many rings as a domain has members, each leaving the domain at another of
    them, so that all of their network cards carry a share.
    """
    domains: dict[int, list[int]] = {}
    for rank in ranks:
        domains.setdefault(rank // topology.domain, []).append(rank)
    rings = max(len(members) for members in domains.values()) if len(domains) > 1 else 1
    total: dict[int, float] = {}
    for turn in range(rings):
        order = [
            members[(place + turn) % len(members)]
            for members in domains.values()
            for place in range(len(members))
        ]
        hops = zip(order, [*order[1:], order[0]], strict=True)
        for link, amount in _added(topology, hops, 1.0 / rings).items():
            total[link] = total.get(link, 0.0) + amount
    return total


def _added(topology: Topology, hops: Iterable[tuple[int, int]], amount: float) -> dict[int, float]:
    """``amount`` on every link of every hop."""
    total: dict[int, float] = {}
    for here, there in hops:
        for link in topology.route(here, there):
            total[link] = total.get(link, 0.0) + amount
    return total


def crossed(topology: Topology, ranks: Sequence[int]) -> tuple[str, ...]:
    """Names of the links that a ring over these ranks crosses."""
    return tuple(topology.names[link] for link in sorted(ring_usage(topology, ranks)))


def link_bytes(topology: Topology, group: Group) -> dict[int, float]:
    """Bytes that a collective puts on every link.

    A ring all-reduce sends 2 (p-1)/p of the buffer over every hop, an all-gather or reduce-scatter
    half of that, a pipelined broadcast or reduce all of it over all hops but the last.
    """
    check_op(group.op)
    ranks = group.ranks
    count = len(ranks)
    if len(set(ranks)) != count or not ranks:
        raise NetworkError(
            "group: ranks", ranks, "different devices, at least one", repair="list each device once"
        )
    if count == 1:
        return {}
    if group.op == "all_to_all":
        return _personal(topology, group)
    size = _number(group)
    hops, share = {
        "p2p": (list(pairwise(ranks[:2])), 1.0),
        "gather": ([(other, ranks[0]) for other in ranks[1:]], 1.0 / count),
        "scatter": ([(ranks[0], other) for other in ranks[1:]], 1.0 / count),
        "broadcast": (list(pairwise(ranks)), 1.0),
        "reduce": (list(pairwise(ranks)), 1.0),
    }.get(group.op, ([], 0.0))
    if hops:
        return _added(topology, hops, share * size)
    turns = 2.0 if group.op == "all_reduce" else 1.0
    each = turns * (count - 1) / count * size
    return {link: times * each for link, times in ring_usage(topology, ranks).items()}


def _number(group: Group) -> float:
    if isinstance(group.size, np.ndarray):
        raise NetworkError(
            f"group {group.op}: size", "a matrix", "a number of bytes",
            repair="only all_to_all takes a matrix of bytes",
        )  # fmt: skip
    return float(group.size)


def _positive(group: Group) -> float:
    if group.alone is None or not (np.isfinite(group.alone) and group.alone > 0.0):
        raise NetworkError(
            f"group {group.op}: alone", group.alone, "a positive number of seconds",
            repair="give what `collective_seconds` says, or leave it out",
        )  # fmt: skip
    return group.alone


def _personal(topology: Topology, group: Group) -> dict[int, float]:
    """Even or uneven all-to-all."""
    count = len(group.ranks)
    matrix = np.asarray(group.size, dtype=np.float64)
    if matrix.ndim == 0:
        matrix = np.full((count, count), float(matrix) / count)
    if matrix.shape != (count, count) or not (np.isfinite(matrix) & (matrix >= 0)).all():
        raise NetworkError(
            "all_to_all: size",
            f"<array of shape {matrix.shape}>",
            f"a number, or a {count} x {count} matrix of bytes from row to column",
            repair="give one row and one column for each rank",
        )
    total: dict[int, float] = {}
    for i, here in enumerate(group.ranks):
        for j, there in enumerate(group.ranks):
            if i != j and matrix[i, j] > 0:
                for link in topology.route(here, there):
                    total[link] = total.get(link, 0.0) + float(matrix[i, j])
    return total


def concurrent_seconds(topology: Topology, groups: Sequence[Group]) -> Floats:
    """When collectives that share links end, each from its own start [s].

    Every collective is one flow: all of its hops advance together, and it takes of every link what
    they take in sum; rates are max-min fair. Wire time only, unless a group says what it takes
    ``alone``: then that, latencies included, is the least.

    Parameters
    ----------
    topology : Topology
        Links at the rate that the library reaches.
    groups : sequence of Group
        What runs, and from when.
    """
    loads = [link_bytes(topology, group) for group in groups]
    tops = [max(load.values(), default=0.0) for load in loads]
    # A group's own pace is a link of its own.
    paces = [
        top / _positive(group) if group.alone is not None and top > 0.0 else 1.0
        for group, top in zip(groups, tops, strict=True)
    ]
    network = FlowNetwork([*topology.capacity, *paces])
    waiting = sorted(range(len(groups)), key=lambda i: groups[i].start)
    numbers: dict[int, int] = {}
    ends = np.zeros(len(groups))
    now = 0.0
    while waiting or numbers:
        found = network.next_finish() if numbers else None
        begins = groups[waiting[0]].start if waiting else np.inf
        ended = now + found[0] if found is not None else np.inf
        if begins <= ended:
            network.advance(begins - now)
            now = begins
            index = waiting.pop(0)
            load, most = loads[index], tops[index]
            if most == 0.0:
                continue
            usage = {link: amount / most for link, amount in load.items() if amount > 0}
            if groups[index].alone is not None:
                usage[len(topology.capacity) + index] = 1.0
            numbers[network.add(usage, most)] = index
        elif found is not None:
            network.advance(found[0])
            now = ended
            index = numbers.pop(found[1])
            network.remove(found[1])
            ends[index] = now - groups[index].start
    return ends
