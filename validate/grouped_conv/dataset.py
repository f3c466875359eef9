"""The committed run: its tables, and every schedule of it made again from its coefficients.

The run wrote what it predicted. Making its schedules again from the same coefficients must give the
same predictions; a difference is an error, so that what is analysed is what ran.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from perfmodel.errors import CalibrationError
from perfmodel.optimize.grouped.candidates import Candidate, candidate
from perfmodel.optimize.grouped.files import read_times
from perfmodel.optimize.grouped.problem import GroupedConv
from validate.grouped_conv.cases import layer_cases
from validate.grouped_conv.plans import Held, busy_seconds, held, remade

RUN = Path(__file__).parents[1] / "measurements" / "h100-sxm5-80gb" / "grouped_conv"
UNITS = 132


@dataclass(frozen=True, slots=True, eq=False)
class Scheduled:
    """One schedule of a layer that was run: what its slots hold, what it was measured to take.

    ``digest`` is that of its tables: two rungs of the ladder may be one schedule.
    """

    conv: GroupedConv
    placement: str
    name: str
    first_predicted_s: float
    measured_s: float
    load: Held
    digest: str


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """The tables of a run, its layers and its schedules."""

    layers: pd.DataFrame
    slots: pd.DataFrame
    solo: pd.DataFrame
    convs: dict[str, GroupedConv]
    schedules: list[Scheduled]


def in_tune_half(layer: str) -> bool:
    """Whether coefficients may be chosen on this layer: a fixed hash of its name (SHA-256)."""
    return hashlib.sha256(layer.encode()).digest()[0] % 2 == 0


def load_run(folder: Path = RUN) -> Run:
    """Read a run and make its schedules again.

    Raises
    ------
    CalibrationError
        If a schedule differs from the one that ran.
    """
    layers = pd.read_csv(folder / "grouped_layers.csv")
    convs = {case.conv.name: case.conv for case in layer_cases()}
    times = read_times(folder / "grouped_coefficients.toml")
    by_name = {one.name: one for one in times}
    best: dict[tuple[str, str], Candidate] = {}
    schedules = []
    for row in layers[layers.method == "schedule"].itertuples():
        conv = convs[row.layer]
        key = (row.layer, row.variant)
        if key not in best:
            best[key] = candidate(conv, by_name[row.variant], UNITS)
        one, table = remade(best[key], row.placement)
        load = held(one, table)
        predicted = float(busy_seconds(one.times, load).max()) + one.times.launch
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
                conv, row.placement, row.variant, predicted, row.latency_us * 1e-6, load, digest
            )
        )
    return Run(
        layers,
        pd.read_csv(folder / "grouped_slots.csv"),
        pd.read_csv(folder / "grouped_solo.csv"),
        convs,
        schedules,
    )
