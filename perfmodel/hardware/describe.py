"""Show a spec: every field with its value, its unit and its source; and list what is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple, cast, get_args

from pydantic import BaseModel, WithJsonSchema

from perfmodel.errors import PerfmodelError
from perfmodel.hardware.accelerator import Accelerator
from perfmodel.hardware.cluster import Cluster, ClusterFile, Tier
from perfmodel.hardware.link import Link
from perfmodel.hardware.load import FOLDERS, load, load_cluster_file, spec_folders, spec_names
from perfmodel.hardware.node import Node
from perfmodel.hardware.read import read_toml
from perfmodel.hardware.sources import UNSOURCED, citation_keys, source_of
from perfmodel.units import format_bytes, format_rate, format_seconds

Spec = Accelerator | Link | Node | Cluster | ClusterFile
_FORMATS: Final[dict[str, Callable[[float], str]]] = {
    "bytes": format_bytes,
    "bytes per second": lambda value: format_rate(value, "B/s"),
    "operations per second": lambda value: format_rate(value, "FLOP/s"),
    "hertz": lambda value: format_rate(value, "Hz"),
    "watts": lambda value: format_rate(value, "W"),
    "seconds": format_seconds,
    "dollars per second": lambda value: f"{value * 3600:.4g} USD/h",
}


class Field(NamedTuple):
    """One line of a description."""

    field: str
    value: str
    source: str


@dataclass(frozen=True, slots=True)
class SpecEntry:
    """One known spec: its kind, the name to load it by, and a line about it."""

    kind: str
    name: str
    title: str
    summary: str


def describe(spec: Spec | str | Path) -> list[Field]:
    """Every known field of a spec as ``(field, value, source)``; unknown ones are left out.

    Parameters
    ----------
    spec : Accelerator, Link, Node, Cluster, str or Path
        A loaded spec, or what :func:`~perfmodel.hardware.load.load` takes.

    Returns
    -------
    list of (str, str, str)
        For a cluster: its own file, the node's, then the tiers that follow from them.
    """
    loaded = load(spec) if isinstance(spec, str | Path) else spec
    if isinstance(loaded, Cluster):
        rows = [] if loaded.file is None else _rows(loaded.file, prefix="cluster.")
        rows += _rows(loaded.node, prefix="" if loaded.file is None else "node.")
        return rows + [row for index, tier in enumerate(loaded.tiers) for row in _tier(index, tier)]
    return _rows(loaded)


def list_specs() -> list[SpecEntry]:
    """Everything that can be loaded by name, kind by kind; a broken file says so in its line."""
    entries = []
    for folder in FOLDERS:
        for name, path in spec_names(folder).items():
            try:
                spec = load_cluster_file(path) if folder == "clusters" else load(path)
                title, summary = _summary(spec)
            except PerfmodelError as fault:
                title, summary = name, f"cannot be read: {fault.where}"
            entries.append(SpecEntry(folder.removesuffix("s"), name, title, summary))
    return entries


def references() -> dict[str, dict[str, str]]:
    """Citation key -> title, publisher, date, url; from every spec folder that has the file."""
    known: dict[str, dict[str, str]] = {}
    for folder in reversed(spec_folders()):
        path = folder / "references.toml"
        if path.is_file():
            known |= {key: dict(entry) for key, entry in read_toml(path).items()}
    return known


def citations(spec: Spec) -> tuple[str, ...]:
    """The citation keys behind a spec, each once, in order."""
    if isinstance(spec, Cluster):
        parts: list[BaseModel] = [] if spec.file is None else [spec.file]
        parts += [spec.node, spec.accelerator, *(tier.link for tier in spec.tiers)]
    else:
        parts = [spec]
    keys = [
        key
        for part in parts
        for source in cast("Mapping[str, str]", getattr(part, "sources", {})).values()
        for key in citation_keys(source)
    ]
    return tuple(dict.fromkeys(keys))


def _rows(model: BaseModel, prefix: str = "") -> list[Field]:
    sources = cast("Mapping[str, str]", getattr(model, "sources", {}))
    rows = []
    for path, text in _walk(model, type(model)):
        source = "" if path in UNSOURCED else (source_of(path, sources) or "no source given")
        rows.append(Field(prefix + path, text, source))
    return rows


def _walk(value: Any, annotation: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if value is None:
        return
    if isinstance(value, BaseModel):
        for name, info in type(value).model_fields.items():
            if name not in value.model_fields_set or (path == "" and name == "sources"):
                continue
            key = info.alias or name
            # Pydantic takes the outermost Annotated apart: its metadata stands beside the type.
            kind = (info.annotation, *info.metadata)
            yield from _walk(getattr(value, name), kind, f"{path}.{key}" if path else key)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _walk(item, annotation, f"{path}.{key}")
    elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        for index, item in enumerate(value):
            yield from _walk(item, annotation, f"{path}.{index}")
    elif isinstance(value, tuple) and not value:
        return
    else:
        text = _text(value, _dimension(annotation))
        integer = path.rsplit(".", maxsplit=1)[-1].startswith("int")
        yield path, text.replace("FLOP", "OP") if integer else text


def _dimension(annotation: Any) -> str | None:
    """The dimension that a quantity's type carries, wherever it is nested."""
    if isinstance(annotation, WithJsonSchema):
        schema = annotation.json_schema or {}
        return str(schema["description"]) if "description" in schema else None
    inner = annotation if isinstance(annotation, tuple) else get_args(annotation)
    for part in (*inner, *getattr(annotation, "__metadata__", ())):
        found = _dimension(part)
        if found is not None:
            return found
    return None


def _text(value: Any, dimension: str | None) -> str:
    if dimension in _FORMATS and isinstance(value, float):
        return _FORMATS[dimension](value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return "[" + ", ".join(_text(item, None) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _tier(index: int, tier: Tier) -> list[Field]:
    source = source_of("bandwidth_per_direction", tier.link.sources) or "no source given"
    prefix = f"tiers.{index}"
    shape = "" if not tier.dims else " " + "x".join(map(str, tier.dims))
    rows = [
        Field(f"{prefix}.link", tier.name, ""),
        Field(f"{prefix}.span", str(tier.span), "derived"),
        Field(f"{prefix}.topology", tier.topology + shape, "derived"),
        Field(f"{prefix}.bandwidth", f"{format_rate(tier.bandwidth)} per device, one way", source),
    ]
    if tier.latency is not None:
        latency = source_of("latency", tier.link.sources) or "no source given"
        rows.append(Field(f"{prefix}.latency", format_seconds(tier.latency), latency))
    return rows


def _summary(spec: Accelerator | Cluster | ClusterFile | Link) -> tuple[str, str]:
    if isinstance(spec, Accelerator):
        memory = f"{format_bytes(spec.memory_capacity)} {spec.memory_kind}"
        peaks = spec.peaks.matrix or spec.peaks.vector
        best = "bf16" if "bf16" in peaks else "fp16" if "fp16" in peaks else next(iter(peaks))
        peak = format_rate(spec.peak(best), "FLOP/s")
        return spec.name, f"{memory}, {format_rate(spec.memory_bandwidth)}, {best} {peak}"
    if isinstance(spec, Link):
        return spec.name, f"{format_rate(spec.bandwidth_per_direction)} a direction"
    if isinstance(spec, ClusterFile):
        return spec.name, f"{spec.nodes} x {spec.node}"
    tier = spec.tiers[0]
    devices = f"{spec.devices_per_node} x {spec.accelerator.name}"
    return spec.name, f"{devices}, {tier.name} {format_rate(tier.bandwidth)} a direction"


@lru_cache(maxsize=1)
def spec_models() -> dict[str, type[BaseModel]]:
    """Schema name -> the model of that kind of file."""
    return {"accelerator": Accelerator, "link": Link, "node": Node, "cluster": ClusterFile}
