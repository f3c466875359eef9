"""Fit and score the published table of collectives: per link, on one half, judged on the other."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.calibrate.network_fit import (
    Shape,
    domain_shape,
    fabric_shape,
    fit_domain,
    fit_fabric,
    predict_rows,
)
from perfmodel.calibrate.network_rows import Rows, published_rows
from perfmodel.hardware.cluster import Cluster
from perfmodel.hardware.load import load_cluster
from perfmodel.network.coefficients import LinkCoefficients
from perfmodel.network.placement import Reach, reach

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Target:
    """One file to fit: the links of ``hardware`` inside a node, or between nodes."""

    key: str
    hardware: tuple[str, ...]
    shape: Shape
    sources: tuple[str, ...]
    outside: bool = False
    inside_key: str | None = None


# NVLS: H200 from 5 ranks, B200 from 6 (stas00/ml-engineering, network chapter).
TARGETS: Final = (
    Target("nccl-nvlink3", ("A100-SXM4-80GB",), domain_shape(), ("aiconfigurator-2026",)),
    Target(
        "nccl-nvlink4",
        ("H100-SXM5-80GB", "H200-SXM"),
        domain_shape(5),
        ("aiconfigurator-2026", "ml-engineering-2026"),
    ),
    Target(
        "nccl-nvlink5",
        ("B200-SXM",),
        domain_shape(6),
        ("aiconfigurator-2026", "ml-engineering-2026"),
    ),
    Target("nccl-nvlink5-gb200", ("GB200",), domain_shape(6), ("aiconfigurator-2026",)),
    Target("nccl-pcie4", ("L40S",), domain_shape(tree=True), ("aiconfigurator-2026",)),
    Target("rccl-infinity-fabric", ("MI300X",), domain_shape(), ("rccl-tests-mi300x-2024",)),
    Target("rccl-infinity-fabric-3", ("MI250X (GCD)",), domain_shape(), ("lumi-llm-scaling-2024",)),
    Target(
        "nccl-efa100",
        ("A100-SXM4-80GB (p4de)",),
        fabric_shape(),
        ("aws-nccl-tests-2024",),
        True,
        "nccl-nvlink3",
    ),
    Target(
        "nccl-efa-v2-100",
        ("H100-SXM5 (p5)",),
        fabric_shape(),
        ("aws-nccl-tests-2024",),
        True,
        "nccl-nvlink4",
    ),
)


def situation(rows: Rows) -> Reach:
    """What the group of every row can send, from its node's file."""
    inside, outside = np.empty(len(rows)), np.empty(len(rows))
    links = Reach(inside, outside)
    for node in np.unique(rows.node):
        for nodes in np.unique(rows.groups[rows.node == node]):
            mask = (rows.node == node) & (rows.groups == nodes)
            cluster = cluster_of(str(node), int(nodes), rows.where(mask))
            part = reach(cluster, rows.ranks[mask], np.minimum(rows.local, rows.ranks)[mask])
            inside[mask], outside[mask] = part.bandwidth_in, part.bandwidth_out
            if part.dims:
                links = Reach(inside, outside, 1.0, part.dims, part.wraps, part.link_bandwidth)
    return links


def cluster_of(node: str, groups: int, rows: Rows) -> Cluster:
    """The smallest cluster of that node that holds the groups."""
    if groups > 1:
        return load_cluster(node, nodes=groups)
    one = load_cluster(node)
    return load_cluster(node, nodes=int(np.ceil(rows.ranks.max() / one.devices_per_node)))
