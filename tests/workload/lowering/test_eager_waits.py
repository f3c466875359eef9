"""Eager kernels that wait: rows, groups, columns and places that threads go through in turn."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest

from perfmodel.workload.lowering import lower
from perfmodel.workload.lowering.device import H100
from perfmodel.workload.lowering.eager.channels import channel_work
from perfmodel.workload.lowering.eager.columns import row_work
from perfmodel.workload.lowering.eager.group_norm import moments_work
from perfmodel.workload.lowering.stream import OFFSETS, TURNED
from perfmodel.workload.program import Node, Program, Tensor
from perfmodel.workload.stack import load_stack

_spec = importlib.util.spec_from_file_location("recipes", Path(__file__).with_name("recipes.py"))
recipes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipes)
program = recipes.program
EAGER = load_stack("torch-eager")
PICOSECOND = 6.85  # operations that an H100 does in element-wise kernels meanwhile


def kernels(tensors, *nodes):
    return lower(program(tensors, nodes), EAGER).kernels


def flops(tensors, *nodes):
    return kernels(tensors, *nodes)[-1].flops


@pytest.mark.parametrize(
    ("rows", "cols", "microseconds"),
    [(262144, 512, 127.0), (65536, 64, 15.6), (16384, 64, 4.4), (4096, 256, 1.9),
     (1024, 1152, 3.1), (1024, 512, 1.8), (49152, 49, 16.5), (1024, 2048, 4.4), (512, 2048, 4.3),
     (8192, 512, 4.0), (32768, 512, 16.0), (4096, 1024, 4.3)],
)  # fmt: skip
def test_a_row_takes_its_time_however_short_it_is(rows, cols, microseconds):
    """Profiled reductions of an H100, less the 1.5 us in which any kernel begins and ends."""
    assert row_work(rows, cols) / PICOSECOND * 1e-6 == pytest.approx(microseconds, rel=0.2)


def test_tests_of_masks_along_rows_are_no_stream_of_bytes():
    tensors = {"x": ((64, 8, 512, 512), "bool"), "y": ((64, 8, 512, 1), "bool")}
    (kernel,) = kernels(tensors, ("all", "x", "y", {"dim": -1, "keepdim": True}))
    assert kernel.flops / PICOSECOND * 1e-6 == pytest.approx(128.7, rel=0.1)


@pytest.mark.parametrize(
    ("groups", "each", "microseconds"),
    [(64, 40960, 20.9), (64, 81920, 39.4), (64, 10240, 6.4), (4096, 15999, 136.2)],
)
def test_a_block_goes_through_its_group(groups, each, microseconds):
    assert moments_work(groups, each) / PICOSECOND * 1e-6 == pytest.approx(microseconds, rel=0.1)


def test_group_norms_find_scale_and_shift_for_every_element():
    tensors = {
        "x": ((2, 320, 64, 64),), "w": ((320,),), "b": ((320,),), "y": ((2, 320, 64, 64),),
        "m": ((2, 32),), "r": ((2, 32),),
    }  # fmt: skip
    moments, _, apply = kernels(tensors, ("native_group_norm", "xwb", "ymr", {"group": 32}))
    assert moments.flops == pytest.approx(moments_work(64, 40960), rel=0.02)
    assert apply.flops == pytest.approx((2 + OFFSETS) * 2 * 320 * 4096, rel=0.02)


def test_lengths_of_the_last_axis_leave_few_blocks():
    tensors = {"v": ((768, 48, 128),), "g": ((1, 1, 128),), "w": ((768, 48, 128),), "n": ((128,),)}
    last = flops(tensors, ("_weight_norm_interface", "vg", "wn", {"dim": 2}))
    first = flops(tensors, ("_weight_norm_interface", "vg", "wn", {"dim": 0}))
    assert last / PICOSECOND * 1e-6 == pytest.approx(316.0, rel=0.05)
    assert first < last / 50


def test_parts_with_gaps_are_joined_element_by_element():
    tensors = {
        "a": ((8, 32, 512, 32), "bf16", "activation", "strided"),
        "b": ((8, 32, 512, 32),), "y": ((8, 32, 512, 64),),
    }  # fmt: skip
    gaps = kernels(tensors, ("cat", "ab", "y", {"dim": -1}))[-1]
    assert gaps.note
    assert gaps.flops / PICOSECOND * 1e-6 == pytest.approx(38.3, rel=0.1)
    whole = kernels(tensors, ("cat", "bb", "y", {"dim": -1}))[-1]
    assert whole.flops == 0


def test_beside_an_empty_part_half_of_the_threads_are_idle():
    tensors = {"e": ((0,),), "k": ((4, 32, 1024, 64),), "y": ((4, 32, 1024, 64),)}
    kernel = kernels(tensors, ("cat", "ek", "y", {"dim": -2}))[-1]
    assert kernel.flops / PICOSECOND * 1e-6 == pytest.approx(51.5, rel=0.05)


def test_one_operand_without_gaps_is_read_as_it_lies():
    tensors = {
        "x": ((48, 64, 256), "bf16", "activation", "strided"), "s": ((), "bf16"),
        "y": ((48, 64, 256), "bf16", "activation", "strided"),
    }  # fmt: skip
    (kernel,) = kernels(tensors, ("div", "xs", "y"))
    assert kernel.note == ""
    tensors = {
        "p": ((48, 64, 512), "bf16"), "x": ((48, 64, 256), "bf16", "view of p", "strided"),
        "y": ((48, 64, 256), "bf16"),
    }  # fmt: skip
    (kernel,) = kernels(tensors, ("gelu", "x", "y"))
    assert kernel.note == "strided reads"


def test_an_axis_of_one_element_turns_nothing_and_hides_nothing():
    tensors = {
        "c": ((1, 768, 64, 64), "bf16"),
        "x": ((1, 64, 64, 768), "bf16", "view of c", "strided"),
        "h": ((1, 64, 64, 768), "bf16"),
        "y": ((1, 64, 64, 768), "bf16", "activation", "strided"),
    }
    elements = 64 * 64 * 768
    nodes = (("permute", "c", "x", {"dims": [0, 2, 3, 1]}), ("add", "xh", "y"))
    assert flops(tensors, *nodes) == pytest.approx((1 + TURNED) * elements, rel=0.02)
    tensors = {
        "c": ((64, 768, 1), "bf16"), "x": ((64, 1, 768), "bf16", "view of c", "strided"),
        "h": ((64, 1, 768), "bf16"), "y": ((64, 1, 768), "bf16"),
    }  # fmt: skip
    nodes = (("permute", "c", "x", {"dims": [0, 2, 1]}), ("add", "xh", "y"))
    assert flops(tensors, *nodes) < TURNED * 64 * 768


def test_an_outer_sum_works_out_two_offsets():
    tensors = {"a": ((12, 64, 64, 64, 1),), "b": ((12, 64, 64, 1, 64),),
               "y": ((12, 64, 64, 64, 64),)}  # fmt: skip
    each = flops(tensors, ("add", "ab", "y")) / (12 * 64**4)
    assert each > 1.4 * OFFSETS
    one = {"a": ((64, 64),), "b": ((64,),), "y": ((64, 64),)}
    assert flops(one, ("add", "ab", "y")) / 64**2 == pytest.approx(1 + OFFSETS, rel=0.02)


def test_neighbours_are_gathered_faster_than_slices():
    def each(dim):
        tensors = {"x": ((48, 256, 512),), "i": ((48, 256, 512), "int64"), "y": ((48, 256, 512),)}
        return flops(tensors, ("gather", "xi", "y", {"dim": dim})) / (48 * 256 * 512)

    assert each(-1) < 0.7 * each(1)


def test_a_line_is_resampled_by_few_threads():
    tensors = {"x": ((1, 64, 27),), "y": ((1, 64, 27),)}
    assert flops(tensors, ("upsample_linear1d", "x", "y")) / PICOSECOND * 1e-6 > 4.0


@pytest.mark.parametrize(
    ("shape", "passes", "microseconds"),
    [((4, 64, 16, 56, 56), 1, 156.5), ((4, 128, 8, 28, 28), 1, 14.9),
     ((4, 64, 16, 56, 56), 2, 362.6), ((4, 128, 8, 28, 28), 2, 34.5),
     ((16, 48, 112, 112), 2, 358.3), ((4, 256, 4, 14, 14), 2, 8.1)],
)  # fmt: skip
def test_a_block_goes_through_each_channel(shape, passes, microseconds):
    x = Tensor("x", shape, "bf16", "activation", 0)
    moved = 2 * passes * math.prod(shape)
    found = channel_work(x, moved, H100, passes=passes) / PICOSECOND * 1e-6
    assert found + 1.4 == pytest.approx(microseconds, rel=0.25)


def test_many_channels_are_bound_by_their_elements():
    x = Tensor("x", (64, 2048, 28, 28), "bf16", "activation", 0)
    many = channel_work(x, 1 << 30, H100)
    assert many >= 14 * math.prod(x.shape)


def test_training_of_images_channels_first_has_one_kernel_for_its_gradient():
    tensors = {
        "g": ((8, 64, 28, 28),), "x": ((8, 64, 28, 28),), "w": ((64,), "fp32"),
        "m": ((64,), "fp32"), "v": ((64,), "fp32"), "s": ((64,), "fp32"), "r": ((64,), "fp32"),
        "y": ((8, 64, 28, 28),), "a": ((64,), "fp32"), "b": ((64,), "fp32"),
    }  # fmt: skip
    node = ("native_batch_norm_backward", "gxwmvsr", "yab", {"train": True})
    (kernel,) = kernels(tensors, node)
    assert kernel.name == "native_batch_norm_backward: channels"


def test_whole_rows_are_picked_a_block_each():
    def work(width):
        tensors = {"x": ((32768, width),), "i": ((524288,), "int64"), "y": ((524288, width),)}
        return kernels(tensors, ("index", "xi", "y"))[-1]

    assert work(8).name == work(256).name == "index: rows"
    assert work(8).flops / PICOSECOND * 1e-6 == pytest.approx(316.5, rel=0.02)
    assert work(7).name == "index"
    tensors = {"t": ((32, 8),), "i": ((262144,), "int64"), "y": ((262144, 8),)}
    found = flops(tensors, ("embedding", "ti", "y"))
    assert found / PICOSECOND * 1e-6 == pytest.approx(159.0, rel=0.02)


def test_an_expanded_operand_turns_nothing():
    tensors = {
        "s": ((1, 512, 1),), "x": ((1, 512, 2048), "bf16", "view of s", "strided"),
        "y": ((1, 512, 2048),),
    }  # fmt: skip
    each = flops(tensors, ("expand", "s", "x"), ("div", "x", "y", {"other": 2048}))
    assert each / (512 * 2048) == pytest.approx(4 + OFFSETS, rel=0.05)


def test_gradients_of_norms_copy_turned_operands():
    tensors = {
        "c": ((16, 768, 256),), "x": ((16, 256, 768), "bf16", "view of c", "strided"),
        "g": ((16, 256, 768),), "m": ((16, 256, 1), "fp32"), "r": ((16, 256, 1), "fp32"),
        "y": ((16, 256, 768),),
    }  # fmt: skip
    nodes = (
        ("transpose", "c", "x", {"dim0": 1, "dim1": 2}),
        ("native_layer_norm_backward", "gxmr", "y",
         {"normalized_shape": [768], "output_mask": [True, False, False]}),
    )  # fmt: skip
    copied = kernels(tensors, *nodes)[0]
    assert copied.name == "contiguous"
    assert copied.flops == pytest.approx(TURNED * 16 * 256 * 768, rel=0.02)


def test_few_rows_are_shared_by_many_warps():
    assert row_work(8, 36864) < 0.35 * row_work(8192, 36864)


def test_windows_and_copies_of_pixels_cost_by_their_layout():
    def each(op, layout):
        tensors = {"x": ((16, 64, 28, 28), "bf16", "input", layout),
                   "y": ((16, 64, 56, 56), "bf16", "activation", layout)}  # fmt: skip
        return flops(tensors, (op, "x", "y")) / (16 * 64 * 56 * 56)

    assert each("upsample_nearest2d", "channels_last") > 5 * each(
        "upsample_nearest2d", "contiguous"
    )
    assert each("avg_pool2d", "channels_last") > 1.5 * each("avg_pool2d", "contiguous")


def test_the_host_waits_for_copies_of_its_own_tensors():
    x = Tensor("x", (27, 64), "bf16", "parameter", 0)
    i = Tensor("i", (14, 14), "int64", "constant", 1, host=True)
    y = Tensor("y", (14, 14, 64), "bf16", "activation", 2)
    node = Node("n", "aten.index", ("x", "i"), ("y",), {}, "forward")
    made = Program("p", (x, i, y), (node,), ("x",), ("y",), "json", 1, (3456, 1568, 25088))
    found = lower(made, EAGER)
    assert found.calls[0].kind == "sync"
    assert [kernel.kind for kernel in found.kernels] == ["copy", "index"]
    up = Node("n", "aten._to_copy", ("i",), ("z",), {}, "forward")
    z = Tensor("z", (14, 14), "int64", "activation", 2)
    made = Program("p", (i, i, z)[1:], (up,), (), ("z",), "json", 1, (3456, 1568, 1568))
    assert lower(made, EAGER).calls[0].kind == "sync"


def _attend(batch, heads, queries, keys, width, *, masked=True, dropout=0.0, causal=False):
    q, k = (batch, heads, queries, width), (batch, heads, keys, width)
    tensors = {"q": (q, "bf16", "input"), "k": (k, "bf16", "input"), "v": (k, "bf16", "input"),
               "m": ((1, 1, queries, keys), "bf16", "input"), "o": (q, "bf16")}  # fmt: skip
    attributes = {"dropout_p": dropout, "is_causal": causal}
    attributes |= {} if masked else {"absent": ["attn_bias"]}
    node = ("_scaled_dot_product_cudnn_attention", "qkvm" if masked else "qkv", "o", attributes)
    (kernel,) = kernels(tensors, node)
    return sum(op.flops for op in kernel.ops[1:]) / PICOSECOND * 1e-6


@pytest.mark.parametrize(
    ("shape", "microseconds"),
    [((8, 12, 512, 512, 64), 12.6), ((2, 4, 512, 512, 256), 16.0), ((16, 12, 49, 49, 32), 7.3),
     ((25, 12, 196, 196, 64), 18.1), ((4, 32, 1, 1025, 64), 8.1), ((64, 8, 128, 512, 64), 17.9)],
)  # fmt: skip
def test_tiles_of_masks_are_added_block_by_block(shape, microseconds):
    """What profiled kernels of an H100 took beyond those without a mask, as it is priced."""
    assert 1.4 + _attend(*shape) == pytest.approx(microseconds, rel=0.4)
    assert _attend(*shape, masked=False) == 0.0


def test_dropout_draws_for_each_score_of_the_forward_pass():
    full = _attend(8, 16, 512, 512, 64, masked=False, dropout=0.1)
    half = _attend(8, 16, 512, 512, 64, masked=False, dropout=0.1, causal=True)
    assert full == pytest.approx(43.0, rel=0.05)  # 84.5 us with mask and dropout, 42 with the mask
    assert half == pytest.approx(full / 2, rel=0.01)


def test_gradients_add_the_mask_and_draw_again():
    shape = (8, 16, 512, 64)
    tensors = {**dict.fromkeys("gqkvo", (shape, "bf16", "input")), "l": ((8, 16, 512, 1), "fp32"),
               "s": ((), "int64"), "f": ((), "int64"), "m": ((8, 1, 512, 512), "bf16"),
               **dict.fromkeys("xyz", (shape, "bf16"))}  # fmt: skip
    name = "_scaled_dot_product_cudnn_attention_backward"

    def microseconds(inputs, **more):
        attributes = {"dropout_p": 0.1} | more
        (kernel,) = kernels(tensors, (name, inputs, "xyz", attributes, "backward"))
        return sum(op.flops for op in kernel.ops[1:]) / PICOSECOND * 1e-6

    plain = microseconds("gqkvolsf", absent=["attn_bias"], is_causal=True)
    assert plain == pytest.approx(7.5, rel=0.1)
    assert microseconds("gqkvolsfm") == pytest.approx(44.0, rel=0.1)  # 144 us, of which 97 products


def test_embeddings_resampled_by_cubics_take_a_turn_for_each_channel():
    def microseconds(images, channels, side, name="upsample_bicubic2d"):
        tensors = {"x": ((images, channels, side, side), "bf16", "input"),
                   "y": ((images, channels, side, side), "bf16")}  # fmt: skip
        return flops(tensors, (name, "x", "y", {})) / PICOSECOND * 1e-6

    whole = microseconds(11, 384, 32) + microseconds(1, 384, 32)
    assert whole == pytest.approx(8300.0, rel=0.1)  # of a step of 9.6 ms
    assert microseconds(11, 384, 16) > whole / 3  # one block has less to do, and waits for loads
    assert microseconds(1, 3, 2048) == pytest.approx(3 * 1.8 * 4096 / 132, rel=0.1)
    assert microseconds(1, 384, 32, "upsample_bicubic2d_backward") == pytest.approx(691, rel=0.1)
