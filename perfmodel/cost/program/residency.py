r"""What a kernel finds in the last-level cache, from the order in which storages are touched.

The reuse distance of a read is the bytes of distinct storages touched since the last touch of the
same one, the storage itself included. A cache that replaces what was used longest ago holds it if
the distance is below its capacity; a hashed, not quite least-recent one holds a share

.. math::

    r = \frac{1}{1 + (x / \kappa C)^4}, \qquad x = \text{reuse distance},

with :math:`\kappa` the usable share of the capacity (two partitions keep copies of each other's
lines, and streams push each other out). What a program frees is overwritten by the next block that
the allocator hands out at the same place, so dead bytes leave the count as new storages come.

Reference
---------
Mattson, Gecsei, Slutz, Traiger, "Evaluation techniques for storage hierarchies", 1970.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from perfmodel.cost.parts import Floats

SHARPNESS: Final = 4
FAR: Final = 1e18
"""Distance of a first touch [B]: nothing of it is in a cache."""
Touches = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Reads:
    """Reads of a stream of kernels, arrays of shape (M,).

    Parameters
    ----------
    kernel : int array
        Which kernel reads.
    size : array
        How much [B].
    distance : array
        Reuse distance [B].
    """

    kernel: np.ndarray[tuple[int], np.dtype[np.intp]]
    size: Floats
    distance: Floats


def held_share(distance: Floats, capacity: float) -> Floats:
    """Share of a read that a cache of ``capacity`` bytes still holds.

    Parameters
    ----------
    distance : array
        Reuse distances [B].
    capacity : float
        Usable bytes of the cache [B].
    """
    if capacity <= 0.0:
        return np.zeros_like(np.asarray(distance, dtype=float))
    return np.asarray(1.0 / (1.0 + np.minimum(distance / capacity, 1e12) ** SHARPNESS))


def reuse(
    reads: Iterable[Touches],
    writes: Iterable[Touches],
    deaths: Mapping[int, Sequence[int]],
    *,
    horizon: float,
) -> Reads:
    """Reuse distances in a step that follows another one like it.

    Parameters
    ----------
    reads, writes : iterable of sequence of (storage, bytes)
        What each kernel reads and writes, in order.
    deaths : mapping
        Kernel -> storages whose memory may be overwritten after it.
    horizon : float
        Distances beyond this are as good as infinite [B].
    """
    stream = list(zip(reads, writes, strict=True))
    seen = _Recency(horizon)
    for kernel, (taken, made) in enumerate(stream):
        _touch(seen, taken, made, deaths.get(kernel, ()))
    rows: list[tuple[int, int, float]] = []
    for kernel, (taken, made) in enumerate(stream):
        for storage, size in taken:
            known = min(size, seen.held(storage))
            rows.append((kernel, known, seen.distance(storage) + known))
            rows.append((kernel, size - known, FAR))
        _touch(seen, taken, made, deaths.get(kernel, ()))
    table = np.array([row for row in rows if row[1] > 0], dtype=float).reshape(-1, 3)
    return Reads(table[:, 0].astype(np.intp), table[:, 1], np.minimum(table[:, 2], FAR))


def _touch(seen: _Recency, taken: Touches, made: Touches, dead: Iterable[int]) -> None:
    for storage, size in taken:
        seen.touch(storage, size)
    for storage, size in made:
        seen.touch(storage, size)
    for storage in dead:
        seen.bury(storage)


class _Recency:
    """Storages in order of last touch, with the bytes above each; forgotten beyond a horizon."""

    __slots__ = ("_bytes", "_dead", "_horizon", "_order", "_total")

    def __init__(self, horizon: float) -> None:
        self._order: dict[int, int] = {}  # storage -> bytes, the latest last
        self._dead: dict[int, None] = {}  # the latest last
        self._horizon = horizon
        self._total = 0.0

    def distance(self, storage: int) -> float:
        """Bytes touched after the storage."""
        if storage not in self._order:
            return FAR
        above = 0.0
        for other in reversed(self._order):
            if other == storage or above > self._horizon:
                return above
            above += self._order[other]
        return above

    def held(self, storage: int) -> int:
        """Bytes of the storage that were touched."""
        return self._order.get(storage, 0)

    def touch(self, storage: int, size: int) -> None:
        """Move a storage to the front; a new one takes the place of dead bytes.

        A touch of a small part (one row of a cache of keys) leaves the rest where it was.
        """
        if 2 * size < self._order.get(storage, 0):
            return
        self._dead.pop(storage, None)
        held = self._order.pop(storage, None)
        if held is None:
            self._overwrite(size)
        else:
            self._total -= held
        size = max(size, held or 0)
        self._order[storage] = size
        self._total += size
        while self._total > 2.0 * self._horizon and len(self._order) > 1:
            last = next(iter(self._order))
            self._total -= self._order.pop(last)

    def bury(self, storage: int) -> None:
        """The memory of a storage may be handed out again."""
        if storage in self._order:
            self._dead[storage] = None

    def _overwrite(self, size: int) -> None:
        """Dead bytes, the latest first, make room for a new storage of ``size`` bytes."""
        while size > 0 and self._dead:
            storage, _ = self._dead.popitem()
            held = self._order.get(storage)
            if held is None:
                continue
            cut = min(held, size)
            size -= cut
            self._total -= cut
            if cut == held:
                del self._order[storage]
            else:
                self._order[storage] = held - cut
                self._dead[storage] = None
