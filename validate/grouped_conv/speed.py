"""What was chosen in advance, layer by layer, against what PyTorch offers."""

from __future__ import annotations

import numpy as np
import pandas as pd

from perfmodel.hardware.accelerator import Accelerator
from perfmodel.optimize.grouped.candidates import layer_seconds
from perfmodel.optimize.grouped.problem import GroupedConv
from validate.grouped_conv.baseline_times import aligned, expected, fit_launches
from validate.grouped_conv.dataset import Run, in_tune_half
from validate.grouped_conv.refit import Fitted, slot_seconds

GRAPHS = (
    "cudnn-nhwc", "cudnn-nchw", "padded-nhwc", "padded-nchw", "dense", "torch-compile-nhwc",
    "loop-graph", "streams4-graph", "streams16-graph", "streams16-longest-graph",
)  # fmt: skip
STREAMS = [name for name in GRAPHS if name.startswith("streams")]
GIVEN = ("", "as given")
Guesses = dict[str, dict[str, float]]


def layer_table(
    run: Run, schedules: pd.DataFrame, fitted: Fitted, accelerator: Accelerator
) -> pd.DataFrame:
    """One row a layer: what each method took, what was expected of it, ours and the best [s].

    ``ours`` is the measured time of the way that is predicted fastest among those that ran: the
    layer as given, merged or packed. ``given`` is the same among schedules of the layer as given.
    """
    wide = run.layers[run.layers.latency_us.notna()].pivot_table(
        index="layer", columns="method", values="latency_us", aggfunc="min"
    )
    wide = wide.drop(columns=["schedule", "gather+schedule"]) * 1e-6
    facts = run.layers.drop_duplicates("layer").set_index("layer")[["family", "batch", "groups"]]
    table = wide.join(facts)
    ways = pd.concat([schedules, gathered_table(run, fitted)], ignore_index=True)
    chosen = _fastest_said(ways)
    given = _fastest_said(ways[ways.form.isin(GIVEN)])
    table["ours"], table["predicted"], table["form"] = (
        chosen.measured, chosen.predicted, chosen.form
    )  # fmt: skip
    table["given"], table["tiles_per_slot"] = given.measured, given.tiles_per_slot
    table["fastest"] = ways.groupby("layer").measured.min()
    table["streams"] = table[STREAMS].min(axis=1)
    methods = [name for name in GRAPHS if name in table]
    table["best"] = table[methods].min(axis=1)
    table["best_method"] = table[methods].idxmin(axis=1)
    launches = fit_launches(run.layers)
    guesses = {name: expected(run.convs[name], accelerator, launches) for name in table.index}
    factors = _factors(run, table, guesses)
    table["best_expected"] = [
        min(
            seconds * factors[_kind(run.convs[name], method)]
            for method, seconds in guesses[name].items()
        )
        for name in table.index
    ]
    table["equal"] = [run.convs[name].equal for name in table.index]
    table["per_group"] = [float(run.convs[name].inputs.mean()) for name in table.index]
    table["tune"] = [in_tune_half(name) for name in table.index]
    return table


def gathered_table(run: Run, fitted: Fitted) -> pd.DataFrame:
    """Schedules of the first run on channels that the framework gathered, as rows of ways."""
    rows = []
    for one in run.gathered:
        times = fitted.times[one.name]
        said = layer_seconds(times, slot_seconds(times, one.load))
        rows.append(
            {
                "layer": one.conv.name,
                "form": one.form,
                "measured": one.measured_s,
                "predicted": said + fitted.gather.seconds(one.conv),
                "tiles_per_slot": float(one.load.tiles.sum()) / len(one.load.tiles),
                "tune": in_tune_half(one.conv.name),
            }
        )
    return pd.DataFrame(rows)


def _fastest_said(ways: pd.DataFrame) -> pd.DataFrame:
    return ways.loc[ways.groupby("layer").predicted.idxmin()].set_index("layer")


def _kind(conv: GroupedConv, method: str) -> tuple[str, bool]:
    return method, method != "streams" and aligned(conv, method)


def _factors(run: Run, table: pd.DataFrame, guesses: Guesses) -> dict[tuple[str, bool], float]:
    """Median of measured over expected for each method and alignment, on the tune half."""
    ratios: dict[tuple[str, bool], list[float]] = {}
    others: dict[str, list[float]] = {}
    for name, guess in guesses.items():
        for method, seconds in guess.items():
            measured = table.loc[name, method]
            if in_tune_half(name) and np.isfinite(measured):
                ratios.setdefault(_kind(run.convs[name], method), []).append(measured / seconds)
                others.setdefault(method, []).append(measured / seconds)
    return {
        (method, even): float(np.median(ratios.get((method, even), pooled)))
        for method, pooled in others.items()
        for even in (False, True)
    }


def geomean(ratio: pd.Series) -> float:
    """Geometric mean, rows without a value left out."""
    return float(np.exp(np.log(ratio.dropna()).mean()))


def confusion(table: pd.DataFrame) -> pd.DataFrame:
    """Rows: wins or loses as predicted; columns: as measured."""
    said = np.where(table.best_expected > table.predicted, "wins", "loses")
    real = np.where(table.best > table.ours, "wins", "loses")
    counts = pd.crosstab(pd.Series(said, name="said"), pd.Series(real, name="measured"))
    return counts.reindex(index=["wins", "loses"], columns=["wins", "loses"], fill_value=0)
