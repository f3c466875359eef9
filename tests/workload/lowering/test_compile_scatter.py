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


def messages(op, *, dtype="fp32", index=(EDGES,), **attributes):
    """Edges' values, made by a map, summed into nodes."""
    tensors = {
        "x": ((EDGES, COLS), dtype, "input"), "m": ((EDGES, COLS), dtype),
        "i": (index, "int64", "input"), "t": ((NODES, COLS), dtype, "input"),
        "y": ((NODES, COLS), dtype),
    }  # fmt: skip
    nodes = [("relu", "x", "m"), (op, "tim", "y", {"dim": 0} | attributes)]
    return lower(recipes.program(tensors, nodes, "y"), COMPILED).kernels


@pytest.mark.parametrize("op", ["index_add", "index_put"])
def test_every_value_is_one_addition(op):
    copied, added = messages(op, accumulate=True)
    assert copied.bytes_written == NODES * COLS * 4
    assert added.ops[0] == ScatterAdd(EDGES, COLS, NODES, "fp32", "scatter_add")
    assert added.host == "triton"
    assert added.name.split("+") == ["scatter", "relu"]  # what is added is made in the same loop
    assert added.bytes_read == EDGES * (4 * COLS + 8)
    assert added.bytes_written == NODES * COLS * 4


def test_an_index_for_every_value_is_read_beside_them():
    _, added = messages("scatter_add", index=(EDGES, COLS))
    assert added.ops[0] == ScatterAdd(EDGES, COLS, NODES, "fp32", "scatter_add")
    assert added.bytes_read == EDGES * COLS * 12
    assert sum(op.bytes_read for op in added.ops) == pytest.approx(added.bytes_read, rel=0.02)
    assert added.ops[0].bytes_read < added.bytes_read


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
    assert added.bytes_read == tokens * (2 * dim + 8)
    assert cast.bytes_written == vocab * dim * 2
