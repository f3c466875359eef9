"""Pruning: what is taken away, against brute counts."""

from __future__ import annotations

import pytest

from perfmodel.errors import WorkloadError
from perfmodel.workload.ops.conv import Conv2d
from perfmodel.workload.pruning import (
    prune_connections,
    prune_inputs,
    prune_outputs,
    quantised,
    savings,
    separable,
    separable_ratio,
)

OP = Conv2d(4, 32, 14, 14, 64, 3, 1, 1, dtype="fp16")
PIXELS = 4 * 14 * 14


def test_output_channel_takes_its_filter_and_the_next_layers_input() -> None:
    following = Conv2d(4, 64, 14, 14, 16, 1, dtype="fp16")
    layer, after = prune_outputs(OP, 1, following)
    here, there = savings(OP, layer), savings(following, after)
    assert here.weights == 9 * 32
    assert here.flops == 2 * 9 * 32 * PIXELS
    assert here.bytes_moved == 2 * (9 * 32 + PIXELS)
    assert (there.weights, there.flops) == (16, 2 * 16 * PIXELS)


def test_input_channel() -> None:
    got = savings(OP, prune_inputs(OP, 1))
    assert got.weights == 9 * 64
    assert got.flops == 2 * 9 * 64 * PIXELS


def test_all_connections_are_the_layer() -> None:
    one = prune_connections(OP, 1)
    assert (one.weights, one.flops) == (9, 2 * 9 * PIXELS)
    everything = prune_connections(OP, 64 * 32)
    gone = savings(OP, None)
    assert (everything.weights, everything.flops) == (gone.weights, gone.flops)
    # maps stay: that is what a connection does not save
    assert everything.bytes_moved < gone.bytes_moved


def test_separable() -> None:
    depthwise, pointwise = separable(Conv2d(1, 32, 14, 14, 64, 3, 2, 1))
    pair = depthwise.flops + pointwise.flops
    dense = Conv2d(1, 32, 14, 14, 64, 3, 2, 1)
    assert pair / dense.flops == pytest.approx(separable_ratio(dense), rel=1e-12)


def test_quantised_bytes() -> None:
    sizes = [quantised(OP, bits).bytes_read for bits in (64, 32, 16, 8, 4)]
    assert [sizes[0] // size for size in sizes] == [1, 2, 4, 8, 16]


def test_depthwise_loses_both() -> None:
    got = prune_inputs(Conv2d(1, 32, 8, 8, 32, 3, 1, 1, groups=32), 4)
    assert (got.c_in, got.c_out, got.groups) == (28, 28, 28)


@pytest.mark.parametrize(
    "act",
    [
        lambda: prune_outputs(OP, 64),
        lambda: prune_inputs(OP, -1),
        lambda: prune_inputs(Conv2d(1, 32, 8, 8, 32, 3, 1, 1, groups=4), 3),
        lambda: prune_outputs(OP, 1, OP),
        lambda: prune_connections(OP, 64 * 32 + 1),
        lambda: quantised(OP, 7),
        lambda: separable(Conv2d(1, 32, 8, 8, 32, 3, 1, 1, groups=4)),
    ],
)
def test_bad_input(act: object) -> None:
    with pytest.raises(WorkloadError):
        act()  # type: ignore[operator]
