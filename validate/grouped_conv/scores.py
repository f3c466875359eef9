"""How good predictions and schedules were: errors, ranking, speed-ups, and who wins in advance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from perfmodel.hardware.accelerator import Accelerator
from perfmodel.optimize.grouped.candidates import layer_seconds
from perfmodel.optimize.grouped.tiles import TileTimes
from validate.grouped_conv.baseline_times import expected, fit_launches
from validate.grouped_conv.dataset import Run, in_tune_half
from validate.grouped_conv.refit import slot_seconds

GRAPHS = (
    "cudnn-nhwc", "cudnn-nchw", "padded-nhwc", "padded-nchw", "dense", "torch-compile-nhwc",
    "loop-graph", "streams4-graph", "streams16-graph", "streams16-longest-graph",
)  # fmt: skip
STREAMS = [name for name in GRAPHS if name.startswith("streams")]
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


def schedule_table(run: Run, fitted: Mapping[str, TileTimes]) -> pd.DataFrame:
    """One row a schedule: measured, predicted by the first fit and by ``fitted`` [s]."""
    rows = []
    for one in run.schedules:
        times = fitted[one.name]
        load = one.load
        slots = slot_seconds(times, load)
        rows.append(
            {
                "layer": one.conv.name,
                "placement": one.placement,
                "name": one.name,
                "measured": one.measured_s,
                "first": one.first_predicted_s,
                "predicted": layer_seconds(times, slots),
                "used": float(slots.mean() / slots.max()),
                "tiles_per_slot": float(load.tiles.sum()) / len(load.tiles),
                "tune": in_tune_half(one.conv.name),
            }
        )
    return pd.DataFrame(rows)


def slot_table(run: Run, fitted: Mapping[str, TileTimes]) -> pd.DataFrame:
    """One row a sampled slot: measured, predicted by the first fit and by ``fitted`` [s]."""
    parts = []
    loads = {(s.conv.name, s.placement, s.name): s.load for s in run.schedules}
    for (layer, placement, name), rows in run.slots.groupby(["layer", "placement", "variant"]):
        every = slot_seconds(fitted[name], loads[layer, placement, name])
        parts.append(
            pd.DataFrame(
                {
                    "layer": layer,
                    "name": name,
                    "measured": rows.measured_s,
                    "first": rows.planned_s,
                    "predicted": every[rows.slot.to_numpy()],
                    "tune": in_tune_half(str(layer)),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


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


def layer_table(run: Run, schedules: pd.DataFrame, accelerator: Accelerator) -> pd.DataFrame:
    """One row a layer: what each method took, what was expected of it, ours and the best [s]."""
    wide = run.layers[run.layers.latency_us.notna()].pivot_table(
        index="layer", columns="method", values="latency_us", aggfunc="min"
    )
    wide = wide.drop(columns="schedule") * 1e-6
    facts = run.layers.drop_duplicates("layer").set_index("layer")[["family", "batch", "groups"]]
    table = wide.join(facts)
    ran = schedules[schedules.placement == "knapsack+lpt"].set_index("layer")
    table["run"] = [run.convs[name].input_run for name in table.index]
    table["direct"], table["predicted"] = ran.measured, ran.predicted
    table["tiles_per_slot"] = ran.tiles_per_slot
    # of the schedules that ran, the one that the refitted coefficients call fastest
    best = schedules.loc[schedules.groupby("layer").predicted.idxmin()].set_index("layer")
    table["picked"] = best.measured
    table["picked_predicted"] = best.predicted
    table["fastest_schedule"] = schedules.groupby("layer").measured.min()
    table["streams"] = table[STREAMS].min(axis=1)
    methods = [name for name in GRAPHS if name in table]
    table["best"] = table[methods].min(axis=1)
    table["best_method"] = table[methods].idxmin(axis=1)
    launches = fit_launches(run.layers)
    guesses = {name: expected(run.convs[name], accelerator, launches) for name in table.index}
    factors = _factors(table, guesses)
    table["best_expected"] = [
        min(seconds * factors[method] for method, seconds in guesses[name].items())
        for name in table.index
    ]
    table["equal"] = [run.convs[name].equal for name in table.index]
    # one kernel packs the channels first where groups are unequal and loads would be narrow
    packed = table["gather+schedule"].where((table["run"] < 8) & ~table.equal)
    table["ours"] = packed.fillna(table.direct)
    table["per_group"] = [float(run.convs[name].inputs.mean()) for name in table.index]
    table["kernel"] = [run.convs[name].kernel for name in table.index]
    table["tune"] = [in_tune_half(name) for name in table.index]
    return table


def _factors(table: pd.DataFrame, guesses: dict[str, dict[str, float]]) -> dict[str, float]:
    """Median of measured over expected for each method, on the tune half."""
    found = {}
    for method in {method for one in guesses.values() for method in one}:
        ratio = [
            table.loc[name, method] / guesses[name][method]
            for name in table.index
            if in_tune_half(name) and method in guesses[name]
        ]
        found[method] = float(np.nanmedian(ratio))
    return found


def geomean(ratio: pd.Series) -> float:
    """Geometric mean, rows without a value left out."""
    return float(np.exp(np.log(ratio.dropna()).mean()))


def confusion(table: pd.DataFrame) -> pd.DataFrame:
    """Rows: wins or loses as predicted; columns: as measured."""
    said = np.where(table.best_expected > table.picked_predicted, "wins", "loses")
    real = np.where(table.best > table.picked, "wins", "loses")
    counts = pd.crosstab(pd.Series(said, name="said"), pd.Series(real, name="measured"))
    return counts.reindex(index=["wins", "loses"], columns=["wins", "loses"], fill_value=0)
