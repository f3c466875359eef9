"""The step: closed forms, properties, published tables, and mistakes that others have fixed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perfmodel.errors import PlanError, SpecError
from perfmodel.hardware import load_accelerator, load_cluster
from perfmodel.network import collective_seconds
from perfmodel.parallel.overlap import stolen_share
from perfmodel.parallel.plan import Plan
from perfmodel.parallel.step import PARTS
from perfmodel.parallel.training import evaluate, train
from perfmodel.workload.transformer import load_model, model_flops

SELENE = Plan(tp=8, pp=8, virtual_stages=3, precision="fp16", overlap=(), recompute="full")


def run(model, cluster, plan, batch, seq_len=2048, stack="megatron", **options):
    return train(model, cluster, plan, batch, seq_len, stack, **options)


# Korthikanti et al. 2022 (arXiv 2205.05198), table 5: measured iteration times [s].
@pytest.mark.parametrize(
    ("name", "nodes", "plan", "batch", "measured"),
    [
        ("megatron-22b", 1, {"pp": 1, "virtual_stages": 1, "micro_batch_size": 4}, 4, 1.42),
        ("gpt3-175b", 8, {}, 64, 18.13),
        ("megatron-530b", 35, {"pp": 35}, 280, 49.05),
    ],
)
def test_published_iteration_times_are_near(name, nodes, plan, batch, measured):
    cluster = load_cluster("dgx-a100", nodes=nodes)
    result = run(load_model(name), cluster, replace(SELENE, **plan), batch, stack="megatron-2022")
    assert result.step_time_s == pytest.approx(measured, rel=0.10)


def test_parts_add_up_and_metrics_agree(gpt, selene):
    result = run(gpt, selene, SELENE, 64)
    assert sum(result.parts.values()) == pytest.approx(result.step_time_s)
    assert set(result.parts) == set(PARTS)
    peak = selene.accelerator.peak("fp16") * 64
    assert result.mfu == pytest.approx(
        float(model_flops(gpt, 2048, 64)) / result.step_time_s / peak
    )
    assert result.hfu > result.mfu
    assert result.bubble_fraction == pytest.approx(result.parts["bubble"] / result.step_time_s)
    assert result.step.lower <= result.step.low <= result.step_time_s <= result.step.high
    tokens = result.tokens_per_s_per_device * 64 * result.step_time_s
    assert tokens == pytest.approx(64 * 2048)
    record = result.to_dict()
    assert record["peak_memory_bytes"] == pytest.approx(sum(record["memory"].values()))
    assert "forward" in result.explain()


def test_the_calls_behind_the_kernels_add_up(gpt, selene):
    plan = replace(SELENE, sequence_parallel=True)
    result = run(gpt, selene, plan, 64, stack="megatron-2022")
    by_name = {part.name: part for part in result.step.parts}
    for name in ("forward", "backward", "recompute"):
        part = by_name[name]
        assert part.relation == "detail"
        assert sum(call.seconds for call in part.parts) == pytest.approx(part.seconds, rel=1e-6)
    assert "fc1" in {call.name for call in by_name["forward"].parts}


def test_expert_exchange_may_hide_behind_the_other_micro_batch():
    model = load_model("mixtral-8x7b")
    cluster = load_cluster("dgx-h100", nodes=2)
    plan = Plan(dp=16, ep=8, zero=1)
    shown = run(model, cluster, plan, 16, 4096).parts["expert"]
    hidden = run(model, cluster, replace(plan, overlap=("experts",)), 16, 4096).parts["expert"]
    assert 0 < hidden < 0.5 * shown


def test_one_plan_is_the_same_as_in_a_grid(small):
    cluster = load_cluster("dgx-a100", nodes=1)
    plans = [
        Plan(dp=8, zero=3),
        Plan(tp=2, dp=4, zero=1, recompute="full"),
        Plan(tp=2, pp=2, dp=2, micro_batch_size=2, recompute="selective"),
        Plan(pp=4, dp=2, virtual_stages=2),
        Plan(cp=2, dp=4, zero=2),
    ]
    table = evaluate(small, cluster, plans, 32, 2048)
    for i, plan in enumerate(plans):
        alone = run(small, cluster, plan, 32)
        assert alone.step_time_s == pytest.approx(float(table.step_time[i]), rel=1e-12)
        assert alone.peak_memory == pytest.approx(float(table.peak_memory[i]), rel=1e-12)
        assert table.grid.plan(i) == plan


def test_the_optimizer_runs_once_a_step(small):
    # once multiplied by the micro-batches in a well-known tool
    cluster = load_cluster("dgx-a100", nodes=1)
    few = run(small, cluster, Plan(tp=8), 8)
    many = run(small, cluster, Plan(tp=8), 64)
    assert many.parts["optimizer"] == pytest.approx(few.parts["optimizer"])
    assert many.parts["forward"] == pytest.approx(8 * few.parts["forward"])


def test_bubble_is_the_closed_form(gpt, selene):
    # (p - 1) / (v m) of the work of a stage, for equal stages
    result = run(gpt, selene, replace(SELENE, virtual_stages=1), 64)
    interleaved = run(gpt, selene, SELENE, 64)
    work = result.step_time_s - result.parts["bubble"] - result.parts["optimizer"]
    # embedding and head make the first and last stage a little slower than the others
    assert result.parts["bubble"] == pytest.approx(work * 7 / 64, rel=0.06)
    assert interleaved.parts["bubble"] == pytest.approx(result.parts["bubble"] / 3, rel=0.06)
    gpipe = run(gpt, selene, replace(SELENE, virtual_stages=1, schedule="gpipe"), 64)
    assert gpipe.step_time_s == pytest.approx(result.step_time_s)
    zero_bubble = run(gpt, selene, replace(SELENE, virtual_stages=1, schedule="zb-h1"), 64)
    assert zero_bubble.parts["bubble"] < result.parts["bubble"]


def test_a_collective_takes_sixteen_units_of_a_gpu_and_none_of_a_tpu():
    shares = [stolen_share(load_accelerator(name)) for name in ("h100-sxm5-80gb", "tpu-v5p")]
    assert shares == [pytest.approx(16 / 132), 0.0]


def test_tensor_parallel_volume(small):
    # four all-reduces a layer, two forward and two backward, and only over a stage's own layers
    cluster = load_cluster("dgx-a100", nodes=1)
    plan = Plan(tp=4, pp=2, overlap=())
    result = run(small, cluster, plan, 4)
    size = 2048 * small.hidden * 2
    once = float(collective_seconds("all_reduce", size, 4, cluster, ranks_per_node=4))
    layers = small.layers // 2
    ends = result.parts["tensor"] / 4 - 4 * layers * once
    assert 0 <= ends <= 5 * once
    # sequence parallelism moves as much: all-reduce is reduce-scatter and all-gather
    large = load_model("megatron-18b")
    whole = run(large, cluster, Plan(tp=8, overlap=()), 4)
    split = run(large, cluster, Plan(tp=8, overlap=(), sequence_parallel=True), 4)
    assert split.parts["tensor"] == pytest.approx(whole.parts["tensor"], rel=0.25)


def test_recomputation_of_tensor_parallel_layers_repeats_their_messages(small):
    cluster = load_cluster("dgx-a100", nodes=1)
    plain = run(small, cluster, Plan(tp=8), 8)
    full = run(small, cluster, Plan(tp=8, recompute="full"), 8)
    assert full.parts["tensor"] == pytest.approx(1.5 * plain.parts["tensor"], rel=0.05)
    assert full.parts["recompute"] == pytest.approx(full.parts["forward"], rel=0.2)
    some = run(small, cluster, Plan(tp=8, recompute="selective"), 8)
    assert 0 < some.parts["recompute"] < 0.3 * full.parts["recompute"]
    assert some.parts["tensor"] == pytest.approx(plain.parts["tensor"])


def test_gradients_of_a_pipeline_stage_only(gpt):
    # data parallel traffic once ignored the pipeline
    cluster = load_cluster("dgx-a100", nodes=16)
    plan = Plan(tp=8, pp=4, dp=4, overlap=())
    four = run(gpt, cluster, plan, 64)
    eight = run(gpt, cluster, replace(plan, pp=8, dp=2), 64)
    # half the parameters, and a ring of two moves 1/2 twice instead of 3/4 twice
    assert eight.parts["gradients"] == pytest.approx(four.parts["gradients"] / 3, rel=0.1)


def test_gradient_exchange_hides_behind_the_backward_pass(gpt):
    cluster = load_cluster("dgx-a100", nodes=32)
    plan = Plan(tp=8, pp=4, dp=8, overlap=())
    shown = run(gpt, cluster, plan, 64).parts["gradients"]
    hidden = run(gpt, cluster, replace(plan, overlap=("gradients",)), 64).parts["gradients"]
    # the cover is the backward pass of one micro-batch; overlap of tensor messages has no part
    assert 0 < hidden < shown
    other = run(gpt, cluster, replace(plan, overlap=("gradients", "tensor")), 64)
    assert other.parts["gradients"] == pytest.approx(hidden, rel=0.2)


def test_nothing_is_exchanged_on_one_device(small):
    # data parallelism over a single device once divided by zero
    cluster = load_cluster("dgx-a100", nodes=1, gpus_per_node=1)
    result = run(small, cluster, Plan(), 4)
    for name in ("tensor", "context", "expert", "gather", "pipeline", "bubble", "gradients"):
        assert result.parts[name] == 0.0
    assert result.exposed_comm_s == 0.0


def test_weights_are_gathered_only_when_sharded(small):
    # one tool charged a gather of the weights in every micro-batch whatever was sharded
    cluster = load_cluster("dgx-a100", nodes=1)
    plain = run(small, cluster, Plan(dp=8, overlap=()), 64)
    assert plain.parts["gather"] == plain.parts["weights"] == 0.0
    one = run(small, cluster, Plan(dp=8, zero=1, overlap=()), 64)
    assert one.parts["gather"] == 0.0
    assert one.parts["weights"] > 0
    # all-reduce is reduce-scatter and all-gather; gradients are fp32, weights bf16
    total = one.parts["gradients"] + 2 * one.parts["weights"]
    assert total == pytest.approx(plain.parts["gradients"], rel=0.1)
    full = run(small, cluster, Plan(dp=8, zero=3, overlap=()), 64)
    assert full.parts["weights"] == full.parts["gradients"] == 0.0
    # weights twice (bf16) and gradients once (fp32) in each of 8 micro-batches
    expected = 8 * (2 * one.parts["weights"] + one.parts["gradients"])
    assert full.parts["gather"] == pytest.approx(expected, rel=0.15)
    hidden = run(small, cluster, Plan(dp=8, zero=3), 64)
    assert hidden.parts["gather"] < 0.3 * full.parts["gather"]


def test_hybrid_sharding_stays_in_the_node(small):
    cluster = load_cluster("jean-zay-a100", nodes=4)
    whole = run(small, cluster, Plan(dp=32, zero=3, overlap=()), 32)
    hybrid = run(small, cluster, Plan(dp=32, zero=3, zero_group=8, overlap=()), 32)
    assert hybrid.parts["gather"] < whole.parts["gather"]
    assert hybrid.memory["weights"] == pytest.approx(4 * whole.memory["weights"], rel=0.01)


def test_expert_exchange_is_shared_over_tensor_ranks():
    # dispatch buffers once ignored that tokens are split over tp
    model = load_model("mixtral-8x7b")
    cluster = load_cluster("dgx-h100", nodes=2)
    plan = Plan(tp=2, dp=8, ep=8, expert_tp=1, sequence_parallel=True, zero=1)
    two = run(model, cluster, plan, 16, 4096)
    four = run(model, cluster, replace(plan, tp=4, dp=4), 16, 4096)
    # four ranks share the tokens, and twice as many micro-batches follow one another
    assert four.parts["expert"] == pytest.approx(two.parts["expert"], rel=0.15)
    assert two.parts["expert"] > 0


def test_context_parallel_forms():
    model = load_model("llama-3-8b")
    cluster = load_cluster("dgx-h100", nodes=1)
    ring, ulysses, gather = (
        run(model, cluster, Plan(cp=8, zero=1, cp_method=method), 8, 32768)
        for method in ("ring", "ulysses", "all_gather")
    )
    # causal pieces of the ring hide their sends inside a node
    assert ring.parts["context"] < gather.parts["context"]
    assert ulysses.parts["context"] > 0
    alone = run(model, cluster, Plan(dp=8, zero=1), 8, 32768)
    assert ring.parts["forward"] == pytest.approx(alone.parts["forward"], rel=0.35)


def test_tensor_parallelism_across_nodes_costs_more():
    model = load_model("megatron-3.6b")
    cluster = load_cluster("jean-zay-a100", nodes=2)
    inside = run(model, cluster, Plan(tp=8, dp=2), 16)
    across = run(model, cluster, Plan(tp=16), 16)
    assert across.parts["tensor"] > 2 * inside.parts["tensor"]


def test_host_bound_steps():
    # a small model in eager mode waits for the host; a graph does not
    model = load_model("gpt2")
    cluster = load_cluster("dgx-a100", nodes=1)
    eager = run(model, cluster, Plan(dp=8), 8, 128, stack="megatron-2022")
    graph = run(model, cluster, Plan(dp=8), 8, 128, stack="cuda-graph")
    assert eager.parts["host"] > 0.5 * eager.step_time_s
    assert graph.parts["host"] == 0.0


def test_offload_waits_for_the_host_link(small):
    cluster = load_cluster("dgx-a100", nodes=1)
    plan = Plan(dp=8, zero=1)
    kept = run(small, cluster, plan, 8)
    away = run(small, cluster, replace(plan, offload=("optimizer",)), 8)
    assert away.memory["optimizer"] == 0.0
    assert away.parts["offload"] > 0.0
    assert away.step_time_s > kept.step_time_s
    activations = run(small, cluster, replace(plan, offload=("activations",)), 8)
    assert activations.memory["activations"] < 0.5 * kept.memory["activations"]
    weights = run(small, cluster, replace(plan, offload=("weights",)), 8)
    assert weights.memory["weights"] == 0.0


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_narrow_products_are_faster_and_keep_copies(precision):
    model = load_model("llama-3-8b")
    cluster = load_cluster("dgx-h100", nodes=1)
    result = run(model, cluster, Plan(tp=2, dp=4, precision=precision), 64, 8192)
    base = run(model, cluster, Plan(tp=2, dp=4), 64, 8192)
    if precision == "fp8":
        assert 0.5 * base.step_time_s < result.step_time_s < base.step_time_s
        assert result.memory["weights"] == pytest.approx(2 * base.memory["weights"])


def test_a_chip_without_the_format_says_so(small):
    cluster = load_cluster("dgx-a100", nodes=1)
    with pytest.raises(SpecError, match="fp4"):
        run(small, cluster, Plan(dp=8, precision="fp4"), 8)


def test_contradictions_are_refused_before_anything_is_priced(small):
    cluster = load_cluster("dgx-a100", nodes=1)
    with pytest.raises(PlanError, match="global batch size"):
        run(small, cluster, Plan(dp=8), 4)
    with pytest.raises(PlanError, match="at least 1"):
        run(small, cluster, Plan(dp=8), 0)
    with pytest.raises(PlanError, match="first plan"):
        evaluate(small, cluster, [Plan(dp=8), Plan(dp=8, precision="fp16")], 8, 2048)
    with pytest.raises(PlanError, match="at least one plan"):
        evaluate(small, cluster, [], 8, 2048)


def test_faster_links_are_never_slower(gpt):
    slow = load_cluster("dgx-a100", nodes=8)
    tiers = tuple(replace(tier, bandwidth=2 * tier.bandwidth) for tier in slow.tiers)
    fast = replace(slow, tiers=tiers)
    plans = [Plan(tp=8, pp=8), Plan(tp=4, pp=8, dp=2, zero=1), Plan(tp=8, dp=8, zero=3)]
    before = evaluate(gpt, slow, plans, 64, 2048).step_time
    after = evaluate(gpt, fast, plans, 64, 2048).step_time
    assert np.all(after <= before)


def test_more_layers_in_one_stage_slow_the_whole_pipeline(gpt, selene):
    even = run(gpt, selene, Plan(tp=8, pp=8), 64)
    uneven = run(
        gpt, selene, Plan(tp=8, pp=8, layers_per_stage=(12, 12, 12, 12, 12, 12, 16, 8)), 64
    )
    assert uneven.step_time_s == pytest.approx(even.step_time_s * 16 / 12, rel=0.1)
