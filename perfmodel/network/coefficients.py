"""What a communication library makes of a link: latencies and usable shares, fitted or assumed.

A library moves bytes by one of three protocols: ``ll`` (eight-byte stores that carry their own
flag: least latency, half the rate or less), ``ll128`` (128-byte lines with one flag: little
latency, most of the rate) and ``simple`` (large chunks and a fence: full rate, most latency);
blocks to chosen peers (all-to-all, send and receive) go by ``direct``; a switch that adds works
``in_network``. Each has a start-up, a time per step, a share of the wire, and a size below which it
does not reach that share.

Fitted values are files of ``hardware_specs/efficiency/network``, one per library and link. Without
a file the numbers are those of NCCL's own tuner, which are made to choose with, not to predict:
expect them to be 15 to 30 % off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import NetworkError
from perfmodel.files import fitted_table
from perfmodel.hardware.load import spec_folders
from perfmodel.network.correction import Correction

if TYPE_CHECKING:
    from perfmodel.hardware.cluster import Cluster, Tier

Floats = NDArray[np.float64]
PROTOCOLS: Final = ("ll", "ll128", "simple")
WAYS: Final = (*PROTOCOLS, "direct_ll", "direct", "in_network")
LIBRARIES: Final = {"nvidia": "nccl", "amd": "rccl", "google": "xla", "intel": "oneccl"}
DEFAULT_SOURCE: Final = "nccl-source-2026"


@dataclass(frozen=True, slots=True)
class Way:
    """One way of moving bytes over one kind of link.

    Parameters
    ----------
    base : float
        Start-up of the collective; of a fabric, what it adds to that inside [s].
    step : float
        One step, the link's own latency included [s].
    share : float
        Share of the wire rate that large payloads reach.
    saturation : float
        Moving ``n`` bytes takes ``1 + sqrt(saturation / n)`` times as long as at that share [B].
    cap : float
        Rate that cannot be exceeded whatever the wire [B/s].
    copy : float
        Rate at which a rank handles the part that never leaves it, as a share of the wire.
    peer : float
        Share of the wire that one peer alone can be sent.
    peer_rate : float
        The same as a rate [B/s]: what the channels of one peer copy, whatever the wire.
    """

    base: float
    step: float
    share: float
    saturation: float = 0.0
    cap: float = float("inf")
    copy: float = float("inf")
    peer: float = float("inf")
    peer_rate: float = float("inf")

    def moving(self, wire: Floats, size: Floats, bandwidth: Floats, peers: Floats) -> Floats:
        """Time on the wire of ``wire`` bytes of a collective on ``size`` bytes [s]."""
        share: Floats | float = self.share
        if np.isfinite(self.peer):
            share = np.minimum(share, self.peer * np.maximum(peers, 1.0))
        rate = np.minimum(share * bandwidth, self.cap)
        if np.isfinite(self.peer_rate):
            rate = np.minimum(rate, self.peer_rate * np.maximum(peers, 1.0))
        if self.saturation == 0.0:
            return np.asarray(wire / rate, dtype=np.float64)
        slow = 1.0 + np.sqrt(self.saturation / np.maximum(size, 1.0))
        return np.asarray(wire / rate * slow, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class LinkCoefficients:
    """Everything known of a library on a link.

    Parameters
    ----------
    key : str
        ``"nccl-nvlink4"``.
    ways : mapping of str to Way
        By name, some of :data:`WAYS`.
    in_network_from : int or None
        Fewest ranks for which the library lets the switch add; ``None``: never by itself.
    ranks_share : tuple of (ranks, share)
        How the wire depends on the group, for links that are a tree (PCIe); linear in log(ranks).
    correction : Correction or None
        Smooth residual by operation, ranks and size, with its spread.
    spread : float
        Standard deviation of log(measured / predicted) without the correction.
    fitted : bool
        Whether measurements of this link stand behind the numbers.
    sources : tuple of str
        Citation keys.
    doubt : mapping of str to float
        Relative standard error of fitted coefficients, ``"ll_base"`` ...; where the rows say
        nothing it is that of the family.
    """

    key: str
    ways: Mapping[str, Way]
    in_network_from: int | None = None
    ranks_share: tuple[tuple[int, float], ...] = ()
    correction: Correction | None = None
    spread: float = 0.2
    fitted: bool = False
    sources: tuple[str, ...] = field(default=(DEFAULT_SOURCE,))
    doubt: Mapping[str, float] = field(default_factory=dict)

    def group_share(self, ranks: Floats) -> Floats | float:
        """Share of the wire that a group of so many ranks sees."""
        if not self.ranks_share:
            return 1.0
        points = [np.log2(ranks) for ranks, _ in self.ranks_share]
        shares = [share for _, share in self.ranks_share]
        return np.interp(np.log2(np.maximum(ranks, 1.0)), points, shares)


def link_kind(tier: Tier) -> str:
    """``"nvlink"`` (direct links between devices), ``"pcie"``, ``"net"`` or ``"ici"``."""
    if tier.topology == "torus":
        return "ici"
    family = str(getattr(tier.link, "family", "")).lower()
    if family == "pcie" or tier.topology == "pcie-tree":
        return "pcie"
    return "nvlink" if getattr(tier.link, "kind", "") == "scale-up" else "net"


def tier_coefficients(cluster: Cluster, tier: Tier) -> LinkCoefficients:
    """The fitted coefficients of a tier, or its kind's defaults.

    A tier's own ``efficiency_key`` comes first, then library-link-accelerator, then library-link,
    then the family of links.
    """
    library = LIBRARIES.get(cluster.accelerator.vendor.lower(), "nccl")
    kind = link_kind(tier)
    names = [
        *([tier.efficiency_key] if tier.efficiency_key else []),
        f"{library}-{tier.name}-{_slug(cluster.accelerator.name)}",
        f"{library}-{tier.name}",
        f"{library}-{kind}",
    ]
    for name in names:
        found = fitted(name)
        if found is not None:
            common = name == f"{library}-nvlink" and not has_multicast(tier.name)
            return replace(found, in_network_from=None) if common else found
    return defaults(kind, tier)


def has_multicast(link: str) -> bool:
    """Whether switches of this link can add: NVLink has from its fourth generation on."""
    generation = link.removeprefix("nvlink").partition("-")[0]
    return link.startswith("nvlink") and generation.isdigit() and int(generation) >= 4


def fitted(key: str) -> LinkCoefficients | None:
    """Read ``efficiency/network/<key>.toml`` from the first folder that has it."""
    for folder in spec_folders():
        path = folder / "efficiency" / "network" / f"{key}.toml"
        if path.is_file():
            return _read(path, path.stat().st_mtime_ns)
    return None


@lru_cache(maxsize=64)
def _read(path: Path, _changed: int) -> LinkCoefficients:
    return from_dict(fitted_table(path), str(path))


def from_dict(data: Mapping[str, Any], where: str = "coefficients") -> LinkCoefficients:
    """Coefficients from the tables of a fitted file."""
    try:
        ways = {
            name: Way(
                table["base_s"],
                table["step_s"],
                table["share"],
                table.get("saturation_bytes", 0.0),
                table.get("cap_bytes_per_s", float("inf")),
                table.get("copy_share", float("inf")),
                table.get("peer_share", float("inf")),
                table.get("peer_bytes_per_s", float("inf")),
            )
            for name, table in data["ways"].items()
        }
        correction = data.get("correction")
        return LinkCoefficients(
            key=data["key"],
            ways=ways,
            in_network_from=data.get("in_network_from"),
            ranks_share=tuple((int(r), float(s)) for r, s in data.get("ranks_share", [])),
            correction=Correction.from_dict(correction) if correction else None,
            spread=data["spread"],
            fitted=data.get("fitted", True),
            sources=tuple(data["sources"]),
            doubt=dict(data.get("doubt", {})),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NetworkError(
            where,
            f"<{type(error).__name__}: {error}>",
            "the tables that `perfmodel calibrate` writes",
            repair="calibrate again, or delete the file to fall back on defaults",
        ) from error


def to_dict(link: LinkCoefficients) -> dict[str, Any]:
    """The inverse of :func:`from_dict`."""
    tables: dict[str, Any] = {"key": link.key, "spread": link.spread, "fitted": link.fitted}
    if link.in_network_from is not None:
        tables["in_network_from"] = link.in_network_from
    if link.ranks_share:
        tables["ranks_share"] = [list(pair) for pair in link.ranks_share]
    tables["sources"] = list(link.sources)
    tables["ways"] = {
        name: {"base_s": way.base, "step_s": way.step, "share": way.share}
        | ({"saturation_bytes": way.saturation} if way.saturation else {})
        | ({"cap_bytes_per_s": way.cap} if np.isfinite(way.cap) else {})
        | ({"copy_share": way.copy} if np.isfinite(way.copy) else {})
        | ({"peer_share": way.peer} if np.isfinite(way.peer) else {})
        | ({"peer_bytes_per_s": way.peer_rate} if np.isfinite(way.peer_rate) else {})
        for name, way in link.ways.items()
    }
    if link.doubt:
        tables["doubt"] = dict(link.doubt)
    if link.correction is not None:
        tables["correction"] = link.correction.to_dict()
    return tables


def defaults(kind: str, tier: Tier | None = None) -> LinkCoefficients:
    """The tuner's constants for a kind of link, with the link's own latency and usable rate.

    Reference: NVIDIA/nccl src/graph/tuning.cc (baseLat, hwLat, llMaxBws; v2.30), src/graph/topo.h.
    """
    usable, latency = 1.0, 0.0
    if tier is not None:
        latency = tier.latency or 0.0
        achievable = getattr(tier.link, "achievable_per_direction", None)
        if achievable is not None:
            usable = achievable / tier.link.bandwidth_per_direction
    ll, ll128, simple, cap = _STEPS[kind]
    slower = max(0.0, latency - ll)  # the table already holds an ordinary link's latency
    ll, ll128, simple = ll + slower, ll128 + slower, simple + slower
    if kind == "ici":
        ways = {"simple": Way(0.0, simple, usable)}
        ways["direct"] = ways["simple"]
    else:
        once = 0.0 if kind == "net" else 1.0  # the tuner counts start-up once, inside
        ways = {
            "ll": Way(6.6e-6 * once, ll, 0.5 * usable, cap=cap),
            "ll128": Way(14e-6 * once, ll128, 0.92 * usable),
            "simple": Way(8.4e-6 * once, simple, usable),
            "direct": Way(8.4e-6 * once, ll, usable),
            "in_network": Way(8.4e-6, 25e-6, 0.85),
        }
    return LinkCoefficients(f"default-{kind}", ways)


def _slug(name: str) -> str:
    return name.lower().replace(" ", "-")


# Step times of LL, LL128 and Simple [s], and the ceiling of LL [B/s].
_STEPS: Final[dict[str, tuple[float, float, float, float]]] = {
    "nvlink": (0.6e-6, 1.9e-6, 3.4e-6, 141e9),
    "pcie": (1.0e-6, 2.5e-6, 5.7e-6, float("inf")),
    "net": (2.7e-6, 4.0e-6, 14e-6, 35e9),
    "ici": (1e-6, 1e-6, 1e-6, float("inf")),
}
