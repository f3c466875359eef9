"""The committed run: its tables, and every schedule of it made again from its coefficients.

The run wrote what it predicted. Making its schedules again from the same coefficients must give the
same predictions; a difference is an error, so that what is analysed is what ran.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from perfmodel.errors import CalibrationError
from perfmodel.optimize.grouped.candidates import Candidate, candidate, layer_seconds
from perfmodel.optimize.grouped.files import read_times
from perfmodel.optimize.grouped.forms import Form, as_given, forms
from perfmodel.optimize.grouped.problem import GroupedConv
from perfmodel.optimize.grouped.tiles import TileTimes
from validate.grouped_conv.cases import layer_cases
from validate.grouped_conv.fresh_cases import fresh_cases
from validate.grouped_conv.plans import (
    Held,
    busy_seconds,
    held,
    planned_seconds,
    remade,
    side_by_side,
)

RUN = Path(__file__).parents[1] / "measurements" / "h100-sxm5-80gb" / "grouped_conv"
UNITS = 132


@dataclass(frozen=True, slots=True, eq=False)
class Scheduled:
    """One schedule of a layer that was run: what its slots hold, what it was measured to take.

    ``conv`` is the layer, ``form`` what of it ran (empty in a run that knew no forms), ``digest``
    that of the tables: two rungs of the ladder may be one schedule.
    """

    conv: GroupedConv
    placement: str
    name: str
    first_predicted_s: float
    measured_s: float
    load: Held
    digest: str
    form: str = ""
    packing: Form | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """The tables of a run, its layers and its schedules.

    ``gathered`` are the schedules of the first run whose channels the framework gathered.
    """

    layers: pd.DataFrame
    slots: pd.DataFrame
    solo: pd.DataFrame
    convs: dict[str, GroupedConv]
    schedules: list[Scheduled]
    packs: pd.DataFrame | None = None
    gathered: tuple[Scheduled, ...] = ()


def in_tune_half(layer: str) -> bool:
    """Whether coefficients may be chosen on this layer: a fixed hash of its name (SHA-256)."""
    return hashlib.sha256(layer.encode()).digest()[0] % 2 == 0


def load_run(folder: Path = RUN) -> Run:
    """The first run: layers as given.

    Raises
    ------
    CalibrationError
        If a schedule differs from the one that ran.
    """
    layers = pd.read_csv(folder / "grouped_layers.csv")
    convs = {case.conv.name: case.conv for case in layer_cases()}
    times = read_times(folder / "grouped_coefficients.toml")
    return Run(
        layers,
        pd.read_csv(folder / "grouped_slots.csv").assign(form=""),
        pd.read_csv(folder / "grouped_solo.csv"),
        convs,
        _again(layers.assign(form=""), convs, times),
        gathered=_gathered(layers, convs, times),
    )


def load_fresh(folder: Path = RUN) -> Run:
    """The second run: fresh layers in several forms, and layers on which the first run lost.

    Raises
    ------
    CalibrationError
        If a schedule differs from the one that ran.
    """
    layers = pd.read_csv(folder / "grouped_fresh.csv")
    convs = {case.conv.name: case.conv for case in fresh_cases()}
    times = read_times(folder / "grouped_fresh_coefficients.toml")
    return Run(
        layers,
        pd.read_csv(folder / "grouped_fresh_slots.csv"),
        pd.DataFrame(),
        convs,
        _again(layers, convs, times),
        pd.read_csv(folder / "grouped_fresh_packs.csv"),
    )


def _again(
    layers: pd.DataFrame, convs: dict[str, GroupedConv], times: Sequence[TileTimes]
) -> list[Scheduled]:
    """Make every schedule again, and check that it is the one that ran."""
    by_name = {one.name: one for one in times}
    found: dict[str, dict[str, Form]] = {}
    best: dict[tuple[str, str, str], Candidate] = {}
    schedules = []
    for row in layers[layers.method == "schedule"].itertuples():
        conv = convs[row.layer]
        if row.layer not in found:
            ways = forms(conv) if row.form else [as_given(conv)]
            found[row.layer] = {one.name: one for one in ways} | {"": ways[0]}
        form = found[row.layer][row.form]
        key = (row.layer, row.form, row.variant)
        if key not in best:
            best[key] = candidate(form.conv, by_name[row.variant], UNITS)
        one, table = remade(best[key], row.placement)
        load = held(one, table)
        packing = 1e-6 * getattr(row, "packing_us", 0.0)
        # the first run knew neither forms nor company on an SM
        slots = (planned_seconds if row.form else busy_seconds)(one.times, load)
        predicted = layer_seconds(one.times, slots) + packing
        if abs(predicted * 1e6 / row.predicted_us - 1) > 1e-4:
            raise CalibrationError(
                f"{row.layer}: {row.placement}",
                f"{predicted * 1e6:.6g} us",
                f"{row.predicted_us:.6g} us, as it ran",
                repair="the scheduler changed: measure again",
            )
        digest = hashlib.sha256(table.first.tobytes() + table.tiles.tobytes()).hexdigest()
        schedules.append(
            Scheduled(
                conv,
                row.placement,
                row.variant,
                predicted,
                row.latency_us * 1e-6,
                load,
                digest,
                row.form,
                None if form.gather is None else form,
            )
        )
    return schedules


def _gathered(
    layers: pd.DataFrame, convs: dict[str, GroupedConv], times: Sequence[TileTimes]
) -> tuple[Scheduled, ...]:
    by_name = {one.name: one for one in times}
    rows = layers[(layers.method == "gather+schedule") & layers.latency_us.notna()]
    found = []
    for row in rows.itertuples():
        one = candidate(side_by_side(convs[row.layer]), by_name[row.variant], UNITS)
        load = held(one, one.tables())
        measured = row.latency_us * 1e-6
        found.append(
            Scheduled(
                convs[row.layer], row.placement, row.variant, measured, measured, load, "",
                "gathered",
            )
        )  # fmt: skip
    return tuple(found)


def together(first: Run, second: Run) -> Run:
    """Both runs as one; layers that stand in both keep the rows of both."""
    return Run(
        pd.concat([first.layers, second.layers], ignore_index=True),
        pd.concat([first.slots, second.slots], ignore_index=True),
        first.solo,
        first.convs | second.convs,
        [*first.schedules, *second.schedules],
        second.packs,
        first.gathered,
    )
