from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.errors import Infeasible, PlanError
from perfmodel.hardware import load_cluster
from perfmodel.optimize.pareto import pareto_front
from perfmodel.optimize.search import TIE, search
from perfmodel.optimize.uniform import Space, divisors
from perfmodel.parallel.plan import RECOMPUTE, Plan, check
from perfmodel.parallel.training import evaluate, train
from perfmodel.workload.transformer import load_model

points = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30)


@given(points)
def test_front_is_what_nothing_beats(pairs):
    x, y = [p[0] for p in pairs], [p[1] for p in pairs]
    front = pareto_front(x, y).tolist()
    beaten = {
        i
        for i, j in itertools.permutations(range(len(pairs)), 2)
        if x[j] <= x[i] and y[j] <= y[i] and (x[j], y[j]) != (x[i], y[i])
    }
    assert {pairs[i] for i in front} == {p for i, p in enumerate(pairs) if i not in beaten}
    assert np.all(np.diff([x[i] for i in front]) > 0)
    assert np.all(np.diff([y[i] for i in front]) < 0)


@pytest.fixture(scope="module")
def small():
    return load_model("megatron-1.7b"), load_cluster("dgx-a100", nodes=1)


def every_plan(model, cluster, batch, seq_len):
    """All uniform plans by plain enumeration: an oracle for the grid."""
    devices = cluster.devices
    for tp, pp, cp in itertools.product(divisors(devices), repeat=3):
        if devices % (tp * pp * cp) or pp > model.layers or batch % (devices // (tp * pp * cp)):
            continue
        dp = devices // (tp * pp * cp)
        for mbs, v, zero, recompute, split in itertools.product(
            divisors(batch), divisors(model.layers), range(4), RECOMPUTE, (False, True)
        ):
            if (zero and dp * cp == 1) or (split and tp == 1) or (v > 1 and pp == 1):
                continue
            if v > 1 and model.layers % (pp * v):
                continue
            plan = Plan(
                tp=tp,
                pp=pp,
                dp=dp,
                cp=cp,
                micro_batch_size=mbs,
                virtual_stages=v,
                zero=zero,
                recompute=recompute,
                sequence_parallel=split,
            )
            try:
                check(plan, model, cluster, batch, seq_len)
            except PlanError:
                continue
            yield plan


def test_search_equals_enumeration(small):
    model, cluster = small
    found = search(model, cluster, 8, 2048, top=3, headroom=0.0)
    plans = list(every_plan(model, cluster, 8, 2048))
    assert found.evaluated == len(plans)
    table = evaluate(model, cluster, plans, 8, 2048)
    fastest = float(table.step_time[table.fits].min())
    assert fastest <= found.best.step_time_s <= fastest * (1 + TIE)
    assert found.infeasible.get("memory", 0) == int(np.sum(~table.fits))
    assert np.all(table.step_time >= found.lower_bound_s)
    front = pareto_front(table.step_time[table.fits], table.peak_memory[table.fits])
    assert [point.step_time_s for point in found.pareto] == pytest.approx(
        table.step_time[table.fits][front].tolist()
    )


def test_answers_are_ordered_and_explained(small):
    model, cluster = small
    seen = []
    found = search(model, cluster, 64, 2048, progress=seen.append)
    times = [result.step_time_s for result in found.plans]
    assert len(times) == 5
    assert all(result.fits for result in found.plans)
    assert max(times) <= min(times) * 1.5
    assert seen[-1] == found.evaluated
    assert 0 < found.lower_bound_s < found.best.step_time_s
    assert found.gap == pytest.approx(1 - found.lower_bound_s / found.best.step_time_s)
    assert "lower bound" in found.explain()
    record = found.to_dict()
    assert record["evaluated"] == found.evaluated
    assert len({str(entry["plan"]) for entry in record["plans"]}) == 5


def test_near_ties_go_to_the_simpler_plan(small):
    model, cluster = small
    found = search(model, cluster, 64, 2048, top=1)
    best = found.best
    # one mechanism less must cost more than a tie
    for simpler in (
        replace(best.plan, recompute="none"),
        replace(best.plan, zero=0),
        replace(best.plan, sequence_parallel=False),
    ):
        if simpler == best.plan:
            continue
        other = train(model, cluster, simpler, 64, 2048, levers=False)
        assert not other.fits or other.step_time_s > best.step_time_s / (1 + TIE)


def test_front_trades_time_for_memory(small):
    model, cluster = small
    found = search(model, cluster, 64, 2048)
    times = [point.step_time_s for point in found.pareto]
    memory = [point.peak_memory_bytes for point in found.pareto]
    assert times == sorted(times)
    assert memory == sorted(memory, reverse=True)
    assert times[0] <= found.best.step_time_s
    least = search(model, cluster, 64, 2048, objective="memory", top=1)
    assert least.best.peak_memory <= memory[-1] * (1 + TIE)


def test_a_narrow_space_is_respected(small):
    model, cluster = small
    space = Space(tp=(2,), pp=(1,), cp=(1,), zero=(1,), recompute=("full",), micro_batch_size=(2,))
    found = search(model, cluster, 64, 2048, space=space)
    assert found.evaluated == 2
    assert {result.plan.tp for result in found.plans} == {2}


def test_headroom_is_left_free(small):
    model, cluster = small
    capacity = cluster.accelerator.memory_capacity
    found = search(model, cluster, 64, 2048, headroom=0.5)
    assert all(result.peak_memory <= 0.5 * capacity for result in found.plans)
    tight = search(model, cluster, 64, 2048, headroom=0.0)
    assert found.infeasible["memory"] > tight.infeasible.get("memory", 0)


def test_nothing_fits(small):
    _, cluster = small
    with pytest.raises(Infeasible, match="smallest needs"):
        search(load_model("gpt3-175b"), cluster, 8, 2048)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"objective": "step"}, "objective"),
        ({"top": 0}, "top"),
        ({"global_batch_size": 0}, "global_batch_size"),
        ({"seq_len": 2048.0}, "seq_len"),
        ({"headroom": 1.0}, "headroom"),
        ({"headroom": float("nan")}, "headroom"),
    ],
)
def test_arguments_that_make_no_sense(small, options, where):
    model, cluster = small
    values = {"global_batch_size": 8, "seq_len": 2048} | options
    with pytest.raises(PlanError) as error:
        search(model, cluster, **values)
    assert where in error.value.where


def test_a_batch_that_cannot_be_split(small):
    model, cluster = small
    with pytest.raises(PlanError, match="no valid plan"):
        search(model, cluster, 7, 2048, space=Space(tp=(1,), pp=(1,), cp=(1,)))


@pytest.mark.parametrize(
    ("nodes", "batch", "least"), [(64, 1536, 150_000), (128, 1536, 150_000), (512, 4096, 100_000)]
)
def test_the_whole_grid_of_a_large_job_is_searched(nodes, batch, least):
    found = search(
        load_model("gpt3-175b"), load_cluster("dgx-h100", nodes=nodes), batch, 2048, top=1
    )
    assert found.evaluated >= least
    assert found.best.plan.world == 8 * nodes


def test_experts_are_searched_with_their_own_degrees():
    cluster = load_cluster("dgx-h100", nodes=4)
    space = Space(pp=(1, 2), cp=(1,), zero=(1,), recompute=("none", "full"))
    found = search(load_model("mixtral-8x7b"), cluster, 64, 4096, space=space, top=2)
    assert any(point.plan.ep > 1 for point in found.pareto)


@pytest.mark.benchmark
def test_plans_a_second(benchmark):
    model, cluster = load_model("gpt3-175b"), load_cluster("dgx-h100", nodes=64)
    result = benchmark(search, model, cluster, 1536, 2048, top=1)
    assert result.evaluated > 100_000
    benchmark.extra_info["plans"] = result.evaluated
