"""Steps that the compiler leaves to the library, replaces, or fuses: complex numbers, attention.

Counts of kernels are those of PyTorch 2.11's own code for an H100.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from perfmodel.workload.lowering import lower
from perfmodel.workload.stack import load_stack

_spec = importlib.util.spec_from_file_location("recipes", Path(__file__).with_name("recipes.py"))
recipes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipes)
COMPILED = load_stack("torch-compile")


def lowered(tensors, nodes, outputs):
    return lower(recipes.program(tensors, nodes, outputs), COMPILED)


def attention(width, step, *, masked=False):
    """softmax(q k^T / number [+ mask]) v of heads that a transposition split off."""
    heads, flat, scores = (2, 4, 64, width), (8, 64, width), (2, 4, 64, 64)
    tensors = {}
    for name in "qkv":
        tensors[f"x{name}"] = ((2, 64, 4, width), "bf16", "input")
        tensors[name] = (heads, "bf16", f"view of x{name}", "strided")
    turned, row = (2, 4, width, 64), {"memory_format": "contiguous"}
    tensors |= {
        "kt": (turned, "bf16", "view of xk", "strided"), "qc": (heads,), "kc": (turned,),
        "vc": (heads,), "q3": (flat, "bf16", "view of qc"), "k3": ((8, width, 64), "bf16",
        "view of kc"), "v3": (flat, "bf16", "view of vc"), "s3": ((8, 64, 64),),
        "s": (scores, "bf16", "view of s3"), "d": (scores,), "m": (scores, "bf16", "input"),
        "a": (scores,), "p": (scores,), "p3": ((8, 64, 64), "bf16", "view of p"),
        "o3": (flat,), "o": (heads, "bf16", "view of o3"),
    }  # fmt: skip
    last = "a" if masked else "d"
    nodes = [
        ("transpose", ["xq"], ["q"], {"dim0": 1, "dim1": 2}),
        ("transpose", ["xk"], ["k"], {"dim0": 1, "dim1": 2}),
        ("transpose", ["xv"], ["v"], {"dim0": 1, "dim1": 2}),
        ("transpose", ["k"], ["kt"], {"dim0": -1, "dim1": -2}),
        ("clone", ["q"], ["qc"], row),
        ("_unsafe_view", ["qc"], ["q3"], {"size": list(flat)}),
        ("clone", ["kt"], ["kc"], row),
        ("_unsafe_view", ["kc"], ["k3"], {"size": [8, width, 64]}),
        ("bmm", ["q3", "k3"], ["s3"]),
        ("_unsafe_view", ["s3"], ["s"], {"size": list(scores)}),
        (step, ["s"], ["d"], {"other": 6.0}),
        *([("add", ["d", "m"], ["a"], {"alpha": 1})] if masked else []),
        ("_softmax", [last], ["p"], {"dim": -1, "half_to_float": False}),
        ("view", ["p"], ["p3"], {"size": [8, 64, 64]}),
        ("clone", ["v"], ["vc"], row),
        ("_unsafe_view", ["vc"], ["v3"], {"size": list(flat)}),
        ("bmm", ["p3", "v3"], ["o3"]),
        ("_unsafe_view", ["o3"], ["o"], {"size": list(heads)}),
    ]
    return [kernel.kind for kernel in lowered(tensors, nodes, ["o"]).kernels]


@pytest.mark.parametrize(("step", "masked"), [("mul", False), ("div", True)])
def test_attention_of_another_form_stays_written_out(step, masked):
    assert attention(64, step, masked=masked).count("gemm") == 2


def test_attention_that_is_written_out_is_fused():
    assert attention(64, "div") == ["attention"]


def test_heads_of_odd_width_are_padded_for_the_fused_operator():
    assert attention(36, "div")[:4] == ["pointwise"] * 3 + ["attention"]


def test_complex_numbers_are_left_to_the_library_view_by_view():
    shape = (4, 32, 64, 33)
    part, size = (4, 32, 12, 33), 64
    tensors = {
        "x": ((4, 32, 64, 64), "fp32", "input"), "f": (shape, "complex64"),
        "w": (shape, "complex64", "input"), "g": (shape, "complex64"),
        "z": (shape, "complex64"), "t": (part, "complex64", "view of z", "strided"),
        "u": (part, "complex64", "view of g", "strided"), "y": ((4, 32, 64, 64), "fp32"),
    }  # fmt: skip
    nodes = [
        ("_fft_r2c", "x", "f", {"dim": [2, 3], "normalization": 0, "onesided": True}),
        ("mul", "fw", "g"),
        ("zeros", "", "z", {"size": list(shape)}),
        ("slice", "z", "t", {"dim": 2, "start": 0, "end": 12, "step": 1}),
        ("slice", "g", "u", {"dim": 2, "start": 0, "end": 12, "step": 1}),
        ("copy_", "tu", "t"),
        ("_fft_c2r", "z", "y", {"dim": [2, 3], "normalization": 2, "last_dim_size": size}),
    ]
    found = lowered(tensors, nodes, ["y"])
    assert {kernel.host for kernel in found.kernels} == {"extern"}
    copies = [kernel for kernel in found.kernels if kernel.kind == "copy"]
    assert len(copies) == 4  # the part, then the whole, each after a copy of all the memory
    assert sum(call.kind == "view" for call in found.calls) == 3


@pytest.mark.parametrize(("size", "kernels"), [(32, 2), (64, 4)])
def test_norms_of_groups_are_no_part_of_the_map_behind_them(size, kernels):
    """64 sums of 4,096 terms are one kernel; of 16,384, in memory of channels last, three."""
    shape = (2, 128, size, size)
    tensors = {
        "x": (shape, "bf16", "input", "channels_last"),
        "k": ((128, 128, 1, 1), "bf16", "parameter", "channels_last"),
        "c": (shape, "bf16", "activation", "channels_last"),
        "w": ((128,), "bf16", "parameter"), "b": ((128,), "bf16", "parameter"),
        "y": (shape,), "m": ((2, 32), "bf16"), "r": ((2, 32), "bf16"),
    }  # fmt: skip
    attributes = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "transposed": False,
                  "output_padding": [0, 0], "groups": 1}  # fmt: skip
    norm = {"N": 2, "C": 128, "HxW": size * size, "group": 32, "eps": 1e-5}
    nodes = [
        ("convolution", "xk", "c", attributes),
        ("native_group_norm", "cwb", "ymr", norm),
    ]
    found = lowered(tensors, nodes, ["y"]).kernels
    assert sum(kernel.host == "triton" for kernel in found) == kernels


def image_steps(middle, shape):
    """relu(x) + a, one more step over windows or places, times b."""
    before = (2, 64, 28, 28)
    tensors = {
        "x": (before, "bf16", "input"), "a": (before, "bf16", "input"), "s": (before,),
        "u": (shape,), "b": (shape, "bf16", "input"), "y": (shape,),
    }  # fmt: skip
    nodes = [("add", "xa", "s"), (*middle[:1], "s", "u", middle[1]), ("mul", "ub", "y")]
    return lowered(tensors, nodes, ["y"]).kernels


def test_what_is_resampled_to_the_nearest_place_is_computed_there():
    up = ("upsample_nearest2d", {"scale_factors": [2.0, 2.0]})
    assert len(image_steps(up, (2, 64, 56, 56))) == 1


def test_windows_of_nine_are_stored_and_read_what_is_stored():
    pool = ("avg_pool2d", {"kernel_size": [3, 3], "stride": [1, 1], "padding": [1, 1]})
    assert len(image_steps(pool, (2, 64, 28, 28))) == 2


def test_a_layer_over_another_axis_takes_its_operand_as_it_lies():
    """The copy that eager PyTorch folds images with is not made where no gradient is wanted."""
    tensors = {
        "x": ((2, 196, 192), "bf16", "input"), "s": ((2, 196, 192),),
        "w": ((196, 196), "bf16", "parameter"), "wt": ((196, 196), "bf16", "view of w", "strided"),
        "t": ((2, 192, 196), "bf16", "view of s", "strided"), "c": ((2, 192, 196),),
        "f": ((384, 196), "bf16", "view of c"), "m": ((384, 196),),
        "y": ((2, 192, 196), "bf16", "view of m"),
    }  # fmt: skip
    nodes = [
        ("relu", "x", "s"),
        ("transpose", "s", "t", {"dim0": 1, "dim1": 2}),
        ("t", "w", ["wt"]),
        ("clone", "t", "c", {"memory_format": "contiguous"}),
        ("_unsafe_view", "c", "f", {"size": [384, 196]}),
        ("mm", ["f", "wt"], "m"),
        ("_unsafe_view", "m", "y", {"size": [2, 192, 196]}),
    ]
    assert [kernel.kind for kernel in lowered(tensors, nodes, ["y"]).kernels] == [
        "pointwise",
        "gemm",
    ]
