"""A node: the devices that one host drives, and what connects them to each other and outside.

Domains run from the innermost outwards: the two GCDs of an MI250X, then the eight of a node; the
eight GPUs of a DGX; the 72 of an NVL72 rack, which is wider than its node of four. A torus domain
has no fixed span: a job takes a slice of it, and the slice's shape follows from its size.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from perfmodel.hardware.accelerator import Count, Table, Text, Year
from perfmodel.hardware.fields import Capacity, Power, Price

DomainTopology = Literal["switch", "mesh", "ring", "torus", "pcie-tree", "bus"]
FabricTopology = Literal["fat-tree", "rail", "dragonfly", "torus", "switch"]
Edge = Annotated[tuple[int, int, int], Field(description="device, device, number of links")]


class Domain(Table):
    """Devices that reach each other without leaving for the network.

    Parameters
    ----------
    link : str
        Name of the link.
    links_per_device : int
        Links of one device into this domain; with ``edges`` it follows from them.
    topology : str
        ``"switch"`` any pair at full rate; ``"mesh"`` direct links (all pairs unless ``edges``
        lists them); ``"ring"``; ``"torus"``; ``"pcie-tree"`` through the host's root.
    span : int, optional
        Devices in the domain, inner domains included; a torus has ``max_dims`` instead.
    edges : tuple of (device, device, links), optional
        An irregular mesh, link by link.
    max_dims : tuple of int, optional
        The largest torus that is sold.
    wrap_multiple : int, optional
        An axis closes into a ring when its length is a multiple of this.
    """

    link: Text
    topology: DomainTopology
    links_per_device: Count | None = None
    span: Count | None = None
    edges: tuple[Edge, ...] = ()
    max_dims: tuple[Count, ...] = ()
    wrap_multiple: Count | None = None
    efficiency_key: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.topology == "torus":
            if not self.max_dims or self.wrap_multiple is None:
                raise ValueError("a torus needs max_dims and wrap_multiple")
        elif self.span is None:
            raise ValueError("needs span, the number of devices in the domain")
        if not self.edges and self.links_per_device is None:
            raise ValueError("needs links_per_device, or edges that list every link")
        for first, second, count in self.edges:
            last = self.span if self.span is not None else 0
            if not (0 <= first < last and 0 <= second < last and first != second and count > 0):
                raise ValueError(f"edge {[first, second, count]} does not join two devices of it")
        return self


class ScaleOut(Table):
    """How nodes reach each other.

    Parameters
    ----------
    link : str
        Name of the NIC's link.
    nics_per_node : int
        NICs that carry device traffic.
    affinity : tuple of tuple of int, optional
        Devices behind each NIC; absent means shared evenly, in order.
    topology : str
        The fabric's shape.
    oversubscription : float
        Above the group, how many times less bandwidth than below (1 = non-blocking).
    group_nodes : int, optional
        Nodes of one rail group, pod or dragonfly group: inside it there is no oversubscription.
    rail_optimized : bool
        NIC i of every node hangs on switch i.
    """

    link: Text
    nics_per_node: Count
    topology: FabricTopology
    affinity: tuple[tuple[int, ...], ...] = ()
    oversubscription: Annotated[float, Field(ge=1.0)] = 1.0
    group_nodes: Count | None = None
    rail_optimized: bool = False
    efficiency_key: str | None = None


class Host(Table):
    """The host: how a device is attached to it, and what it holds."""

    link: str | None = None
    devices_per_link: Count = 1
    cpu: str | None = None
    sockets: Count | None = None
    cores: Count | None = None
    memory_capacity: Capacity | None = None


class Node(Table):
    """One node, as its file describes it; names refer to accelerator and link files."""

    name: Text
    vendor: Text
    accelerator: Text
    devices: Count
    year: Year | None = None
    note: str | None = None
    node_power: Power | None = None
    price: Price | None = None
    host: Host = Host()
    domains: Annotated[tuple[Domain, ...], Field(min_length=1)]
    scale_out: ScaleOut | None = None
    sources: dict[str, str] = Field(default_factory=dict)

    @property
    def price_per_hour(self) -> float | None:
        """What one node costs to rent [USD/h]."""
        return None if self.price is None else self.price * 3600.0

    @model_validator(mode="after")
    def _outwards(self) -> Self:
        spans = [domain.span for domain in self.domains if domain.span is not None]
        if any(outer <= inner for inner, outer in pairwise(spans)):
            raise ValueError(f"domains must run outwards, each wider than the last; spans {spans}")
        if self.scale_out is not None:
            for nic in self.scale_out.affinity:
                if any(not 0 <= device < self.devices for device in nic):
                    raise ValueError(f"scale_out.affinity {list(nic)} names a device it lacks")
            if self.scale_out.affinity and len(self.scale_out.affinity) != (
                self.scale_out.nics_per_node
            ):
                raise ValueError("scale_out.affinity needs one list for each of nics_per_node")
        return self
