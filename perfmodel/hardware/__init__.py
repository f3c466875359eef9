"""What we have: accelerators, links, nodes and clusters, from files that name their sources."""

from perfmodel.hardware.accelerator import Accelerator, canonical_dtype
from perfmodel.hardware.cluster import Cluster, Tier
from perfmodel.hardware.describe import citations, describe, list_specs, references
from perfmodel.hardware.given import Hardware, accelerator_of, cluster_of, loaded
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
    "Hardware",
    "Link",
    "Node",
    "Tier",
    "accelerator_of",
    "canonical_dtype",
    "citations",
    "cluster_of",
    "describe",
    "list_specs",
    "load",
    "load_accelerator",
    "load_cluster",
    "load_link",
    "load_node",
    "loaded",
    "references",
]
