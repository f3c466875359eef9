"""Where every number of a spec comes from.

A spec file ends in a ``[sources]`` table: a glob over field paths -> ``"citation-key p.N"``. The
longest pattern that matches a field is its source. The keys are those of
``hardware_specs/references.toml``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

# Identity, not measurement: what the thing is called needs no page number.
UNSOURCED = frozenset({"name", "vendor", "family", "kind", "note", "extends", "aliases"})


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a parsed file as ``(dotted path, value)``; ``sources`` itself left out.

    Examples
    --------
    >>> list(leaves({"memory": {"kind": "HBM3"}, "units": 132}))
    [('memory.kind', 'HBM3'), ('units', 132)]
    """
    for key, value in values.items():
        path = f"{prefix}{key}"
        if path == "sources":
            continue
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}.")
        elif isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
            for index, row in enumerate(value):
                yield from leaves(row, f"{path}.{index}.")
        else:
            yield path, value


def source_of(path: str, sources: Mapping[str, str]) -> str | None:
    """The source of one field: the longest matching pattern, an exact one before any glob."""
    if path in sources:
        return sources[path]
    matches = [pattern for pattern in sources if fnmatchcase(path, pattern)]
    return sources[max(matches, key=len)] if matches else None


def citation_keys(source: str) -> tuple[str, ...]:
    """The citation keys of a source: ``"a p.3; b"`` -> ``("a", "b")``."""
    return tuple(part.split()[0] for part in source.split(";") if part.strip())


def missing_sources(values: Mapping[str, Any], sources: Mapping[str, str]) -> list[str]:
    """Paths of the leaves that nobody vouches for."""
    return [
        path
        for path, _ in leaves(values)
        if path not in UNSOURCED and source_of(path, sources) is None
    ]
