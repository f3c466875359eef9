"""ONNX files as programs: shapes by the onnx package, operators under their aten names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perfmodel.workload.program import Program


def load_onnx(
    path: str | Path, *, batch_size: int | None = None, dims: Mapping[str, int] | None = None
) -> Program:
    """Read an ONNX model as a program of one inference.

    Parameters
    ----------
    path : str or Path
        An ONNX file of operator set 11 or newer. Weights kept beside it are not needed.
    batch_size : int, optional
        For dynamic dimensions called batch, N or the like, and nameless first axes. A batch that
        the file fixes can only be confirmed.
    dims : mapping of str to int, optional
        Sizes of the other dynamic dimensions, by the name that the file gives them, or by
        ``"input.axis"``.

    Returns
    -------
    Program
        Operators under the names that PyTorch dispatches for them; one that has none is called
        ``onnx.Op`` or ``onnx.domain.Op``. Arithmetic of shapes and constants is folded away.

    Raises
    ------
    WorkloadError
        If the file cannot be read, a dimension stays unknown, or an operator's result depends on
        data.
    """
    from perfmodel.workload.importers.onnx.main import read_program

    return read_program(Path(path), batch_size=batch_size, dims=dict(dims or {}))
