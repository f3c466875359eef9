"""What PyTorch is expected to take on a layer, before it is run.

Convolutions in one call (grouped, padded to equal groups, dense with zeros) are priced as any other
operator. Streams in a graph are bound by the launches of their kernels: ``a + b groups``, fitted on
the half of the layers that may be fitted on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from perfmodel.cost.price import price
from perfmodel.hardware.accelerator import Accelerator
from perfmodel.optimize.grouped.problem import GroupedConv
from perfmodel.workload.ops.conv import Conv2d
from validate.grouped_conv.dataset import in_tune_half

STREAMS = ("streams4-graph", "streams16-graph", "streams16-longest-graph")


@dataclass(frozen=True, slots=True)
class Launches:
    """Streams in a graph: ``start + each * groups`` [s]."""

    start: float
    each: float

    def seconds(self, groups: int) -> float:
        """Expected time of a layer of so many groups [s]."""
        return self.start + self.each * groups


def fit_launches(layers: pd.DataFrame) -> Launches:
    """Least relative error over the fastest stream width of each layer of the tune half."""
    rows = layers[layers.method.isin(STREAMS) & layers.latency_us.notna()]
    rows = rows[[in_tune_half(name) for name in rows.layer]]
    best = rows.groupby("layer").agg(groups=("groups", "first"), us=("latency_us", "min"))
    time = best.us.to_numpy() * 1e-6
    design = np.column_stack([np.ones(len(best)), best.groups.to_numpy()])
    found, *_ = np.linalg.lstsq(design / time[:, None], np.ones(len(time)), rcond=None)
    return Launches(float(found[0]), float(found[1]))


def aligned(conv: GroupedConv, method: str) -> bool:
    """Whether the channels that a method hands to the library are multiples of eight.

    The library's fast kernels want them; others copy or take another path.
    """
    if method == "dense":
        sizes = (conv.in_channels, conv.out_channels)
    elif method.startswith("padded"):
        sizes = (int(conv.inputs.max()), int(conv.outputs.max()))
    else:
        sizes = (int(conv.inputs[0]), int(conv.outputs[0]))
    return all(size % 8 == 0 for size in sizes)


def expected(conv: GroupedConv, accelerator: Accelerator, launches: Launches) -> dict[str, float]:
    """Expected time of each method that the layer was run with [s]."""
    many = len(conv.groups)
    found: dict[str, float] = {"streams": launches.seconds(many)}

    def one(c_in: int, c_out: int, groups: int, layout: str) -> float:
        op = Conv2d(
            conv.batch, c_in, conv.height, conv.width, c_out, conv.kernel, conv.stride,
            conv.padding, groups, layout, dtype=conv.dtype,
        )  # fmt: skip
        return float(price(op, accelerator).seconds)

    for layout in ("nhwc", "nchw"):
        if conv.equal:
            found[f"cudnn-{layout}"] = one(conv.in_channels, conv.out_channels, many, layout)
        else:
            wide, tall = int(conv.inputs.max()), int(conv.outputs.max())
            found[f"padded-{layout}"] = one(wide * many, tall * many, many, layout)
    if conv.in_channels * conv.out_channels <= 4_000_000 and (many <= 8 or not conv.equal):
        found["dense"] = one(conv.in_channels, conv.out_channels, 1, "nhwc")
    return found
