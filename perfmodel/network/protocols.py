"""Coefficients of a link under a communication library, by protocol.

A library moves bytes in one of three ways: ``ll`` (eight-byte stores that carry their own flag:
least latency, half the rate), ``ll128`` (128-byte lines with one flag: little latency, most of the
rate) and ``simple`` (large chunks and a fence: full rate, most latency). Each has a start-up time,
a time per step and a share of the wire; the library takes the cheapest.

Without a fit the numbers are those of NCCL's own tuner, which are made to choose with, not to
predict: expect them to be off by 15 to 30 %.

References
----------
.. [1] NVIDIA/nccl, src/graph/tuning.cc: baseLat, hwLat, llMaxBws, perChMaxRingLL128Bws (v2.30).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PROTOCOLS: Final = ("ll", "ll128", "simple")
CITATION: Final = "nccl-tuning"


@dataclass(frozen=True, slots=True)
class Protocol:
    """One protocol on one kind of link.

    Parameters
    ----------
    name : str
        ``"ll"``, ``"ll128"`` or ``"simple"``.
    base : float
        Start-up of the collective's kernel [s].
    step : float
        Software and synchronisation time of one step, on top of the link's own latency [s].
    share : float
        Share of the wire rate that payload can reach.
    cap : float
        Rate that the protocol cannot exceed whatever the wire [B/s].
    """

    name: str
    base: float
    step: float
    share: float
    cap: float = float("inf")

    def rate(self, bandwidth: float) -> float:
        """Payload rate on a link of ``bandwidth`` [B/s]."""
        return min(self.share * bandwidth, self.cap)


def default_protocols(kind: str) -> tuple[Protocol, ...]:
    """The tuner's constants for a kind of link: ``"nvlink"``, ``"pcie"``, ``"net"`` or ``"ici"``."""
    return _DEFAULTS[kind]


def link_kind(name: str, topology: str) -> str:
    """The kind of link that a tier's name and topology speak of."""
    text = name.lower()
    if topology.startswith("torus") or "ici" in text.split("-") or text.startswith("ici"):
        return "ici"
    if "pcie" in text:
        return "pcie"
    if any(word in text for word in ("nvlink", "nvswitch", "nvl", "xgmi", "fabric", "package")):
        return "net" if "ethernet" in text else "nvlink"
    return "net"


_DEFAULTS: Final[dict[str, tuple[Protocol, ...]]] = {
    "nvlink": (
        Protocol("ll", 6.6e-6, 0.6e-6, 0.5, 141e9),
        Protocol("ll128", 14e-6, 1.9e-6, 0.92),
        Protocol("simple", 8.4e-6, 3.4e-6, 1.0),
    ),
    "pcie": (
        Protocol("ll", 6.6e-6, 1.0e-6, 0.5),
        Protocol("ll128", 14e-6, 2.5e-6, 0.92),
        Protocol("simple", 8.4e-6, 5.7e-6, 1.0),
    ),
    "net": (
        Protocol("ll", 6.6e-6, 2.7e-6, 0.5, 35e9),
        Protocol("ll128", 14e-6, 4.0e-6, 0.92),
        Protocol("simple", 8.4e-6, 14e-6, 1.0),
    ),
    "ici": (Protocol("simple", 1e-6, 0.0, 1.0),),
}
