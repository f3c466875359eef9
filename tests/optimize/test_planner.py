"""The planner on real models and clusters, against the pricing of uniform plans."""

import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from perfmodel.errors import PlanError
from perfmodel.hardware import load_cluster
from perfmodel.optimize.answer import difference
from perfmodel.optimize.layouts import (
    FORMATS,
    export_layout,
    megatron_layout,
    parse_megatron_layout,
)
from perfmodel.optimize.limits import largest_micro_batch, longest_context
from perfmodel.optimize.planner import milp_plan
from perfmodel.optimize.pricing import priced, problem_of
from perfmodel.optimize.problem import Stage, evaluate
from perfmodel.optimize.replicas import plan_replicas
from perfmodel.optimize.sensitivity import changed_cluster, sensitivities
from perfmodel.optimize.space import Piece, Space, points_of
from perfmodel.parallel.layout import even_layout
from perfmodel.parallel.plan import Plan
from perfmodel.parallel.training import evaluate as evaluate_uniform
from perfmodel.parallel.training import train
from perfmodel.workload.transformer import load_model, load_stack

PLAIN = Space(virtual_stages=(1,))
SMALL = replace(PLAIN, zero=(1,), tp=(4, 8), stages=(2, 4, 8))


@pytest.fixture(scope="module")
def h100():
    return load_cluster("dgx-h100", nodes=8)


@pytest.fixture(scope="module")
def plan(h100):
    return milp_plan("llama-3-70b", h100, 256, 8192, space=SMALL)


@pytest.mark.parametrize(
    ("name", "node", "nodes", "batch", "seq", "pp", "tp", "zero", "recompute", "ep"),
    [
        ("llama-3-70b", "dgx-h100", 8, 256, 8192, 4, 4, 1, "none", 1),
        ("llama-3-70b", "dgx-h100", 8, 256, 8192, 4, 4, 1, "selective", 1),
        ("llama-3-70b", "dgx-h100", 8, 256, 8192, 1, 2, 3, "full", 1),
        ("llama-3-8b", "dgx-h100", 8, 256, 8192, 2, 1, 1, "none", 1),
        ("mixtral-8x7b", "dgx-h100", 8, 256, 4096, 4, 1, 1, "none", 8),
        ("mixtral-8x7b", "dgx-h100", 8, 256, 4096, 4, 1, 3, "full", 4),
        ("gpt3-175b", "dgx-a100", 64, 512, 2048, 16, 8, 1, "full", 1),
    ],
)
def test_uniform_layouts_cost_what_uniform_plans_cost(
    name, node, nodes, batch, seq, pp, tp, zero, recompute, ep
):
    model, cluster = load_model(name), load_cluster(node, nodes=nodes)
    modules = ("core", "mlp", "experts") if recompute == "selective" else ("core",)
    uniform = Plan(
        tp=tp, pp=pp, dp=cluster.devices // pp // tp, ep=ep, zero=zero, sequence_parallel=tp > 1,
        recompute=recompute, recompute_modules=modules,
    )  # fmt: skip
    expected = evaluate_uniform(model, cluster, [uniform], batch, seq)
    space = replace(PLAIN,
        stages=(pp,), tp=(tp,), ep=(ep,), zero=(zero,), strategies=(recompute,),
        micro_batch_sizes=(1,),
    )  # fmt: skip
    table = priced((Piece(model, seq),), (cluster,), batch, space, load_stack("megatron"))
    problem, _ = problem_of(table, table.points[0])
    held = list(even_layout(model.layers, pp))
    held[0] += 1
    held[-1] += 1
    ends = np.cumsum([0, *held])
    layout = tuple(Stage(int(ends[s]), int(ends[s + 1]) - 1, 0, (0,) * held[s]) for s in range(pp))
    found = evaluate(problem, layout)
    used = found.stage_bytes + cluster.accelerator.memory_capacity - found.capacity
    assert found.step == pytest.approx(float(expected.step_time[0]), rel=1e-2)
    assert used.max() == pytest.approx(float(expected.peak_memory[0]), rel=4e-2)


def test_the_plan_is_optimal_fits_and_agrees_with_train(h100, plan):
    assert plan.status == "optimal"
    assert plan.gap <= 1e-6
    assert all(stage.bytes_held <= stage.capacity for stage in plan.stages)
    assert sum(stage.layers for stage in plan.stages) == len(plan.layers) == 82
    uniform = plan.uniform
    assert uniform is not None
    trained = train(load_model("llama-3-70b"), h100, uniform, 256, 8192, levers=False)
    assert trained.step.seconds == pytest.approx(plan.step_time, rel=5e-3)
    assert trained.peak_memory <= trained.capacity


def test_no_uniform_plan_is_better(h100, plan):
    model = load_model("llama-3-70b")
    plans = [
        Plan(tp=tp, pp=pp, dp=64 // tp // pp, zero=1 if tp * pp < 64 else 0, micro_batch_size=b,
             sequence_parallel=tp > 1, recompute=recompute, recompute_modules=("core",))
        for tp in (4, 8) for pp in (2, 4, 8) for b in (1, 2, 4)
        for recompute in ("none", "full")
        if tp * pp <= 64 and 256 % (64 // tp // pp * b) == 0
    ]  # fmt: skip
    table = evaluate_uniform(model, h100, plans, 256, 8192)
    fitting = table.step_time[table.fits]
    assert len(fitting) > 3
    assert plan.bound <= fitting.min() * 1.002


def test_1024_devices_every_mesh_and_micro_batch_with_gap_0():
    cluster = load_cluster("dgx-h100", nodes=128)
    plan = milp_plan("gpt3-175b", cluster, 1536, 2048, space=replace(PLAIN, zero=(1, 3)), gap=0.0)
    assert plan.status == "optimal"
    assert plan.gap <= 1e-9
    assert plan.points >= 70
    layers = 98
    every = points_of((cluster,), layers, 1536, PLAIN)
    assert {point.stages for point in every} == {1, 2, 4, 8, 16, 32, 64}


def test_solvers_agree(h100, plan):
    other = milp_plan("llama-3-70b", h100, 256, 8192, space=SMALL, solver="cbc")
    assert other.value == pytest.approx(plan.value, rel=1e-6)


def test_confirmation_ranks_the_best_few(h100):
    space = replace(PLAIN, tp=(1, 2), stages=(1, 2), micro_batch_sizes=(1, 2))
    best = milp_plan("llama-3-8b", h100, 256, 8192, space=space)
    seen = []

    def simulate(candidate):
        seen.append(candidate.step_time)
        return 10.0 / candidate.step_time

    turned = milp_plan("llama-3-8b", h100, 256, 8192, slack=0.2, space=space, confirm=simulate)
    assert len(seen) > 1
    assert turned.confirmed == pytest.approx(10.0 / max(seen))
    assert turned.step_time == max(seen)
    assert min(seen) == pytest.approx(best.step_time)
    assert turned.alternatives


def test_infeasible_says_what_would_fit():
    cluster = load_cluster("dgx-h100", nodes=1)
    space = replace(PLAIN, zero=(1,), strategies=("none",), tp=(8,), micro_batch_sizes=(1,))
    plan = milp_plan("llama-3-70b", cluster, 64, 8192, space=space)
    assert plan.status == "infeasible"
    assert plan.relaxation.missing_bytes > 0
    assert "more memory" in plan.explain()
    assert any(ok and "nodes" in text for text, ok in plan.relaxation.changes)
    chip = cluster.accelerator
    memory = chip.memory.model_copy(
        update={"capacity": chip.memory_capacity + plan.relaxation.missing_bytes * 1.001}
    )
    larger = replace(cluster, accelerator=chip.model_copy(update={"memory": memory}))
    assert milp_plan("llama-3-70b", larger, 64, 8192, space=space).stages


def test_out_of_time_is_honest(h100, plan):
    early = milp_plan("llama-3-70b", h100, 256, 8192, space=SMALL, time_limit_s=0.05)
    assert early.status in ("feasible", "unknown")
    assert early.bound <= plan.value * (1 + 1e-9)
    if early.stages:
        assert early.value >= plan.value * (1 - 1e-9)


def test_objectives():
    small = load_cluster("dgx-h100", nodes=2)
    space = replace(PLAIN, tp=(1, 2), stages=(1, 2), micro_batch_sizes=(1, 2))
    ask = partial(milp_plan, "llama-3-8b", small, 128, 8192, space=space)
    fast = ask()
    frugal = ask(objective="energy")
    assert frugal.step_time >= fast.step_time * (1 - 1e-9)
    few = ask(objective="devices", deadline_s=fast.step_time * 2.2)
    assert few.devices < small.devices
    assert few.step_time <= fast.step_time * 2.2
    cheap = ask(objective="cost", price_per_hour=[2.0])
    per_token = cheap.step_time * cheap.devices * 2.0 / 3600 / (128 * 8192)
    assert cheap.value == pytest.approx(per_token)
    none = ask(objective="devices", deadline_s=1e-3)
    assert none.status == "infeasible"


def test_limits_of_context_and_micro_batch():
    node = load_cluster("dgx-h100", nodes=1)
    space = replace(PLAIN, zero=(3,), strategies=("full",))
    longest = longest_context("llama-3-8b", node, 8, space=space, step=8192)
    assert longest >= 8192
    largest = largest_micro_batch("llama-3-8b", node, 64, 8192, space=space)
    assert largest >= 1
    assert longest_context("llama-3-70b", node, 8, space=Space(zero=(1,))) == 0


def test_two_kinds_of_device_beat_either(h100):
    pair = (load_cluster("dgx-h100", nodes=1), load_cluster("dgx-a100", nodes=1))
    space = replace(PLAIN, zero=(1,), stages=(2, 3, 4), tp=(2, 4))
    mixed = milp_plan("llama-3-8b", pair, 32, 4096, space=space)
    alone = [milp_plan("llama-3-8b", c, 32, 4096, space=space) for c in pair]
    assert mixed.status == "optimal"
    assert mixed.step_time < min(plan.step_time for plan in alone if plan.stages)
    assert len({stage.device_type for stage in mixed.stages}) == 2


def test_sensitivities_never_hurt():
    cluster = load_cluster("dgx-h100", nodes=2)
    space = replace(PLAIN, zero=(1,), tp=(8,), stages=(1, 2, 4), micro_batch_sizes=(1, 2))
    found = sensitivities("llama-3-8b", cluster, 64, 8192, space=space)
    assert {s.lever for s in found} == {"memory", "network", "links"}
    assert all(s.after <= s.before * (1 + 2e-6) for s in found)
    assert any(s.after < s.before * 0.9999 for s in found)
    with pytest.raises(PlanError, match="Nearest: memory"):
        changed_cluster(cluster, "memry")


def test_exports_and_differences(plan):
    text = megatron_layout(plan)
    parsed = parse_megatron_layout(text)
    assert [len(stage) for stage in parsed] == [stage.layers for stage in plan.stages]
    assert "".join(parsed) == "E" + "t" * 80 + "L"
    for framework in FORMATS:
        assert export_layout(plan, framework).text
    assert any("cuts by a rule" in m for m in export_layout(plan, "deepspeed").missing)
    with pytest.raises(PlanError, match="Nearest: megatron"):
        export_layout(plan, "megatrn")
    with pytest.raises(PlanError, match="letters"):
        parse_megatron_layout("Et*|x")
    assert "the same layout" in difference(plan, plan)
    other = replace(plan, stages=plan.stages[:-1])
    assert "-> none" in difference(plan, other)
    assert "sets the rhythm" in plan.explain()
    assert math.isclose(json.loads(json.dumps(plan.to_dict()))["step_time_s"], plan.step_time)


def test_bad_questions_get_an_answer(h100):
    with pytest.raises(PlanError, match="Nearest: step_time"):
        milp_plan("llama-3-8b", h100, 64, 8192, objective="step-time")
    with pytest.raises(PlanError, match="deadline"):
        milp_plan("llama-3-8b", h100, 64, 8192, objective="devices")
    with pytest.raises(PlanError, match="divide"):
        milp_plan("llama-3-8b", h100, 63, 8192, space=replace(PLAIN, stages=(1,)))
    with pytest.raises(PlanError, match="strategies"):
        Space(strategies=("sometimes",))


def test_degrees_may_differ_between_layers_of_a_stage():
    cluster = load_cluster("dgx-h100", nodes=1)
    base = replace(PLAIN, zero=(1,), tp=(2, 4), stages=(1, 2), micro_batch_sizes=(1, 2))
    plain = milp_plan("llama-3-8b", cluster, 16, 8192, space=base)
    freer = milp_plan("llama-3-8b", cluster, 16, 8192, space=replace(base, per_layer=True))
    assert freer.status == "optimal"
    # Only a small part of the work of once a step is priced differently.
    assert freer.step_time <= plain.step_time * 1.001
    assert all(word.split()[0] in ("tp2", "tp4") for s in freer.stages for word in s.strategies)
    pair = (cluster, load_cluster("dgx-a100", nodes=1))
    with pytest.raises(PlanError, match="one device type"):
        milp_plan("llama-3-8b", pair, 16, 8192, space=replace(base, per_layer=True))


def test_unequal_replicas_balance_their_batches():
    pair = (load_cluster("dgx-h100", nodes=2), load_cluster("dgx-a100", nodes=2))
    space = replace(PLAIN, zero=(1,), tp=(2,), stages=(1, 2), micro_batch_sizes=(1,))
    both = plan_replicas("llama-3-8b", pair, 256, 4096, granule=32, space=space)
    assert sum(both.batches) == 256
    assert both.batches[0] > both.batches[1]
    assert both.exchange > 0
    # No other split of the batch is better.
    for share in range(32, 256, 32):
        times = [
            milp_plan("llama-3-8b", cluster, batch, 4096, space=space, keep=1).step_time
            for cluster, batch in zip(pair, (share, 256 - share), strict=True)
        ]
        assert max(times) >= (both.step_time - both.exchange) * (1 - 1e-9)
    with pytest.raises(PlanError, match="two clusters"):
        plan_replicas("llama-3-8b", pair[:1], 256, 4096)


def test_interleaved_stages_of_a_model_whose_blocks_are_alike(h100):
    space = Space(zero=(1,), tp=(4,), stages=(4,), virtual_stages=(5,), micro_batch_sizes=(1,))
    space = replace(space, strategies=("full",))
    plan = milp_plan("llama-3-70b", h100, 64, 8192, space=space)
    straight = replace(space, virtual_stages=(1,))
    assert plan.step_time < milp_plan("llama-3-70b", h100, 64, 8192, space=straight).step_time
    assert plan.virtual_stages == 5
    assert len(plan.chunks) == 20
    assert sum(plan.chunks) == 80
    assert plan.uniform is not None
    trained = train(load_model("llama-3-70b"), h100, plan.uniform, 64, 8192, levers=False)
    assert trained.step.seconds == pytest.approx(plan.step_time, rel=2e-2)
    stages = parse_megatron_layout(megatron_layout(plan))
    assert "".join(stages) == "E" + "t" * 80 + "L"
    assert len(stages) == 20
    # Layers that differ cannot be dealt out: the chunks of a device would change what it does.
    moe = priced(
        (Piece(load_model("deepseek-v3"), 4096),), (load_cluster("dgx-h100", nodes=8),), 64,
        Space(tp=(8,), ep=(8,), stages=(4, 8), micro_batch_sizes=(1,)), load_stack("megatron"),
    )  # fmt: skip
    assert {point.virtual_stages for point in moe.points} == {1}


def test_a_pipeline_over_gpus_and_a_tpu_like_island():
    pool = [load_cluster("dgx-h100", nodes=2), load_cluster("tpu-v5p-pod", nodes=2)]
    both = milp_plan("llama-3-8b", pool, 16, 4096, space=PLAIN)
    alone = milp_plan("llama-3-8b", pool[0], 16, 4096, space=PLAIN)
    assert both.status == "optimal"
    assert both.value <= alone.value * (1 + 1e-9)
    assert both.bound <= both.value
