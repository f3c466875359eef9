"""The grouped-convolution scheduler: which tile each group uses, which slot computes which tiles.

Three nested problems: a tile shape per group (:mod:`~perfmodel.optimize.grouped.knapsack`), the
tiles on the slots of a persistent kernel (:mod:`~perfmodel.optimize.grouped.placement`), and, where
no such kernel is at hand, waves of streams (:mod:`~perfmodel.optimize.grouped.waves`). Every answer
carries its lower bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from perfmodel.cost.efficiency import efficiency_folder
from perfmodel.errors import Infeasible, SpecError
from perfmodel.hardware.accelerator import Accelerator
from perfmodel.optimize.grouped.candidates import Candidate, candidates
from perfmodel.optimize.grouped.files import (
    grouped_conv_from_dict,
    groups_from_json,
    read_library,
    read_packing,
    read_times,
)
from perfmodel.optimize.grouped.form_choice import Formed, formed
from perfmodel.optimize.grouped.forms import Form, Packing, as_given
from perfmodel.optimize.grouped.library import Library, library_seconds
from perfmodel.optimize.grouped.placement import Placement, place
from perfmodel.optimize.grouped.problem import (
    Group,
    GroupedConv,
    contiguous_groups,
    equal_groups,
)
from perfmodel.optimize.grouped.result import GroupedSchedule, Spans
from perfmodel.optimize.grouped.sharing import PLAIN
from perfmodel.optimize.grouped.tiles import (
    LAUNCH_S,
    VARIANTS,
    TileTimes,
    datasheet_times,
    linked,
    usable,
)
from perfmodel.optimize.grouped.waves import Waves, rectangles, wave_plan

__all__ = [
    "Form",
    "Group",
    "GroupedConv",
    "GroupedSchedule",
    "Library",
    "Packing",
    "Placement",
    "Spans",
    "TileTimes",
    "Waves",
    "contiguous_groups",
    "equal_groups",
    "grouped_conv_from_dict",
    "groups_from_json",
    "library_factors",
    "packing_times",
    "place",
    "schedule",
    "tile_times",
]


def tile_times(accelerator: Accelerator, *, folder: Path | None = None) -> tuple[TileTimes, ...]:
    """Tile-time coefficients of a device: fitted if it was measured, else from its datasheet.

    Parameters
    ----------
    folder : Path, optional
        Where ``grouped_conv/<chip>.toml`` lies; the shipped efficiency folder if left out.

    Raises
    ------
    SpecError
        If the device does not say how many SMs or CUs it has.
    """
    root = efficiency_folder() if folder is None else folder
    fitted = root / "grouped_conv" / f"{accelerator.name.lower()}.toml"
    if fitted.is_file():
        return read_times(fitted)
    if accelerator.units is None:
        raise SpecError(
            f"{accelerator.name}: units",
            None,
            "the number of SMs or CUs",
            repair="add units to the chip's file",
        )
    full = [
        datasheet_times(
            variant,
            units=accelerator.units,
            peak=accelerator.matrix_peak("bf16"),
            bandwidth=accelerator.l2_bandwidth or accelerator.memory_bandwidth,
        )
        for variant in VARIANTS
    ]
    # one program alone on an SM has it to itself: a step is shorter, latencies stay
    alone = [
        replace(times, residency=1, beta=times.beta / times.residency)
        for times in full
        if times.residency > 1
    ]
    return linked((*full, *alone), PLAIN)


def schedule(
    groups: GroupedConv,
    accelerator: Accelerator,
    *,
    coefficients: Sequence[TileTimes] | None = None,
    time_limit_s: float = 20.0,
    gap: float = 1e-3,
    waves: bool = True,
    forms: bool = True,
    packing: Packing | None = None,
    library: Library | None = None,
) -> GroupedSchedule:
    """Schedule a grouped convolution on a device.

    The result's ``advice`` says whether to run it, or one call of a library that is expected to be
    faster.

    Parameters
    ----------
    groups : GroupedConv
        The layer, e.g. from :func:`groups_from_json`.
    accelerator : Accelerator
        The device.
    coefficients : sequence of TileTimes, optional
        Tile times; :func:`tile_times` if left out.
    time_limit_s : float
        Wall-clock limit of the placement [s].
    gap : float
        Relative gap at which the placement stops.
    waves : bool
        Also plan waves of streams.
    forms : bool
        Also weigh merging neighbouring groups under zero weights and packing channels first; the
        fastest by planned time, packing included, is scheduled.
    packing : Packing, optional
        Time of the packing kernel; measured or from the datasheet if left out.
    library : Library, optional
        Measured over priced time of a library's calls; :func:`library_factors` if left out.

    Raises
    ------
    Infeasible
        If no variant with coefficients can read this layer's channels.
    """
    times = tile_times(accelerator) if coefficients is None else tuple(coefficients)
    if accelerator.units is None:
        raise SpecError(
            f"{accelerator.name}: units",
            None,
            "the number of SMs or CUs",
            repair="add units to the chip's file",
        )
    kernel = packing_times(accelerator) if packing is None else packing
    ways = (
        formed(groups, times, accelerator.units, kernel)
        if forms
        else [
            Formed(as_given(groups), one, 0.0)
            for one in candidates(groups, times, accelerator.units)
        ]
    )
    if not ways:
        raise Infeasible(
            groups.name or "groups",
            ", ".join(sorted({one.variant.name for one in times})) or "<no coefficients>",
            "coefficients of one of " + ", ".join(v.name for v in usable(groups)),
            repair="measure the missing variants, or leave coefficients out",
        )
    best = ways[0].candidate
    placed = place(
        best.kinds.seconds, best.kinds.number, best.slots, time_limit_s=time_limit_s, gap=gap
    )
    chosen = replace(best, counts=placed.counts)
    return GroupedSchedule(
        accelerator.name,
        groups,
        ways[0].form,
        ways[0].packing,
        chosen,
        placed,
        _bounds(groups, accelerator, chosen, placed),
        _waves(groups, times, accelerator.units, time_limit_s / 2) if waves else None,
        tuple((one.name, one.seconds) for one in ways[1:]),
        library_seconds(
            groups, accelerator, library_factors(accelerator) if library is None else library
        ),
    )


def packing_times(accelerator: Accelerator, *, folder: Path | None = None) -> Packing:
    """The packing kernel of a device: measured, else a launch and half the memory rate."""
    root = efficiency_folder() if folder is None else folder
    fitted = root / "grouped_conv" / f"{accelerator.name.lower()}.toml"
    found = read_packing(fitted) if fitted.is_file() else None
    return found or Packing(LAUNCH_S, accelerator.memory_bandwidth / 2)


def library_factors(accelerator: Accelerator, *, folder: Path | None = None) -> Library:
    """Measured over priced time of a library's calls on a device; all 1 if it was not measured."""
    root = efficiency_folder() if folder is None else folder
    fitted = root / "grouped_conv" / f"{accelerator.name.lower()}.toml"
    return read_library(fitted) if fitted.is_file() else Library()


def _bounds(
    conv: GroupedConv, accelerator: Accelerator, chosen: Candidate, placed: Placement
) -> dict[str, float]:
    return {
        "compute": conv.flops / accelerator.matrix_peak(conv.dtype),
        "memory": conv.compulsory_bytes / accelerator.memory_bandwidth,
        "knapsack": chosen.bound,
        "placement": placed.bound,
    }


def _waves(
    conv: GroupedConv, coefficients: Sequence[TileTimes], units: int, time_limit_s: float
) -> Waves | None:
    """Each group of the layer as given a kernel of its own with its shape; a join costs one launch.

    Streams find the channels of each group split beforehand.
    """
    found = candidates(conv, coefficients, units)
    if not found:
        return None
    chosen = found[0]
    times = chosen.times
    rows = np.arange(len(chosen.pick))
    number = times.variant.counts(conv)[rows, chosen.pick]
    tau = times.seconds(conv)[rows, chosen.pick]
    width, height = rectangles(number, tau, chosen.slots)
    return wave_plan(
        width, height + times.begin, chosen.slots, times.launch, time_limit_s=time_limit_s
    )
