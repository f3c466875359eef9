"""What operators take from the allocator while they run, as an H100 was seen to (PyTorch 2.11)."""

from itertools import pairwise

import pytest

from perfmodel.workload.lowering import lower
from perfmodel.workload.lowering.device import H100
from perfmodel.workload.lowering.eager.staging import partial_sums
from perfmodel.workload.program import Tensor
from perfmodel.workload.stack import load_stack

from .recipes import program

EAGER = load_stack("torch-eager")
BLOCK = 512


def workspace(made, stack=EAGER):
    events = lower(made, stack).events
    return sum(-(-e.bytes // BLOCK) * BLOCK for e in events if e.kind == "temporary" and e.allocate)


def convolution(batch, c, side, k, taps, stride, groups, dtype, layout, backward=False):
    out = -(-side // stride)
    shapes = (batch, c, side, side), (k, c // groups, taps, taps), (batch, k, out, out)
    if taps == stride:
        shapes = (*shapes[:2], (batch, k, side // stride, side // stride))
    tensors = {
        "x": (shapes[0], dtype, "input", layout),
        "w": (shapes[1], dtype, "parameter", layout),
        "y": (shapes[2], dtype, "input" if backward else "activation", layout),
    }
    padding = 0 if taps == stride else taps // 2
    given = {"stride": [stride] * 2, "padding": [padding] * 2, "groups": groups}
    if not backward:
        return program(tensors, [("convolution", "xw", "y", given)], ["y"])
    tensors |= {"a": (shapes[0], dtype, "activation", layout), "b": (shapes[1], dtype, "gradient")}
    given |= {"output_mask": [True, True, False]}
    return program(tensors, [("convolution_backward", "yxw", "ab", given)], ["a", "b"])


LAST, FIRST = "channels_last", "contiguous"


@pytest.mark.parametrize(
    ("shape", "dtype", "layout", "seen"),
    [
        # photographs: padded to eight channels where that pays
        ((8, 3, 224, 64, 7, 2, 1), "bf16", LAST, 6_473_216),
        ((64, 3, 224, 64, 7, 2, 1), "bf16", LAST, 51_430_912),
        ((1, 3, 224, 64, 7, 2, 1), "bf16", LAST, 0),
        ((8, 3, 224, 24, 3, 2, 1), "bf16", LAST, 0),
        ((64, 3, 224, 96, 4, 4, 1), "bf16", LAST, 0),
        ((64, 3, 224, 768, 16, 16, 1), "bf16", LAST, 54_526_464),
        ((8, 3, 224, 64, 7, 2, 1), "bf16", FIRST, 19_318_272),
        # channels that are no multiple of eight
        ((8, 20, 56, 20, 3, 1, 1), "bf16", LAST, 2_419_200),
        ((8, 100, 28, 100, 3, 1, 1), "bf16", LAST, 2_804_224),
        ((8, 116, 14, 116, 1, 1, 1), "bf16", LAST, 512),
        # groups of as many channels as kernels take, padded and cut out
        ((64, 256, 28, 256, 3, 1, 32), "bf16", LAST, 512),
        ((8, 96, 112, 96, 3, 2, 2), "bf16", LAST, 24_084_992),
        ((8, 192, 56, 192, 3, 2, 4), "bf16", LAST, 12_042_752),
        ((8, 192, 28, 192, 3, 1, 4), "bf16", LAST, 6_717_952),
        ((8, 432, 28, 432, 3, 2, 9), "bf16", LAST, 9_695_744),
        ((8, 1008, 14, 1008, 3, 2, 21), "bf16", LAST, 6_817_280),
        ((8, 72, 56, 72, 3, 1, 3), "bf16", LAST, 9_689_600),
        ((8, 240, 28, 240, 3, 1, 10), "bf16", FIRST, 8_212_992),
        ((8, 432, 14, 432, 3, 1, 9), "fp32", LAST, 8_552_960),
        ((8, 60, 28, 216, 1, 1, 3), "bf16", LAST, 9_732_608),
        ((8, 240, 28, 60, 1, 1, 3), "bf16", LAST, 9_732_608),
        ((8, 240, 28, 120, 1, 1, 3), "bf16", LAST, 4_516_352),
        ((8, 480, 14, 120, 1, 1, 3), "bf16", LAST, 0),
        ((8, 64, 16, 16, 3, 1, 4), "bf16", LAST, 281_088),
        ((8, 128, 8, 32, 3, 1, 4), "bf16", LAST, 205_312),
        ((64, 128, 28, 64, 3, 1, 8), "bf16", LAST, 12_882_432),
        # channels first: everything is turned
        ((64, 128, 28, 128, 3, 1, 1), "bf16", FIRST, 25_985_536),
        ((8, 192, 28, 208, 3, 1, 1), "bf16", FIRST, 5_736_960),
        ((64, 64, 56, 64, 3, 1, 1), "fp32", FIRST, 102_908_416),
        ((64, 64, 56, 256, 1, 1, 1), "bf16", FIRST, 0),
        ((64, 96, 56, 96, 3, 1, 96), "bf16", LAST, 0),
    ],
)
def test_convolutions_work_on_copies(shape, dtype, layout, seen):
    assert workspace(convolution(*shape, dtype, layout)) == pytest.approx(seen, abs=2 * BLOCK)


@pytest.mark.parametrize(
    ("shape", "backward", "seen"),
    [
        ((64, 64, 56, 64, 3, 1, 1), False, 102_908_416),  # turned
        ((64, 128, 28, 128, 3, 1, 1), False, 266_469_888),  # and transformed, tiles of 32
        ((64, 256, 14, 256, 3, 1, 1), False, 219_152_896),  # tiles of 16
        ((64, 512, 7, 512, 3, 1, 1), False, 22_282_752),
        ((64, 256, 14, 256, 3, 1, 1), True, 112_984_576),  # Winograd's weight gradient
        ((64, 512, 7, 512, 3, 1, 1), True, 97_780_224),
        ((64, 64, 56, 64, 3, 1, 1), True, 335_544_320),
    ],
)
def test_full_precision_channels_last(shape, backward, seen):
    strict = EAGER.model_copy(update={"convolution_fp32": "fp32"})
    made = convolution(*shape, "fp32", LAST, backward)
    assert workspace(made, strict) == pytest.approx(seen, rel=0.003)


@pytest.mark.parametrize(
    ("shape", "dims", "layout", "seen"),
    [
        ((8, 32, 120, 120), [-1, -2], LAST, 29_491_200),
        ((8, 16, 120, 120), [-1, -2], LAST, 14_745_600),
        ((8, 144, 60, 60), [-1, -2], LAST, 33_619_968),
        ((8, 144, 30, 30), [-1, -2], LAST, 0),
        ((12608, 768), [0], FIRST, 77_463_552),
        ((12608, 3072), [0], FIRST, 138_412_032),
        ((197, 64, 2304), [0, 1], FIRST, 139_198_464),
        ((64, 197, 768), [-1], FIRST, 0),
    ],
)
def test_blocks_that_share_a_sum_leave_parts(shape, dims, layout, seen):
    x = Tensor("x", shape, "bf16", "input", 0, layout)
    assert partial_sums(x, dims, 4, H100) == seen


def test_parts_grow_with_the_rows_but_not_without_end():
    sizes = [
        partial_sums(Tensor("x", (rows, 256), "fp32", "input", 0), [0], 4, H100)
        for rows in (256, 4096, 65536, 2**20, 2**24)
    ]
    assert sizes[0] == 0
    assert all(less <= more for less, more in pairwise(sizes))
    assert sizes[-1] <= 2**24 * 256 * 4 // 8


def test_a_bias_gradient_is_summed_after_the_convolution_has_given_back():
    tensors = {
        "g": ((64, 64, 56, 56), "bf16", "input", LAST),
        "x": ((64, 64, 56, 56), "bf16", "input", LAST),
        "w": ((64, 64, 3, 3), "bf16", "parameter", LAST),
        "a": ((64, 64, 56, 56), "bf16", "activation", LAST),
        "b": ((64, 64, 3, 3), "bf16", "gradient"),
        "c": ((64,), "bf16", "gradient"),
    }
    given = {"stride": [1, 1], "padding": [1, 1], "groups": 1, "output_mask": [True] * 3}
    made = program(tensors, [("convolution_backward", "gxw", "abc", given)], ["a", "b", "c"])
    grad = Tensor("g", (64, 64, 56, 56), "bf16", "input", 0, LAST)
    assert workspace(made) == partial_sums(grad, [0, 2, 3], 4, H100) > 0


def test_a_line_is_an_image_one_pixel_high():
    def scratch(shape, taps, made):
        tensors = {"x": (shape,), "w": ((512, 512, *taps),), "y": (made,)}
        attributes = {"stride": [2] * len(taps), "padding": [0] * len(taps), "groups": 1}
        return workspace(program(tensors, [("convolution", "xw", "y", attributes)], ["y"]))

    line = scratch((8, 512, 15999), (3,), (8, 512, 7999))
    assert line == scratch((8, 512, 1, 15999), (1, 3), (8, 512, 1, 7999))
    assert line > 2 * 8 * 512 * 15999
