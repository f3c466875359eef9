"""Concatenations, look-ups and rolled images in compiled programs."""

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
PART, BATCH = 65_536, 8


def kernels(tensors, nodes, outputs):
    return lower(recipes.program(tensors, nodes, outputs), COMPILED).kernels


def dense(count, results):
    """``count`` tensors that are concatenated once for each result, and taken on by a map."""
    parts = [f"x{n}" for n in range(count)]
    tensors = dict.fromkeys(parts, ((BATCH, PART), "bf16", "input"))
    nodes = []
    for name in results:
        tensors |= {f"c{name}": ((BATCH, count * PART), "bf16"), name: ((BATCH, count * PART),)}
        nodes += [("cat", parts, [f"c{name}"], {"dim": 1}), ("relu", [f"c{name}"], [name])]
    return kernels(tensors, nodes, results)


def test_few_operands_are_joined_where_they_are_used():
    (only,) = dense(8, ["y"])
    assert only.bytes_read == only.bytes_written == 2 * BATCH * 8 * PART


def test_each_of_many_operands_is_copied_by_itself():
    *copies, after = dense(10, ["y"])
    assert [kernel.host for kernel in copies] == ["triton"] * 10
    assert {kernel.bytes_written for kernel in copies} == {2 * BATCH * PART}
    assert after.bytes_read == after.bytes_written == 2 * BATCH * 10 * PART


def test_an_operand_of_two_concatenations_is_loaded_once():
    found = dense(10, ["y", "z"])
    copies = [kernel for kernel in found if "concat" in kernel.name]
    assert len(copies) == 10
    assert {kernel.bytes_read for kernel in copies} == {2 * BATCH * PART}
    assert {kernel.bytes_written for kernel in copies} == {4 * BATCH * PART}


def test_the_peak_holds_a_concatenation_once():
    lowered = lower(
        recipes.program(
            {f"x{n}": ((BATCH, PART), "bf16", "input") for n in range(10)}
            | {"c": ((BATCH, 10 * PART), "bf16"), "y": ((BATCH, 10 * PART), "bf16")},
            [("cat", [f"x{n}" for n in range(10)], ["c"], {"dim": 1}), ("exp", ["c"], ["y"])],
            ["y"],
        ),
        COMPILED,
    )
    taken = [event.bytes for event in lowered.events if event.allocate]
    assert sum(taken) <= 2 * 2 * BATCH * 10 * PART


@pytest.mark.parametrize("rows", [400, 616])
def test_rows_of_a_table_are_summed_along_memory(rows):
    width = 512
    tensors = {
        "t": ((5000, width), "bf16", "parameter"), "i": ((1, rows), "int64", "input"),
        "e": ((1, rows, width),), "w": ((width,), "bf16", "parameter"),
        "b": ((width,), "bf16", "parameter"), "y": ((1, rows, width),),
        "m": ((1, rows, 1), "fp32"), "r": ((1, rows, 1), "fp32"),
    }  # fmt: skip
    nodes = [
        ("embedding", "ti", "e"),
        ("native_layer_norm", "ewb", "ymr", {"normalized_shape": [width], "eps": 1e-5}),
    ]
    (only,) = kernels(tensors, nodes, "y")
    assert only.kind == "norm"


def rolled(*, norm):
    """An image that is normed or not, rolled and cut into windows, then multiplied."""
    shape, width = (8, 56, 56, 96), 96
    split, turned = (8, 8, 7, 8, 7, 96), (8, 8, 8, 7, 7, 96)
    tensors = {
        "x": (shape, "bf16", "input"), "a": (shape, "bf16", "input"), "s": (shape,),
        "w": ((width,), "bf16", "parameter"), "b": ((width,), "bf16", "parameter"),
        "n": (shape,), "m": ((*shape[:3], 1), "fp32"), "r": ((*shape[:3], 1), "fp32"),
        "p": (shape,), "o": (shape,), "v": (split, "bf16", "view of o"),
        "t": (turned, "bf16", "view of o"), "c": (turned,),
    }  # fmt: skip
    inside = "n" if norm else "s"
    nodes = [
        ("add", "xa", "s"),
        ("native_layer_norm", "swb", "nmr", {"normalized_shape": [width], "eps": 1e-5}),
        ("constant_pad_nd", inside, "p", {"pad": [0, 0, 0, 0, 0, 0]}),
        ("roll", "p", "o", {"shifts": [-3, -3], "dims": [1, 2]}),
        ("view", "o", "v", {"size": list(split)}),
        ("permute", "v", "t", {"dims": [0, 1, 3, 2, 4, 5]}),
        ("clone", "t", "c"),
    ]
    return kernels(tensors, nodes, ["s", "c"])


def test_a_rolled_image_is_stored_where_its_expression_is_long():
    assert len(rolled(norm=True)) == len(rolled(norm=False)) + 1 == 3


@pytest.mark.parametrize(("layers", "turned"), [(2, True), (40, False)])
def test_a_network_with_few_convolutions_keeps_its_layout(layers, turned):
    width = 768
    tensors = {
        "x": ((8, 3, 224, 224), "bf16", "input"), "k": ((width, 3, 16, 16), "bf16", "parameter"),
        "y0": ((8, width, 14, 14),),
    }  # fmt: skip
    nodes = [("convolution", "xk", ["y0"], {"stride": [16, 16], "padding": [0, 0]})]
    for layer in range(layers):
        before, after = f"y{layer}", f"y{layer + 1}"
        tensors[after] = ((8, width, 14, 14),)
        nodes.append(("gelu", [before], [after]))
    found = kernels(tensors, nodes, [f"y{layers}"])
    assert ("channels_last" in {kernel.name for kernel in found}) == turned
