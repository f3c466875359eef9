"""Many priced programs as one: a fit then asks for all their kernels in one array expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.parts import Floats
from perfmodel.cost.program.coefficients import ProgramCoefficients
from perfmodel.cost.program.price_kernels import PricedKernels, PricedOps
from perfmodel.cost.program.residency import Reads
from perfmodel.cost.program.step import times_of


@dataclass(frozen=True, slots=True)
class Joined:
    """Programs of one device behind each other.

    Parameters
    ----------
    priced : PricedKernels
        All kernels, those of a program in a row.
    starts : int array
        Index of the first kernel of each program, and behind the last the count of all.
    """

    priced: PricedKernels
    starts: NDArray[np.intp]

    def seconds(self, c: ProgramCoefficients) -> Floats:
        """Time of every kernel inside its program [s]."""
        return times_of(self.priced, c).seconds

    def sums(self, seconds: Floats) -> Floats:
        """Sum over each program's kernels; 0 for one without kernels."""
        ends = np.concatenate([[0.0], np.cumsum(seconds)])
        return np.asarray(ends[self.starts[1:]] - ends[self.starts[:-1]])


def join(programs: Sequence[PricedKernels]) -> Joined:
    """Put priced programs behind each other.

    Parameters
    ----------
    programs : sequence of PricedKernels
        At least one, all of one device: its cache is that of the first.
    """
    counts = [one.count for one in programs]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.intp)
    classes = tuple(sorted({names for one in programs for names in one.ops.classes}))
    place = {names: k for k, names in enumerate(classes)}
    columns = {}
    for field in fields(PricedOps):
        if field.name not in ("kernel", "pace", "classes"):
            columns[field.name] = np.concatenate([getattr(one.ops, field.name) for one in programs])
    shifted = zip(programs, starts[:-1], strict=True)
    kernel = np.concatenate([one.ops.kernel + first for one, first in shifted])
    own = [np.array([place[names] for names in one.ops.classes], np.intp) for one in programs]
    pace = np.concatenate([table[one.ops.pace] for table, one in zip(own, programs, strict=True)])
    shifted = zip(programs, starts[:-1], strict=True)
    reads = Reads(
        np.concatenate([one.reads.kernel + first for one, first in shifted]),
        np.concatenate([one.reads.size for one in programs]),
        np.concatenate([one.reads.distance for one in programs]),
    )
    priced = PricedKernels(
        ops=PricedOps(kernel=kernel, pace=pace, classes=classes, **columns),
        reads=reads,
        kinds=tuple(kind for one in programs for kind in one.kinds),
        extra=np.concatenate([one.extra for one in programs]),
        turns=np.concatenate([one.turns for one in programs]),
        casts=np.concatenate([one.casts for one in programs]),
        upper=np.concatenate([one.upper for one in programs]),
        cache=programs[0].cache,
    )
    return Joined(priced, starts)
