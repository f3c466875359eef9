"""Efficiency: coefficients of the mechanisms and learned corrections, read from files.

``hardware_specs/efficiency/default.toml`` holds a value for every coefficient of every kernel;
``<architecture>.toml`` overrides some for a family of chips; the folder named after a chip holds
what measurements of that chip gave. A table ``[gemm-half]`` refines ``[gemm]`` for one class of
arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from perfmodel.cost.fits import Fits
from perfmodel.cost.fitted import Fitted
from perfmodel.errors import CalibrationError, SpecError
from perfmodel.files import fitted_table
from perfmodel.hardware import Accelerator, load_accelerator
from perfmodel.hardware.load import spec_folders

Table = Mapping[str, float]

ABOUT_FILE: Final = "device.toml"
_PHYSICS: Final = (
    "units", "devices_per_package", "package_tdp", "clock", "memory_bandwidth", "memory_kind",
    "cache", "on_chip", "peaks", "per_clock",
)  # fmt: skip
"""Of a description, what a time follows from."""


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Values by kernel, with where they come from.

    Parameters
    ----------
    name : str
        Whose values they are: a chip (``"h100-sxm5-80gb"``), an architecture (``"hopper"``), or
        ``"default"`` where nobody measured.
    tables : dict of dict
        Kernel -> coefficient -> value.
    sources : dict
        Kernel -> citation keys.
    fitted : dict
        Kernel -> what measurements of a chip gave.
    own : bool
        Whether that chip is the one that is priced, rather than its sibling.
    """

    name: str
    tables: Mapping[str, Table]
    sources: Mapping[str, tuple[str, ...]]
    fitted: Mapping[str, Fitted] = field(default_factory=dict)
    own: bool = False

    def of(self, kernel: str) -> dict[str, float]:
        """All coefficients of a kernel such as ``"gemm-half"``."""
        found: dict[str, float] = {}
        for name in chain_of(kernel):
            found |= self.tables.get(name, {})
        if not found:
            raise CalibrationError(
                f"efficiency of {self.name}",
                kernel,
                ", ".join(sorted(self.tables)),
                repair="add a table for the kernel to default.toml",
            )
        return found | dict(self.fitted[kernel].coefficients) if kernel in self.fitted else found

    def sources_of(self, kernel: str) -> tuple[str, ...]:
        """Citation keys of the most particular table that applies."""
        if kernel in self.fitted:
            return (f"measurements/{self.fitted[kernel].device}",)
        for name in reversed(chain_of(kernel)):
            if name in self.sources:
                return self.sources[name]
        return ()


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


def efficiency_of(accelerator: Accelerator) -> Efficiency:
    """What stands behind a price on this chip when the caller names nothing else.

    The chip's own measurements if there are any, otherwise those of the chip of the same
    architecture that it has most in common with, otherwise the architecture's coefficients,
    otherwise the defaults. A chip that is described otherwise than the measured one of its name is
    taken for a sibling of that.
    """
    name = accelerator.name.lower()
    own = added_folder(name)
    sibling = most_alike(accelerator, measured_chips(efficiency_folder()))
    found = load_efficiency(name, accelerator.family, own=own, sibling=sibling)
    if found.own and own is None and not _as_measured(accelerator):
        return replace(found, own=False)
    return found


def efficiency_on(accelerator: Accelerator, given: Efficiency | None) -> Efficiency:
    """What a caller gave to stand behind a price, or :func:`efficiency_of` the chip.

    Raises
    ------
    CalibrationError
        If it is something else.
    """
    if given is None:
        return efficiency_of(accelerator)
    if not isinstance(given, Efficiency):
        raise CalibrationError(
            "efficiency",
            f"<{type(given).__name__}>",
            "an Efficiency, or nothing for the chip's own",
            repair="leave it out, or give what perfmodel.cost.load_efficiency returns",
        )
    return given


def most_alike(accelerator: Accelerator, measured: Sequence[tuple[str, str, int]]) -> str | None:
    """The measured chip whose description shares most of what a time follows from.

    A chip that changes one field of a measured one is priced as that, whatever the change; of
    several that share as much, it is the one with most rows.

    Parameters
    ----------
    accelerator : Accelerator
        Not measured itself, or the answer is ``None``.
    measured : sequence of (str, str, int)
        As of :func:`measured_chips`.
    """
    name = accelerator.name.lower()
    others = [(rows, chip) for chip, family, rows in measured if family == accelerator.family]
    if len(others) < 2 or any(chip == name for _, chip in others):
        return None
    found = []
    for rows, chip in others:
        shipped = _shipped(chip)
        shared = (
            0
            if shipped is None
            else sum(getattr(accelerator, field) == getattr(shipped, field) for field in _PHYSICS)
        )
        found.append((shared, rows, chip))
    return max(found)[2]


@lru_cache(maxsize=8)
def measured_chips(folder: Path) -> tuple[tuple[str, str, int], ...]:
    """Names, architectures and measured rows of the chips that have fits in a folder."""
    found = []
    for path in sorted(folder.glob(f"*/{ABOUT_FILE}")):
        about = fitted_table(path)
        found.append((path.parent.name, str(about.get("architecture")), int(about.get("rows", 0))))
    return tuple(found)


def _as_measured(accelerator: Accelerator) -> bool:
    """Whether it is described as the chip of that name that was measured, whose fits are shipped.

    A faster memory under the same name makes it another chip, of which nobody measured anything.
    """
    shipped = _shipped(accelerator.name.lower())
    return shipped is None or all(
        getattr(accelerator, name) == getattr(shipped, name) for name in _PHYSICS
    )


@lru_cache(maxsize=32)
def _shipped(name: str) -> Accelerator | None:
    path = spec_folders()[-1] / "accelerators" / f"{name}.toml"
    return load_accelerator(path) if path.is_file() else None


def added_folder(device: str) -> Path | None:
    """Fits of a chip in the folders that the user added to the shipped specs, if they hold any."""
    for root in spec_folders()[:-1]:
        if (root / "efficiency" / device / ABOUT_FILE).is_file():
            return root / "efficiency" / device
    return None


@lru_cache(maxsize=64)
def load_efficiency(
    device: str,
    architecture: str,
    *,
    folder: Path | None = None,
    measured: bool = True,
    own: Path | None = None,
    sibling: str | None = None,
) -> Efficiency:
    """Efficiency of a chip by the name of its description.

    Parameters
    ----------
    device, architecture : str
        ``"h100-sxm5-80gb"``, ``"hopper"``.
    folder : path, optional
        Where to look; by default what is shipped.
    measured : bool
        False leaves out everything that measurements of single chips gave.
    own : path, optional
        The chip's own folder, where it lies elsewhere.
    sibling : str, optional
        Which other chip of the architecture stands in; by default that with most measured rows.
    """
    folder = efficiency_folder() if folder is None else folder
    base = load_coefficients(architecture, folder=folder)
    if not measured:
        return base
    if own is None and (folder / device / ABOUT_FILE).is_file():
        own = folder / device
    beside = _sibling(folder, device, architecture) if sibling is None else sibling
    near = None if beside is None else folder / beside
    source = near if own is None else own
    if source is None:
        return base
    # What the chip's own rows did not cover is taken from its sibling.
    fitted = Fits(*(place for place in (near, own) if place is not None))
    return Efficiency(source.name, base.tables, base.sources, fitted, own=own is not None)


@lru_cache(maxsize=32)
def load_coefficients(architecture: str, *, folder: Path | None = None) -> Efficiency:
    """Coefficients of an architecture: the defaults with its own on top."""
    folder = efficiency_folder() if folder is None else folder
    tables, sources = _read(folder / "default.toml")
    name = "default"
    own = folder / f"{architecture}.toml"
    if own.is_file():
        name = architecture
        more, more_sources = _read(own)
        sources |= more_sources
        for kernel, table in more.items():
            tables[kernel] = tables.get(kernel, {}) | table
    return Efficiency(name, tables, sources)


def _sibling(folder: Path, device: str, architecture: str) -> str | None:
    """Another chip of the architecture, that with most measured rows."""
    siblings = [
        (rows, chip)
        for chip, family, rows in measured_chips(folder)
        if family == architecture and chip != device
    ]
    return max(siblings)[1] if siblings else None


def chain_of(kernel: str) -> tuple[str, ...]:
    """From the general to the particular.

    ``"gemm_batched-fp32"`` -> ``("gemm", "gemm-fp32", "gemm_batched", "gemm_batched-fp32")``.
    """
    base, _, rate = kernel.partition("-")
    words = base.split("_")
    names: list[str] = []
    for count in range(1, len(words) + 1):
        prefix = "_".join(words[:count])
        names += [prefix, f"{prefix}-{rate}"] if rate else [prefix]
    return tuple(names)


def _read(path: Path) -> tuple[dict[str, dict[str, float]], dict[str, tuple[str, ...]]]:
    data = fitted_table(path)
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
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number and value >= 0):  # inf is a limit that never binds
                raise CalibrationError(
                    f"{path.name}: {kernel}.{key}",
                    value,
                    "a number that is not negative",
                    repair="write a number",
                )
            tables[kernel][key] = float(value)
    return tables, sources
