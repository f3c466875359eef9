"""Files of arrays, read sound or refused with what is wrong."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import CalibrationError

Arrays = Mapping[str, NDArray[Any]]
Found = TypeVar("Found")


class _Sound(Mapping[str, NDArray[Any]]):
    """The arrays of an open file, of which none may hold what is no number."""

    def __init__(self, stored: Any) -> None:
        self._stored = stored

    def __getitem__(self, name: str) -> NDArray[Any]:
        found: NDArray[Any] = self._stored[name]
        if found.dtype.kind == "f" and np.isnan(found).any():
            raise ValueError(f"NaN in {name}")
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._stored.files

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored.files)

    def __len__(self) -> int:
        return len(self._stored.files)


def read_arrays(
    path: Path, what: str, read: Callable[[Arrays], Found], *, repair: str = "restore the file"
) -> Found:
    """What ``read`` makes of the arrays of an ``.npz``.

    Parameters
    ----------
    path : path
        The file.
    what : str
        It holds, for an error.
    read : callable
        Is given the arrays by name; what it raises of KeyError, ValueError and IndexError tells
        that they do not fit together.
    repair : str
        What to do about a file that is damaged.

    Raises
    ------
    CalibrationError
        If the file is missing, cut short, or holds other arrays or NaN.
    """
    try:
        # From memory: NumPy leaves a file open that is no archive.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            return read(_Sound(stored))
    except (
        OSError, EOFError, KeyError, ValueError, IndexError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise CalibrationError(str(path), f"<{error}>", what, repair=repair) from None
