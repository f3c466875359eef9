"""Many scalar operators as few array operators, so that a whole file is priced at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from perfmodel.workload.op import Op

_NUMBER = object()


def stacked(ops: Iterable[Op]) -> Iterator[tuple[npt.NDArray[np.intp], Op]]:
    """Group scalar operators that differ in their numbers only; absent values keep them apart.

    Parameters
    ----------
    ops : iterable of Op
        Operators whose sizes are plain integers.

    Yields
    ------
    places : (n,) integer array
        Where the n operators of the group stood in the input.
    op : Op
        One operator with (n,) arrays for sizes and flags.
    """
    groups: defaultdict[tuple[Any, ...], tuple[list[int], list[Op]]] = defaultdict(lambda: ([], []))
    for place, op in enumerate(ops):
        words = tuple(
            value if isinstance(value := getattr(op, field.name), str | None) else _NUMBER
            for field in fields(op)  # type: ignore[arg-type]
        )
        places, members = groups[(type(op), words)]
        places.append(place)
        members.append(op)
    for (cls, words), (places, members) in groups.items():
        names = [field.name for field in fields(cls)]
        values = {
            name: np.array([getattr(op, name) for op in members]) if word is _NUMBER else word
            for name, word in zip(names, words, strict=True)
        }
        yield np.array(places, dtype=np.intp), cls(**values)
