"""Bytes between devices: topologies, collectives, contention."""

from perfmodel.network.algorithms import algbw, bus_factor, busbw
from perfmodel.network.collectives import collective_seconds

__all__ = ["algbw", "bus_factor", "busbw", "collective_seconds"]
