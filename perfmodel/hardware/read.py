"""Read a spec file: size, encoding, TOML, ``extends``, validation; each failure in five parts."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from perfmodel.errors import SpecError, UnitError, nearest_name
from perfmodel.hardware.fields import QuantityFault
from perfmodel.hardware.follow import following
from perfmodel.hardware.sources import leaves, source_of

MAX_FILE_BYTES: Final = 1_000_000
Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: Path) -> dict[str, Any]:
    """One TOML file as a dictionary.

    Raises
    ------
    SpecError
        If it is missing, a directory, above 1 MB, not UTF-8 or not TOML (with the line).
    """
    try:
        status = path.stat()
    except OSError as fault:
        raise SpecError(
            str(path),
            f"<{fault.strerror or 'unreadable'}>",
            "a readable TOML file",
            repair="check the path, or write the file: docs/hardware.md has one of six lines",
        ) from None
    if not path.is_file():
        raise SpecError(
            str(path), "<not a regular file>", "a TOML file", repair="give the file inside it"
        )
    if status.st_size > MAX_FILE_BYTES:
        raise SpecError(
            str(path),
            f"<{status.st_size} bytes>",
            f"a TOML file of at most {MAX_FILE_BYTES} bytes",
            repair="give a hardware spec, which takes a few kilobytes",
        )
    return _parsed(str(path), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=512)
def _parsed(path: str, _mtime: int, _size: int) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise SpecError(
            path, "<not UTF-8 text>", "a TOML file in UTF-8", repair="save it as UTF-8 text"
        ) from None
    except (ValueError, RecursionError) as fault:  # TOMLDecodeError is a ValueError
        raise SpecError(
            path,
            f"<{fault}>",
            "valid TOML, every key once",
            repair="correct the line and column that the message names",
        ) from None
    except OSError as fault:
        raise SpecError(
            path, fault.strerror or "unreadable", "a readable TOML file", repair="check rights"
        ) from None


def merged(child: Mapping[str, Any], parent: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """``parent`` with the fields of ``child`` put over it, sources kept straight.

    A field that the child overrides no longer has the parent's source: it has the child's, or is
    marked as coming from the child's file. Peaks follow units and clocks that the child changes.
    """
    result = _overlay({key: parent[key] for key in parent if key != "aliases"}, child)
    given = dict(child.get("sources", {}))
    sources = dict(parent.get("sources", {}))
    follows = following(child, parent)
    result = _overlay(result, follows)
    for field, _ in leaves(follows):
        sources[field] = f"{origin} (in proportion to units and clock)"
    for field, _ in leaves(child):
        sources[field] = source_of(field, given) or f"{origin} (no source given)"
    result["sources"] = sources
    result.pop("extends", None)
    return result


def _overlay(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            result[key] = _overlay(below, value)
        else:
            result[key] = value
    return result


def validated(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """``values`` as a ``model``; the first complaint of pydantic as a `SpecError`."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as fault:
        raise _translated(model, fault, where) from None


def _translated(
    model: type[BaseModel], fault: ValidationError, where: str
) -> SpecError | UnitError:
    complaints = fault.errors(include_url=False)
    first = next((e for e in complaints if e["type"] == "extra_forbidden"), complaints[0])
    location = first["loc"]
    field = ".".join(str(step) for step in location if step != "[key]")
    place = f"{where}: {field}" if field else where
    kind, value = first["type"], first["input"]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, QuantityFault):
        unit = cause.fault
        return UnitError(place, value, unit.accepted, nearest=unit.nearest, repair=unit.repair)
    if kind == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        name = str(location[-1])
        return SpecError(
            place,
            f"<unknown field {name!r}>",
            f"the fields {', '.join(known)}",
            nearest=nearest_name(name, known),
            repair="correct the field's name, or remove it",
        )
    if kind == "missing":
        return SpecError(
            place,
            "<nothing>",
            f"a value for the required field {location[-1]!r}",
            repair="add it, with its source",
        )
    if kind == "literal_error":
        expected = str(first["ctx"]["expected"])
        names = [name.strip("' ") for name in expected.replace(" or ", ", ").split(",")]
        return SpecError(
            place,
            value,
            ", ".join(names),
            nearest=nearest_name(str(value), names),
            repair="use one of the accepted values",
        )
    message = first["msg"].removeprefix("Value error, ")
    shown = value if not isinstance(value, Mapping) else "<the table>"
    return SpecError(place, shown, message, repair="correct the value; see docs/hardware.md")


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the table at a path."""
    current: Any = model
    for step in location:
        if isinstance(step, int) or not _is_table(current):
            continue
        fields = {info.alias or name: info for name, info in current.model_fields.items()}
        if step in fields:
            current = _table_in(fields[str(step)].annotation)
    if _is_table(current):
        return [info.alias or name for name, info in current.model_fields.items()]
    return []


def _is_table(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _table_in(annotation: Any) -> Any:
    """The pydantic table inside an annotation such as ``tuple[Domain, ...]`` or ``X | None``."""
    if _is_table(annotation):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _table_in(argument)
        if found is not None:
            return found
    return None
