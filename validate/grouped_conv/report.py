"""The accuracy page of the grouped-convolution scheduler, from the committed run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from perfmodel.hardware.accelerator import Accelerator
from perfmodel.optimize.grouped.tiles import TileTimes
from validate.grouped_conv.dataset import Run
from validate.grouped_conv.scores import (
    Error,
    Pairs,
    confusion,
    geomean,
    kendall,
    layer_table,
    pairs,
    schedule_table,
    slot_table,
)

COMMAND = "python3 -m validate.grouped_conv report --out docs/accuracy/grouped_conv.md"


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """A Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines] + [""]


def _percent(value: float, *, sign: bool = False) -> str:
    return f"{value:+.1%}" if sign else f"{value:.1%}"


def document(run: Run, fitted: Mapping[str, TileTimes], accelerator: Accelerator) -> str:
    """The page as Markdown."""
    schedules, slots = schedule_table(run, fitted), slot_table(run, fitted)
    layers = layer_table(run, schedules, accelerator)
    unseen, unseen_slots = schedules[~schedules.tune], slots[~slots.tune]
    ran = unseen[unseen.placement == "knapsack+lpt"]
    small = layers[~layers.equal & (layers.batch <= 8) & (layers.groups > 4)]
    equal = layers[layers.equal & layers.per_group.between(4, 64) & (layers.tiles_per_slot <= 2)]
    said = confusion(layers[~layers.tune])
    right = int(np.trace(said)) / int(said.to_numpy().sum())
    apart, close = pairs(unseen, "predicted")
    slot = Error.of(unseen_slots.predicted / unseen_slots.measured - 1)
    layer = Error.of(ran.predicted / ran.measured - 1)
    tau = kendall(unseen, "predicted")
    streams, loop = geomean(small.streams / small.ours), geomean(small["loop-eager"] / small.ours)
    fair = geomean(equal.best / equal.ours)
    bars: list[tuple[bool, str, str, str]] = [
        (tau >= 0.8, "Kendall tau of schedule ranking", f"{tau:.3f}", "at least 0.8"),
        (slot.mape <= 0.1, "slot time, MAPE", _percent(slot.mape), "10 %"),
        (layer.mape <= 0.15, "layer makespan with launch, MAPE", _percent(layer.mape), "15 %"),
        (streams >= 2, "unequal groups, batch <= 8, against streams in a CUDA graph",
         f"{streams:.2f}x", "2x"),
        (loop >= 5, "unequal groups, batch <= 8, against the plain loop", f"{loop:.1f}x", "5x"),
        (fair >= 1.3, "equal groups, 4 to 64 channels, two waves or fewer, against the best of"
         " PyTorch", f"{fair:.2f}x", "1.3x"),
    ]  # fmt: skip
    lines = [
        "# Accuracy of the grouped-convolution scheduler",
        "",
        f"One H100 SXM, {len(run.convs)} layers, {len(schedules)} schedules, {len(slots)} sampled"
        f" slots. Written by `{COMMAND}` from `validate/measurements/h100-sxm5-80gb/grouped_conv`.",
        "",
        "Layers are split by a fixed hash of their names (SHA-256, first byte). The shipped"
        " coefficients come from solo shapes and the even half; errors and ranking below are on"
        f" the {len(ran)} layers of the odd half, which no coefficient saw. Speed-ups are"
        " measurements on all layers; the schedules that ran were chosen with coefficients from"
        " solo shapes alone.",
        "",
        "## Bars, misses first",
        "",
        *table(
            ("", "what", "found", "asked"),
            [("held" if ok else "**missed**", what, found, asked)
             for ok, what, found, asked in sorted(bars, key=lambda bar: bar[0])],
        ),
    ]  # fmt: skip
    lines += _why(schedules, apart, close, layers, small)
    lines += _errors(schedules, slots)
    lines += _speed(layers, small, equal)
    lines += [
        "## Said in advance",
        "",
        "A layer is expected to lose where the best of PyTorch is expected to be faster. Calls of"
        " one convolution are priced as any operator, times one factor a method; streams by"
        " `a + b groups`; factors, a and b come from the even half. On the odd half"
        f" {_percent(right)} of the verdicts are right:",
        "",
        *table(
            ("", "measured: wins", "measured: loses"),
            [(f"said: {name}", *said.loc[name]) for name in said.index],
        ),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _why(
    schedules: pd.DataFrame, apart: Pairs, close: Pairs, layers: pd.DataFrame, small: pd.DataFrame
) -> list[str]:
    count = apart.count + close.count
    near = schedules[~schedules.tune]
    idle, rest = near[near.used < 0.2], near[near.used >= 0.2]
    spread = near.groupby("layer").measured.agg(lambda x: float(x.max() / x.min()))
    wide = layers[layers["run"] < 8]
    learned = layers[layers.family == "condensenet-learned"]
    both = pd.concat([small, learned[learned.batch <= 8]])
    losing = small[small.streams < 2 * small.ours]
    return [
        "## Why",
        "",
        f"- **Ranking.** {close.count} of {count} pairs of schedules were measured within 3 % of"
        f" each other; {close.tied} of these have the same predicted time (equal groups placed in"
        " another order hold the same tiles), which tau-b counts against the model. On pairs at"
        f" least 3 % apart tau is {apart.tau:.3f}: {apart.wrong} of {apart.count} in the wrong"
        f" order, {apart.tied} called alike. What is left: a tile's time is taken with all slots"
        f" busy. The {len(idle)} schedules that use less than a fifth of the slots' time are"
        f" predicted {_bias(idle)} (median), the others {_bias(rest)}."
        f" (The slowest schedule of a layer takes {spread.median():.1f}x the fastest, at median.)",
        "- **Channels looked up in the inner loop are slow.** Where channels are not in aligned"
        " runs of eight, every element is a load of its own (two bytes instead of sixteen):"
        " packing them first by one more kernel is"
        f" {geomean(wide.direct / wide['gather+schedule']):.2f}x faster on the {len(wide)} layers"
        " concerned (geometric mean). Speed-ups of unequal groups use the packed form there and"
        " its measured time includes the packing.",
        f"- **{len(losing)} of {len(small)} layers of unequal groups stay under 2x** against"
        f" streams; {int((losing.groups == 8).sum())} of them have eight groups (few launches to"
        " save) and"
        f" {int((losing.family == 'pruned-resnext').sum())} are pruned ResNeXt.",
        "- **CondenseNet's learned 1x1 loses, and is not in the bars of unequal groups** (its four"
        " groups are of one size):"
        f" {geomean(learned.streams / learned.ours):.2f}x of streams,"
        f" {geomean(learned.best / learned.ours):.2f}x of the best of PyTorch on {len(learned)}"
        " layers. Streams find their channels gathered beforehand and dense needs no gathering;"
        " ours pays for it, and four groups save few launches. With them the mean against"
        f" streams is {geomean(both.streams / both.ours):.2f}x.",
        "- **Packing was settled after the run**, from both halves: where groups are unequal and"
        " their channels not in runs of eight. `schedule` itself does not weigh packing against"
        " looking up.",
        "- **Dense wins where groups are few or narrow.** One dense convolution with zeros outside"
        " the groups is the best of PyTorch on"
        f" {int((layers.best_method == 'dense').sum())} of {len(layers)} layers; it wastes products"
        " and is faster all the same (why, per kernel, was not measured). Pruned ResNeXt"
        f" (32 groups of 4 to 16) loses to it: {_family(small, 'pruned-resnext')}.",
        "",
    ]


def _bias(rows: pd.DataFrame) -> str:
    return _percent(Error.of(rows.predicted / rows.measured - 1).bias, sign=True)


def _family(rows: pd.DataFrame, family: str) -> str:
    mine = rows[rows.family == family]
    return f"{geomean(mine.best / mine.ours):.2f}x of the best of PyTorch"


def _errors(schedules: pd.DataFrame, slots: pd.DataFrame) -> list[str]:
    rows = []
    for half, tune in (("odd, unseen", False), ("even, fitted on", True)):
        mine = schedules[schedules.tune == tune]
        chosen, sampled = mine[mine.placement == "knapsack+lpt"], slots[slots.tune == tune]
        for label, column in (("shipped", "predicted"), ("solo shapes only", "first")):
            one = Error.of(sampled[column] / sampled.measured - 1)
            whole = Error.of(chosen[column] / chosen.measured - 1)
            apart, _ = pairs(mine, column)
            rows.append(
                (half, label, one.count, _percent(one.mape), _percent(one.bias, sign=True),
                 whole.count, _percent(whole.mape), _percent(whole.bias, sign=True),
                 f"{kendall(mine, column):.3f}", f"{apart.tau:.3f}")
            )  # fmt: skip
    unseen = schedules[~schedules.tune & (schedules.placement == "knapsack+lpt")]
    error = (unseen.predicted / unseen.measured - 1).set_axis(unseen.layer)
    worst = error.loc[error.abs().sort_values(ascending=False).index][:6]
    by_kernel = [
        (name, len(mine), _percent(score.mape), _percent(score.bias, sign=True))
        for name, mine in slots[~slots.tune].groupby("name")
        for score in [Error.of(mine.predicted / mine.measured - 1)]
    ]
    return [
        "## Errors",
        "",
        *table(
            ("half of the layers", "coefficients", "slots", "MAPE", "bias", "layers", "MAPE",
             "bias", "tau", "tau, pairs 3 % apart"),
            rows,
        ),
        "Errors are `predicted / measured - 1`; a bias is a median. Worst layers of the odd half: "
        + ", ".join(f"{name} {value:+.0%}" for name, value in worst.items())
        + ".",
        "",
        *table(("kernel and programs an SM", "slots, odd half", "MAPE", "bias"), by_kernel),
    ]  # fmt: skip


def _speed(layers: pd.DataFrame, small: pd.DataFrame, equal: pd.DataFrame) -> list[str]:
    learned = layers[layers.family == "condensenet-learned"]
    families = [
        (family, len(rows), f"{geomean(rows.streams / rows.ours):.2f}",
         f"{geomean(rows.streams / rows.direct):.2f}",
         f"{geomean(rows['loop-eager'] / rows.ours):.1f}",
         f"{geomean(rows['loop-graph'] / rows.ours):.1f}",
         f"{geomean(rows.best / rows.ours):.2f}", f"{(rows.best > rows.ours).mean():.0%}")
        for family, rows in [
            *small.groupby("family"),
            ("all of these", small),
            ("not counted: condensenet-learned", learned),
        ]
    ]  # fmt: skip
    alike = [
        (family, len(rows), f"{geomean(rows.best / rows.ours):.2f}",
         f"{(rows.best > rows.ours).mean():.0%}",
         ", ".join(f"{name} {count}" for name, count in rows.best_method.value_counts().items()))
        for family, rows in [
            *equal.groupby("family"),
            *((f"batch {batch}", rows) for batch, rows in equal.groupby("batch")),
            ("all", equal),
        ]
    ]  # fmt: skip
    return [
        "## Speed-ups, geometric means",
        "",
        "Unequal groups, more than four of them, batch 8 or less. Streams: the fastest of 4, 16,"
        " and 16 longest group first, in a CUDA graph, with their channels split beforehand. Plain"
        " loop: eager, launches included; loops and streams over more than eight shapes use cuDNN's"
        " heuristics, not its tuning. Not counted is CondenseNet's learned 1x1: four groups of one"
        " size that share channels. Best of PyTorch: padded to equal groups in either layout,"
        " dense with zeros, loop and streams in graphs.",
        "",
        *table(
            ("family", "layers", "streams", "streams, lookup in the kernel", "loop",
             "loop in a graph", "best of PyTorch", "faster than the best on"),
            families,
        ),
        "Equal groups of 4 to 64 channels with at most two tiles a slot, against the best of"
        " grouped `conv2d` in either layout with cuDNN tuning, dense with zeros, graphs of loops"
        " and streams, and `torch.compile`:",
        "",
        *table(("family", "layers", "best of PyTorch", "faster on", "best methods"), alike),
        f"Over all {len(layers)} layers the scheduler's choice is"
        f" {geomean(layers.direct / layers.fastest_schedule):.3f}x the fastest schedule that ran.",
        "",
    ]  # fmt: skip
