"""Programs drawn at random: whatever the graph, kernels run after what they need."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.workload.lowering import lower
from perfmodel.workload.stack import load_stack

_spec = importlib.util.spec_from_file_location("recipes", Path(__file__).with_name("recipes.py"))
recipes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipes)
COMPILED, EAGER = load_stack("torch-compile"), load_stack("torch-eager")
SIDE = 64

step = st.tuples(
    st.sampled_from(
        ["relu", "gelu", "add", "mul", "add_", "mm", "t", "_softmax", "sum", "copy_", "slice"]
    ),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.booleans(),
)


def build(steps):
    """A training program of square matrices from drawn steps; parts and sums are put back."""
    tensors = {"x": ((SIDE, SIDE), "bf16", "input"), "w": ((SIDE, SIDE), "bf16", "parameter")}
    nodes, names, views = [], ["x", "w"], {}
    backward = False
    for place, (kind, first, second, late) in enumerate(steps):
        backward = backward or (late and place > len(steps) // 2)
        phase = "backward" if backward else "forward"
        a, b = names[first % len(names)], names[second % len(names)]
        name = f"v{place}"
        if kind in ("add_", "copy_"):
            if a in ("x", "w") or views.get(a, a) in ("x", "w"):
                continue
            nodes.append((kind, [a, b], [a], {}, phase))
            continue
        if kind == "t":
            tensors[name] = ((SIDE, SIDE), "bf16", f"view of {a}", "strided")
            views[name] = views.get(a, a)
            nodes.append(("t", [a], [name], {}, phase))
        elif kind == "sum":
            tensors[f"{name}s"] = ((1, SIDE), "bf16")
            tensors[name] = ((SIDE, SIDE), "bf16")
            attributes = {"dim": [second % 2], "keepdim": True}
            nodes.append(("sum", [a], [f"{name}s"], attributes, phase))
            nodes.append(("mul", [b, f"{name}s"], [name], {}, phase))
        elif kind == "slice":
            tensors[f"{name}s"] = ((SIDE, SIDE // 2), "bf16", f"view of {a}", "strided")
            tensors[name] = ((SIDE, SIDE), "bf16")
            views[f"{name}s"] = views.get(a, a)
            attributes = {"dim": 1, "start": (first % 2) * SIDE // 2, "end": SIDE}
            nodes.append(("slice", [a], [f"{name}s"], attributes, phase))
            parts = [f"{name}s", f"{name}s"]
            nodes.append(("cat", parts, [name], {"dim": 1, "lists": {"tensors": 2}}, phase))
        else:
            tensors[name] = ((SIDE, SIDE), "bf16")
            inputs = [a, b] if kind in ("add", "mul", "mm") else [a]
            nodes.append((kind, inputs, [name], {"dim": -1}, phase))
        names.append(name)
    return recipes.program(tensors, nodes, names[-2:])


@settings(max_examples=60, deadline=None)
@given(st.lists(step, min_size=2, max_size=24))
def test_what_is_read_was_written_before(steps):
    made = build(steps)
    lowered = lower(made, COMPILED)
    there = {entry.storage for entry in lowered.resident}
    taken: dict[int, int] = {}
    for event in lowered.events:
        if event.allocate:
            assert taken.setdefault(event.storage, event.call) == event.call
    for call in lowered.calls:
        for place in call.kernels:
            kernel = lowered.kernels[place]
            for storage, size in kernel.reads:
                assert storage in there, (storage, kernel.name)
                assert size >= 0
            there |= {storage for storage, _ in kernel.writes}
    launched = [place for call in lowered.calls for place in call.kernels]
    assert launched == list(range(len(lowered.kernels)))


@settings(max_examples=30, deadline=None)
@given(st.lists(step, min_size=2, max_size=24))
def test_eager_and_compiled_steps_multiply_alike_or_less(steps):
    made = build(steps)

    def products(lowered):
        return sum(kernel.flops for kernel in lowered.kernels if kernel.kind == "gemm")

    # what nobody asks for is not computed by a compiler
    assert products(lower(made, COMPILED)) <= products(lower(made, EAGER))
