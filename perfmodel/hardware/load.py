"""Find specs by name or path and put them together.

Names are file names without ``.toml``, in any case: ``"h100-sxm5-80gb"``, ``"dgx-h100"``. They are
looked for in the folders of the environment variable ``PERFMODEL_SPECS`` (searched first), then in
the specs shipped with the package. Anything that ends in ``.toml`` or holds a path separator is a
path.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

from perfmodel.errors import SpecError, nearest_name
from perfmodel.hardware.accelerator import Accelerator
from perfmodel.hardware.cluster import (
    Cluster,
    ClusterFile,
    Tier,
    domain_tier,
    fabric_tiers,
    torus_slices,
)
from perfmodel.hardware.link import Link
from perfmodel.hardware.node import Domain, Node
from perfmodel.hardware.read import merged, read_toml, validated
from perfmodel.units import whole

Folder = Literal["accelerators", "links", "nodes", "clusters"]
FOLDERS: Final[tuple[Folder, ...]] = ("accelerators", "nodes", "clusters", "links")
ENVIRONMENT: Final = "PERFMODEL_SPECS"
_MAX_EXTENDS: Final = 8
_MOST_NODES: Final = 10**6
_SHOWN: Final = 6
_WHAT: Final[dict[Folder, str]] = {
    "accelerators": "accelerator",
    "links": "link",
    "nodes": "node",
    "clusters": "cluster",
}


def spec_folders() -> tuple[Path, ...]:
    """Folders that are searched, in order; the shipped one last."""
    extra = [Path(part) for part in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if part]
    for folder in extra:
        if not folder.is_dir():
            raise SpecError(
                f"environment variable {ENVIRONMENT}", str(folder),
                f"folders that exist, separated by {os.pathsep!r}",
                repair="correct it or unset it",
            )  # fmt: skip
    return (*extra, _shipped())


@lru_cache(maxsize=1)
def _shipped() -> Path:
    package = Path(__file__).resolve().parents[1]
    shipped = package / "_specs"
    return shipped if shipped.is_dir() else package.parent / "hardware_specs"


def spec_names(folder: Folder) -> dict[str, Path]:
    """Every known name of one kind -> its file."""
    names: dict[str, Path] = {}
    for root in reversed(spec_folders()):
        if (place := root / folder).is_dir():
            names |= _listed(place, place.stat().st_mtime_ns)
    return names


@lru_cache(maxsize=64)
def _listed(folder: Path, _changed: int) -> dict[str, Path]:
    """Files of a folder; its time of change tells when to look again."""
    return {path.stem.lower(): path for path in sorted(folder.glob("*.toml"))}


def load(name_or_path: str | Path, nodes: int | None = None) -> Accelerator | Cluster | Link:
    """Load any piece of hardware.

    Parameters
    ----------
    name_or_path : str or Path
        An accelerator, node, cluster or link: its name, or the path of a TOML file.
    nodes : int, optional
        How many nodes; one for a node, all of them for a cluster, by default.

    Returns
    -------
    Accelerator, Cluster or Link
        A node comes back as a cluster of ``nodes`` of it.

    Raises
    ------
    SpecError
        If nothing has that name, or the file does not describe hardware.

    Examples
    --------
    >>> load("dgx-h100", nodes=8).devices
    64
    """
    folder, path = locate(name_or_path)
    if folder in ("nodes", "clusters"):
        return load_cluster(path, nodes=nodes)
    if nodes is not None:
        raise SpecError(
            "nodes",
            nodes,
            f"no number of nodes: {name_or_path} is one {_WHAT[folder]}",
            repair="load a node such as dgx-h100, or leave nodes out",
        )
    return load_accelerator(path) if folder == "accelerators" else load_link(path)


def load_accelerator(name_or_path: str | Path) -> Accelerator:
    """An accelerator by name or path; a node or cluster gives the accelerator it is made of."""
    folder, path = locate(name_or_path)
    if folder in ("nodes", "clusters"):
        return load_cluster(path).accelerator
    if folder != "accelerators":
        raise _wrong_kind(name_or_path, folder, "accelerators")
    return validated(Accelerator, _values(path), str(path))


def load_link(name_or_path: str | Path) -> Link:
    """A link by name or path."""
    folder, path = locate(name_or_path, "links")
    if folder != "links":
        raise _wrong_kind(name_or_path, folder, "links")
    return validated(Link, _values(path), str(path))


def load_node(name_or_path: str | Path) -> Node:
    """A node's file, by name or path."""
    folder, path = locate(name_or_path, "nodes")
    if folder != "nodes":
        raise _wrong_kind(name_or_path, folder, "nodes")
    return validated(Node, _values(path), str(path))


def load_cluster_file(name_or_path: str | Path) -> ClusterFile:
    """A cluster's file, by name or path."""
    folder, path = locate(name_or_path, "clusters")
    if folder != "clusters":
        raise _wrong_kind(name_or_path, folder, "clusters")
    return validated(ClusterFile, _values(path), str(path))


def load_cluster(
    name_or_path: str | Path, nodes: int | None = None, gpus_per_node: int | None = None
) -> Cluster:
    """A node or a cluster, as a cluster of ``nodes`` nodes.

    Parameters
    ----------
    name_or_path : str or Path
        Name or TOML file of a node or a cluster.
    nodes : int, optional
        Nodes in use; one for a node, all for a cluster, by default.
    gpus_per_node : int, optional
        Devices in use in each node; all by default. The rest stay idle, with the NICs that only
        they sit behind.

    Raises
    ------
    SpecError
        If the name is unknown, the numbers are not positive integers, or exceed what there is.
    """
    folder, path = locate(name_or_path)
    if folder not in ("nodes", "clusters"):
        raise _wrong_kind(name_or_path, folder, "nodes")
    values = _values(path)
    file = validated(ClusterFile, values, str(path)) if folder == "clusters" else None
    node_path = path if file is None else _referred(path, file.node, "nodes")
    node = validated(Node, values if file is None else _values(node_path), str(node_path))
    count = _count("nodes", nodes, default=1 if file is None else file.nodes)
    if file is not None and count > file.nodes:
        raise SpecError(
            "nodes", count, f"at most the {file.nodes} nodes of {file.name}",
            repair=f"ask for fewer, or load the node {file.node} on its own",
        )  # fmt: skip
    used = _count("gpus_per_node", gpus_per_node, default=node.devices)
    if used > node.devices:
        raise SpecError(
            "gpus_per_node", used, f"1 to {node.devices}, the devices of {node.name}",
            repair="use more nodes instead",
        )  # fmt: skip
    fabric = file.scale_out if file is not None and file.scale_out is not None else node.scale_out
    accelerator = load_accelerator(_referred(node_path, node.accelerator, "accelerators"))
    host_link = node.host.link and load_link(_referred(node_path, node.host.link, "links"))
    tiers: list[Tier] = []
    for domain in node.domains:
        inner = tiers[-1].span if tiers else 1
        # A domain wider than the node (an NVL72 rack, a torus) takes in whole nodes.
        reach = used * count if domain.span is None or domain.span > node.devices else used
        if domain.topology == "torus":
            reach //= _slices(node, domain, reach)
        link = load_link(_referred(node_path, domain.link, "links"))
        tier = domain_tier(domain, domain.link, link, inner, reach)
        if tier.span > inner or not tiers:
            tiers.append(tier)
    if tiers[-1].span < used * count:
        if fabric is None:
            raise SpecError(
                f"{node.name}: nodes", count, "one node: its file has no [scale_out]",
                repair="add a [scale_out] table with link, nics_per_node and topology",
            )  # fmt: skip
        origin = path if file is not None and file.scale_out is not None else node_path
        link = load_link(_referred(origin, fabric.link, "links"))
        outer = fabric_tiers(fabric, fabric.link, link, count, used, node.devices)
        tiers.extend(tier for tier in outer if tier.span > tiers[-1].span)
    return Cluster(
        name=node.name if file is None else file.name,
        accelerator=accelerator,
        node=node,
        nodes=count,
        devices_per_node=used,
        tiers=tuple(tiers),
        host_link=host_link or None,
        file=file,
    )


def _slices(node: Node, domain: Domain, devices: int) -> int:
    """Equal torus slices that the job needs; more than one only over a data-center network."""
    slices = torus_slices(domain, devices)
    if slices == 0 or (slices > 1 and node.scale_out is None):
        raise SpecError(
            f"{node.name}: slice", devices,
            f"devices that make a box inside {list(domain.max_dims)}, or equal boxes",
            repair="choose a number of nodes whose devices factor, such as a power of two",
        )  # fmt: skip
    return slices


def locate(name_or_path: str | Path, prefer: Folder | None = None) -> tuple[Folder, Path]:
    """Kind and file of a name or path; ``prefer`` looks there first."""
    text = str(name_or_path)
    if "\0" in text or not text.strip():
        raise SpecError(
            "name", text, "the name of a spec or the path of a TOML file", repair="give one"
        )
    if isinstance(name_or_path, Path) or text.endswith(".toml") or os.sep in text:
        path = Path(text).expanduser()
        folder = _folder_prefix(text)
        if folder is not None and not path.exists():
            return _named(text.split("/", 1)[1], (folder,))
        return _kind_of(path), path
    order = FOLDERS if prefer is None else (prefer, *(f for f in FOLDERS if f != prefer))
    return _named(text, order)


def _folder_prefix(text: str) -> Folder | None:
    """``"clusters/selene"`` -> ``"clusters"``."""
    return next((folder for folder in FOLDERS if text.startswith(f"{folder}/")), None)


def _named(name: str, folders: tuple[Folder, ...]) -> tuple[Folder, Path]:
    key = name.lower().removesuffix(".toml")
    everything: dict[str, tuple[Folder, Path]] = {}
    for folder in folders:
        for known, path in spec_names(folder).items():
            everything.setdefault(known, (folder, path))
    if key not in everything and "accelerators" in folders:
        everything |= _aliases()
    if key in everything:
        return everything[key]
    longer = [known for known in everything if known.startswith(key)] if key else []
    kinds = " or ".join(_an(folder) for folder in folders)
    raise SpecError(
        "name",
        name,
        f"the name of {kinds} ({len(everything)} are known), or the path of a TOML file",
        nearest=", ".join(longer[:_SHOWN]) or nearest_name(key, everything),
        repair="list the names with `perfmodel specs`, or write a TOML file for it",
    )


def _aliases() -> dict[str, tuple[Folder, Path]]:
    """Other names of accelerators; a name that two of them claim is nobody's."""
    claims: dict[str, list[Path]] = {}
    for path in spec_names("accelerators").values():
        for alias in read_toml(path).get("aliases", ()):
            claims.setdefault(str(alias).lower(), []).append(path)
    return {alias: ("accelerators", owner[0]) for alias, owner in claims.items() if len(owner) == 1}


def _kind_of(path: Path, depth: int = 0) -> Folder:
    """What a file describes: by its folder, otherwise by the fields that only one kind has."""
    values = read_toml(path)
    for folder in FOLDERS:
        if path.resolve().parent.name == folder:
            return folder
    telling: dict[str, Folder] = {
        "node": "clusters",
        "accelerator": "nodes",
        "domains": "nodes",
        "bandwidth_per_direction": "links",
        "memory": "accelerators",
        "peak": "accelerators",
    }
    for field, folder in telling.items():
        if field in values:
            return folder
    base = values.get("extends")
    if isinstance(base, str):
        parent = Path(_base_path(path, base))
        if parent.is_file() and depth < _MAX_EXTENDS:
            return _kind_of(parent, depth + 1)
        if parent.is_file():
            raise _circle(path, base)
        return locate(str(parent))[0]
    raise SpecError(
        str(path),
        f"<fields {', '.join(list(values)[:8]) or 'none'}>",
        "an accelerator (memory, peak), node (accelerator), cluster (node) or link "
        "(bandwidth_per_direction)",
        nearest=next((n for n in (nearest_name(k, telling) for k in values) if n), None),
        repair='start from a shipped file, or write extends = "name"',
    )


def _values(path: Path, depth: int = 0) -> dict[str, Any]:
    """A file's values, with what it extends underneath."""
    values = read_toml(path)
    base = values.get("extends")
    if base is None:
        return values
    if not isinstance(base, str) or depth >= _MAX_EXTENDS:
        raise _circle(path, base)
    _, parent = locate(_base_path(path, base))
    return merged(values, _values(parent, depth + 1), path.name)


def _circle(path: Path, base: object) -> SpecError:
    return SpecError(
        f"{path}: extends", base, "the name or path of another spec, not a circle",
        repair="name one spec that does not extend this file",
    )  # fmt: skip


def _base_path(path: Path, name: str) -> str:
    """A path inside a file is relative to that file."""
    if name.endswith(".toml") and not Path(name).is_absolute():
        return str(path.parent / name)
    return name


def _referred(path: Path, name: str, folder: Folder) -> Path:
    """The file that another file refers to by name or relative path."""
    found, target = locate(_base_path(path, name), folder)
    if found != folder:
        raise _wrong_kind(name, found, folder)
    return target


def _count(what: str, value: int | None, *, default: int) -> int:
    if value is None:
        return default
    number = whole(value)
    if number is None or not 1 <= number <= _MOST_NODES:
        raise SpecError(
            what,
            value,
            f"a whole number from 1 to {_MOST_NODES:,}",
            repair="give how many you have",
        )
    return number


def _wrong_kind(name: str | Path, found: Folder, wanted: Folder) -> SpecError:
    nearest = nearest_name(Path(str(name)).stem, spec_names(wanted))
    repair = f"name a file of hardware_specs/{wanted}"
    if (found, wanted) == ("accelerators", "nodes"):
        chip = locate(name)[1].stem
        holders = [node for node, path in spec_names(wanted).items() if _holds(path, chip)]
        nearest = ", ".join(holders[:_SHOWN]) or nearest
        repair = "name a node that holds it; one device of a node is gpus_per_node 1"
    return SpecError(str(name), f"<{_an(found)}>", _an(wanted), nearest=nearest, repair=repair)


def _holds(node: Path, chip: str) -> bool:
    return read_toml(node).get("accelerator") == chip


def _an(folder: Folder) -> str:
    return f"{'an' if folder == 'accelerators' else 'a'} {_WHAT[folder]}"
