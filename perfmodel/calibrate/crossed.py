"""Convolutions that nobody measured, crossed from measured ones: shapes on which networks agree.

Several networks together are closer than one, and too slow for a price. Asked on images of one
measured convolution under the filters of another, they teach one that comes nearly as close.

References
----------
Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from perfmodel.calibrate.measurements import Row
from perfmodel.calibrate.samples import FOLDS, Samples
from perfmodel.cost.device import Device
from perfmodel.cost.mechanism import task_device
from perfmodel.cost.tasks import Task, tasks_of
from perfmodel.hardware import Accelerator
from perfmodel.workload.op import op_from_dict

EACH = 3
"""Crossed ones for each measured row."""
_IMAGES = ("n", "h", "w", "d")
_OTHER_BATCH = 0.3
_LARGEST_BYTES = 3e9


def crossed(
    measured: Iterable[Samples],
    accelerator: Accelerator,
    rng: np.random.Generator,
    *,
    each: int = EACH,
) -> dict[str, Samples]:
    """Kernel -> operators with images of one row, filters of another; their times are unknown.

    All parents of an operator are of one fold, to which it belongs then.

    Parameters
    ----------
    measured : iterable of Samples
        Convolutions, of any chip.
    accelerator : Accelerator
        The chip that the crossed operators run on.
    rng : numpy.random.Generator
        Draws the parents.
    each : int
        How many are drawn for each measured row; some cannot be, and are left out.
    """
    folds: dict[tuple[str, int], list[Row]] = {}
    for samples in measured:
        for row in samples.rows:
            folds.setdefault((samples.kernel, row.fold(FOLDS)), []).append(row)
    rows = []
    for parents in folds.values():
        drawn = rng.integers(len(parents), size=(each * len(parents), 3))
        other = rng.random(len(drawn)) < _OTHER_BATCH
        for (filters, images, batch), changes in zip(drawn, other, strict=True):
            record, donor = dict(parents[filters].record), parents[images].record
            record |= {k: donor[k] for k in _IMAGES if k in donor and k in record}
            if changes:
                record["n"] = parents[batch].record["n"]
            if _fits(record):
                key = parents[filters].key
                rows.append(Row(record, 1.0, 1.0, 1.0, "graph", key, "crossed"))
    return _samples(rows, accelerator)


def _samples(rows: Iterable[Row], accelerator: Accelerator) -> dict[str, Samples]:
    """Rows by kernel, described many at once: one by one takes two hundred times as long."""
    alike: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        words = tuple(value for value in row.record.values() if isinstance(value, str))
        alike.setdefault((*words, *row.record), []).append(row)
    found: dict[str, list[tuple[tuple[Task, Device], list[Row]]]] = {}
    for members in alike.values():
        columns = {
            name: value if isinstance(value, str) else [row.record[name] for row in members]
            for name, value in members[0].record.items()
        }
        for task in tasks_of(op_from_dict(columns, where="crossed"))[1]:
            block = replace(task, places=np.arange(task.places.size))
            mine = [members[place] for place in task.places]
            found.setdefault(task.kernel, []).append(
                ((block, task_device(block, accelerator)), mine)
            )
    return {
        kernel: Samples(
            kernel,
            tuple(block for block, _ in parts),
            tuple(row for _, mine in parts for row in mine),
            np.ones(sum(len(mine) for _, mine in parts)),
        )
        for kernel, parts in sorted(found.items())
    }


def _fits(record: Mapping[str, Any]) -> bool:
    """Whether the filter is no larger than its padded image, and the tensors than memory."""
    axes = [record[name] for name in ("h", "w", "d") if name in record]
    if min(axes) + 2 * record["padding"] < record["kernel"]:
        return False
    element = 4 if record["dtype"] in ("fp32", "tf32") else 2
    places = float(record["n"]) * np.prod(axes)
    outputs = places / record["stride"] ** len(axes)
    return bool(element * (places * record["c_in"] + outputs * record["c_out"]) <= _LARGEST_BYTES)
