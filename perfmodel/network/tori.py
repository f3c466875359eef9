"""Collectives on a torus: every axis carries its share, both ways round.

An axis that closes has two directed links a device and a diameter of half its length; one that does
not has a single useful direction at its ends, and the whole length to walk.

Reference: J. Austin et al., "How to Scale Your Model", jax-ml/scaling-book, chapter "Sharded
Matrices" (2025): all-gather V / (W n_axes), all-to-all V / (4 W) on a bidirectional ring.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from perfmodel.network.algorithms import Floats


@dataclass(frozen=True, slots=True)
class Slice:
    """What a group of devices on a torus has: axis lengths and whether each closes."""

    dims: tuple[int, ...]
    wraps: tuple[bool, ...]

    @property
    def links(self) -> float:
        """Directed links of a device that a ring algorithm keeps busy."""
        pairs = zip(self.dims, self.wraps, strict=True)
        return float(sum(2 if wrap else 1 for side, wrap in pairs if side > 1))

    @property
    def hops(self) -> float:
        """Steps of an all-gather or reduce-scatter: each axis in turn, both ways round."""
        pairs = zip(self.dims, self.wraps, strict=True)
        return float(sum(side // 2 if wrap else side - 1 for side, wrap in pairs))

    @property
    def crossing(self) -> float:
        """Bytes over the busiest link in an all-to-all, as a multiple of one rank's buffer."""
        pairs = zip(self.dims, self.wraps, strict=True)
        return max((side / 8 if wrap else side / 4 for side, wrap in pairs if side > 1), default=0)


def placed(ranks: int, dims: tuple[int, ...], wraps: tuple[bool, ...]) -> Slice:
    """The part of a torus that a group of ``ranks`` neighbours takes.

    Whole axes first, because they close; what is left lies along one more axis and does not. A
    number that does not factor into the axes is laid along a line through the torus.
    """
    left, sides, closes = ranks, [], []
    for side, wrap in sorted(
        zip(dims, wraps, strict=True), key=lambda axis: (not axis[1], axis[0])
    ):
        if left > 1 and side > 1 and left % side == 0:
            sides.append(side)
            closes.append(wrap)
            left //= side
    if left > 1:
        sides.append(left)
        closes.append(False)
    return Slice(tuple(sides), tuple(closes))


@lru_cache(maxsize=4096)
def _numbers(ranks: int, dims: tuple[int, ...], wraps: tuple[bool, ...]) -> tuple[float, ...]:
    part = placed(ranks, dims, wraps)
    return part.links, part.hops, part.crossing


def torus_numbers(
    ranks: Floats, dims: tuple[int, ...], wraps: tuple[bool, ...]
) -> tuple[Floats, Floats, Floats]:
    """(links, hops, crossing) of :class:`Slice` for an array of group sizes."""
    unique, inverse = np.unique(ranks, return_inverse=True)
    table = np.array([_numbers(int(each), dims, wraps) for each in unique], dtype=np.float64)
    rows = table.reshape(-1, 3)[inverse.reshape(ranks.shape)]
    return rows[..., 0], rows[..., 1], rows[..., 2]
