"""A plan's step replayed in order equals the closed form when nothing disturbs it."""

import numpy as np
import pytest

from perfmodel.errors import ScenarioError
from perfmodel.hardware import load_cluster
from perfmodel.parallel.per_stage import StageTimes
from perfmodel.parallel.plan import Plan
from perfmodel.parallel.schedule import fill_and_drain
from perfmodel.parallel.training import train
from perfmodel.sim.from_plan import costs_on, schedule_of, simulate_plan
from perfmodel.sim.perturb import Perturbation, factors_from_ranks
from perfmodel.sim.schedules import SCHEDULES, build_schedule
from perfmodel.sim.step import replay
from perfmodel.workload.transformer import load_model

PLANS = {
    "1f1b": (Plan(tp=8, pp=4, dp=2), 64),
    "interleaved": (Plan(tp=8, pp=4, dp=2, virtual_stages=2, zero=1, sequence_parallel=True), 64),
    "gpipe": (Plan(tp=8, pp=4, dp=2, schedule="gpipe", zero=2), 32),
    "zb-h1": (Plan(tp=8, pp=4, dp=2, schedule="zb-h1"), 64),
    "recompute": (Plan(tp=8, pp=8, virtual_stages=5, recompute="full"), 32),
    "waiting sends": (Plan(tp=8, pp=4, dp=2, overlap=()), 32),
    "no pipeline": (Plan(tp=4, dp=16, zero=3), 64),
}


@pytest.fixture(scope="module")
def setting():
    return load_model("llama-3-70b"), load_cluster("dgx-h100", nodes=8)


@pytest.mark.parametrize("name", PLANS)
def test_the_replay_equals_the_analytic_step(setting, name):
    model, cluster = setting
    plan, batch = PLANS[name]
    analytic = train(model, cluster, plan, batch, 8192, levers=False)
    step = simulate_plan(model, cluster, plan, batch, 8192)
    assert step.seconds == pytest.approx(analytic.step_time_s, rel=1e-9)
    waiting = analytic.parts["bubble"] / step.pipeline_seconds
    assert step.bubble_fraction >= waiting - 1e-9


def flat_times(stages, micro_batches, **changes):
    one = np.ones(stages)
    values = {"forward": one, "backward": 2 * one, "weight": one, "waits": 0 * one, "send": 0.0}
    values |= {"gradients": 0 * one, "weights": 0 * one, "optimizer": 0 * one}
    values |= {"activation_bytes": one, "static_bytes": 0 * one, "micro_batches": micro_batches}
    return StageTimes(**values | changes)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("p", "m"), [(4, 8), (8, 32)])
def test_every_schedule_through_the_plan_adapter(name, p, m):
    chunks = 2 if name == "interleaved" else 1
    table = build_schedule(name, p, m, virtual_stages=chunks)
    step = replay(table, costs_on(flat_times(p, m), table))
    closed = {
        "gpipe": 3 * (m + p - 1),
        "1f1b": 3 * (m + p - 1),
        "interleaved": 3 * m + 3 * (p - 1) / 2,
        "zb-h1": 3 * m + (p - 1),
        "zb-h2": 3 * m + (p - 1),
        "zbv": 3 * m + (p - 1) / 2,
    }
    if name in closed:
        assert step.seconds == pytest.approx(closed[name], rel=1e-9)
    if name in ("gpipe", "1f1b", "interleaved", "zb-h1"):
        own = "1f1b" if name == "interleaved" else name
        idle = float(fill_and_drain(own, 3.0 * p, 3.0, p, chunks, 1.0))
        assert step.seconds == pytest.approx(3 * m + idle, rel=1e-9)
    assert 3 * m <= step.seconds <= 3 * (m + p - 1)


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
def test_a_heavy_last_device_is_exact_and_other_shapes_are_near(schedule):
    rng = np.random.default_rng(5)
    for _ in range(20):
        p = int(rng.integers(2, 9))
        m = p * int(rng.integers(1, 4))
        table = build_schedule(schedule, p, m)
        forward = np.ones(p)
        forward[-1] += rng.uniform(0, 1)
        times = flat_times(p, m, forward=forward, backward=2 * forward, weight=forward)
        total = 3 * forward
        closed = m * total.max() + total.sum() - total.max()
        assert replay(table, costs_on(times, table)).seconds == pytest.approx(closed, rel=1e-9)
        forward = rng.uniform(0.5, 1.5, p)
        times = flat_times(p, m, forward=forward, backward=2 * forward, weight=forward)
        total = 3 * forward
        closed = m * total.max() + total.sum() - total.max()
        seconds = replay(table, costs_on(times, table)).seconds
        assert seconds >= m * total.max() * (1 - 1e-12)
        assert seconds == pytest.approx(closed, rel=1e-9 if schedule == "gpipe" else 0.25)


def test_one_slow_rank_slows_its_whole_replica_and_unfolds_it_alone(setting):
    model, cluster = setting
    plan, batch = PLANS["1f1b"]
    slow = factors_from_ranks({3: 1.3}, tp=8, pp=4, dp=2)
    calm = simulate_plan(model, cluster, plan, batch, 8192)
    step = simulate_plan(model, cluster, plan, batch, 8192, perturbation=Perturbation(compute=slow))
    assert calm.timeline.start.shape[1] == 1
    assert step.timeline.start.shape[1] == 2
    assert 1.05 * calm.seconds < step.seconds < 1.3 * calm.seconds
    jitter = simulate_plan(
        model, cluster, plan, batch, 8192, perturbation=Perturbation(jitter=0.1, seed=1)
    )
    again = simulate_plan(
        model, cluster, plan, batch, 8192, perturbation=Perturbation(jitter=0.1, seed=1)
    )
    assert jitter.seconds > calm.seconds
    np.testing.assert_array_equal(jitter.timeline.end, again.timeline.end)


def test_other_schedules_and_tables_for_a_plan(setting):
    model, cluster = setting
    plan, batch = PLANS["1f1b"]
    plain = simulate_plan(model, cluster, plan, batch, 8192)
    split = simulate_plan(model, cluster, plan, batch, 8192, schedule="zbv")
    assert split.seconds < plain.seconds
    low = simulate_plan(model, cluster, plan, batch, 8192, schedule="v-min")
    assert low.peak_memory.max() < plain.peak_memory.max()
    with pytest.raises(ScenarioError, match="as in the plan"):
        simulate_plan(model, cluster, plan, batch, 8192, schedule=build_schedule("1f1b", 4, 8))
    assert schedule_of(PLANS["interleaved"][0], 8).name == "interleaved-v2"


@pytest.mark.parametrize("jitter", [0.0, 0.05])
def test_speed_of_a_16384_gpu_step(benchmark, jitter):
    model, cluster = load_model("llama-3-70b"), load_cluster("dgx-h100", nodes=2048)
    plan = Plan(tp=8, pp=16, dp=128, zero=1, sequence_parallel=True)
    step = benchmark(
        simulate_plan, model, cluster, plan, 4096, 8192, perturbation=Perturbation(jitter=jitter)
    )
    assert step.timeline.start.shape[1] == (128 if jitter else 1)
