"""Which kernel a depth-wise convolution runs in, and what its mechanism counts."""

import numpy as np
import pytest

from perfmodel.cost.conv_depthwise import blocks, is_packed, taken_share
from perfmodel.cost.conv_kernels import convolution
from perfmodel.cost.depthwise_grids import grid_columns
from perfmodel.cost.efficiency import load_coefficients
from perfmodel.cost.mechanism import task_device
from perfmodel.cost.tasks import Task, tasks_of
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import op_from_dict

DEPTHWISE = {"op": "conv2d", "n": 8, "c_in": 64, "h": 28, "w": 28, "c_out": 64, "kernel": 3,
             "stride": 1, "padding": 1, "groups": 64, "layout": "nhwc",
             "dtype": "bf16"}  # fmt: skip
WIDE = DEPTHWISE | {"c_in": 512, "c_out": 512, "groups": 512}
FIRST = WIDE | {"layout": "nchw", "dtype": "fp16"}
ALONE = FIRST | {"n": 1, "stride": 2}


def task(record) -> Task:
    _, (found,) = tasks_of(op_from_dict(record))
    return found


def few(record, channels):
    return record | {"c_in": channels, "c_out": channels, "groups": channels}


@pytest.mark.parametrize(
    ("record", "library"),
    [
        (FIRST, True),
        (few(FIRST, 32), True),
        (few(FIRST, 31), False),
        (FIRST | {"dtype": "bf16"}, False),
        (FIRST | {"w": 6}, False),
        (FIRST | {"kernel": 5, "padding": 2}, True),
        (FIRST | {"kernel": 7, "padding": 3}, False),
        (FIRST | {"kernel": 4}, False),
        (FIRST | {"stride": 2}, True),
        (FIRST | {"stride": 3}, False),
        (few(FIRST, 256) | {"stride": 2}, True),
        (few(FIRST, 256) | {"stride": 2, "w": 27}, False),
        (few(FIRST, 255) | {"stride": 2}, False),
        (few(ALONE, 32), True),
        (few(ALONE, 32) | {"kernel": 1, "padding": 0}, True),
        (few(ALONE, 32) | {"kernel": 1, "padding": 0, "w": 29}, False),
        (few(FIRST, 128) | {"kernel": 1, "padding": 0, "stride": 2, "w": 7}, True),
        (few(FIRST, 128) | {"kernel": 1, "padding": 0, "stride": 2, "w": 7, "n": 17}, False),
        (FIRST | {"h": 1, "w": 1}, True),
        (FIRST | {"h": 1, "w": 1, "stride": 2}, False),
    ],
)
@pytest.mark.parametrize("direction", ["fwd", "dgrad", "wgrad"])
def test_which_of_fp16_channels_first_pytorch_leaves_to_the_library(record, library, direction):
    one = task(record | {"pass": direction})
    assert one.kernel == f"conv_depthwise_{direction}_nchw" + ("-fp16" if library else "")
    assert one.family == ("conv_depthwise" if library else "conv_depthwise_native")


def test_weight_gradient_of_pytorch_counts_a_block_a_tap():
    for images, share in ((8, 1.0), (2, 0.25)):
        one = task(DEPTHWISE | {"layout": "nchw", "pass": "wgrad", "n": images})
        rows, _ = blocks(one.sizes, one.words, one.dtype, one.element, native=True)
        assert rows == 64 * 9 * share


def test_weight_gradient_of_the_library_counts_32_channels_of_an_image():
    for record in (DEPTHWISE, few(FIRST, 64)):
        one = task(record | {"pass": "wgrad"})
        rows, taken = blocks(one.sizes, one.words, one.dtype, one.element, native=False)
        assert rows == 2 * 8
        assert taken == 32 * 2 * 28 * 28 * 1.3


@pytest.mark.parametrize(
    ("record", "share"),
    [
        (DEPTHWISE, 6 / 12),
        (DEPTHWISE | {"kernel": 7, "padding": 3, "dtype": "fp16"}, 10 / 28),
        (DEPTHWISE | {"n": 7}, 1.0),
        (DEPTHWISE | {"stride": 2}, 1.0),
        (DEPTHWISE | {"dtype": "tf32"}, 1.0),
        (DEPTHWISE | {"pass": "dgrad"}, 1.0),
        (DEPTHWISE | {"pass": "wgrad"}, 1.0),
        (DEPTHWISE | {"layout": "nchw"}, 1.0),
        (few(DEPTHWISE, 63), 1.0),
        (few(DEPTHWISE, 62), 6 / 12),
        (DEPTHWISE | {"dtype": "fp16"}, 6 / 12),
    ],
)
def test_neighbours_of_a_line_share_what_they_read(record, share):
    one = task(record)
    found = taken_share(one.sizes, one.words, one.dtype)
    assert found == pytest.approx([share])


@pytest.mark.parametrize(
    ("record", "made"),
    [
        (DEPTHWISE, True),
        (DEPTHWISE | {"kernel": 9, "padding": 4}, False),
        (DEPTHWISE | {"kernel": 9, "padding": 4, "pass": "dgrad"}, True),
        (DEPTHWISE | {"kernel": 1, "padding": 0}, True),
        (DEPTHWISE | {"c_out": 128}, False),
        (DEPTHWISE | {"pass": "wgrad", "dtype": "fp32"}, True),
        (
            DEPTHWISE | {"pass": "wgrad", "dtype": "fp32", "c_in": 66, "c_out": 66, "groups": 66},
            False,
        ),
        (DEPTHWISE | {"pass": "wgrad", "dtype": "fp32", "h": 14, "w": 14, "n": 8}, False),
        (WIDE | {"pass": "wgrad", "dtype": "fp32", "h": 14, "w": 14, "n": 8}, True),
        (DEPTHWISE | {"kernel": 7, "padding": 3, "pass": "wgrad"}, True),
        (DEPTHWISE | {"kernel": 7, "padding": 3, "pass": "wgrad", "dtype": "tf32"}, False),
        (DEPTHWISE | {"pass": "dgrad", "stride": 2}, True),
        (FIRST | {"pass": "dgrad", "stride": 2}, False),
        (FIRST | {"pass": "dgrad"}, True),
        (FIRST | {"kernel": 1, "padding": 0}, True),
        (FIRST | {"kernel": 1, "padding": 0, "pass": "wgrad"}, False),
    ],
)
def test_which_depthwise_convolutions_have_a_kernel_made_for_them(record, made):
    """One that has takes the time of its bytes, one that has not that of its operations."""
    one = task(record)
    device = task_device(one, load_accelerator("h100-sxm5-80gb"))
    c = load_coefficients("hopper").of(one.kernel) | {"search_spread_seconds": 1e-9}
    slow, quick = (
        convolution(one, device, c | {"generic_efficiency": share}).seconds[0]
        for share in (1e-4, 1e-3)
    )
    assert (slow == quick) == made


@pytest.mark.parametrize(
    ("record", "packed"),
    [
        (DEPTHWISE | {"dtype": "fp16"}, True),
        (DEPTHWISE | {"dtype": "fp16", "pass": "dgrad"}, True),
        (DEPTHWISE | {"dtype": "fp16", "stride": 2}, True),
        (DEPTHWISE | {"dtype": "fp16", "stride": 2, "pass": "dgrad"}, False),
        (DEPTHWISE | {"dtype": "fp16", "pass": "wgrad"}, False),
        (DEPTHWISE | {"dtype": "fp16", "kernel": 7, "padding": 3}, False),
        (DEPTHWISE | {"dtype": "fp16", "layout": "nchw"}, False),
        (few(DEPTHWISE, 60) | {"dtype": "fp16"}, False),
        (DEPTHWISE, False),
    ],
)
def test_where_fp16_has_a_kernel_of_pairs(record, packed):
    one = task(record)
    assert is_packed(one.sizes, one.words, one.dtype) == [packed]


def test_a_kernel_of_pairs_serves_where_its_later_start_pays():
    device = task_device(task(DEPTHWISE), load_accelerator("h100-sxm5-80gb"))
    times = []
    for places in (7, 224):
        one = task(few(DEPTHWISE, 512) | {"h": places, "w": places, "dtype": "fp16", "n": 4})
        c = load_coefficients("hopper").of(one.kernel) | {"packed_gain": 4.0}
        times.append(
            [
                convolution(one, device, c | {"packed_floor_seconds": late}).seconds[0]
                for late in (2e-5, 1e-2)
            ]
        )
    (small, small_late), (large, large_late) = times
    assert small == small_late
    assert large < large_late


def test_fp16_works_on_pairs_of_channels_where_it_has_such_a_kernel():
    device = task_device(task(DEPTHWISE), load_accelerator("h100-sxm5-80gb"))
    big = few(DEPTHWISE, 512) | {"n": 4, "h": 256, "w": 256, "kernel": 5, "padding": 2}
    for record, gains in (
        (big | {"dtype": "fp16"}, True),
        (big, False),
        (big | {"dtype": "fp16", "stride": 2, "pass": "dgrad"}, False),
        (few(big, 500) | {"dtype": "fp16"}, False),
        (big | {"dtype": "fp16", "pass": "wgrad"}, False),
    ):
        one = task(record)
        c = load_coefficients("hopper").of(one.kernel)
        plain, packed = (
            convolution(one, device, c | {"packed_gain": gain}).seconds[0] for gain in (1.0, 3.0)
        )
        assert (packed < plain) == gains


def grid(record, half=True):
    """Columns of one convolution on 132 multiprocessors, by name."""
    one = task(record)
    names, values = grid_columns(one.sizes, one.words["direction"], half, 132.0)
    return {name: float(value[0]) for name, value in zip(names, values, strict=True)}


@pytest.mark.parametrize(
    ("record", "half", "blocks"),
    [
        # 4 strips of 10 threads for each of 32 pairs of channels and 8 images
        (DEPTHWISE, True, 8 * 32 * 4 * 10 / 128),
        # 14 x 14 quads of each of 64 channels and 8 images
        (DEPTHWISE, False, 8 * 64 * 196 / 256),
        (DEPTHWISE | {"n": 4}, True, 4 * 64 * 196 / 256),
        (few(DEPTHWISE, 63), True, np.ceil(8 * 63 * 196 / 256)),
        (DEPTHWISE | {"stride": 2}, True, 8 * 32 * 2 * 7 / 128),
        (DEPTHWISE | {"pass": "dgrad"}, True, 8 * 64 * 196 / 256),
        # 2 slices of channels of 8 images, each in the most pieces
        (DEPTHWISE | {"pass": "wgrad"}, True, 2 * 8 * 8),
        (WIDE | {"n": 32, "pass": "wgrad"}, True, 16 * 32),
    ],
)
def test_grids_are_those_of_the_librarys_kernels(record, half, blocks):
    found = grid(record, half)
    assert 2.0 ** found["grid_waves"] == pytest.approx(blocks / 132)
    waves = blocks / 132
    assert 2.0 ** found["grid_fill"] == pytest.approx(waves / np.ceil(waves))


def test_what_tiles_and_blocks_of_channels_leave_empty_is_told():
    found = grid(few(DEPTHWISE | {"h": 9, "w": 10}, 48))
    assert 2.0 ** found["tile_used_10"] == pytest.approx(0.9)
    assert 2.0 ** found["tile_used_4"] == pytest.approx(90 / 144)
    assert 2.0 ** found["channels_used_32"] == pytest.approx(0.75)
    assert 2.0 ** found["tile_fill_8x32"] == pytest.approx(8 * 4 * 2 / 792)
    assert 2.0 ** found["channels_fill"] == pytest.approx(48 / 132)


@pytest.mark.torch
def test_networks_of_plans_count_the_same_blocks():
    torch = pytest.importorskip("torch")
    from validate.plan_law.depthwise import blocks as of_plan

    rng = np.random.default_rng(2)
    for way, (direction, kind) in enumerate((("fwd", 2), ("dgrad", 3), ("wgrad", 4))):
        for _ in range(30):
            n, c, h = (int(rng.integers(*r)) for r in ((1, 40), (2, 500), (5, 60)))
            record = few(DEPTHWISE | {"n": n, "h": h, "w": h + 3, "pass": direction}, c)
            sizes = torch.tensor([[n, c, c, h, h + 3, 0, 3, 1, 1, c]], dtype=torch.float32)
            known = torch.tensor([[[kind, 0.0, 1.0]]])
            _, count, _, used = of_plan(sizes, torch.tensor([8 * way]), known)
            found = grid(record)
            assert 132 * 2.0 ** found["grid_waves"] == pytest.approx(float(count), rel=1e-5)
            assert 2.0 ** found["grid_used"] == pytest.approx(float(used), rel=1e-5)
