"""What libraries answered when they were asked which kernel they take, as files of arrays."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import CalibrationError
from perfmodel.hardware.load import spec_folders

UNITS: Final = 132.0
"""Multiprocessors of the chips whose libraries were asked, an H100 and an H200 (SXM)."""
Arrays = Mapping[str, NDArray[Any]]
Answers = TypeVar("Answers")


def answers_of(
    file: str, what: str, read: Callable[[Arrays], Answers], path: Path | None = None
) -> Answers:
    """What ``read`` makes of the arrays of a file.

    Parameters
    ----------
    file : str
        Under ``efficiency`` of the shipped descriptions.
    what : str
        It holds, for an error.
    read : callable
        Is given the arrays by name.
    path : path, optional
        Another file.

    Raises
    ------
    CalibrationError
        If the file is missing or damaged.
    """
    path = spec_folders()[-1] / "efficiency" / file if path is None else path
    try:
        # Opened here, since NumPy leaves a file open that is no archive.
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as held:
            return read(held)
    except (
        OSError, EOFError, KeyError, ValueError, IndexError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise CalibrationError(str(path), f"<{error}>", what, repair="restore the file") from None
