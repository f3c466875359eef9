"""How the operands of a backward pass lie in memory, and what a dispatch reads."""

import pytest

from perfmodel.workload.transformer import (
    Shard,
    block_backward,
    block_forward,
    layer_kinds,
    load_model,
    load_precision,
    load_stack,
)

STACK = load_stack("megatron")


def by_name(calls):
    return {call.name: call for call in calls}


@pytest.mark.parametrize(("precision", "turns"), [("bf16", ("nn", "nt")), ("fp8", (None, None))])
def test_gradients_of_a_linear_layer_read_their_factors_as_they_lie(precision, turns):
    model = load_model("llama-3-8b")
    kind = layer_kinds(model)[0]
    calls = by_name(
        block_backward(model, kind, Shard(1, 1024), STACK, precision=load_precision(precision))
    )
    found = calls["fc1_input_grad"].op.trans, calls["fc1_weight_grad"].op.trans
    assert found == turns
    forward = by_name(block_forward(model, kind, Shard(1, 1024), STACK))["fc1"].op
    dw = calls["fc1_weight_grad"].op
    assert (dw.m, dw.n, dw.k) == (forward.n, forward.k, forward.m)


def test_a_dispatch_reads_every_token_once_and_writes_its_copies():
    model = load_model("mixtral-8x7b")
    op = by_name(block_forward(model, layer_kinds(model)[0], Shard(1, 1024), STACK))["dispatch"].op
    assert (op.rows, op.source) == (2 * 1024, 1024)
    assert op.bytes_written == 2 * (op.bytes_read - 4 * op.rows)
