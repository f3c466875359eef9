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
