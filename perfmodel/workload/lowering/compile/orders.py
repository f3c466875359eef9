"""In which order the elements of an image lie in memory: channels first, or channels last.

Places are counted in the logical order of a value's axes everywhere else. Whether two loops visit
memory alike, and whether a sum runs along it, is decided here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.workload.lowering.compile.graph import Graph, Value

IMAGES: Final = (4, 5)
"""Axes of tensors that may lie channels last."""
_TURNED: Final = 4
"""Axes of those that the compiler turns; volumes stay as they are (kernel/conv.py)."""


@dataclass(slots=True)
class Orders:
    """Which buffers lie channels last.

    Parameters
    ----------
    graph : Graph
    channels_last : bool
        Whether convolutions run so; their results lie so then.
    last : dict
        What is known of each buffer; values of an earlier graph are among them.
    """

    graph: Graph
    channels_last: bool
    last: dict[int, bool]

    def is_last(self, number: int) -> bool:
        """Whether a buffer lies channels last."""
        if number not in self.last:
            value = self.graph.values[number] if number >= 0 else None
            self.last[number] = value is not None and self._begins_last(value)
        return self.last[number]

    def _begins_last(self, value: Value) -> bool:
        if len(value.shape) not in IMAGES:
            return False
        image = self.channels_last and (len(value.shape) == _TURNED or self.graph.given_last)
        turned = image and value.name.startswith(("convol", "channels_last"))
        return turned or value.layout == "channels_last"

    def offsets(self, number: int, places: Iterable[int]) -> tuple[int, ...]:
        """Where elements of a buffer, counted in logical order, lie in its memory."""
        found = np.array(tuple(places), dtype=np.int64)
        if self.is_last(number):
            found = _turned(self.graph.values[number], found)
        return tuple(found.tolist())

    def follow(
        self, value: Value, buffer: int, places: Iterable[int], written: NDArray[np.int64]
    ) -> None:
        """Lay a value out as the buffer lies that its loop reads at ``places``."""
        if len(value.shape) in IMAGES:
            turned = tuple(_turned(value, written).tolist())
            self.last[value.number] = self.offsets(buffer, places) == turned


def _turned(value: Value, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of an image in memory where channels lie last."""
    _, channels, *rest = value.shape
    inner = math.prod(rest)
    size = channels * inner
    return places // size * size + places % inner * channels + places // inner % channels
