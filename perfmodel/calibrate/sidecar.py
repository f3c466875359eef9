"""Sidecars of what teaches beside latencies: is a file the one that was written, of this chip?"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from perfmodel.calibrate.labels import same_chip
from perfmodel.errors import CalibrationError


def check_sidecar(
    path: Path,
    data: bytes,
    device: str | None,
    *,
    repair: str,
    damaged: Callable[[Path, object], CalibrationError],
    named: bool = False,
) -> dict[str, Any]:
    """What the sidecar of a file (the same stem, ``.toml``) says, or an error if it is not of it.

    Parameters
    ----------
    path : path
        The file.
    data : bytes
        What it holds.
    device : str or None
        Name of the chip's description; ``None`` where any will do.
    repair : str
        What to do where hash and file disagree.
    damaged : callable
        Makes the error of a sidecar that is no TOML file.
    named : bool
        Whether a sidecar that names no device is refused too.

    Raises
    ------
    CalibrationError
        If the sidecar is missing or damaged, has another sha256, or names another chip.
    """
    about = path.with_name(path.name.split(".")[0] + ".toml")
    try:
        said = tomllib.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
    except ValueError as error:
        raise damaged(about, error) from None
    if said.get("sha256") != hashlib.sha256(data).hexdigest():
        raise CalibrationError(
            path.name,
            "<a file that its sidecar does not describe>",
            f"{about.name} beside it, with the file's sha256",
            repair=repair,
        )
    library = said.get("library")
    of = library.get("device") if isinstance(library, Mapping) else None
    if device is None or (of is None and not named):
        return said
    if not isinstance(of, str) or not same_chip(of, device):
        raise CalibrationError(
            f"{about.name}: library.device",
            "<none>" if of is None else of,
            f"the chip that is being calibrated, {device}",
            repair="move the file and its sidecar to the folder of the device they are of",
        )
    return said
