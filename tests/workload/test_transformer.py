"""Blocks of a transformer on one rank: shapes, conservation under sharding, and old mistakes.

The mistakes are ones that public training models made and corrected; each has a test of its own.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.errors import WorkloadError
from perfmodel.workload.op import AdamW, Attention, Gemm, GroupedGemm, LayerNorm, RmsNorm
from perfmodel.workload.transformer import (
    Adapter,
    Shard,
    active_parameters,
    adapter_parameters,
    block_backward,
    block_forward,
    bundled_stacks,
    embedding_backward,
    embedding_forward,
    embedding_parameters,
    forward_flops,
    hardware_flops,
    head_backward,
    head_forward,
    head_parameters,
    layer_kinds,
    layer_parameters,
    load_model,
    load_precision,
    load_stack,
    matmul_flops,
    model_flops,
    optimizer_calls,
    parameters,
    shard_faults,
)

STACK = load_stack("megatron")
OLD = load_stack("megatron-2022")
MODELS = [
    "gpt3-175b",
    "llama-3-70b",
    "mixtral-8x7b",
    "deepseek-v3",
    "gpt-oss-120b",
    "qwen3-30b-a3b",
]
MODELS += ["palm-540b", "bert-large", "t5-3b", "gemma-2-27b"]


def by_name(calls):
    return {call.name: call for call in calls}


def flops(model, shard, stack=STACK):
    return sum(
        kind.count * matmul_flops(block_forward(model, kind, shard, stack))
        for kind in layer_kinds(model)
    )


# Shapes


def test_llama_products_by_hand():
    model = load_model("llama-3-70b")
    calls = by_name(block_forward(model, layer_kinds(model)[0], Shard(2, 4096, tp=8), STACK))
    assert calls["qkv"].op == Gemm(8192, (8 + 2) * 128, 8192)
    assert calls["proj"].op == Gemm(8192, 8192, 1024)
    assert calls["fc1"].op == Gemm(8192, 2 * 28672 // 8, 8192)
    assert calls["fc2"].op == Gemm(8192, 8192, 28672 // 8)
    assert calls["core"].op == Attention(2, 8, 1, 4096, 4096, 128, v_head_dim=128)


def test_materialised_attention_has_two_products():
    model = load_model("gpt3-175b")
    calls = by_name(block_forward(model, layer_kinds(model)[0], Shard(1, 2048, tp=8), OLD))
    assert calls["scores"].op == Gemm(2048, 2048, 128, batch=12, dtype="bf16")
    assert calls["context"].op == Gemm(2048, 128, 2048, batch=12, dtype="bf16")
    assert {call.name for call in calls.values() if call.core} == {
        *("scores", "softmax", "core_dropout", "context")
    }


def test_key_value_heads_are_copied_beyond_their_number():
    model = load_model("llama-3-8b")
    calls = by_name(block_forward(model, layer_kinds(model)[0], Shard(1, 128, tp=16), STACK))
    assert calls["qkv"].op.n == (2 + 2 * 1) * 128


def test_decoding_reads_the_cache():
    model = load_model("llama-3-8b")
    calls = by_name(block_forward(model, layer_kinds(model)[0], Shard(4, 1, past=1023), STACK))
    assert calls["core"].op.kv_len == 1024
    assert calls["core"].op.flops == 4 * 4 * 32 * 1024 * 128
    assert calls["qkv"].op.m == 4


def test_head_prices_norm_logits_and_loss():
    model = load_model("llama-3-8b")
    calls = by_name(head_forward(model, Shard(1, 8192, tp=4), STACK))
    assert set(calls) == {"final_norm", "logits", "loss"}
    assert calls["logits"].op == Gemm(8192, 128256 // 4, 4096)
    assert calls["loss"].op.vocab == 128256 // 4
    backward = by_name(head_backward(model, Shard(1, 8192, tp=4), STACK))
    assert {"logits_input_grad", "logits_weight_grad", "loss_input_grad"} <= set(backward)


def test_masked_language_models_may_predict_few_positions():
    model = replace(load_model("bert-large"), predictions=80)
    calls = by_name(head_forward(model, Shard(8, 512), STACK))
    assert calls["logits"].op.m == 8 * 80
    assert calls["loss"].op.tokens == 8 * 80


def test_embedding_gradient_is_of_the_table():
    model = load_model("gpt3-175b")
    assert "lookup" in by_name(embedding_forward(model, Shard(1, 2048, tp=8), STACK))
    calls = by_name(embedding_backward(model, Shard(1, 2048, tp=8), STACK))
    table = calls["lookup_weight_grad"]
    assert table.grad == "weight"
    assert table.op.bytes_written == 2 * (51200 // 8) * 12288


@pytest.mark.parametrize("name", bundled_stacks())
@pytest.mark.parametrize("model", [load_model("llama-3-8b"), load_model("gpt3-175b")])
def test_stacks_change_kernels_not_products(name, model):
    stack = load_stack(name)
    kind = layer_kinds(model)[0]
    shard = Shard(1, 1024)
    mine = block_forward(model, kind, shard, stack)
    square = 4 * model.heads * 1024**2 * model.head_dim
    assert matmul_flops(mine) - sum(c.op.flops for c in mine if c.core and "soft" not in c.name) < (
        forward_flops(model, 1024, 1) / model.layers
    )
    core = sum(c.op.flops for c in mine if isinstance(c.op, Attention | Gemm) and c.core)
    pairs = 1024 * 1025 // 2
    assert core in (square, 4 * model.heads * pairs * model.head_dim)


def test_eager_has_more_kernels_than_compiled():
    model = load_model("llama-3-8b")
    kind = layer_kinds(model)[0]

    def kernels(name):
        calls = block_forward(model, kind, Shard(1, 1024), load_stack(name))
        return sum(call.count for call in calls)

    assert kernels("torch-eager") > 2 * kernels("megatron") > 2 * kernels("torch-compile")


# Conservation


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_sharding_conserves_flops(name, data):
    model = load_model(name)
    tp = data.draw(st.sampled_from([1, 2, 4]))
    cp = data.draw(st.sampled_from([1, 2, 4]))
    kind = data.draw(st.sampled_from(["ring", "ulysses", "all_gather"]))
    ep = data.draw(st.sampled_from([1, 2, 4])) if model.is_moe else 1
    shard = Shard(2, 2048, tp=tp, cp=cp, ep=ep, sequence_parallel=True, cp_kind=kind)
    if any(bad for bad, _ in shard_faults(model, shard)):
        return
    heads = max(1, model.kv_heads // tp) * tp
    if heads != model.kv_heads or model.kv_heads % (tp * cp):
        return  # copied key-value heads do more work in all
    whole = flops(model, Shard(2, 2048))
    # a window's mean number of keys is rounded up; everything else is exact
    windows = model.window > 0 or kind == "all_gather"
    assert tp * cp * flops(model, shard) == pytest.approx(whole, rel=2e-3 if windows else 1e-15)


@pytest.mark.parametrize("name", MODELS)
@given(tp=st.sampled_from([1, 2, 4]), ep=st.sampled_from([1, 2, 8]), etp=st.sampled_from([1, 2]))
@settings(max_examples=15, deadline=None)
def test_sharding_conserves_parameters(name, tp, ep, etp):
    model = load_model(name)
    for kind in layer_kinds(model):
        whole_dense, whole_experts = layer_parameters(model, kind)
        dense, experts = layer_parameters(model, kind, tp, ep, etp)
        if not model.expert_bias:
            assert experts * ep * etp == whole_experts
        if model.kv_heads % tp == 0 and model.kv_heads % 2 == 0:
            # what is whole on every rank, from tp = 2; it must explain every other tp
            whole_on_each = 2 * layer_parameters(model, kind, 2)[0] - whole_dense
            assert 0 < whole_on_each < whole_dense
            assert tp * dense - (tp - 1) * whole_on_each == whole_dense


@pytest.mark.parametrize("name", MODELS)
@given(batch=st.integers(1, 64), seq=st.sampled_from([128, 1024, 4096]))
@settings(max_examples=10, deadline=None)
def test_doubling_the_batch_doubles_flops(name, batch, seq):
    model = load_model(name)
    assert forward_flops(model, seq, 2 * batch) == 2 * forward_flops(model, seq, batch)


@pytest.mark.parametrize("name", MODELS)
def test_grids_equal_single_shards(name):
    model = load_model(name)
    stack = STACK
    tp, cp = np.array([1, 2, 4]), np.array([[1], [2]])
    sp = np.array([False, True, True])
    for kind in layer_kinds(model):
        for make in (block_forward, block_backward):
            grid = make(model, kind, Shard(1, 2048, tp=tp, cp=cp, sequence_parallel=sp), stack)
            for i, j in ((0, 0), (1, 2), (0, 1)):
                shard = Shard(
                    1, 2048, tp=int(tp[j]), cp=int(cp[i, 0]), sequence_parallel=bool(sp[j])
                )
                one = {call.name: call for call in make(model, kind, shard, stack)}
                for call in grid:
                    count = np.broadcast_to(call.count, (2, 3))[i, j]
                    if count == 0:
                        continue
                    same = one[call.name]
                    assert count == same.count
                    for quantity in ("flops", "bytes_moved"):
                        mine = np.broadcast_to(getattr(call.op, quantity), (2, 3))[i, j]
                        assert mine == getattr(same.op, quantity)


# Model FLOPs


@pytest.mark.parametrize("name", ["gpt3-175b", "megatron-1.7b", "megatron-1t"])
def test_narayanan_equation_3(name):
    # 96 B s l h^2 (1 + s / 6h + V / 16 l h) with full recomputation
    model = load_model(name)
    b, s, n, h, v = 8, 2048, model.layers, model.hidden, model.vocab
    expected = 96 * b * s * n * h * h + 16 * b * s * s * n * h + 6 * b * s * h * v
    assert hardware_flops(model, s, b, "full") == expected


@pytest.mark.parametrize("name", ["gpt3-175b", "palm-540b", "llama-3-70b"])
def test_six_n_and_attention(name):
    # PaLM, appendix B: 6 N + 12 L H Q T a token, N the parameters in matrix products
    model = load_model(name)
    t = 2048
    small = embedding_parameters(model) - model.vocab * model.hidden
    norms = parameters(model) - small - (0 if model.tied else model.vocab * model.hidden)
    token = model_flops(model, t, 1) / t
    attention = 12 * model.layers * model.heads * model.head_dim * t
    assert token == pytest.approx(6 * norms + attention, rel=2e-4)


def test_selective_recompute_repeats_core_attention_only():
    model = load_model("gpt3-175b")
    extra = hardware_flops(model, 2048, 1, "selective") - model_flops(model, 2048, 1)
    assert extra == 96 * 4 * 2048**2 * 12288


def test_causal_count_is_the_lower_triangle():
    model = load_model("llama-3-8b")
    full, causal = forward_flops(model, 1024, 1), forward_flops(model, 1024, 1, causal=True)
    assert full - causal == 32 * 4 * 32 * 128 * (1024**2 - 1024 * 1025 // 2)


# Mistakes that other models made


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("stack", [STACK, OLD])
def test_backward_products_are_twice_forward(name, stack):
    model = load_model(name)
    for kind in layer_kinds(model):
        forward = block_forward(model, kind, Shard(1, 1024), stack)
        backward = block_backward(model, kind, Shard(1, 1024), stack)

        def products(calls, grad=None):
            return sum(
                call.op.flops * call.count
                for call in calls
                if isinstance(call.op, Gemm | GroupedGemm) and grad in (None, call.grad)
            )

        assert products(backward) == 2 * products(forward)
        weights = [c for c in forward if not c.core]
        assert products(backward, "weight") == products(weights)


def test_fused_attention_backward_is_two_and_a_half():
    model = load_model("llama-3-8b")
    kind = layer_kinds(model)[0]
    forward = by_name(block_forward(model, kind, Shard(1, 1024), STACK))["core"]
    backward = by_name(block_backward(model, kind, Shard(1, 1024), STACK))["core_input_grad"]
    assert backward.op.flops * 2 == forward.op.flops * 5


@pytest.mark.parametrize("name", ["llama-3-70b", "gpt3-175b"])
def test_norms_are_split_by_sequence_parallelism_only(name):
    model = load_model(name)
    kind = layer_kinds(model)[0]
    for sp, rows in ((False, 4096), (True, 512)):
        calls = block_forward(model, kind, Shard(1, 4096, tp=8, sequence_parallel=sp), STACK)
        norms = [call.op for call in calls if isinstance(call.op, LayerNorm | RmsNorm)]
        assert len(norms) == 2
        assert {op.rows for op in norms} == {rows}


def test_norm_parameters_are_whole_on_every_rank():
    model = load_model("llama-3-70b")
    kind = layer_kinds(model)[0]
    whole, _ = layer_parameters(model, kind)
    split, _ = layer_parameters(model, kind, tp=8)
    assert 8 * split - whole == 7 * 2 * 8192


def test_experts_are_divided_by_ep_and_expert_tp_not_tp():
    model = load_model("mixtral-8x7b")
    kind = layer_kinds(model)[0]
    _, whole = layer_parameters(model, kind)
    assert layer_parameters(model, kind, tp=8)[1] == whole
    assert layer_parameters(model, kind, tp=8, ep=4)[1] * 4 == whole
    assert layer_parameters(model, kind, tp=8, ep=4, expert_tp=2)[1] * 8 == whole


def test_expert_parallelism_without_tensor_parallelism():
    model = load_model("mixtral-8x7b")
    kind = layer_kinds(model)[0]
    calls = by_name(block_forward(model, kind, Shard(1, 4096, ep=8), STACK))
    assert calls["expert_fc1"].op == GroupedGemm(1, 8192, 28672, 4096, rows=8192)


def test_moe_rows_of_a_tensor_parallel_group_are_shared_out():
    model = load_model("mixtral-8x7b")
    kind = layer_kinds(model)[0]
    shard = Shard(1, 4096, tp=8, ep=8, sequence_parallel=True)
    calls = by_name(block_forward(model, kind, shard, STACK))
    assert calls["expert_fc1"].op.total_rows == 4096 * 2 // 8
    assert calls["router"].op.m == 512
    # ranks of one expert see the same rows
    both = Shard(1, 4096, tp=8, ep=4, expert_tp=2, sequence_parallel=True)
    op = by_name(block_forward(model, kind, both, STACK))["expert_fc1"].op
    assert (op.total_rows, op.n) == (2 * 1024, 28672 // 2)


def test_the_optimizer_does_not_know_micro_batches():
    calls = by_name(optimizer_calls(10**9, STACK))
    assert calls["adamw"].op == AdamW(10**9, "fp32", "fp32", "fp32", "bf16")
    assert calls["adamw"].count == 1


def test_dense_first_layers_are_not_moe():
    dense, moe = layer_kinds(load_model("deepseek-v3"))
    assert (dense.layers, moe.count) == ((0, 1, 2), 58)
    model = load_model("deepseek-v3")
    assert layer_parameters(model, dense)[1] == 0
    assert "fc1" in by_name(block_forward(model, dense, Shard(1, 64), STACK))


# Precision, adapters, faults


def test_fp8_adds_casts_and_keeps_flops():
    model = load_model("llama-3-8b")
    kind = layer_kinds(model)[0]
    fp8 = load_precision("fp8")
    plain = block_forward(model, kind, Shard(1, 1024), STACK)
    narrow = block_forward(model, kind, Shard(1, 1024), STACK, precision=fp8)
    assert matmul_flops(plain) == matmul_flops(narrow)
    assert {c.name for c in narrow} - {c.name for c in plain} == {"proj_cast"}
    assert by_name(narrow)["fc1"].op.dtype == "fp8_e4m3"
    assert by_name(narrow)["core"].op.dtype == "bf16"
    assert "weight_cast" in by_name(optimizer_calls(100, STACK, precision=fp8))


def test_lora_drops_frozen_weight_gradients():
    model = load_model("llama-2-70b")
    kind = layer_kinds(model)[0]
    adapter = Adapter(16, ("qkv", "proj"))
    backward = block_backward(model, kind, Shard(1, 8192), STACK, adapter=adapter)
    weights = {call.name for call in backward if call.grad == "weight"}
    assert weights == {f"{t}_lora_{m}_weight_grad" for t in ("qkv", "proj") for m in "ab"}
    trainable = adapter_parameters(model, kind, 16, ("qkv", "proj"))
    assert trainable == 16 * (8192 + (64 + 16) * 128 + 8192 + 8192)
    split = adapter_parameters(model, kind, 16, ("qkv", "proj"), tp=8)
    assert split == 16 * (8192 + 1280 + 1024 + 8192)


def test_qlora_expands_weights_before_each_product():
    model = load_model("llama-2-70b")
    kind = layer_kinds(model)[0]
    adapter = Adapter(16, ("qkv",), base_dtype="int4")
    forward = by_name(block_forward(model, kind, Shard(1, 64), STACK, adapter=adapter))
    expand = forward["fc1_expand"].op
    assert expand.bytes_read == 8192 * 2 * 28672 // 2
    assert expand.bytes_written == 8192 * 2 * 28672 * 2
    with pytest.raises(WorkloadError, match="qkv"):
        Adapter(16, ("q_proj",))
    with pytest.raises(WorkloadError, match="targets"):
        Adapter(16, ())


def test_shard_faults_name_what_does_not_divide():
    model = load_model("llama-3-8b")
    bad = Shard(1, 1000, tp=np.array([3, 4]), cp=np.array([1, 3]), ep=2)
    reasons = [reason for mask, reason in shard_faults(model, bad) if np.any(mask)]
    assert len(reasons) >= 3
    good = Shard(1, 8192, tp=8, cp=2, sequence_parallel=True)
    assert not any(np.any(mask) for mask, _ in shard_faults(model, good))


@pytest.mark.parametrize("change", [{"tp": 0}, {"seq_len": -1}, {"cp_kind": "rings"}, {"tp": 2.0}])
def test_bad_shards_are_refused(change):
    with pytest.raises(WorkloadError, match="shard"):
        Shard(**({"micro_batch": 1, "seq_len": 8} | change))


def test_parts_add_up_to_the_whole():
    for name in MODELS:
        model = load_model(name)
        blocks = sum(sum(layer_parameters(model, kind)) * kind.count for kind in layer_kinds(model))
        ends = embedding_parameters(model) + head_parameters(model) + model.extra_parameters
        assert parameters(model) == blocks + ends
        assert active_parameters(model) <= parameters(model)
