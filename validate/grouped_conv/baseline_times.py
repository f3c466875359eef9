"""What PyTorch is expected to take on a layer, before it is run.

Convolutions in one call (grouped, padded to equal groups, dense with zeros) are priced as any other
operator, times a factor. Streams in a graph run a convolution for each group, some at a time:
``a + b`` times the sum of their prices. Factors, a and b come from the half of the layers that may
be fitted on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import least_squares

from perfmodel.cost.price import price
from perfmodel.hardware.accelerator import Accelerator
from perfmodel.optimize.grouped.library import Library, library_call, library_calls, regular
from perfmodel.optimize.grouped.problem import GroupedConv
from perfmodel.workload.ops.conv import Conv2d
from validate.grouped_conv.dataset import in_tune_half

MINE = MappingProxyType({"grouped": "cudnn-nhwc"})
"""Call of the scheduler's library -> the method that ran it, where the names differ."""
STREAMS = ("streams4-graph", "streams16-graph", "streams16-longest-graph")


@dataclass(frozen=True, slots=True)
class Streams:
    """Streams in a graph: ``start + share * alone``; a share of 1/2 is two kernels at a time."""

    start: float
    share: float

    def seconds(self, alone: float) -> float:
        """Expected time of a layer whose groups take so long one after another [s]."""
        return self.start + self.share * alone


def alone_seconds(conv: GroupedConv, accelerator: Accelerator) -> float:
    """A convolution for each group, one after another [s]."""
    sizes = Counter(zip(conv.inputs.tolist(), conv.outputs.tolist(), strict=True))
    return sum(
        count * float(price(library_call(conv, c_in, c_out, 1, "nhwc"), accelerator).seconds)
        for (c_in, c_out), count in sizes.items()
    )


def fit_streams(
    layers: pd.DataFrame, convs: Mapping[str, GroupedConv], accelerator: Accelerator
) -> Streams:
    """Least logarithmic error over the fastest stream width of each layer of the tune half."""
    rows = layers[layers.method.isin(STREAMS) & layers.latency_us.notna()]
    best = rows[rows.layer.map(in_tune_half)].groupby("layer").latency_us.min()
    alone = np.array([alone_seconds(convs[name], accelerator) for name in best.index]) * 1e6
    measured = np.log(best.to_numpy())

    def residual(logs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.log(np.exp(logs[0]) + np.exp(logs[1]) * alone) - measured

    found: Any = least_squares(residual, [0.0, 0.0], loss="soft_l1", f_scale=0.2)
    return Streams(float(np.exp(found.x[0])) * 1e-6, float(np.exp(found.x[1])))


def method_calls(conv: GroupedConv) -> dict[str, Conv2d]:
    """The convolution that each method of one call runs on a layer."""
    many = len(conv.groups)
    calls = {MINE.get(name, name): op for name, op in library_calls(conv).items()}
    if conv.in_channels * conv.out_channels > 4_000_000 or (many > 8 and conv.equal):
        del calls["dense"]  # was not run
    if conv.equal:
        c_in, c_out, word = conv.in_channels, conv.out_channels, "cudnn"
    else:
        c_in, c_out = int(conv.inputs.max()) * many, int(conv.outputs.max()) * many
        word = "padded"
        calls["padded-nhwc"] = library_call(conv, c_in, c_out, many, "nhwc")
    calls[f"{word}-nchw"] = library_call(conv, c_in, c_out, many, "nchw")
    return calls


def fit_library(
    layers: pd.DataFrame, convs: Mapping[str, GroupedConv], accelerator: Accelerator
) -> Library:
    """Median of measured over priced time of each method on the tune half.

    Channels that are regular to the library and others have a factor of their own; both have the
    same where only one kind was run.
    """
    rows = layers[layers.latency_us.notna() & layers.layer.map(in_tune_half)]
    best = rows.groupby(["layer", "method"]).latency_us.min() * 1e-6
    ratios: dict[str, dict[bool, list[float]]] = {}
    for name in sorted(set(rows.layer)):
        for method, op in method_calls(convs[name]).items():
            if (name, method) in best.index:
                ratio = float(best.loc[(name, method)]) / float(price(op, accelerator).seconds)
                ratios.setdefault(method, {}).setdefault(regular(op), []).append(ratio)
    return Library(
        tuple(
            (method, fits, float(np.median(kinds.get(fits) or kinds[not fits])))
            for method, kinds in sorted(ratios.items())
            for fits in (False, True)
        )
    )


def shipped(library: Library) -> Library:
    """The factors that a schedule's advice needs, under the names of the scheduler."""
    names = {method: name for name, method in MINE.items()} | {"dense": "dense"}
    return Library(
        tuple((names[name], fits, value) for name, fits, value in library.factors if name in names)
    )


def expected(
    conv: GroupedConv, accelerator: Accelerator, streams: Streams, library: Library
) -> dict[str, float]:
    """Expected time of each method that the layer was run with [s]."""
    found = {
        method: float(price(op, accelerator).seconds) * library.factor(method, regular(op))
        for method, op in method_calls(conv).items()
    }
    return found | {"streams": streams.seconds(alone_seconds(conv, accelerator))}
