"""What libraries answered when they were asked which kernel they take, as files of arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from perfmodel.cost.arrays import Arrays, Found, read_arrays
from perfmodel.hardware.load import spec_folders

UNITS: Final = 132.0
"""Multiprocessors of the chips whose libraries were asked, an H100 and an H200 (SXM)."""


def answers_of(
    file: str, what: str, read: Callable[[Arrays], Found], path: Path | None = None
) -> Found:
    """What ``read`` makes of the arrays of a file (:func:`~perfmodel.cost.arrays.read_arrays`).

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
    return read_arrays(path, what, read)
