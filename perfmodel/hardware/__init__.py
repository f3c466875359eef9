"""What we have: accelerators, links, nodes and clusters, from files that name their sources."""

from perfmodel.hardware.accelerator import Accelerator, canonical_dtype
from perfmodel.hardware.cluster import Cluster, Tier
from perfmodel.hardware.describe import citations, describe, list_specs, references
from perfmodel.hardware.link import Link
from perfmodel.hardware.load import (
    load,
    load_accelerator,
    load_cluster,
    load_link,
    load_node,
)
from perfmodel.hardware.node import Node

__all__ = [
    "Accelerator",
    "Cluster",
    "Link",
    "Node",
    "Tier",
    "canonical_dtype",
    "citations",
    "describe",
    "list_specs",
    "load",
    "load_accelerator",
    "load_cluster",
    "load_link",
    "load_node",
    "references",
]
