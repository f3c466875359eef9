"""Products of a compiled backward pass under autocast run in its format."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from perfmodel.workload.lowering import lower
from perfmodel.workload.stack import load_stack

_spec = importlib.util.spec_from_file_location("recipes", Path(__file__).with_name("recipes.py"))
recipes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipes)
SIZE = (64, 64)


def step(weight):
    """Attention written out in fp32 behind a product in bf16; weights of some format."""
    tensors = {
        "w": (SIZE, weight, "parameter"), "x": (SIZE, "bf16", "input"), "c": (SIZE, "bf16"),
        "h": (SIZE, "bf16"), "a": (SIZE, "fp32"), "s": (SIZE, "fp32"), "g": (SIZE, "fp32"),
        "d": (SIZE, "fp32"), "e": (SIZE, "fp32", "gradient"),
    }  # fmt: skip
    back = "backward"
    nodes = [
        ("_to_copy", "w", "c"), ("mm", "xc", "h"), ("_to_copy", "h", "a"), ("mm", "aa", "s"),
        ("ones_like", "s", "g", {}, back), ("mm", "ga", "d", {}, back), ("neg", "d", "e", {}, back),
    ]  # fmt: skip
    return recipes.program(tensors, nodes, ["s", "e"])


@pytest.mark.parametrize(
    ("weight", "compiled", "expected"),
    [
        ("fp32", True, ["bf16", "tf32", "bf16"]),
        ("fp32", False, ["bf16", "tf32", "tf32"]),  # autocast is off in an eager backward pass
        ("bf16", True, ["bf16", "tf32", "tf32"]),  # no autocast
    ],
)
def test_single_precision_gradients_are_cast(weight, compiled, expected):
    stack = load_stack("torch-compile" if compiled else "torch-eager")
    allowed = stack.model_copy(update={"matmul_fp32": "tf32"})
    kernels = lower(step(weight), allowed).kernels
    assert [k.ops[0].dtype for k in kernels if k.kind == "gemm"] == expected


def test_casts_that_only_the_backward_pass_reads_are_made_in_the_forward_pass():
    """They hang on no gradient, cost half of what they are made of, and are kept instead of it."""
    stack = load_stack("torch-compile")
    kernels = lower(step("fp32"), stack).kernels
    wide = 64 * 64 * 4
    back = [kernel for kernel in kernels if kernel.phase == "backward"]
    assert all(size < wide for kernel in back if kernel.kind == "gemm" for _, size in kernel.reads)
    early = [k for k in kernels if k.phase == "forward" and k.kind == "pointwise"]
    written = {storage for kernel in early for storage, _ in kernel.writes}
    (product,) = [kernel for kernel in back if kernel.kind == "gemm"]
    assert any(storage in written for storage, _ in product.reads)
