"""Hardware as a caller names it: a value that is loaded already, a name, or a path."""

from __future__ import annotations

from pathlib import Path

from perfmodel.errors import SpecError
from perfmodel.hardware.accelerator import Accelerator
from perfmodel.hardware.cluster import Cluster
from perfmodel.hardware.load import load, load_cluster

Hardware = Accelerator | Cluster | str | Path


def loaded(given: Hardware, where: str = "hardware") -> Accelerator | Cluster:
    """One device, or a cluster of them.

    Raises
    ------
    SpecError
        If it is neither of these nor the name or path of one.
    """
    found = load(given) if isinstance(given, str | Path) else given
    if not isinstance(found, Accelerator | Cluster):
        raise SpecError(
            where,
            f"<{type(found).__name__} {getattr(found, 'name', found)!r}>",
            "an accelerator, a node or a cluster: its name, its file, or what pm.load returns",
            repair='give for example "h100-sxm5-80gb" or pm.load("dgx-h100", nodes=8)',
        )
    return found


def accelerator_of(given: Hardware, where: str = "accelerator") -> Accelerator:
    """The device itself, or the one that a cluster is made of."""
    found = loaded(given, where)
    return found.accelerator if isinstance(found, Cluster) else found


def cluster_of(given: Hardware, where: str = "cluster") -> Cluster:
    """A cluster, or a node by its name: a bare accelerator has no links to others."""
    if isinstance(given, str | Path):
        return load_cluster(given)
    found = loaded(given, where)
    if isinstance(found, Accelerator):
        raise SpecError(
            where,
            f"<the accelerator {found.name}>",
            "a node or a cluster",
            repair='load a node, for example pm.load("dgx-h100", nodes=8)',
        )
    return found
