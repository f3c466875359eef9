"""A link: how fast and how soon bytes get from one device to another.

Rates are per direction; a datasheet that prints both directions summed (NVLink, PCIe, ICI) is
halved in the file. One link is one port: an H100 has 18 NVLink 4 links, a node may have 8 NICs.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from perfmodel.hardware.accelerator import Count, Table, Text, Year
from perfmodel.hardware.fields import Duration, Rate

LinkKind = Literal["scale-up", "scale-out", "host"]


class Link(Table):
    """One kind of link.

    Parameters
    ----------
    name, vendor, family : str
        ``"NVLink 4"``; ``"nvlink"``, ``"pcie"``, ``"infiniband"``, ``"ethernet"``, ``"ici"`` ...
    kind : str
        ``"scale-up"`` (between devices), ``"scale-out"`` (between nodes) or ``"host"``.
    bandwidth_per_direction : float
        Data rate of one link, one way [B/s].
    achievable_per_direction : float, optional
        What is left after packet headers, by the source's word [B/s].
    latency : float, optional
        One small message, one way, one hop [s].
    lanes : int, optional
        Lanes of one link.
    """

    name: Text
    vendor: Text
    family: str
    kind: LinkKind
    year: Year | None = None
    note: str | None = None
    lanes: Count | None = None
    bandwidth_per_direction: Rate
    achievable_per_direction: Rate | None = None
    latency: Duration | None = None
    sources: dict[str, str] = Field(default_factory=dict)
