"""Convolutions whose times other networks estimated: lessons for the few that prices ask.

``python3 -m validate.plan_law`` tells larger networks which plans cuDNN proposes for a convolution;
knowing them, they come closer than a price may, which knows none. Their estimates of any number of
operators, most of which nobody ran, stand in ``plans/taught.npz`` of a device:

``sizes``
    int32 (N, 10): ``n, c_in, c_out, h, w, d, kernel, stride, padding, groups``; ``d`` is 0 for
    images.
``cell``
    uint8 (N,): 8 x pass + 4 x layout + dtype, in the orders of ``PASSES``, ``LAYOUTS`` and
    ``DTYPES`` of :mod:`perfmodel.cost.proposed`.
``says``
    int16 (N, 8): 200 times the logarithm of the time [s]; by networks that saw no row of fold 0 to
    4 in turn, by those that saw all rows, by those that saw rows of this device alone, and by those
    that saw none of it, only a sibling's; of all but those that saw all rows, by how much it is
    more than theirs, to 1 %, which packs better; -32768 where nobody said.

A sidecar, ``taught.toml``, holds the file's sha256 and names the device.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.calibrate.measurements import Row, mark_of
from perfmodel.calibrate.profiled import PLANS_FOLDER
from perfmodel.calibrate.samples import FOLDS
from perfmodel.calibrate.sidecar import check_sidecar
from perfmodel.cost.device import Device
from perfmodel.cost.mechanism import task_device
from perfmodel.cost.parts import Floats
from perfmodel.cost.proposed import DTYPES, LAYOUTS, PASSES
from perfmodel.cost.tasks import Task, tasks_of
from perfmodel.errors import CalibrationError, WorkloadError
from perfmodel.hardware import Accelerator
from perfmodel.workload.op import op_from_dict

TAUGHT_FILE: Final = "taught.npz"
SIZES: Final = ("n", "c_in", "c_out", "h", "w", "d", "kernel", "stride", "padding", "groups")
STEPS: Final = 200
"""Steps of a logarithm: 0.5 % of a time."""
APART: Final = 2
"""Steps to which it is kept by how much others say more than those that saw all rows."""
NOTHING: Final = -(2**15)
"""Where nobody said a time."""
EVERY, ALONE, SIBLING = FOLDS, FOLDS + 1, FOLDS + 2
"""Columns of ``says``: by networks that saw all rows, this device's alone, or a sibling's alone."""
COLUMNS: Final = FOLDS + 3
"""Of ``says`` in all; the first ones by networks without a fold each."""
_SLOWEST, _FASTEST = 10.0, 2e-7  # of any operator [s]


@dataclass(frozen=True, slots=True)
class Taught:
    """Operators of one kernel with the times that others say they take.

    Parameters
    ----------
    kernel : str
        Which.
    blocks : tuple of (Task, Device)
        The operators, as in :class:`~perfmodel.calibrate.samples.Samples`.
    marks : array, shape (N,)
        Of each operator, by which a measured row is known again
        (:func:`~perfmodel.calibrate.measurements.mark_of`).
    says : array, shape (N, 8)
        Logarithms of times [s], by the columns of the file; NaN where nobody said.
    """

    kernel: str
    blocks: tuple[tuple[Task, Device], ...]
    marks: NDArray[np.uint64]
    says: Floats

    def by(self, column: int, *, without: NDArray[np.uint64] | None = None) -> Taught:
        """What one column says, as the only one; of operators that are not ``without``."""
        free = np.ones(self.marks.size, dtype=bool)
        if without is not None:
            free = np.isin(self.marks, without, invert=True)
        says = np.where(free[:, None], self.says[:, [column]], np.nan)
        return replace(self, says=says)


def marks_of(rows: Sequence[Row]) -> NDArray[np.uint64]:
    """The mark of each row, shape (N,)."""
    return np.array([mark_of(row.key) for row in rows], dtype=np.uint64)


def load_taught(
    folder: str | Path, accelerator: Accelerator, *, among: Sequence[Row] | None = None
) -> dict[str, Taught]:
    """Kernel -> its operators in ``folder/plans/taught.npz``; nothing where there is no such file.

    Parameters
    ----------
    folder : path
        Measurements of one device.
    accelerator : Accelerator
        Which; a sidecar that names another is refused.
    among : sequence of Row, optional
        Only operators of these rows.

    Raises
    ------
    CalibrationError
        If the file disagrees with its sidecar, is of another chip, damaged, or holds what is no
        operator or no time.
    """
    path = Path(folder) / PLANS_FOLDER / TAUGHT_FILE
    if not path.is_file():
        return {}
    data = path.read_bytes()
    check_sidecar(
        path,
        data,
        accelerator.name.lower(),
        repair=f"restore both files, or remove {path.name} to learn without it",
        damaged=_damaged,
        named=True,
    )
    sizes, cell, says = stored(path, data)
    marks = marks_of_sizes(sizes, cell)
    if among is not None:
        some = np.isin(marks, marks_of(among))
        sizes, cell, says, marks = sizes[some], cell[some], says[some], marks[some]
    try:
        blocks = blocks_of(sizes, cell, accelerator)
    except WorkloadError as error:
        raise _damaged(path, error) from None
    return {
        kernel: Taught(kernel, mine, marks[which], says[which])
        for kernel, (mine, which) in blocks.items()
    }


def blocks_of(
    sizes: NDArray[np.int64], cell: NDArray[np.int64], accelerator: Accelerator
) -> dict[str, tuple[tuple[tuple[Task, Device], ...], NDArray[np.intp]]]:
    """Kernel -> its operators as blocks of a task and a device, and their places in the rows.

    Parameters
    ----------
    sizes : array of int, shape (N, 10)
        By :data:`SIZES`, in elements.
    cell : array of int, shape (N,)
        Pass, layout and dtype, as the file counts them.
    accelerator : Accelerator
        That they run on.

    Raises
    ------
    WorkloadError
        If a row is no operator.
    """
    found: dict[str, list[tuple[tuple[Task, Device], NDArray[np.intp]]]] = {}
    for which, record in _records(sizes, cell):
        for task in tasks_of(op_from_dict(record, where=TAUGHT_FILE))[1]:
            block = replace(task, places=np.arange(task.places.size))
            found.setdefault(task.kernel, []).append(
                ((block, task_device(block, accelerator)), which[task.places])
            )
    return {
        kernel: (tuple(block for block, _ in parts), np.concatenate([at for _, at in parts]))
        for kernel, parts in sorted(found.items())
    }


def stored(path: Path, data: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Sizes, cells and logarithms of times [s], once shapes, kinds and ranges are right.

    Shapes (N, 10), (N,) and (N, 8), as the file has them.

    Raises
    ------
    CalibrationError
        If ``data``, what the file ``path`` holds, is something else.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            sizes, cell, says = (np.asarray(stored[name]) for name in ("sizes", "cell", "says"))
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from None
    wanted = {"sizes": (len(SIZES),), "cell": (), "says": (COLUMNS,)}
    for name, array in (("sizes", sizes), ("cell", cell), ("says", says)):
        if array.dtype.kind not in "iu" or array.shape != (cell.size, *wanted[name]):
            raise CalibrationError(
                f"{path.name}: {name}",
                f"<{array.dtype} of shape {array.shape}>",
                f"integers of shape ({', '.join(map(str, ('N', *wanted[name])))}), N of each alike",
                repair="write the file again with `python3 -m validate.plan_law`",
            )
    sizes, cell = sizes.astype(np.int64), cell.astype(np.int64)
    if cell.size == 0 or cell.max() >= len(PASSES) * len(LAYOUTS) * len(DTYPES) or cell.min() < 0:
        raise _damaged(path, "no operators, or a cell that is none")
    seconds = logarithms_of(says)
    least, most = np.log(_FASTEST), np.log(_SLOWEST)
    if np.any(seconds < least) or np.any(seconds > most):
        raise _damaged(path, f"a time outside {_FASTEST:g} to {_SLOWEST:g} s")
    return sizes, cell, seconds


def kept_of(logarithms: Floats) -> NDArray[np.int16]:
    """``says`` as the file keeps them, of logarithms of times [s], (N, 8); NaN is nothing said."""
    every = np.round(STEPS * logarithms[:, [EVERY]])
    apart = APART * np.round((STEPS * logarithms - every) / APART)
    steps = np.where(np.arange(COLUMNS) == EVERY, every, apart)
    return np.where(np.isfinite(steps), steps, NOTHING).clip(NOTHING, -NOTHING - 1).astype(np.int16)


def logarithms_of(says: NDArray[np.integer]) -> Floats:
    """Logarithms of times [s], (N, 8), of ``says`` as the file keeps them."""
    steps = np.where(says == NOTHING, np.nan, says.astype(np.float64))
    steps += np.where(np.arange(COLUMNS) == EVERY, 0.0, steps[:, [EVERY]])
    return np.asarray(steps / STEPS)


def _records(
    sizes: NDArray[np.int64], cell: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.intp], dict[str, object]]]:
    """Operators of one cell, volumes apart: their places, and their record with lists."""
    volumes = sizes[:, SIZES.index("d")] > 0
    for key in np.unique(cell):
        for op, mine in (("conv2d", ~volumes), ("conv3d", volumes)):
            which = np.flatnonzero((cell == key) & mine)
            if which.size:
                left_out = "d" if op == "conv2d" else "groups"
                columns: dict[str, object] = {
                    name: sizes[which, at] for at, name in enumerate(SIZES) if name != left_out
                }
                yield which, columns | {"op": op} | words_of_cell(int(key))


def words_of_cell(cell: int) -> dict[str, str]:
    """``{"pass": ..., "layout": ..., "dtype": ...}`` that a cell, 0 to 23, stands for."""
    direction, rest = divmod(cell, len(LAYOUTS) * len(DTYPES))
    layout, dtype = divmod(rest, len(DTYPES))
    return {"pass": PASSES[direction], "layout": LAYOUTS[layout], "dtype": DTYPES[dtype]}


def marks_of_sizes(sizes: NDArray[np.int64], cell: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Marks, shape (N,), of the keys that measured rows of these operators have.

    ``sizes`` (N, 10) and ``cell`` (N,) are those of :func:`blocks_of`.
    """
    images = _template("conv2d", "d")
    volumes = _template("conv3d", "groups")
    words = [words_of_cell(key) for key in range(len(PASSES) * len(LAYOUTS) * len(DTYPES))]
    return np.array(
        [
            mark_of(
                (volumes if row[5] else images) % (dict(zip(SIZES, row, strict=True)) | words[kind])
            )
            for row, kind in zip(sizes.tolist(), cell.tolist(), strict=True)
        ],
        dtype=np.uint64,
    )


def _template(op: str, left_out: str) -> str:
    """A key as ``json.dumps(record, sort_keys=True)`` writes it, a quarter of the work."""
    parts = {name: f"%({name})d" for name in SIZES if name != left_out}
    parts |= {name: f'"%({name})s"' for name in ("pass", "layout", "dtype")} | {"op": f'"{op}"'}
    return "{" + ", ".join(f'"{name}": {parts[name]}' for name in sorted(parts)) + "}"


def _damaged(path: Path, error: object) -> CalibrationError:
    return CalibrationError(
        path.name,
        f"<{error}>",
        "operators and their times as `python3 -m validate.plan_law` writes them",
        repair=f"restore the file, or remove {path.name.replace('.toml', '.npz')} and its sidecar",
    )
