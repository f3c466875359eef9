"""Measured rows of one kernel as arrays, ready to be fitted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from perfmodel.calibrate.measurements import Row
from perfmodel.cost.device import Device
from perfmodel.cost.mechanism import task_device
from perfmodel.cost.parts import Floats
from perfmodel.cost.tasks import Task, tasks_of
from perfmodel.hardware import Accelerator
from perfmodel.workload.op import op_from_dict

FUSED = "fused"
FOLDS = 5
"""Parts that rows fall into by a hash of the operator, each predicted from the others."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Rows of one kernel on one chip.

    Parameters
    ----------
    kernel : str
        Which.
    blocks : tuple of (Task, Device)
        The operators; a task a combination of words (dtype, layout, kind).
    rows : tuple of Row
        In the order of the blocks.
    seconds : array, shape (N,)
        Measured [s].
    """

    kernel: str
    blocks: tuple[tuple[Task, Device], ...]
    rows: tuple[Row, ...]
    seconds: Floats


def samples_of(rows: Iterable[Row], accelerator: Accelerator) -> dict[str, Samples]:
    """Sort rows by kernel."""
    groups: dict[str, dict[str, list[tuple[Task, Row]]]] = {}
    for row in rows:
        op = op_from_dict(row.record, where=row.file)
        _, (task,) = tasks_of(op)
        words = f"{task.dtype} {sorted(task.words.items())} {sorted(task.sizes)}"
        # Flat chains are priced as element-wise work, and judge that; they do not teach it.
        flat = op.family == FUSED and task.base == "elementwise"
        kernel = FUSED if flat else task.kernel
        groups.setdefault(kernel, {}).setdefault(words, []).append((task, row))
    return {
        kernel: _samples(kernel, list(blocks.values()), accelerator)
        for kernel, blocks in sorted(groups.items())
    }


def _samples(
    kernel: str, groups: list[list[tuple[Task, Row]]], accelerator: Accelerator
) -> Samples:
    blocks: list[tuple[Task, Device]] = []
    rows: list[Row] = []
    for group in groups:
        first = group[0][0]
        sizes = {
            name: np.concatenate([task.sizes[name] for task, _ in group]) for name in first.sizes
        }
        task = Task(first.kernel, sizes, first.dtype, first.words, np.arange(len(group)))
        blocks.append((task, task_device(task, accelerator)))
        rows.extend(row for _, row in group)
    return Samples(kernel, tuple(blocks), tuple(rows), np.array([row.seconds for row in rows]))
