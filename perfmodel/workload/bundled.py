"""Files that come with the package."""

from __future__ import annotations

from importlib import resources


def bundled(folder: str, suffix: str) -> tuple[str, ...]:
    """Names of the files of ``perfmodel/workload/FOLDER`` that end in ``suffix``, without it."""
    return tuple(
        sorted(
            entry.name.removesuffix(suffix)
            for entry in (resources.files("perfmodel.workload") / folder).iterdir()
            if entry.name.endswith(suffix)
        )
    )
