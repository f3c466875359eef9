"""Bytes between devices: topologies, collectives, contention."""

from perfmodel.network.algorithms import Traffic, algbw, bus_factor, busbw, traffic
from perfmodel.network.collectives import Priced, collective_seconds, price_collective
from perfmodel.network.contention import FlowNetwork, max_min_rates
from perfmodel.network.explain import collective, curve, default_ranks_per_node
from perfmodel.network.groups import Group, concurrent_seconds, crossed, link_bytes
from perfmodel.network.interference import (
    Interference,
    among_kernels,
    interference,
    run_beside,
)
from perfmodel.network.topology import Topology
from perfmodel.network.wiring import of_cluster

__all__ = [
    "FlowNetwork",
    "Group",
    "Interference",
    "Priced",
    "Topology",
    "Traffic",
    "algbw",
    "among_kernels",
    "bus_factor",
    "busbw",
    "collective",
    "collective_seconds",
    "concurrent_seconds",
    "crossed",
    "curve",
    "default_ranks_per_node",
    "interference",
    "link_bytes",
    "max_min_rates",
    "of_cluster",
    "price_collective",
    "run_beside",
    "traffic",
]
