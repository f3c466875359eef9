"""The fits of a chip by kernel, each read when a price first asks for it.

A chip has a hundred and more; a question about a transformer asks for ten of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from perfmodel.cost.fitted import Fitted, read_fitted
from perfmodel.cost.layers import POOLED_FILE, Pooled, read_pooled
from perfmodel.errors import CalibrationError


class _Folder:
    """Files of one calibration."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def pooled(self) -> Pooled:
        """The networks that kernels share."""
        return read_pooled(self.path / POOLED_FILE)

    def read(self, kernel: str) -> Fitted:
        path = self.path / f"{kernel}.npz"
        one = read_fitted(path)
        if one.kernel != kernel:
            raise CalibrationError(
                str(path),
                f"<a fit of {one.kernel}>",
                f"a fit of {kernel}, as its name says",
                repair="give the file its name again, or restore it",
            )
        if one.pooled_share > 0.0 and one.network is None:
            return replace(one, pooled=self.pooled.of(one.kernel, one.features))
        return one


class Fits(Mapping[str, Fitted]):
    """Kernel -> fit.

    Parameters
    ----------
    *folders : path
        Of calibrations; a kernel that several hold is of the last one's.

    Raises
    ------
    CalibrationError
        When a kernel is asked for whose file is damaged or named after another kernel.
    """

    def __init__(self, *folders: Path) -> None:
        self._held: dict[str, _Folder] = {}
        self._read: dict[str, Fitted] = {}
        for folder in map(_Folder, folders):
            stems = (p.stem for p in sorted(folder.path.glob("*.npz")) if p.name != POOLED_FILE)
            self._held |= dict.fromkeys(stems, folder)

    def __getitem__(self, kernel: str) -> Fitted:
        if kernel not in self._read:
            self._read[kernel] = self._held[kernel].read(kernel)
        return self._read[kernel]

    def __contains__(self, kernel: object) -> bool:
        return kernel in self._held

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)
