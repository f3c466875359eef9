"""Modules that ask how they are launched."""

import pickle
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import perfmodel as pm  # noqa: E402
from perfmodel.errors import WorkloadError  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]


class Masked(nn.Module):
    """Leaves its mask out unless a stream is captured, as masks of ``transformers`` do."""

    def forward(self, x):
        return x + torch.ones_like(x) if torch.cuda.is_current_stream_capturing() else x * 2


def test_a_captured_step_answers_that_it_is_captured():
    asked = torch.cuda.is_current_stream_capturing
    x = torch.empty(4, 4, device="meta")
    found = {how: pm.trace(Masked(), x, launch=how) for how in ("eager", "graph", "compiled")}
    names = {how: [node.target for node in one.nodes] for how, one in found.items()}
    assert names["eager"] == ["aten.mul"]
    assert names["graph"] == names["compiled"] == ["aten.ones_like", "aten.add"]
    assert torch.cuda.is_current_stream_capturing is asked


def test_a_compiled_step_leaves_the_fused_path_of_attention():
    model = nn.MultiheadAttention(32, 4, batch_first=True)
    x = torch.empty(2, 8, 32, device="meta")
    within = {
        how: {
            node.attributes.get("within") for node in pm.trace(model, (x, x, x), launch=how).nodes
        }
        for how in ("graph", "compiled")
    }
    assert within["graph"] == {"aten._native_multi_head_attention"}
    assert within["compiled"] == {None}
    assert torch.backends.mha.get_fastpath_enabled()


def test_an_unknown_launch_is_named():
    with pytest.raises(WorkloadError, match="compiled"):
        pm.trace(nn.Linear(4, 4), torch.empty(1, 4), launch="compile")


def test_an_estimate_is_of_the_program_that_its_stack_runs():
    x = torch.empty(64, 64, device="meta")
    program = pm.trace(Masked(), x)
    assert [node.target for node in program.launched("torch-eager").nodes] == ["aten.mul"]
    captured = program.launched("cuda-graph")
    assert [node.target for node in captured.nodes] == ["aten.ones_like", "aten.add"]
    assert program.launched("cuda-graph") is captured  # recorded once
    eager, graph = (program.estimate("h100-sxm5-80gb", stack=one) for one in
                    ("torch-eager", "cuda-graph"))  # fmt: skip
    assert [kernel["name"] for kernel in eager.to_dict()["kernels"]] == ["mul"]
    assert [kernel["name"] for kernel in graph.to_dict()["kernels"]][-1] == "add"
    compiled = program.launched("torch-compile")
    assert [node.target for node in compiled.nodes] == ["aten.ones_like", "aten.add"]


def test_who_does_not_ask_is_recorded_once():
    x = torch.empty(4, 4, device="meta")
    program = pm.trace(nn.Linear(4, 4), x)
    assert program.again is None
    assert program.launched("torch-compile") is program
    attention = nn.MultiheadAttention(32, 4, batch_first=True)
    y = torch.empty(2, 8, 32, device="meta")
    held = pm.trace(attention, (y, y, y)).launched("torch-compile")
    assert {node.attributes.get("within") for node in held.nodes} == {None}


def test_a_changed_or_pickled_program_stands_for_itself():
    program = pm.trace(Masked(), torch.empty(4, 4, device="meta"))
    shorter = replace(program, nodes=program.nodes[:0])
    assert shorter.launched("cuda-graph") is shorter
    loaded = pickle.loads(pickle.dumps(program))
    assert loaded == program
    assert loaded.launched("cuda-graph") is loaded
