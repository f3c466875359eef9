"""Activation memory against the published formulas.

Korthikanti et al. (arXiv 2205.05198): s sequence, b micro-batch, h hidden, a heads, t tensor
parallel degree; bytes of one GPT block with dropout, stored scores and 2-byte activations.
"""

import numpy as np
import pytest

from perfmodel.errors import WorkloadError
from perfmodel.workload.transformer import (
    MODULES,
    Adapter,
    Shard,
    block_activation_bytes,
    block_forward,
    head_activation_bytes,
    layer_kinds,
    load_model,
    load_precision,
    load_stack,
    recompute_calls,
)

OLD = load_stack("megatron-2022")
NEW = load_stack("megatron")
GPT = ["megatron-22b", "gpt3-175b", "megatron-530b", "megatron-1t"]


def kept(model, shard, stack=OLD, recompute="none", kind=0):
    return block_activation_bytes(
        model, layer_kinds(model)[kind], shard, stack, recompute=recompute
    ).kept


@pytest.mark.parametrize("name", GPT)
@pytest.mark.parametrize("b", [1, 4])
def test_equation_1_no_parallelism(name, b):
    model = load_model(name)
    s, h, a = 2048, model.hidden, model.heads
    assert kept(model, Shard(b, s)) == s * b * (34 * h + 5 * a * s)


@pytest.mark.parametrize("name", GPT)
def test_equation_2_tensor_parallel(name):
    model = load_model(name)
    s, h, a, t = 2048, model.hidden, model.heads, 8
    assert kept(model, Shard(1, s, tp=t)) == s * (10 * h + 24 * h // t + 5 * a * s // t)


@pytest.mark.parametrize("name", GPT)
def test_equation_4_sequence_parallel(name):
    model = load_model(name)
    s, h, a, t = 2048, model.hidden, model.heads, 8
    shard = Shard(1, s, tp=t, sequence_parallel=True)
    assert kept(model, shard) == s * (34 * h + 5 * a * s) // t


@pytest.mark.parametrize("name", GPT)
def test_selective_recompute_drops_the_square(name):
    # section 5: 34 sbh / t remains
    model = load_model(name)
    s, h, t = 2048, model.hidden, 8
    shard = Shard(1, s, tp=t, sequence_parallel=True)
    assert kept(model, shard, recompute="selective") == 34 * s * h // t


def test_full_recompute_keeps_the_input_and_brings_everything_back():
    model = load_model("gpt3-175b")
    shard = Shard(2, 2048, tp=8)
    full = block_activation_bytes(model, layer_kinds(model)[0], shard, OLD, recompute="full")
    assert full.kept == 2 * 2048 * 2 * model.hidden
    assert full.transient == kept(model, shard)


def test_published_attention_share_of_gpt3():
    # section 5: 5as/h is 80 for GPT-3, so attention's square is 70 % of the activations
    model = load_model("gpt3-175b")
    shard = Shard(1, 2048)
    share = 1 - kept(model, shard, recompute="selective") / kept(model, shard)
    assert share == pytest.approx(0.70, abs=0.005)


def test_flash_attention_is_linear_in_the_sequence():
    model = load_model("llama-3-8b")
    assert kept(model, Shard(1, 8192), NEW) == 2 * kept(model, Shard(1, 4096), NEW)
    assert kept(load_model("gpt3-175b"), Shard(1, 4096)) > 3 * kept(
        load_model("gpt3-175b"), Shard(1, 2048)
    )


def test_llama_block_by_hand():
    # norm inputs and outputs 4 h; q, k, v, out; gate, up and their product; log-sum-exp
    model = load_model("llama-3-8b")
    h, d, ffn = 4096, 128, 14336
    width = 2 * (4 * h + (32 + 16) * d + h + 3 * ffn) + 4 * 32
    assert kept(model, Shard(1, 8192), NEW) == 8192 * width


def test_moe_layers_hold_routed_rows_not_a_dense_mlp():
    model = load_model("mixtral-8x7b")
    moe = block_activation_bytes(model, layer_kinds(model)[0], Shard(1, 4096), NEW)
    rows = 4096 * 2
    routed = rows * (4096 + 3 * 14336) * 2
    assert moe.experts == routed + 4096 * (8 + 2) * 8
    assert moe.mlp == 0
    split = block_activation_bytes(model, layer_kinds(model)[0], Shard(1, 4096, ep=8), NEW)
    # expert parallelism moves rows between ranks; a balanced rank holds as many as before
    assert split.experts == moe.experts


def test_context_parallelism_divides_everything():
    for name in ("llama-3-8b", "deepseek-v3", "mixtral-8x7b"):
        model = load_model(name)
        assert kept(model, Shard(1, 8192, cp=4), NEW, kind=-1) * 4 == kept(
            model, Shard(1, 8192), NEW, kind=-1
        )


@pytest.mark.parametrize(
    "name", ["llama-3-8b", "deepseek-v3", "gpt3-175b", "mixtral-8x7b", "t5-3b"]
)
def test_more_recompute_never_keeps_more(name):
    model = load_model(name)
    for stack in (OLD, NEW, load_stack("torch-eager")):
        for kind in layer_kinds(model):
            shard = Shard(1, 4096, tp=2)
            plain = block_activation_bytes(model, kind, shard, stack)
            assert plain.transient == 0
            for recompute in (*MODULES, "selective", "+".join(MODULES), "full"):
                some = block_activation_bytes(model, kind, shard, stack, recompute=recompute)
                again = recompute_calls(model, kind, shard, stack, recompute)
                assert 0 < some.kept <= plain.kept
                if recompute != "full":
                    # what is dropped comes back, and only if something is computed again
                    assert some.kept + some.transient == plain.kept
                    assert some.transient == 0 or again


def test_modules_repeat_what_they_drop():
    model = load_model("deepseek-v3")
    kind = layer_kinds(model)[1]
    again = recompute_calls(model, kind, Shard(1, 4096), NEW, "mla_up_proj+moe_act+layernorm")
    names = {call.name for call in again}
    assert names == {
        *("norm1", "norm2", "q_norm", "kv_norm", "q_up", "kv_up", "rope", "join_keys"),
        "expert_act",
    }
    full = recompute_calls(model, kind, Shard(1, 4096), NEW, "full")
    assert {call.name for call in block_forward(model, kind, Shard(1, 4096), NEW)} - {
        call.name for call in full
    } == {"residual2"}


def test_unknown_module():
    with pytest.raises(WorkloadError) as caught:
        kept(load_model("llama-3-8b"), Shard(1, 8), recompute="core_atn")
    assert caught.value.nearest == "core_attn"


def test_logits_of_the_head():
    # section 4.3: 4sbh for norm and projection inputs, 4sbv for the fp32 logits, over t
    model = load_model("gpt3-175b")
    shard = Shard(1, 2048, tp=8, sequence_parallel=True)
    expected = 2048 * (4 * model.hidden + 4 * 51200) // 8
    assert head_activation_bytes(model, shard, NEW) == expected


def test_lora_keeps_fewer_inputs():
    model = load_model("llama-2-70b")
    kind = layer_kinds(model)[0]
    shard = Shard(1, 8192)
    plain = block_activation_bytes(model, kind, shard, NEW)
    lora = block_activation_bytes(model, kind, shard, NEW, adapter=Adapter(16))
    # the MLP's frozen products need neither the norm's output nor the activation's
    saved = 8192 * 2 * (model.hidden + model.ffn)
    assert plain.kept - lora.kept == saved - 2 * 8192 * 16 * 2


def test_fp8_keeps_operands_in_one_byte():
    model = load_model("llama-3-8b")
    kind = layer_kinds(model)[0]
    plain = block_activation_bytes(model, kind, Shard(1, 8192), NEW)
    fp8 = block_activation_bytes(model, kind, Shard(1, 8192), NEW, precision=load_precision("fp8"))
    # norm outputs and the input of fc2 lose a byte; the input of proj is kept in both formats
    assert plain.kept - fp8.kept == 8192 * (2 * 4096 + 14336 - 4096)


def test_grids_equal_single_shards():
    model = load_model("deepseek-v3")
    kind = layer_kinds(model)[1]
    tp, ep = np.array([1, 2, 8]), np.array([[1], [32]])
    sp = np.array([False, True, True])
    grid = block_activation_bytes(
        model, kind, Shard(1, 4096, tp=tp, ep=ep, sequence_parallel=sp), NEW, recompute="moe"
    )
    for i in range(3):
        shard = Shard(1, 4096, tp=int(tp[i]), ep=32, sequence_parallel=bool(sp[i]))
        one = block_activation_bytes(model, kind, shard, NEW, recompute="moe")
        assert np.broadcast_to(grid.kept, (2, 3))[1, i] == one.kept
        assert np.broadcast_to(grid.transient, (2, 3))[1, i] == one.transient
