"""The cluster of a row: chip, devices in a node, and the network that its words describe.

Among the shipped nodes with that chip the one is taken whose devices and network come closest to
what the row states; a stated rate that no node has replaces the node's own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from perfmodel.errors import PerfmodelError, SpecError
from perfmodel.hardware import (
    Cluster,
    Link,
    Node,
    load_accelerator,
    load_cluster,
    load_link,
    load_node,
)
from perfmodel.hardware.cluster import domain_tier
from perfmodel.hardware.load import locate, spec_names
from perfmodel.hardware.node import Domain
from perfmodel.study.training_csv import Row

GIGABIT: Final = 1e9 / 8

# spellings of tables -> accelerator; the first that matches, over "<chip> <memory in GB>"
_CHIPS: Final = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r".*gb300(?!\d)", "gb300"),
        (r".*gb200(?!\d)", "gb200"),
        (r".*b300(?!\d)", "b300-sxm-270gb"),
        (r".*b200(?!\d)", "b200-sxm-180gb"),
        (r".*gh200(?!\d)", "gh200-96gb"),
        (r".*h100.*(hbm2e|96 ?gb|\b96$)", "h100-sxm5-96gb-hbm2e"),
        (r".*h100.*pcie", "h100-pcie-80gb"),
        (r".*h100.*nvl", "h100-nvl-94gb"),
        (r".*h100(?!\d)", "h100-sxm5-80gb"),
        (r".*h800(?!\d)", "h800-sxm5-80gb"),
        (r".*h200(?!\d)", "h200-sxm-141gb"),
        (r".*h20\b", "h20-sxm5-96gb"),
        (r".*a100.*pcie.*40", "a100-pcie-40gb"),
        (r".*a100.*pcie", "a100-pcie-80gb"),
        (r".*a100.*40", "a100-sxm4-40gb"),
        (r".*a100(?!\d)", "a100-sxm4-80gb"),
        (r".*v100.*sxm3", "v100-sxm3-32gb"),
        (r".*v100.*pcie", "v100-pcie-32gb"),
        (r".*v100.*32", "v100-sxm2-32gb"),
        (r".*v100(?!\d)", "v100-sxm2-16gb"),
        (r".*mi250x", "mi250x"),
        (r".*mi250", "mi250"),
        (r".*mi(100|210|300x|325x|355x)(?!\d)", r"mi\1"),
        (r".*(ironwood|tpu-?v?7x?)", "tpu-v7x"),
        (r".*(trillium|tpu-?v6e?)", "tpu-v6e"),
        (r".*tpu-?v5-?(e|lite)", "tpu-v5e"),
        (r".*tpu-?v5p", "tpu-v5p"),
        (r".*tpu-?v([234])", r"tpu-v\1"),
        (r".*gaudi-?([23])", r"gaudi\1"),
        (r".*(?:rtx-?)4090", "rtx-4090-24gb"),
        (r".*l40s", "l40s-48gb"),
        (r".*\bl4\b", "l4-24gb"),
        (r".*\bt4\b", "t4-16gb"),
        (r".*a30\b", "a30-24gb"),
        (r".*a10g", "a10g-24gb"),
    )
)
# the usual node of a chip, where several hold it
_USUAL: Final = (
    "dgx-a100",
    "dgx-a100-40gb",
    "dgx-h100",
    "dgx-h200",
    "dgx-b200",
    "dgx-b300",
    "dgx-1-v100",
    "dgx-1-v100-32gb",
    "dgx-2",
    "frontier-node",
    "mi300x-platform",
    "tpu-v5e-pod",
)
# software that brings its machine: words of the interconnect column -> node
_PLACES: Final = (("omni-path", "jean-zay-a100"), ("jean zay", "jean-zay-a100"))
_TOTAL: Final = re.compile(r"(\d+)\s*x\s*(?:[a-z\-]+\s+)*(\d+)\s*(?:gb/s|gbps|gbit/s|g\b)", re.I)
_NODE: Final = re.compile(r"(\d+)\s*(?:gb/s|gbps|gbit/s)(?:\s+[\w\-]+)*\s+per node", re.I)
_EACH: Final = re.compile(
    r"(\d+)\s*(?:gb/s|gbps|gbit/s)(?:\s+\(?[\w\-]+\)?)*\s+per (?:gpu|device|chip)", re.I
)
_WORDS: Final = (("xdr", 800), ("ndr", 400), ("hdr", 200), ("edr", 100))


@dataclass(frozen=True, slots=True)
class Machine:
    """What a row ran on.

    Parameters
    ----------
    cluster : Cluster
        As software addresses it.
    assumed : tuple of str
        Columns that were filled in.
    """

    cluster: Cluster
    assumed: tuple[str, ...]


def machine_of(row: Row) -> Machine:
    """The cluster that a row describes.

    Raises
    ------
    SpecError
        If the chip is unknown, the number of chips missing, or they cannot be placed.
    """
    chips = row.count("chips_total")
    if chips is None:
        raise SpecError(
            f"{row.where}: chips_total",
            "<blank>",
            "how many chips took part",
            repair="fill in chips_total",
        )
    name = accelerator_name(row)
    # A table may count modules of two devices as chips.
    each = 2 if "module" in row.lower("chip") and name.startswith("mi250") else 1
    stated = row.count("chips_per_node")
    cluster, assumed = _placed(
        name, chips * each, stated and stated * each, row.lower("interconnect")
    )
    if stated is None and chips > 1:
        assumed = (*assumed, "chips_per_node")
    return Machine(cluster, assumed)


def accelerator_name(row: Row) -> str:
    """The name of the chip's specification.

    Raises
    ------
    SpecError
        If no specification has a name like it.
    """
    chip = re.sub(r"[\s_]+", "-", row.lower("chip"))
    if not chip:
        raise SpecError(
            f"{row.where}: chip", "<blank>", "the name of an accelerator", repair="fill in chip"
        )
    if chip in spec_names("accelerators"):
        return chip
    memory = row.number("chip_mem_gb")
    text = chip if memory is None else f"{chip} {memory:.0f}"
    for pattern, name in _CHIPS:
        if match := pattern.match(text):
            return match.expand(name)
    try:
        folder, path = locate(chip)
    except SpecError as error:
        raise SpecError(
            f"{row.where}: chip",
            row.text("chip"),
            "an accelerator of `perfmodel specs`, or the path of its TOML file",
            nearest=error.nearest,
            repair="correct the name, or write a specification",
        ) from None
    if folder != "accelerators":
        raise SpecError(
            f"{row.where}: chip", row.text("chip"), "an accelerator", repair="name the chip"
        )
    return path.stem


@lru_cache(maxsize=512)
def _placed(
    name: str, devices: int, per_node: int | None, words: str
) -> tuple[Cluster, tuple[str, ...]]:
    """So many devices of a chip in nodes of the stated size, on the network the words name."""
    wanted = min(per_node or 0, devices)
    options = _nodes_with(name)
    if not options:
        return _lone(name, devices), ("interconnect",) if devices > 1 else ()
    node = _closest(options, wanted, devices, words)
    most = min(node.devices, devices)
    used = most if not wanted else min(wanted, most)
    while devices % used:
        used -= 1
    stem = options[node.name]
    cluster = _linked(load_cluster(stem, nodes=devices // used, gpus_per_node=used))
    assumed: tuple[str, ...] = ()
    if wanted and used != wanted:
        assumed = ("chips_per_node",)
    total = _stated_rate(words, node.devices)
    outer = cluster.tiers[-1]
    if total is None or not outer.nics_per_node:
        return cluster, assumed if not outer.nics_per_node else (*assumed, "interconnect")
    own = outer.bandwidth * used
    share = total * GIGABIT * used / node.devices
    if 0.8 < own / share < 1.25:
        return cluster, assumed
    tiers = tuple(
        replace(
            tier,
            bandwidth=tier.bandwidth * share / own,
            links_per_device=tier.links_per_device * share / own,
        )
        if tier.nics_per_node
        else tier
        for tier in cluster.tiers
    )
    return replace(cluster, tiers=tiers), assumed


def _linked(cluster: Cluster) -> Cluster:
    """The cluster, with a rate for links that a lone device has nobody to reach by."""
    tiers = tuple(
        replace(tier, bandwidth=tier.link_bandwidth, links_per_device=1.0)
        if tier.bandwidth == 0
        else tier
        for tier in cluster.tiers
    )
    return replace(cluster, tiers=tiers)


@lru_cache(maxsize=64)
def _nodes_with(accelerator: str) -> dict[str, str]:
    """Node's own name -> name of its file, for the nodes that hold a chip."""
    names = sorted(spec_names("nodes"), key=lambda stem: (stem not in _USUAL, stem))
    nodes = {stem: _node(stem) for stem in names}
    return {node.name: stem for stem, node in nodes.items() if node.accelerator == accelerator}


@lru_cache(maxsize=256)
def _node(stem: str) -> Node:
    return load_node(stem)


@lru_cache(maxsize=64)
def _link(name: str) -> Link:
    return load_link(name)


def _closest(options: dict[str, str], wanted: int, devices: int, words: str) -> Node:
    for word, stem in _PLACES:
        if word in words and stem in options.values():
            return _node(stem)

    def distance(stem: str) -> tuple[float, ...]:
        node = _node(stem)
        size = abs(node.devices - wanted) if wanted and wanted != devices else 0
        lonely = node.scale_out is None and devices > node.devices
        total = _stated_rate(words, node.devices)
        rate = 0.0
        if total is not None and node.scale_out is not None:
            link = _link(node.scale_out.link)
            own = link.bandwidth_per_direction * node.scale_out.nics_per_node / GIGABIT
            rate = abs(own / total - 1)
        roce = (
            0.0
            if node.scale_out is None
            else float(("roce" in words) != ("roce" in node.scale_out.link))
        )
        return (float(lonely), float(size), round(rate, 2), roce if "roce" in words else 0.0)

    return _node(min(options.values(), key=distance))


def _stated_rate(words: str, devices: int) -> float | None:
    """Gbit/s of a node's network, one way, as the interconnect column states it."""
    if match := _EACH.search(words):
        return float(match[1]) * devices
    if match := _TOTAL.search(words):
        return float(match[1]) * float(match[2])
    if match := _NODE.search(words):
        return float(match[1])
    for word, rate in _WORDS:
        if re.search(rf"\b{word}\b", words):
            return float(rate * devices)
    return None


def _lone(name: str, devices: int) -> Cluster:
    """Devices of a chip that no node file holds, behind one PCIe root."""
    if devices > 16:
        raise SpecError(
            f"chip {name}",
            f"<{devices} of them>",
            "a chip that a node of `perfmodel specs` holds, or at most 16 of another",
            repair="write a node file for it",
        )
    domain = Domain(link="pcie4", topology="pcie-tree", links_per_device=1, span=max(devices, 2))
    node = Node(
        name=f"{name} behind PCIe",
        vendor="unknown",
        accelerator=name,
        devices=devices,
        domains=(domain,),
    )
    link = load_link("pcie4")
    return Cluster(
        name=node.name,
        accelerator=load_accelerator(name),
        node=node,
        nodes=1,
        devices_per_node=devices,
        tiers=(domain_tier(domain, "pcie4", link, 1, devices),),
        host_link=link,
    )


def unplaced(row: Row, error: PerfmodelError) -> SpecError:
    """A complaint of the cluster loader, with the row it belongs to."""
    return SpecError(
        f"{row.where}: chips_total",
        row.text("chip"),
        f"{error.where}: {error.accepted}",
        nearest=error.nearest,
        repair=error.repair,
    )
