"""A measured step beside its program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from perfmodel.calibrate.programs.rows import ModelRow
from perfmodel.cost.program.step import Prepared


@dataclass(frozen=True, slots=True)
class Measured:
    """A measured step beside its program, lowered and priced.

    Parameters
    ----------
    row : ModelRow
        What was measured.
    prepared : Prepared
        The program of that row on the stack of that row.
    profile : dict
        Profiled kernels summed by word (:mod:`perfmodel.calibrate.programs.profile`) [s].
    words : tuple of str
        The word of each predicted kernel.
    """

    row: ModelRow
    prepared: Prepared
    profile: Mapping[str, float] = field(default_factory=dict)
    words: tuple[str, ...] = ()
