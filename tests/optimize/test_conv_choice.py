"""The choice of algorithms and layouts: exact, within the workspace, never worse than greedy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from perfmodel.errors import WorkloadError
from perfmodel.hardware import load_accelerator
from perfmodel.optimize import conv_choice
from perfmodel.workload.convnet import Convnet, Setting, convnet
from perfmodel.workload.convnets.build import Builder

CHIP = load_accelerator("v100-sxm2-16gb")


def small() -> Convnet:
    b = Builder()
    x = b.start(8, (24, 24))
    left = b.act(b.conv(x, 32, 3))
    right = b.conv(x, 32, 1)
    x = b.add(left, right)
    y = b.conv(x, 16, 5)
    b.concat(y, b.conv(x, 16, 3))
    return b.done("small")


@pytest.mark.parametrize("start", ["nhwc", "nchw"])
@pytest.mark.parametrize("seed", range(5))
def test_equals_brute_force(seed: int, start: str) -> None:
    """Random costs for every node and transform: all 2**n layouts are tried."""
    net = small()
    rng = np.random.default_rng(seed)
    costs = rng.integers(0, 20, size=(len(net.nodes), 2)).astype(float)
    costs[0] = 0.0
    transform = rng.integers(1, 12, size=len(net.nodes)).astype(float)
    first = conv_choice.LAYOUTS.index(start)
    labels, bound = conv_choice._cut(net, costs, transform, first)
    got = conv_choice.total(net, costs, transform, labels, first)
    best = min(
        conv_choice.total(net, costs, transform, np.array(layout), first)
        for layout in itertools.product((0, 1), repeat=len(net.nodes))
    )
    assert got == pytest.approx(best)
    assert bound == pytest.approx(best)


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_network(dtype: str) -> None:
    net = convnet("resnet18", 112)
    chosen = conv_choice.choose(net, CHIP, Setting(8, dtype))
    assert chosen.gap < 1e-9
    assert chosen.seconds <= chosen.greedy_seconds * (1 + 1e-9)
    assert chosen.seconds <= chosen.direct_seconds
    assert len(chosen.options) == sum(node.kind == "conv" for node in net.nodes)


def test_workspace_cap_is_kept_and_costs() -> None:
    net = convnet("resnet18", 112)
    free = conv_choice.choose(net, CHIP, Setting(8, "fp32"))
    caps = (free.workspace // 4, free.workspace // 64, 0)
    times = [free.seconds]
    for cap in caps:
        chosen = conv_choice.choose(net, CHIP, Setting(8, "fp32"), workspace_cap=cap)
        assert chosen.workspace <= cap
        times.append(chosen.seconds)
    assert times == sorted(times)


def test_pieces_make_room() -> None:
    op = conv_choice.Conv2d(16, 64, 28, 28, 64, 3, 1, 1, dtype="fp32")
    whole = conv_choice.options_of(op, CHIP, np.inf, batch=16)
    cap = max(one.workspace for one in whole if one.algorithm == "im2col") // 4
    some = conv_choice.options_of(op, CHIP, cap, batch=16)
    im2col = [one for one in some if one.algorithm == "im2col"]
    assert im2col
    assert all(one.pieces >= 4 and one.workspace <= cap for one in im2col)


def test_three_dimensions_are_refused() -> None:
    with pytest.raises(WorkloadError, match="two-dimensional"):
        conv_choice.choose(convnet("unet-3d", 32), CHIP, Setting(1))
