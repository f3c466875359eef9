"""The order in which generated buffers lie in memory, and what it keeps apart."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from perfmodel.workload.lowering import lower
from perfmodel.workload.lowering.compile.turned import (
    Turn,
    corners,
    is_turned,
    memory,
    voted,
    without_joined_axis,
)
from perfmodel.workload.stack import load_stack

_spec = importlib.util.spec_from_file_location("recipes", Path(__file__).with_name("recipes.py"))
recipes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipes)
COMPILED = load_stack("torch-compile")


@pytest.mark.parametrize(
    ("strides", "axes"),
    [
        ([(768, 49152, 1)], (1, 0, 2)),  # what a transposed product left behind
        ([(768, 49152, 1), (151296, 768, 1)], (0, 1, 2)),  # a draw: the logical order
        ([(768, 49152, 1), (768, 49152, 1), (151296, 768, 1)], (1, 0, 2)),
        ([(4608, 0, 1)], (0, 1, 2)),  # repeated along an axis
        ([(150528, 1, 196)], (0, 2, 1)),  # channels first
    ],
)
def test_axes_lie_as_most_reads_do(strides, axes):
    reads = [(0, *each) for each in strides]
    assert voted((64, 197, 768), reads) == axes


def test_places_of_turned_memory():
    shape, axes = (2, 3, 4), (1, 0, 2)
    assert memory(shape, axes, corners(shape)).tolist() == [0, 4, 8, 1]
    straight = Turn(shape, axes, axes)
    assert straight.written(corners(shape)).tolist() == corners(shape).tolist()
    assert is_turned(shape, axes)
    assert not is_turned((2, 1, 4), axes)


def chain(*, transposed):
    """Two products, the sum of their results with one of them turned, and a sum along its rows."""
    wide, narrow = (64, 32, 128), (64 * 32, 128)
    other = (32, 64, 128) if transposed else wide
    tensors = {
        "x": (narrow, "bf16", "input"), "w": ((128, 128), "bf16", "parameter"),
        "p": (narrow,), "q": (narrow,), "a": (wide, "bf16", "view of p"),
        "b": (other, "bf16", "view of q"), "c": (wide, "bf16", "view of q", "strided"),
        "s": (wide,), "t": (wide,), "r": ((64, 32),), "y": (wide,),
    }  # fmt: skip
    turned = ("transpose", "b", "c", {"dim0": 0, "dim1": 1})
    nodes = [
        ("mm", "xw", "p"), ("mm", "xw", "q"), ("view", "p", "a", {"size": list(wide)}),
        ("view", "q", "b", {"size": list(other)}),
        *([turned] if transposed else []),
        ("mul", "cc" if transposed else "bb", "s"), ("exp", "s", "t"),
        ("add", "at", "y"), ("sum", "s", "r", {"dim": [2]}),
    ]  # fmt: skip
    return recipes.program(tensors, nodes, ["y", "r"])


def test_what_follows_turned_memory_still_reads_every_element_once():
    for transposed in (False, True):
        kernels = lower(chain(transposed=transposed), COMPILED).kernels
        generated = [kernel for kernel in kernels if kernel.host == "triton"]
        size = 64 * 32 * 128 * 2
        assert sum(kernel.bytes_read for kernel in generated) >= 2 * size
        assert sum(kernel.bytes_written for kernel in generated) == size + 64 * 32 * 2


def test_a_product_reads_one_row_of_each_image_where_it_lies():
    tensors = {
        "x": ((8, 16, 64), "bf16", "input"), "w": ((64, 32), "bf16", "parameter"),
        "e": ((8, 16, 64),), "r": ((8, 64), "bf16", "view of e", "strided"), "y": ((8, 32),),
    }  # fmt: skip
    nodes = [("exp", "x", "e"), ("select", "e", "r", {"dim": 1, "index": 0}), ("mm", "rw", "y")]
    kernels = lower(recipes.program(tensors, nodes, ["y"]), COMPILED).kernels
    assert [kernel.name for kernel in kernels] == ["exp", "mm"]
    assert kernels[0].bytes_written == 8 * 16 * 64 * 2


def test_a_running_sum_computes_what_it_sums():
    tensors = {"x": ((8, 512), "fp32", "input"), "m": ((8, 512), "fp32"), "y": ((8, 512), "fp32")}
    nodes = [("exp", "x", "m"), ("cumsum", "m", "y", {"dim": 1})]
    (kernel,) = lower(recipes.program(tensors, nodes, ["y"]), COMPILED).kernels
    assert (kernel.kind, kernel.bytes_read) == ("scan", 8 * 512 * 4)


def normalised(rows):
    """The sum of five operands that lie turned, and its layer norm."""
    shape, other = (64, rows, 128), (rows, 64, 128)
    parts = "abcde"
    tensors = {
        **dict.fromkeys(parts, (other, "bf16", "input")),
        **{f"{name}t": (shape, "bf16", f"view of {name}", "strided") for name in parts},
        **{f"s{k}": (shape,) for k in range(4)},
        "w": ((128,), "bf16", "parameter"), "v": ((128,), "bf16", "parameter"),
        "y": (shape,), "m": ((64, rows, 1), "fp32"), "r": ((64, rows, 1), "fp32"),
        "p": ((128, 128), "bf16", "parameter"), "f": ((64 * rows, 128), "bf16", "view of y"),
        "z": ((64 * rows, 128),),
    }  # fmt: skip
    nodes = [("transpose", name, [f"{name}t"], {"dim0": 0, "dim1": 1}) for name in parts]
    sums = ["at", "s0", "s1", "s2", "s3"]
    nodes += [("add", [sums[k], f"{parts[k + 1]}t"], [sums[k + 1]]) for k in range(4)]
    nodes += [
        ("native_layer_norm", ["s3", "w", "v"], ["y", "m", "r"],
         {"normalized_shape": [128], "eps": 1e-6}),
        ("view", "y", "f", {"size": [64 * rows, 128]}), ("mm", "fp", "z"),
    ]  # fmt: skip
    return recipes.program(tensors, nodes, ["z"])


@pytest.mark.parametrize(("rows", "kernels"), [(131, 1), (132, 2)])
def test_a_mean_of_many_rows_lies_as_its_operand_seemed_to_lie(rows, kernels):
    """From 8,448 rows on, as profiled in torchvision's vision transformers."""
    found = lower(normalised(rows), COMPILED).kernels
    assert [kernel.host for kernel in found] == ["triton"] * kernels + ["extern"]
    assert sum("moments" in kernel.name for kernel in found) == kernels


@pytest.mark.parametrize(("channels_first", "kernels"), [(False, 1), (True, 3)])
def test_a_norm_of_few_rows_is_split_where_its_operand_lies_across(channels_first, kernels):
    """The first norm of a vision transformer reads patches channel by channel."""
    shape, other = (4, 196, 768), (4, 768, 196)
    tensors = {
        "a": (other if channels_first else shape, "bf16", "input"),
        "t": (shape, "bf16", "view of a", "strided"), "s": (shape,),
        "w": ((768,), "bf16", "parameter"), "v": ((768,), "bf16", "parameter"),
        "y": (shape,), "m": ((4, 196, 1), "fp32"), "r": ((4, 196, 1), "fp32"),
    }  # fmt: skip
    nodes = [
        *([("transpose", "a", "t", {"dim0": 1, "dim1": 2})] if channels_first else []),
        ("exp", "t" if channels_first else "a", "s"),
        ("native_layer_norm", "swv", "ymr", {"normalized_shape": [768], "eps": 1e-6}),
    ]
    found = lower(recipes.program(tensors, nodes, ["y"]), COMPILED).kernels
    assert len(found) == kernels
    assert [kernel.kind for kernel in found][:1] == ["reduction" if channels_first else "norm"]


def test_the_axis_that_operands_are_joined_along_has_no_vote():
    shape, patches = (64, 197, 768), (64, 196, 768)
    places = without_joined_axis(patches, shape, corners(shape))
    assert places.tolist() == [0, 197 * 768, 0, 1]
    assert without_joined_axis((1, 197, 768), (1, 197, 768), corners(shape)).tolist() == [
        0, 197 * 768, 768, 1,
    ]  # fmt: skip


def test_each_convolution_turns_its_own_copy_of_a_view():
    """What a channel shuffle leaves is stored once, and turned for each that takes it."""
    image, groups, turned = (8, 32, 14, 14), (8, 2, 16, 14, 14), (8, 16, 2, 14, 14)
    tensors = {
        "x": (image, "bf16", "input", "channels_last"), "r": (image,),
        "g": (groups, "bf16", "view of r"), "t": (turned, "bf16", "view of r", "strided"),
        "c": (turned,), "v": (image, "bf16", "view of c"),
        **dict.fromkeys("ab", ((32, 32, 3, 3), "bf16", "parameter", "channels_last")),
        "y": (image, "bf16", "activation", "channels_last"),
        "z": (image, "bf16", "activation", "channels_last"),
    }  # fmt: skip
    taken = {
        "stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "transposed": False,
        "output_padding": [0, 0], "groups": 1,
    }  # fmt: skip
    nodes = [
        ("relu", "x", "r"), ("view", "r", "g", {"size": list(groups)}),
        ("transpose", "g", "t", {"dim0": 1, "dim1": 2}), ("clone", "t", "c"),
        ("view", "c", "v", {"size": list(image)}),
        ("convolution", "va", "y", taken), ("convolution", "vb", "z", taken),
    ]  # fmt: skip
    found = lower(recipes.program(tensors, nodes, ["y", "z"]), COMPILED).kernels
    generated = [kernel for kernel in found if kernel.host == "triton"]
    size = 8 * 32 * 14 * 14 * 2
    assert [kernel.bytes_written for kernel in generated] == [size, 2 * size]


@pytest.mark.parametrize(("space", "turned"), [((64, 64), True), ((16, 16, 16), False)])
def test_volumes_are_not_turned_as_images_are(space, turned):
    """Sums of a channel run along memory in volumes; across it they have many more parts."""
    size, ones = (4, 128, *space), [1] * len(space)
    conv = {"stride": ones, "padding": ones, "dilation": ones, "groups": 1}
    tensors = {
        "x": (size, "bf16", "input"), "w": ((128, 128, *(3 for _ in space)), "bf16", "parameter"),
        "y": (size, "bf16"), "m": ((128,), "bf16"),
    }  # fmt: skip
    axes = {"dim": [0, *range(2, 2 + len(space))]}
    nodes = [("convolution", "xw", "y", conv), ("sum", "y", "m", axes)]
    kernels = lower(recipes.program(tensors, nodes, "m"), COMPILED).kernels
    assert any(kernel.name == "channels_last" for kernel in kernels) == turned
    parts = next(kernel for kernel in kernels if kernel.name == "sum").bytes_written // (128 * 4)
    assert (parts > 8) == turned
