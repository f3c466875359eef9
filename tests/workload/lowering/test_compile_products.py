"""Products of compiled programs: where they are padded, and what stays one call."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from perfmodel.workload.lowering import lower
from perfmodel.workload.stack import load_stack

_spec = importlib.util.spec_from_file_location("recipes", Path(__file__).with_name("recipes.py"))
recipes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipes)
program = recipes.program
COMPILED = load_stack("torch-compile")


def compiled(made):
    return lower(made, COMPILED)


@pytest.mark.parametrize(
    ("rows", "depth", "columns", "copied"),
    [
        (4096, 1024, 50257, ["w"]),  # rows of the result do not start on 16 bytes
        (4096, 1023, 4096, ["x", "w"]),
        (4094, 1024, 4096, []),  # how many rows there are does not matter
        (64, 1024, 50257, []),  # bound by memory
    ],
)
def test_products_are_padded_where_rows_do_not_start_on_16_bytes(rows, depth, columns, copied):
    tensors = {
        "x": ((rows, depth), "bf16", "input"), "w": ((depth, columns), "bf16", "parameter"),
        "y": ((rows, columns), "bf16"),
    }  # fmt: skip
    made = program(tensors, [("mm", "xw", "y")], "y")
    *pads, product = compiled(made).kernels
    assert [kernel.name for kernel in pads] == ["pad"] * len(copied)
    assert [kernel.reads[0][0] for kernel in pads] == [made.tensor(n).storage for n in copied]
    assert product.ops[0].n % 8 == 0 or not copied


@pytest.mark.parametrize(("columns", "padded"), [(768, False), (1024, True)])
def test_a_transposed_operand_is_padded_where_that_spares_more_than_the_copy(columns, padded):
    tensors = {
        "g": ((4096, 50257), "bf16", "input"), "t": ((50257, 4096), "bf16", "view of g", "strided"),
        "x": ((4096, columns), "bf16", "input"), "w": ((50257, columns), "bf16"),
    }  # fmt: skip
    nodes = [("t", "g", "t"), ("mm", "tx", "w")]
    *pads, product = compiled(program(tensors, nodes, "w")).kernels
    assert bool(pads) == padded
    assert (product.ops[0].m == 50264) == padded


@pytest.mark.parametrize(
    ("rows", "columns", "padded"),
    [(512, 50257, False), (4096, 50257, True), (1024, 30522, False), (4096, 30522, True)],
)
def test_a_weight_is_padded_across_its_rows_where_that_spares_more(rows, columns, padded):
    """Weights of linear layers are transposed; results of even rows are computed faster."""
    tensors = {
        "x": ((rows, 768), "bf16", "input"), "w": ((columns, 768), "bf16", "parameter"),
        "t": ((768, columns), "bf16", "view of w", "strided"), "y": ((rows, columns), "bf16"),
    }  # fmt: skip
    made = program(tensors, [("t", "w", "t"), ("mm", "xt", "y")], "y")
    *pads, product = compiled(made).kernels
    assert bool(pads) == padded
    assert (product.ops[0].n % 8 == 0) == padded


def test_a_scaled_product_of_eight_bits_is_one_call():
    tensors = {
        "x": ((64, 128), "fp8_e4m3", "input"), "w": ((128, 256), "fp8_e4m3", "parameter"),
        "a": ((), "fp32", "input"), "b": ((), "fp32", "input"), "y": ((64, 256), "bf16"),
    }  # fmt: skip
    (kernel,) = compiled(program(tensors, [("_scaled_mm", "xwab", "y")], "y")).kernels
    assert (kernel.kind, kernel.host) == ("gemm", "extern")
    assert (kernel.ops[0].m, kernel.ops[0].n, kernel.ops[0].k) == (64, 256, 128)


def test_compiled_products_know_how_their_factors_lie():
    """As eager ones do: a gradient of an odd vocabulary is not the forward product's price."""
    tensors = {
        "g": ((512, 50257), "bf16", "input"), "x": ((512, 64), "bf16", "input"),
        "t": ((50257, 512), "bf16", "view of g", "strided"), "w": ((50257, 64), "bf16"),
    }  # fmt: skip
    made = program(tensors, [("t", "g", "t"), ("mm", "tx", "w")], "w")
    (eager,) = lower(made, load_stack("torch-eager")).kernels
    (compiled,) = [k for k in lower(made, load_stack("torch-compile")).kernels if k.kind == "gemm"]
    assert compiled.ops[0].trans == eager.ops[0].trans == "nt"


@pytest.mark.parametrize(("last", "taken"), [(None, True), ("relu", False), ("sum", True)])
def test_a_product_takes_in_what_is_added_to_it_unless_only_maps_read_the_sum(last, taken):
    tensors = {
        "a": ((512, 256), "bf16", "input"), "b": ((256, 1024), "bf16", "parameter"),
        "c": ((512, 1024), "bf16", "input"), "p": ((512, 1024), "bf16"),
        "s": ((512, 1024), "bf16"), "r": ((512, 1024) if last == "relu" else (512,), "bf16"),
    }  # fmt: skip
    nodes = [("mm", "ab", "p"), ("add", "cp", "s")]
    if last:
        nodes.append((last, "s", "r", {"dim": [1]} if last == "sum" else {}))
    kernels = compiled(program(tensors, nodes, "r" if last else "s")).kernels
    calls = [kernel.kind for kernel in kernels if kernel.host == "extern"]
    assert calls == (["copy", "gemm"] if taken else ["gemm"])
