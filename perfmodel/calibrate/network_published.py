"""Which published rows stand behind which file of coefficients, and the fit of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.calibrate.network_family import fit_common
from perfmodel.calibrate.network_fit import (
    Shape,
    domain_shape,
    fabric_shape,
    fit_direct,
    fit_domain,
    fit_fabric,
)
from perfmodel.calibrate.network_rows import Rows
from perfmodel.errors import CalibrationError
from perfmodel.hardware.cluster import Cluster
from perfmodel.hardware.load import load_cluster
from perfmodel.network.coefficients import LinkCoefficients
from perfmodel.network.placement import Reach, reach
from perfmodel.network.tori import torus_numbers

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Target:
    """One file to fit: the links of ``hardware`` inside a node, or (``inside`` given) between.

    ``inside`` names the target that has the inside of those nodes, "" where nothing is known.
    """

    key: str
    hardware: tuple[str, ...]
    shape: Shape
    sources: tuple[str, ...]
    inside: str | None = None


_NCCL = ("aiconfigurator-2026", "ml-engineering-2026")
_AWS = ("aws-nccl-tests-2024",)

# NVLS by itself: H200 from 5 ranks, B200 from 6 (stas00/ml-engineering, network chapter).
TARGETS: Final = (
    Target("nccl-nvlink3", ("A100-SXM4-80GB",), domain_shape(), _NCCL[:1]),
    Target("nccl-nvlink4", ("H100-SXM5-80GB", "H200-SXM"), domain_shape(5), _NCCL),
    Target("nccl-nvlink5", ("B200-SXM",), domain_shape(6), _NCCL),
    Target("nccl-nvlink5-gb200", ("GB200",), domain_shape(6), _NCCL[:1]),
    Target("nccl-pcie4", ("L40S",), domain_shape(tree=True), _NCCL[:1]),
    Target("nccl-pcie5", ("RTX-PRO-6000-Server",), domain_shape(tree=True), _NCCL[:1]),
    Target("rccl-infinity-fabric", ("MI300X",), domain_shape(), ("rccl-tests-mi300x-2024",)),
    Target("nccl-efa100", ("A100-SXM4-80GB (p4de)",), fabric_shape(), _AWS, "nccl-nvlink3"),
    Target("nccl-efa-v2-100", ("H100-SXM5 (p5)",), fabric_shape(), _AWS, "nccl-nvlink4"),
    Target("nccl-efa-v4-400", ("B200-SXM",), fabric_shape(), _NCCL[1:], "nccl-nvlink5"),
    Target(
        "nccl-ndr400",
        ("H100-SXM5 (NDR400)",),
        fabric_shape(),
        ("nccl-tests-issue-309",),
        "nccl-nvlink4",
    ),
    Target(
        "nccl-hdr200",
        ("A100-SXM4-80GB (HDR200)",),
        fabric_shape(),
        ("dstack-guides-2026",),
        "nccl-nvlink3",
    ),
    Target(
        "rccl-roce400",
        ("MI300X",),
        fabric_shape(),
        ("rccl-tests-mi300x-2024",),
        "rccl-infinity-fabric",
    ),
    Target("rccl-slingshot11", ("MI250X (GCD)",), fabric_shape(), ("lumi-llm-scaling-2024",), ""),
)
# Clusters that are only predicted: (fabric, inside) by hardware.
ABROAD: Final = {
    "H100-SXM5 (NDR400, second site)": ("nccl-ndr400", "nccl-nvlink4"),
    "H200-SXM (NDR400)": ("nccl-ndr400", "nccl-nvlink4"),
    "B200-SXM (NDR400)": ("nccl-ndr400", "nccl-nvlink5"),
    "B200-SXM (NDR400, second site)": ("nccl-ndr400", "nccl-nvlink5"),
    "A100-SXM4-80GB (HDR200, Azure)": ("nccl-hdr200", "nccl-nvlink3"),
    "A100-SXM4-40GB (RoCE 16x100G)": ("nccl-hdr200", "nccl-nvlink3"),
}
# Where all-to-all between nodes was published: its rows, by the fabric's file.
PERSONAL: Final = {"nccl-ndr400": "B200-SXM (NDR400, second site)"}
# A link of a generation that nobody measured: what the measured ones have in common.
FAMILY: Final = "nccl-nvlink"
# Fewest ranks for which a generation is known to use its switch.
IN_NETWORK_FROM: Final = {"hopper": 5, "blackwell": 6}
GENERATIONS: Final = {
    "ampere": ("A100-SXM4-80GB",),
    "hopper": ("H100-SXM5-80GB", "H200-SXM"),
    "blackwell": ("B200-SXM", "GB200"),
}
# Cards on other links whose start-up counts for the family, by generation.
CARDS: Final = {"nccl-pcie4": "ada", "nccl-pcie5": "blackwell"}
# Slices that the published text names: axes, and whether each closes.
SLICES: Final[dict[str, tuple[tuple[int, ...], tuple[bool, ...]]]] = {
    "TPU v5e": ((4,), (False,)),
    "TPU7x 2x2x1": ((2, 2, 1), (False, False, False)),
    "TPU7x 2x2x2": ((2, 2, 2), (False, False, False)),
}


def rows_of(target: Target, rows: Rows) -> Rows:
    """The rows that a target is about, both halves."""
    outside = rows.groups > 1
    wanted = np.isin(rows.hardware, target.hardware) & (rows.ranks > 1)
    return rows.where(wanted & (outside if target.inside is not None else ~outside))


def fit_published(rows: Rows) -> dict[str, LinkCoefficients]:
    """Every file's coefficients, from the half of the rows that may be fitted.

    Raises
    ------
    CalibrationError
        If a target has fewer than three rows to fit on.
    """
    fitted: dict[str, LinkCoefficients] = {}
    for target in TARGETS:
        mine = rows_of(target, rows)
        mine = mine.where(~mine.held)
        if len(mine) < 3:
            raise CalibrationError(
                target.key, f"{len(mine)} rows", "at least 3 rows to fit on",
                repair="give the whole published table",
            )  # fmt: skip
        links = situation(mine)
        if target.inside is None:
            fitted[target.key] = fit_domain(target.key, mine, links, target.shape, target.sources)
        else:
            inside = fitted.get(target.inside, fitted["rccl-infinity-fabric"])
            fitted[target.key] = fit_fabric(
                target.key, mine, links, inside, target.shape, target.sources
            )
    for key, hardware in PERSONAL.items():
        mine = rows.where((rows.hardware == hardware) & (rows.op == "all_to_all") & ~rows.held)
        inside = fitted[ABROAD[hardware][1]]
        fitted[key] = fit_direct(fitted[key], mine, situation(mine), inside)
    fitted[FAMILY] = fit_family(rows.where(~rows.held), fitted)
    return fitted


def fit_family(
    rows: Rows, cards: Mapping[str, LinkCoefficients], without: str | None = None
) -> LinkCoefficients:
    """Coefficients common to generations of NVLink; no residual, the generations' spread.

    Parameters
    ----------
    rows : Rows
        What may be fitted on.
    cards : mapping of str to LinkCoefficients
        Fitted links; those of :data:`CARDS` tell their start-up.
    without : str, optional
        A generation of which nothing may be seen, on whatever link.
    """
    kind = {
        name: generation
        for generation, hardware in GENERATIONS.items()
        for name in hardware
        if generation != without
    }
    mine = rows.where(np.isin(rows.hardware, list(kind)) & (rows.groups == 1) & (rows.ranks > 1))
    kinds = np.array([kind[str(name)] for name in mine.hardware])
    start_ups: dict[str, list[float]] = {}
    for key, generation in CARDS.items():
        if generation != without:
            start_ups.setdefault(generation, []).append(cards[key].ways["ll"].base)
    adding = min(ranks for name, ranks in IN_NETWORK_FROM.items() if name != without)
    return fit_common(FAMILY, mine, situation(mine), kinds, start_ups, _NCCL, adding)


def situation(rows: Rows) -> Reach:
    """What the group of every row can send, from its node's file."""
    inside, outside = np.empty(len(rows)), np.empty(len(rows))
    dims: tuple[int, ...] = ()
    wraps: tuple[bool, ...] = ()
    link = 0.0
    for node in np.unique(rows.node):
        for groups in np.unique(rows.groups[rows.node == node]):
            mask = (rows.node == node) & (rows.groups == groups)
            part = rows.where(mask)
            cluster = cluster_of(str(node), int(groups), int(part.ranks.max()))
            found = reach(cluster, part.ranks, np.minimum(part.local, part.ranks))
            inside[mask], outside[mask] = found.bandwidth_in, found.bandwidth_out
            dims, wraps, link = found.dims, found.wraps, found.link_bandwidth
            name = str(part.hardware[0])
            if name in SLICES:
                dims, wraps = SLICES[name]
                links, _, _ = torus_numbers(part.ranks, dims, wraps)
                inside[mask] = links * link
    return Reach(inside, outside, 1.0, dims, wraps, link)


def cluster_of(node: str, groups: int, ranks: int) -> Cluster:
    """The smallest cluster of that node that holds the groups."""
    if groups > 1:
        return load_cluster(node, nodes=groups)
    return load_cluster(node, nodes=-(-ranks // load_cluster(node).devices_per_node))
