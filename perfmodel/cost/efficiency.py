"""Coefficients of the mechanisms: read from files, found by kernel.

``hardware_specs/efficiency/default.toml`` holds a value for every coefficient of every kernel;
``<architecture>.toml`` overrides some for a family of chips; a folder named after a chip holds what
measurements of that chip gave. A table ``[gemm-half]`` refines ``[gemm]`` for one class of
arithmetic.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from perfmodel.errors import CalibrationError, SpecError

Table = Mapping[str, float]


def efficiency_folder() -> Path:
    """Where the files lie: inside the wheel, or beside the package in a source tree."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_specs" / "efficiency", package.parent / "hardware_specs/efficiency"):
        if folder.is_dir():
            return folder
    raise SpecError(
        "hardware_specs/efficiency",
        "<no such folder>",
        "the folder with default.toml",
        repair="reinstall perfmodel",
    )


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Values by kernel, with where they come from.

    Parameters
    ----------
    architecture : str
        Whose values they are (``"hopper"``), ``"default"`` where nobody measured.
    tables : dict of dict
        Kernel -> coefficient -> value.
    sources : dict
        Kernel -> citation keys.
    """

    architecture: str
    tables: Mapping[str, Table]
    sources: Mapping[str, tuple[str, ...]]

    def of(self, kernel: str) -> dict[str, float]:
        """All coefficients of a kernel such as ``"gemm-half"``."""
        found: dict[str, float] = {}
        for name in _chain(kernel):
            found |= self.tables.get(name, {})
        if not found:
            raise CalibrationError(
                f"efficiency of {self.architecture}",
                kernel,
                ", ".join(sorted(self.tables)),
                repair="add a table for the kernel to default.toml",
            )
        return found

    def sources_of(self, kernel: str) -> tuple[str, ...]:
        """Citation keys of the most particular table that applies."""
        for name in reversed(_chain(kernel)):
            if name in self.sources:
                return self.sources[name]
        return ()


def _chain(kernel: str) -> tuple[str, ...]:
    """From the general to the particular: ``"gemm-half"`` -> ``("gemm", "gemm-half")``."""
    base, dash, _ = kernel.partition("-")
    parent = base.rsplit("_", 1)[0] if "_" in base else base
    names = [parent, base, kernel] if dash else [parent, base]
    return tuple(dict.fromkeys(names))


@lru_cache(maxsize=32)
def load_coefficients(architecture: str) -> Coefficients:
    """Coefficients of a family of chips: the defaults with the family's own on top."""
    folder = efficiency_folder()
    tables, sources = _read(folder / "default.toml")
    name = "default"
    own = folder / f"{architecture}.toml"
    if own.is_file():
        name = architecture
        more, more_sources = _read(own)
        sources |= more_sources
        for kernel, table in more.items():
            tables[kernel] = tables.get(kernel, {}) | table
    return Coefficients(name, tables, sources)


def _read(path: Path) -> tuple[dict[str, dict[str, float]], dict[str, tuple[str, ...]]]:
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise CalibrationError(
            str(path), f"<{error}>", "a TOML file of coefficients", repair="restore the file"
        ) from None
    sources = {
        kernel: tuple(part.split()[0] for part in text.split(";"))
        for kernel, text in data.pop("sources", {}).items()
    }
    tables: dict[str, dict[str, float]] = {}
    for kernel, table in data.items():
        if not isinstance(table, dict):
            continue
        tables[kernel] = {}
        for key, value in table.items():
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise CalibrationError(
                    f"{path.name}: {kernel}.{key}", value, "a number", repair="write a number"
                )
            tables[kernel][key] = float(value)
    return tables, sources


def efficiency_of(accelerator: object) -> Coefficients:
    """What stands behind a price on this chip when the caller names nothing else."""
    return load_coefficients(str(getattr(accelerator, "family", "default")))
