"""Collectives of one block: volumes by hand, and mistakes that other models made."""

import numpy as np
import pytest

from perfmodel.workload.transformer import (
    Shard,
    block_backward,
    block_forward,
    bundled_models,
    end_collectives,
    layer_collectives,
    layer_kinds,
    load_model,
    load_stack,
    messages_bytes,
)


def messages(name, shard, kind=-1):
    model = load_model(name)
    return layer_collectives(model, layer_kinds(model)[kind], shard)


def needed(found, axis, phase):
    """Op name -> (runs, bytes of one run), for messages that run."""
    result = {}
    for message in found:
        if message.axis == axis and message.phase == phase and np.all(message.count):
            runs, _ = result.get(message.op.op, (0, 0))
            result[message.op.op] = (runs + message.count, message.op.bytes)
    return result


def test_four_all_reduces_a_layer():
    found = messages("gpt3-175b", Shard(1, 2048, tp=8))
    buffer = 2048 * 12288 * 2
    assert needed(found, "tp", "forward") == {"all_reduce": (2, buffer)}
    assert needed(found, "tp", "backward") == {"all_reduce": (2, buffer)}


def test_sequence_parallel_gathers_whole_buffers():
    found = messages("gpt3-175b", Shard(1, 2048, tp=8, sequence_parallel=True))
    buffer = 2048 * 12288 * 2
    assert needed(found, "tp", "forward") == {
        "all_gather": (2, buffer),
        "reduce_scatter": (2, buffer),
    }
    # the inputs are gathered once more for the weight gradients, and that can be hidden
    assert needed(found, "tp", "backward") == {
        "all_gather": (4, buffer),
        "reduce_scatter": (2, buffer),
    }
    assert sum(1 for message in found if message.overlaps and message.axis == "tp") == 2


def test_parallel_blocks_communicate_once():
    found = messages("palm-540b", Shard(1, 2048, tp=8))
    assert needed(found, "tp", "forward")["all_reduce"][0] == 1


def test_all_to_all_is_divided_by_tp():
    for tp in (1, 2, 8):
        shard = Shard(1, 4096, tp=tp, ep=8, sequence_parallel=tp > 1)
        found = messages("mixtral-8x7b", shard)
        assert needed(found, "ep", "forward") == {"all_to_all": (2, 4096 // tp * 2 * 4096 * 2)}
        assert needed(found, "ep", "backward") == needed(found, "ep", "forward")


def test_expert_tensor_parallel_gathers_rows():
    found = messages(
        "mixtral-8x7b", Shard(1, 4096, tp=8, ep=4, expert_tp=2, sequence_parallel=True)
    )
    buffer = 2 * 512 * 2 * 4096 * 2
    assert needed(found, "etp", "forward") == {
        "all_gather": (1, buffer),
        "reduce_scatter": (1, buffer),
    }


def test_moe_layers_have_no_dense_mlp_exchange():
    assert (
        needed(messages("mixtral-8x7b", Shard(1, 64, tp=2)), "tp", "forward")["all_reduce"][0] == 1
    )
    # shared experts are a dense MLP
    found = messages("deepseek-v2-lite", Shard(1, 64, tp=2))
    assert needed(found, "tp", "forward")["all_reduce"][0] == 2


def test_latent_attention_gathers_latents():
    found = messages("deepseek-v3", Shard(1, 4096, tp=8, sequence_parallel=True))
    gathers = [m.op.bytes for m in found if m.name == "tp_attention_all_gather"]
    assert gathers[0] == 4096 * (1536 + 512 + 64) * 2


def test_context_parallel_volumes():
    # ring: cp - 1 steps of this rank's keys and values; twice that backward
    own = 2048 * (8 * 2 * 128) * 2
    found = messages("llama-3-8b", Shard(1, 8192, cp=4))
    assert needed(found, "cp", "forward") == {"p2p": (3, own)}
    assert needed(found, "cp", "backward") == {"p2p": (3, 2 * own)}
    found = messages("llama-3-8b", Shard(1, 8192, cp=4, cp_kind="all_gather"))
    assert needed(found, "cp", "forward") == {"all_gather": (1, 4 * own)}
    found = messages("llama-3-8b", Shard(1, 8192, cp=4, cp_kind="ulysses"))
    sent = [m.op.bytes for m in found if m.axis == "cp" and m.phase == "forward"]
    assert sent == [2048 * (32 + 16) * 128 * 2, 2048 * 32 * 128 * 2]


@pytest.mark.parametrize("kind", ["ring", "ulysses", "all_gather"])
def test_no_context_parallelism_sends_nothing(kind):
    found = messages("llama-3-8b", Shard(1, 8192, cp_kind=kind))
    assert messages_bytes(found, "cp") == 0


def test_vocabulary_parallel_ends():
    model = load_model("llama-3-8b")
    embedding, head = end_collectives(model, Shard(1, 8192, tp=8))
    assert needed(embedding, "tp", "forward") == {"all_reduce": (1, 8192 * 4096 * 2)}
    # maximum, sum and target of each token, in fp32: never the logits themselves
    loss = next(message for message in head if message.name == "tp_loss")
    assert (loss.count, loss.op.bytes) == (3, 4 * 8192)


def test_grids_of_plans():
    tp = np.array([1, 2, 8])
    sp = np.array([False, True, False])
    found = messages("llama-3-70b", Shard(1, 8192, tp=tp, sequence_parallel=sp))
    runs = {m.name: m.count for m in found if m.phase == "forward" and m.axis == "tp"}
    assert runs["tp_mlp_all_reduce"].tolist() == [1, 0, 1]
    assert runs["tp_mlp_all_gather"].tolist() == [0, 1, 0]


@pytest.mark.parametrize("name", bundled_models())
def test_what_hides_a_message_is_a_call_of_the_same_pass(name):
    model, stack = load_model(name), load_stack("megatron")
    shard = Shard(1, 4096, tp=2, cp=2, sequence_parallel=True)
    for kind in layer_kinds(model):
        calls = {
            "forward": {call.name for call in block_forward(model, kind, shard, stack)},
            "backward": {call.name for call in block_backward(model, kind, shard, stack)},
        }
        for message in layer_collectives(model, kind, shard):
            assert message.overlaps in calls[message.phase] | {""}
