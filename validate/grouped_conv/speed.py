"""What was chosen in advance, layer by layer, against what PyTorch offers."""

from __future__ import annotations

import numpy as np
import pandas as pd

from perfmodel.hardware.accelerator import Accelerator
from perfmodel.optimize.grouped.candidates import layer_seconds
from validate.grouped_conv.baseline_times import MINE, expected, fit_library, fit_streams
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
    ``advised`` is the measured time of the scheduler's advice: ours, or one call of the library.
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
    streams = fit_streams(run.layers, run.convs, accelerator)
    library = fit_library(run.layers, run.convs, accelerator)
    guesses = {
        name: expected(run.convs[name], accelerator, streams, library) for name in table.index
    }
    table["best_expected"] = [min(guesses[name].values()) for name in table.index]
    _advise(table, guesses)
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


def _advise(table: pd.DataFrame, guesses: Guesses) -> None:
    """What the scheduler advises, what that took, and the fastest of what it weighs [s]."""
    calls = [*MINE.values(), "dense"]
    advice = []
    for name in table.index:
        said = {call: guesses[name][call] for call in calls if call in guesses[name]}
        said["ours"] = float(table.loc[name, "predicted"])
        advice.append(min(said, key=lambda way: said[way]))
    table["advice"] = advice
    table["advised"] = [
        float(table.loc[name, way]) for name, way in zip(table.index, advice, strict=True)
    ]
    table["weighed"] = table[["ours", *calls]].min(axis=1)


def geomean(ratio: pd.Series) -> float:
    """Geometric mean, rows without a value left out."""
    return float(np.exp(np.log(ratio.dropna()).mean()))


def confusion(table: pd.DataFrame) -> pd.DataFrame:
    """Rows: wins or loses as predicted; columns: as measured."""
    said = np.where(table.best_expected > table.predicted, "wins", "loses")
    real = np.where(table.best > table.ours, "wins", "loses")
    counts = pd.crosstab(pd.Series(said, name="said"), pd.Series(real, name="measured"))
    return counts.reindex(index=["wins", "loses"], columns=["wins", "loses"], fill_value=0)
