"""Whole models as calls, and the examples of the documentation."""

import doctest
from pathlib import Path

import numpy as np
import pytest

from perfmodel.workload.graph import forward_calls, trainable_parameters, training_calls
from perfmodel.workload.transformer import (
    Adapter,
    Shard,
    bundled_models,
    hardware_flops,
    load_model,
    load_stack,
    matmul_flops,
    parameters,
)

STACK = load_stack("megatron")


@pytest.mark.parametrize("name", ["llama-3-8b", "mixtral-8x7b", "bert-large", "t5-3b", "vit-l-16"])
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_a_step_is_the_sum_of_its_parts(name, recompute):
    # stored scores: their products' backward pass is exactly twice the forward pass
    model, stack = load_model(name), load_stack("megatron-2022")
    seq = model.image_tokens or 512
    calls = training_calls(model, Shard(2, seq), stack, micro_batches=3, recompute=recompute)
    assert matmul_flops(calls) == hardware_flops(model, seq, 6, recompute)


@pytest.mark.parametrize("name", bundled_models())
def test_one_rank_trains_every_parameter(name):
    model = load_model(name)
    assert trainable_parameters(model, Shard(1, 128)) == parameters(model)


def test_adapters_are_all_that_trains():
    model = load_model("llama-2-70b")
    adapter = Adapter(16)
    calls = {
        call.name: call for call in training_calls(model, Shard(1, 128), STACK, adapter=adapter)
    }
    own = 80 * 16 * (8192 + 10240 + 8192 + 8192)
    assert trainable_parameters(model, Shard(1, 128), adapter) == own
    assert calls["adamw"].op.numel == own
    assert "lookup_weight_grad" not in calls


def test_the_optimizer_runs_once_whatever_the_micro_batches():
    model = load_model("gpt2")
    calls = training_calls(model, Shard(1, 128), STACK, micro_batches=np.array([1, 8]))
    counts = {call.name: call.count for call in calls}
    assert counts["adamw"] == 1
    assert counts["dense.fc1"].tolist() == [12, 96]


def test_inference_has_no_loss():
    names = {
        call.name for call in forward_calls(load_model("gpt2"), Shard(1, 8), STACK, loss=False)
    }
    assert "logits" in names
    assert "loss" not in names


def test_documentation_examples():
    page = Path(__file__).parents[2] / "docs" / "workloads.md"
    failed, tried = doctest.testfile(str(page), module_relative=False)
    assert (failed, tried > 10) == (0, True)
