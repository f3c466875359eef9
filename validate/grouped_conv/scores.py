"""How good predictions were: errors of slots and layers, and the ranking of schedules."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from perfmodel.optimize.grouped.candidates import layer_seconds
from validate.grouped_conv.dataset import Run, in_tune_half
from validate.grouped_conv.refit import Fitted, slot_seconds

APART = 0.03


@dataclass(frozen=True, slots=True)
class Error:
    """Relative errors: mean of magnitudes, median, number."""

    mape: float
    bias: float
    count: int

    @classmethod
    def of(cls, errors: pd.Series) -> Error:
        """From predicted / measured - 1."""
        return cls(float(errors.abs().mean()), float(errors.median()), len(errors))


def schedule_table(run: Run, fitted: Fitted) -> pd.DataFrame:
    """One row a schedule: measured, predicted by the first fit and by ``fitted`` [s]."""
    rows = []
    for one in run.schedules:
        times = fitted.times[one.name]
        load = one.load
        slots = slot_seconds(times, load)
        packing = 0.0 if one.packing is None else fitted.packing.seconds(one.packing)
        rows.append(
            {
                "layer": one.conv.name,
                "placement": one.placement,
                "name": one.name,
                "form": one.form,
                "measured": one.measured_s,
                "first": one.first_predicted_s,
                "predicted": layer_seconds(times, slots) + packing,
                "used": float(slots.mean() / slots.max()),
                "tiles_per_slot": float(load.tiles.sum()) / len(load.tiles),
                "tune": in_tune_half(one.conv.name),
                "what": f"{one.form} {one.name} {one.digest}",
            }
        )
    return pd.DataFrame(rows)


def slot_table(run: Run, fitted: Fitted) -> pd.DataFrame:
    """One row a sampled slot: measured, predicted by the first fit and by ``fitted`` [s]."""
    parts = []
    loads = {(s.conv.name, s.placement, s.name, s.form): s.load for s in run.schedules}
    for key, rows in run.slots.groupby(["layer", "placement", "variant", "form"]):
        layer, placement, name, form = map(str, key)
        every = slot_seconds(fitted.times[name], loads[layer, placement, name, form])
        parts.append(
            pd.DataFrame(
                {
                    "layer": layer,
                    "name": name,
                    "form": form,
                    "measured": rows.measured_s,
                    "first": rows.planned_s,
                    "predicted": every[rows.slot.to_numpy()],
                    "tune": in_tune_half(layer),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def distinct(schedules: pd.DataFrame) -> pd.DataFrame:
    """Schedules with equal tables once, their measured times averaged."""
    return schedules.groupby(["layer", "what"], sort=False, as_index=False).agg(
        measured=("measured", "mean"),
        predicted=("predicted", "first"),
        first=("first", "first"),
        tune=("tune", "first"),
    )


def kendall(schedules: pd.DataFrame, column: str) -> float:
    """Mean over layers of tau-b between predicted and measured times of their schedules."""
    found = [
        kendalltau(rows[column], rows.measured).statistic
        for _, rows in schedules.groupby("layer")
        if len(rows) > 2
    ]
    return float(np.nanmean(found))


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of schedules of one layer: how many, called alike, and ordered wrongly."""

    count: int
    tied: int
    wrong: int

    @property
    def tau(self) -> float:
        """(right - wrong) / count; a tie is neither."""
        return (self.count - self.tied - 2 * self.wrong) / self.count if self.count else np.nan


def pairs(schedules: pd.DataFrame, column: str) -> tuple[Pairs, Pairs]:
    """Pairs measured at least 3 % apart, and pairs closer than that."""
    counts = np.zeros((2, 3), dtype=int)
    for _, rows in schedules.groupby("layer"):
        first, second = np.triu_indices(len(rows), 1)
        said = np.log(rows[column].to_numpy())
        real = np.log(rows.measured.to_numpy())
        said, real = said[first] - said[second], real[first] - real[second]
        tied = np.abs(said) < 1e-9
        wrong = ~tied & (said * real < 0)
        near = (np.abs(real) < np.log1p(APART)).astype(int)
        for kind in (0, 1):
            chosen = near == kind
            counts[kind] += (chosen.sum(), (tied & chosen).sum(), (wrong & chosen).sum())
    return Pairs(*map(int, counts[0])), Pairs(*map(int, counts[1]))
