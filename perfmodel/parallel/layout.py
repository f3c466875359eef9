"""Which layers each device of a pipeline holds.

A model is a row of layers of a few kinds; a pipeline cuts it into ``pp * virtual_stages`` chunks,
and device ``i`` holds the chunks ``i, i + pp, i + 2 pp ...``. Devices that hold the same are one
*kind of stage*, so a pipeline of 64 stages is priced as three or four.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.workload.layer import LayerKind


def even_layout(layers: int, chunks: int) -> tuple[int, ...]:
    """Layers of each chunk, as even as possible; first and last chunk get the fewer.

    Examples
    --------
    >>> even_layout(10, 4)
    (2, 3, 3, 2)
    """
    least, over = divmod(layers, chunks)
    start = (chunks - over + 1) // 2
    return tuple(least + (start <= chunk < start + over) for chunk in range(chunks))


@dataclass(frozen=True, slots=True)
class StageKinds:
    """The kinds of stage of one pipeline.

    Parameters
    ----------
    layers : (k, c) array
        Layers of each of the c layer kinds on a device of each of the k stage kinds.
    embedding, head : (k,) array
        1 where the device holds the token embedding, or the output head and the loss.
    earliest : (k,) array
        The first device of the kind: the one that holds the most micro-batches.
    count : (k,) array
        Devices of the kind.
    """

    layers: NDArray[np.float64]
    embedding: NDArray[np.float64]
    head: NDArray[np.float64]
    earliest: NDArray[np.int64]
    count: NDArray[np.int64]


def stage_kinds(
    kinds: tuple[LayerKind, ...], stages: int, chunks: int, layout: tuple[int, ...] | None = None
) -> StageKinds:
    """The kinds of stage of a pipeline of ``stages`` devices with ``chunks`` chunks each."""
    total = sum(kind.count for kind in kinds)
    layout = layout or even_layout(total, stages * chunks)
    kind_of = np.zeros(total, dtype=np.int64)
    for number, kind in enumerate(kinds):
        kind_of[list(kind.layers)] = number
    held = np.zeros((stages, len(kinds) + 2), dtype=np.int64)
    start = 0
    for chunk, layers in enumerate(layout):
        here = kind_of[start : start + layers]
        held[chunk % stages, : len(kinds)] += np.bincount(here, minlength=len(kinds))
        start += layers
    held[0, -2] = 1
    held[-1, -1] = 1
    rows, earliest, count = np.unique(held, axis=0, return_index=True, return_counts=True)
    return StageKinds(
        layers=rows[:, :-2].astype(np.float64),
        embedding=rows[:, -2].astype(np.float64),
        head=rows[:, -1].astype(np.float64),
        earliest=earliest.astype(np.int64),
        count=count.astype(np.int64),
    )


def padded_stage_kinds(tables: list[StageKinds]) -> StageKinds:
    """Tables of several pipelines as one, with a leading axis; short ones repeat their first row.

    Repeated rows have count 0, so sums over devices stay right and maxima do not change.
    """
    most = max(len(table.count) for table in tables)

    def pad(name: str) -> NDArray[Any]:
        columns = []
        for table in tables:
            column = getattr(table, name)
            fill = np.repeat(column[:1], most - len(column), axis=0)
            columns.append(np.concatenate([column, fill * 0 if name == "count" else fill]))
        return np.stack(columns)

    return StageKinds(**{name: pad(name) for name in StageKinds.__slots__})
