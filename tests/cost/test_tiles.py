"""Whole waves of tiles."""

import numpy as np
import pytest

from perfmodel.cost.efficiency import load_coefficients
from perfmodel.cost.features import features, tiled
from perfmodel.cost.mechanism import mechanism, task_device
from perfmodel.cost.tasks import tasks_of
from perfmodel.cost.tiles import tile_times
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import Conv2d, Gemm

CHIP = load_accelerator("h100-sxm5-80gb")
STEP = 2.0 * 128 * 128 * 64 / (CHIP.peak("bf16") / 132)


def _times(direction="fwd", dtype="bf16", n=1, c_in=64, c_out=128, h=128, w=132):
    op = Conv2d(n, c_in, h, w, c_out, 3, padding=1, direction=direction, dtype=dtype)
    task = tasks_of(op)[1][0]
    device = task_device(task, CHIP)
    return {
        name: float(np.ravel(time)[0])
        for name, time in zip(*tile_times(task, device, direction), strict=True)
    }


def test_one_whole_wave_and_a_row_more():
    # 128 x 132 places are 132 tiles of 128 rows: one for each unit, nine steps of 64 channels.
    one = _times()
    assert one["whole_128x128"] == pytest.approx(9 * STEP + 1e-6, rel=1e-6)
    assert one["cut_128x128"] == one["whole_128x128"]
    more = _times(h=129)
    assert more["whole_128x128"] == pytest.approx(2 * one["whole_128x128"])
    # Two tiles more fill less than half of the last wave, which is cut in two.
    assert more["cut_128x128"] == pytest.approx(1.5 * one["whole_128x128"])


def test_channels_of_a_tap_are_taken_in_whole_steps():
    assert _times(c_in=72)["whole_64x64"] == pytest.approx(_times(c_in=128)["whole_64x64"])
    back = _times("dgrad", c_in=128, c_out=64)
    assert back["whole_128x128"] == pytest.approx(_times()["whole_128x128"])


def test_weight_gradients_are_cut_along_the_places():
    times = _times("wgrad", n=32)
    # 128 x 576 results are 5 tiles of 128 x 128: alone they would leave 127 units idle.
    assert times["cut_128x128"] < times["whole_128x128"] / 16


def test_each_is_a_feature_of_every_convolution():
    for direction in ("fwd", "dgrad", "wgrad"):
        for groups in (1, 8, 64):
            op = Conv2d(4, 64, 14, 14, 64, 3, padding=1, groups=groups, direction=direction)
            task = tasks_of(op)[1][0]
            device = task_device(task, CHIP)
            parts = mechanism(task, device, load_coefficients(CHIP.family).of(task.kernel))
            names, values, _ = features(task, device, parts)
            assert len(set(names)) == len(names)
            times = dict(zip(*tile_times(task, device, direction), strict=True))
            for name, time in times.items():
                told = values[0, names.index(name)]
                assert told == pytest.approx(np.clip(np.log(time / parts.seconds), -4, 3)[0])


def test_a_plain_product_is_a_convolution_and_another_may_stand_for_one():
    task = tasks_of(Conv2d(4, 64, 16, 16, 128, 1, direction="dgrad"))[1][0]
    assert task.product
    assert tiled(task) == "dgrad"
    device = task_device(task, CHIP)
    known = load_coefficients(CHIP.family)
    alike = tasks_of(Gemm(4 * 256, 64, 128))[1][0]
    assert tiled(alike) == ""
    mine, other = (
        features(one, device, mechanism(one, device, known.of(one.kernel)), "dgrad")
        for one in (task, alike)
    )
    assert mine[0] == other[0]
    of_tile, of_all = (mine[0].index(name) for name in ("whole_64x64", "seconds"))
    first, second = (
        np.exp(values[0, of_tile]) * 2.0 ** values[0, of_all] for _, values, _ in (mine, other)
    )
    assert first == pytest.approx(second)
