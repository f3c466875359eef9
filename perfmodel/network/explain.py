"""One collective as an Estimate: which algorithm, how much latency and wire, on whose word."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perfmodel.estimate import Estimate, leaf
from perfmodel.network.algorithms import Floats, busbw
from perfmodel.network.coefficients import tier_coefficients
from perfmodel.network.collectives import price_collective
from perfmodel.network.placement import domain_tier
from perfmodel.units import format_bytes, format_rate

if TYPE_CHECKING:
    from perfmodel.hardware.cluster import Cluster


def default_ranks_per_node(world: int, cluster: Cluster) -> int:
    """As many members in each innermost domain as it holds."""
    return min(world, cluster.tiers[domain_tier(cluster)].span)


def collective(
    op: str,
    size_bytes: float,
    world: int,
    cluster: Cluster,
    *,
    ranks_per_node: int | None = None,
    algorithm: str | None = None,
    protocol: str | None = None,
) -> Estimate:
    """The time of one collective with its parts, bound, interval and sources.

    Parameters
    ----------
    op, size_bytes, world, cluster, algorithm, protocol
        As in :func:`perfmodel.network.collective_seconds`.
    ranks_per_node : int, optional
        Members in each innermost domain; by default as many as it holds.

    Returns
    -------
    Estimate
        Parts ``latency``, ``wire`` and, where measured, ``correction`` (its note says by how much)
        explain the number; the note holds algorithm, protocol and bus bandwidth.
    """
    local = default_ranks_per_node(world, cluster) if ranks_per_node is None else ranks_per_node
    priced = price_collective(
        op,
        size_bytes,
        world,
        cluster,
        ranks_per_node=local,
        algorithm=algorithm,
        protocol=protocol,
    )
    seconds = float(priced.seconds)
    name = f"{op} of {format_bytes(size_bytes)} over {world}"
    if world == 1:
        return leaf(name, 0.0, bound="none", calibrated=True, note="a group of one")
    latency, moving = float(priced.latency), float(priced.moving)
    mechanism = latency + moving
    choice = priced.choices[int(priced.choice)]
    known = bool(priced.calibrated)
    parts = [
        leaf("latency", latency, bound="latency", calibrated=known, note="start-up and steps"),
        leaf("wire", moving, bound="network", calibrated=known, note="bytes at the rate reached"),
    ]
    if not np.isclose(seconds, mechanism, rtol=1e-12):
        percent = seconds / mechanism - 1.0
        note = f"measured residual {percent:+.1%} of {mechanism * 1e6:.4g} us"
        off = abs(seconds - mechanism)
        parts.append(leaf("correction", off, bound="none", calibrated=known, note=note))
    index = domain_tier(cluster)
    outside = world > local and index + 1 < len(cluster.tiers)
    tier = cluster.tiers[index + 1] if outside else cluster.tiers[index]
    rate = float(busbw(op, size_bytes, world, seconds)) if seconds > 0 else 0.0
    return Estimate(
        name=name,
        seconds=seconds,
        lower=float(priced.lower),
        low=float(priced.low),
        high=float(priced.high),
        bound="network" if moving >= latency else "latency",
        calibrated=known,
        parts=tuple(parts),
        relation="detail",
        citations=tier_coefficients(cluster, tier).sources,
        note=f"{choice}, busbw {format_rate(rate)}",
    )


def curve(
    op: str, cluster: Cluster, world: int, *, sizes: Floats | None = None
) -> dict[str, Floats]:
    """What a picture of a collective over sizes needs: arrays by name.

    Returns
    -------
    dict
        ``size`` [B], ``seconds``, ``low``, ``high`` [s] and ``busbw`` [B/s].
    """
    size = 2.0 ** np.arange(10, 33.25, 0.25) if sizes is None else np.asarray(sizes, float)
    local = default_ranks_per_node(world, cluster)
    priced = price_collective(op, size, world, cluster, ranks_per_node=local)
    return {
        "size": size,
        "seconds": priced.seconds,
        "low": priced.low,
        "high": priced.high,
        "busbw": busbw(op, size, world, priced.seconds),
    }
