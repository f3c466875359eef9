"""Times of algorithms, pruned and quantised layers: bounds and directions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from perfmodel.cost.conv_algorithms import ALGORITHMS
from perfmodel.cost.conv_compare import algorithm_cost, compare
from perfmodel.cost.price import price
from perfmodel.cost.pruning import (
    as_product,
    channel_staircase,
    crossover_density,
    quantised_seconds,
    realised,
    skipped_blocks,
    sparse_seconds,
    structured_seconds,
)
from perfmodel.errors import SpecError, WorkloadError
from perfmodel.hardware import load_accelerator
from perfmodel.workload.ops.conv import Conv2d
from perfmodel.workload.pruning import prune_outputs

CHIP = load_accelerator("a100-sxm4-80gb")
OLD = load_accelerator("v100-sxm2-16gb")
OP = Conv2d(16, 64, 28, 28, 128, 3, 1, 1, dtype="fp16")


@pytest.mark.parametrize("direction", ["fwd", "dgrad", "wgrad"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_more_cache_is_never_slower(name: str, direction: str) -> None:
    op = replace(OP, direction=direction)
    times = [
        algorithm_cost(name, op, CHIP, cache=size).seconds for size in (0.0, 1e6, 1e8, math.inf)
    ]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("direction", ["fwd", "dgrad", "wgrad"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_endless_cache_leaves_operands_and_result(name: str, direction: str) -> None:
    op = replace(OP, direction=direction)
    assert algorithm_cost(name, op, CHIP, cache=math.inf).traffic == op.bytes_moved
    assert algorithm_cost(name, op, CHIP, cache=0.0).traffic >= op.bytes_moved


@pytest.mark.parametrize("direction", ["fwd", "dgrad", "wgrad"])
def test_no_algorithm_beats_its_own_roofline(direction: str) -> None:
    op = replace(OP, direction=direction)
    for one in compare(op, CHIP, cache=math.inf):
        assert one.seconds >= op.bytes_moved / CHIP.memory_bandwidth * 0.5
        assert one.seconds >= one.flops / CHIP.matrix_peak("fp16")
        assert one.traffic >= op.bytes_moved
        assert sum(seconds for _, seconds in one.parts) == pytest.approx(one.seconds)


def test_direct_is_the_price_of_the_operator() -> None:
    assert algorithm_cost("direct", OP, CHIP).seconds == float(price(OP, CHIP).seconds)


def test_winograd_wins_large_maps_without_matrix_units() -> None:
    op = Conv2d(32, 128, 56, 56, 128, 3, 1, 1, dtype="fp32")
    names = [one.name for one in compare(op, OLD)]
    assert names.index("winograd-4x4") < names.index("direct") < names.index("scalar-matrix")
    # one image position: nothing to share between tiles
    point = Conv2d(1, 512, 7, 7, 512, 3, 1, 1, dtype="fp16")
    first = compare(point, OLD)[0]
    assert first.name != "fft"


def test_strided_layers_have_two_algorithms() -> None:
    op = Conv2d(8, 64, 28, 28, 64, 3, 2, 1)
    assert {one.name for one in compare(op, CHIP)} == {"direct", "im2col"}


def test_channel_pruning_is_a_staircase() -> None:
    op = Conv2d(64, 256, 28, 28, 512, 3, 1, 1, dtype="fp16")
    times = channel_staircase(op, CHIP)
    assert times.shape == (512,)
    few = realised(op, prune_outputs(op, 8)[0], CHIP)
    half = realised(op, prune_outputs(op, 256)[0], CHIP)
    # arithmetic goes down smoothly, time by whole tiles
    assert few.time_ratio > few.flops_ratio
    assert half.time_ratio == pytest.approx(half.flops_ratio, rel=0.25)
    # of the channel counts that kernels like, few cost a step and the rest next to nothing
    steps = np.diff(times[7::8])
    assert steps.max() > 10 * np.median(np.abs(steps))
    with pytest.raises(WorkloadError, match="c_out or c_in"):
        channel_staircase(op, CHIP, axis="h")


def test_skipped_blocks_need_whole_blocks() -> None:
    rng = np.random.default_rng(3)
    scattered = rng.random((256, 256)) < 0.3
    assert skipped_blocks(scattered, 64, 32) == 0.0
    whole = np.zeros((256, 256), dtype=bool)
    whole[:64] = True
    assert skipped_blocks(whole, 64, 32) == 0.75
    assert skipped_blocks(np.ones((5, 5), dtype=bool), 4, 4) == 0.0


def test_crossover_is_where_the_times_meet() -> None:
    op = Conv2d(8, 2048, 14, 14, 2048, 1, dtype="fp32")
    density = crossover_density(op, OLD)
    assert 0.0 < density < 0.6
    dense = float(price(op, OLD).seconds)
    assert sparse_seconds(op, density * 0.9, OLD) < dense < sparse_seconds(op, density * 1.1, OLD)
    # matrix units move the crossing to sparser layers
    assert crossover_density(replace(op, dtype="fp16"), OLD) < density


def test_as_product_keeps_the_arithmetic() -> None:
    op = Conv2d(8, 64, 14, 14, 96, 3, 2, 1, groups=2)
    assert as_product(op).flops == op.flops


def test_two_of_four() -> None:
    op = Conv2d(64, 512, 28, 28, 512, 3, 1, 1, dtype="fp16")
    dense = float(price(op, CHIP).seconds)
    assert 0.5 <= structured_seconds(op, CHIP) / dense < 1.0
    with pytest.raises(SpecError, match="Ampere"):
        structured_seconds(op, OLD)


def test_quantisation() -> None:
    op = Conv2d(64, 512, 28, 28, 512, 3, 1, 1, dtype="fp16")
    found = quantised_seconds(op, CHIP)
    assert [bits for bits, _, _ in found] == [64, 32, 16, 8, 4]
    times = [seconds for _, _, seconds in found if seconds is not None]
    assert times == sorted(times, reverse=True)
    assert {bits: seconds for bits, _, seconds in quantised_seconds(op, OLD)}[4] is None
