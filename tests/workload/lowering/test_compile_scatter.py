"""Sums by index in compiled programs: additions are counted by value, not by target."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from perfmodel.workload.lowering import lower
from perfmodel.workload.op import ScatterAdd
from perfmodel.workload.stack import load_stack

_spec = importlib.util.spec_from_file_location("recipes", Path(__file__).with_name("recipes.py"))
recipes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipes)
COMPILED = load_stack("torch-compile")
EDGES, NODES, COLS = 160_000, 10_000, 128


def messages(op, *, dtype="fp32", index=(EDGES,), targets=NODES, **attributes):
    """Edges' values, made by a map, summed into nodes."""
    tensors = {
        "x": ((EDGES, COLS), dtype, "input"), "m": ((EDGES, COLS), dtype),
        "i": (index, "int64", "input"), "t": ((targets, COLS), dtype, "input"),
        "y": ((targets, COLS), dtype),
    }  # fmt: skip
    nodes = [("relu", "x", "m"), (op, "tim", "y", {"dim": 0} | attributes)]
    return lower(recipes.program(tensors, nodes, "y"), COMPILED).kernels


@pytest.mark.parametrize("op", ["index_add", "index_put"])
def test_every_value_is_one_addition(op):
    copied, added = messages(op, accumulate=True)
    assert copied.bytes_written == NODES * COLS * 4
    assert added.host == "triton"
    assert added.name.split("+") == ["scatter_add", "relu"]  # values are made in the same loop
    assert added.bytes_read == EDGES * (4 * COLS + 8) + NODES * COLS * 4
    assert added.bytes_written == NODES * COLS * 4
    assert sum(op.flops for op in added.ops) >= EDGES * COLS


def test_an_index_for_every_value_is_read_beside_them():
    _, added = messages("scatter_add", index=(EDGES, COLS))
    assert added.bytes_read == EDGES * COLS * 12 + NODES * COLS * 4


def test_a_plain_write_reads_nothing_of_its_target():
    _, written = messages("index_put")
    assert written.bytes_read == EDGES * (4 * COLS + 8)
    assert written.flops < messages("index_put", accumulate=True)[-1].flops


@pytest.mark.parametrize(("targets", "waits"), [(NODES, False), (16, True)])
def test_values_wait_for_each_other_where_many_meet(targets, waits):
    added = messages("index_add", targets=targets)[-1]
    assert (added.ops == (ScatterAdd(EDGES, COLS, targets, "fp32", "scatter_add"),)) == waits


@pytest.mark.parametrize(
    ("op", "dtype", "attributes"),
    [
        ("index_add", "bf16", {}),
        ("scatter_add", "int64", {}),
        ("scatter_reduce", "fp32", {"reduce": "amax"}),
        ("index_put", "int64", {"accumulate": True}),
    ],
)
def test_sums_without_atomics_are_library_calls(op, dtype, attributes):
    hosts = [kernel.host for kernel in messages(op, dtype=dtype, **attributes)]
    assert hosts[0] == "triton"
    assert set(hosts[1:]) == {"extern"}


def test_a_half_precision_table_gathers_its_gradient_in_single_precision():
    vocab, tokens, dim = 5000, 256, 64
    tensors = {
        "g": ((tokens, dim), "bf16", "input"), "i": ((tokens,), "int64", "input"),
        "d": ((vocab, dim), "bf16"),
    }  # fmt: skip
    nodes = [("embedding_dense_backward", "gi", "d", {"num_weights": vocab})]
    zero, added, cast = lower(recipes.program(tensors, nodes, "d"), COMPILED).kernels
    assert zero.bytes_written == cast.bytes_read == vocab * dim * 4
    assert added.bytes_read == tokens * (2 * dim + 8) + tokens * dim * 4
    assert cast.bytes_written == vocab * dim * 2


def gradient_of_a_table(rows, dim, vocab):
    tensors = {
        "g": ((rows, dim), "fp32", "input"), "i": ((rows,), "int64", "input"),
        "d": ((vocab, dim), "fp32"),
    }  # fmt: skip
    nodes = [("embedding_dense_backward", "gi", "d", {"num_weights": vocab})]
    return lower(recipes.program(tensors, nodes, "d"), COMPILED).kernels[-1]


def test_tokens_of_a_small_table_wait_for_each_other():
    rows, dim = 2**16, 64
    added = gradient_of_a_table(rows, dim, 32)
    assert added.ops == (ScatterAdd(rows, dim, 32, "fp32", "scatter_add"),)


@pytest.mark.parametrize(("rows", "microseconds"), [(2**18, 2000.0), (2**14, 118.0)])
def test_threads_that_meet_on_one_address_add_one_after_another(rows, microseconds):
    """Gradients of relative positions: 32 rows of 8 heads, timed on an H100."""
    added = gradient_of_a_table(rows, 8, 32)
    seconds = sum(op.flops for op in added.ops) / 6.85e12
    assert seconds == pytest.approx(microseconds * 1e-6, rel=0.1)


def test_a_sum_behind_another_loop_waits_as_well():
    """Values that are summed over a batch in the same kernel are added as many times."""
    tensors = {
        "g": ((8, 4096, 8), "fp32", "input"), "s": ((4096, 8), "fp32"),
        "i": ((4096,), "int64", "input"), "d": ((4, 8), "fp32"),
    }  # fmt: skip
    nodes = [("sum", "g", "s", {"dim": [0]}),
             ("embedding_dense_backward", "si", "d", {"num_weights": 4})]  # fmt: skip
    found = lower(recipes.program(tensors, nodes, "d"), COMPILED).kernels
    assert sum(op.flops for kernel in found for op in kernel.ops) > 6000 * 4096 * 8


def test_sums_of_the_same_values_are_one_kernel_and_their_readers_another():
    tensors = {
        "x": ((EDGES, COLS), "fp32", "input"), "i": ((EDGES,), "int64", "input"),
        "j": ((EDGES,), "int64", "input"), "t": ((NODES, COLS), "fp32", "input"),
        "u": ((NODES, COLS), "fp32", "input"), "y": ((NODES, COLS), "fp32"),
        "z": ((NODES, COLS), "fp32"), "r": ((NODES, COLS), "fp32"),
    }  # fmt: skip
    nodes = [
        ("index_add", "tix", "y", {"dim": 0}), ("index_add", "ujx", "z", {"dim": 0}),
        ("relu", "y", "r"),
    ]  # fmt: skip
    kernels = lower(recipes.program(tensors, nodes, "zr"), COMPILED).kernels
    *copies, added, after = kernels
    assert [kernel.name for kernel in copies] == ["written over"] * 2
    # values once, both indices, and what stands in both targets
    assert added.bytes_read == EDGES * (4 * COLS + 16) + 2 * NODES * COLS * 4
    assert after.name == "relu"


@pytest.mark.parametrize(
    ("kind", "tables", "corners"), [("bilinear2d", 6, 4), ("bicubic2d", 8, 16), ("nearest2d", 1, 1)]
)
def test_resampling_of_a_step_with_gradients_is_decomposed(kind, tables, corners):
    """Tables of places and weights are kept; each corner's gradient is a sum by index."""
    sizes = {"output_size": [64, 64], "align_corners": False}
    tensors = {
        "x": ((2, 8, 32, 32), "bf16", "input"), "y": ((2, 8, 64, 64), "bf16"),
        "g": ((2, 8, 64, 64), "bf16", "input"), "d": ((2, 8, 32, 32), "bf16"),
    }  # fmt: skip
    nodes = [
        (f"upsample_{kind}", "x", "y", sizes),
        (f"upsample_{kind}_backward", "g", "d", sizes, "backward"),
    ]
    kernels = lower(recipes.program(tensors, nodes, "yd"), COMPILED).kernels
    forward = [kernel.name for kernel in kernels if kernel.phase == "forward"]
    assert len(forward) == tables + 1  # and the image
    zeros = [kernel for kernel in kernels if kernel.name.startswith("written over")]
    (added,) = (kernel for kernel in kernels if kernel.name.startswith("scatter_add"))
    width = 2 if kind == "nearest2d" else 4
    assert [kernel.bytes_written for kernel in zeros] == [2 * 8 * 32 * 32 * width] * corners
    assert sum(op.flops for op in added.ops) >= corners * 2 * 8 * 64 * 64
