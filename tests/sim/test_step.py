"""Features of a pipeline step, each by hand; and what imperfection does to it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.errors import ScenarioError
from perfmodel.sim.perturb import Perturbation, draw, expert_load, factors_from_ranks, fold
from perfmodel.sim.schedules import build_schedule
from perfmodel.sim.stage_costs import StageCosts
from perfmodel.sim.step import replay

ONE = StageCosts(1.0, 1.0, 1.0)


def run(name="1f1b", p=2, m=2, costs=ONE, **options):
    return replay(build_schedule(name, p, m), costs, **options)


def test_two_stages_two_micro_batches_by_hand():
    # Device 0: F0 0-1, F1 1-2, B0 4-6, B1 7-9. Device 1: F0 1-2, B0 2-4, F1 4-5, B1 5-7.
    step = run()
    start = step.timeline.start[step.row_first, 0]
    rows = {step.schedule.label(r): start[r] for r in range(step.schedule.rows)}
    assert rows == {
        "F s0 m0": 0, "F s0 m1": 1, "B s0 m0": 4, "B s0 m1": 7,
        "F s1 m0": 1, "B s1 m0": 2, "F s1 m1": 4, "B s1 m1": 5,
    }  # fmt: skip
    assert step.seconds == 9.0
    assert step.bubble_fraction == pytest.approx(1 / 3)


def test_sends_delay_and_blocking_sends_delay_more():
    base = run(p=4, m=8).seconds
    costs = StageCosts(1.0, 1.0, 1.0, send_forward=0.2, send_backward=0.2)
    free = run(p=4, m=8, costs=costs)
    held = run(p=4, m=8, costs=costs, sends="blocking")
    assert base < free.seconds < held.seconds
    # The last micro-batch's way there and back crosses six links.
    assert free.seconds >= base + 6 * 0.2 - 1e-9
    assert "send F s0 m0" in free.timeline.graph.names
    # Sends of one device and direction queue: ten times slower links than compute rule the step.
    slow = StageCosts(1.0, 1.0, 1.0, send_forward=20.0)
    assert run(p=2, m=8, costs=slow).seconds >= 8 * 20


def test_nothing_is_sent_within_a_device():
    costs = StageCosts(1.0, 1.0, 1.0, send_forward=0.5, send_backward=0.5)
    step = run("zbv", 2, 4, costs)
    names = [n for n in step.timeline.graph.names if n.startswith("send")]
    # Stages 0 and 3 on device 0, 1 and 2 on device 1: only 0-1 and 2-3 are links.
    assert {n.split()[2] for n in names if " F " in n} == {"s0", "s2"}
    assert {n.split()[2] for n in names if " I " in n} == {"s3", "s1"}


def test_recompute_and_inline_collectives_lengthen_rows():
    m, p = 4, 2
    step = run(p=p, m=m, costs=StageCosts(1.0, 1.0, 1.0, recompute=1.0, inline_forward=0.5))
    assert step.seconds == pytest.approx((m + p - 1) * 4.5)


def test_the_host_can_fall_behind():
    assert run(p=1, m=4, costs=StageCosts(1.0, 1.0, 1.0, launch=0.1)).seconds == pytest.approx(12.1)
    bound = run(p=1, m=4, costs=StageCosts(1.0, 1.0, 1.0, launch=5.0))
    assert bound.seconds == pytest.approx(8 * 5 + 2)


def test_buckets_hide_behind_the_last_backward():
    # One device: the last backward (2 s) ends at 12 in four parts; buckets of 0.4 s get ready at
    # 10.5, 11, 11.5 and 12: only the last is exposed.
    costs = StageCosts(1.0, 1.0, 1.0, gradient_buckets=[[0.4] * 4], optimizer=0.3)
    step = run(p=1, m=4, costs=costs, replicas=8)
    assert step.seconds == pytest.approx(12 + 0.4 + 0.3)
    # Buckets of 1 s queue behind each other from 10.5 on.
    costs = StageCosts(1.0, 1.0, 1.0, gradient_buckets=[[1.0] * 4], parameter_gather=2.0)
    assert run(p=1, m=4, costs=costs).seconds == pytest.approx(10.5 + 4 + 2)


def test_late_data_delays_the_first_stage():
    step = run(p=1, m=2, input_ready=[1.0, 10.0])
    assert step.seconds == pytest.approx(10 + 3)
    assert run(p=1, m=2, input_ready=4.0).seconds == pytest.approx(4 + 6)
    with pytest.raises(ScenarioError, match="input_ready"):
        run(p=1, m=2, input_ready=[5.0, 1.0])


def test_memory_rises_and_falls():
    costs = StageCosts(1.0, 1.0, 1.0, activation_bytes=10.0, static_bytes=100.0)
    step = run(p=2, m=4, costs=costs)
    first, last = step.memory
    assert first.peak == 120.0
    assert last.peak == 110.0
    assert first.held[0] == first.held[-1] == 100.0
    assert np.all(np.diff(first.times) >= 0)
    gpipe = run("gpipe", 2, 4, costs)
    assert gpipe.memory[0].peak == 140.0


@given(st.integers(0, 500), st.sampled_from(["1f1b", "zb-h1", "v-half", "interleaved"]))
@settings(max_examples=30, deadline=None)
def test_memory_is_conserved_and_rows_never_overlap(seed, name):
    rng = np.random.default_rng(seed)
    schedule = build_schedule(name, 3, 6, virtual_stages=2 if name == "interleaved" else 1)
    size = schedule.stages
    costs = StageCosts(
        *rng.uniform(0.5, 2, (3, size)),
        send_forward=rng.uniform(0, 1, size),
        activation_bytes=rng.uniform(1, 2, size),
        static_bytes=rng.uniform(1, 2, size),
    )
    step = replay(schedule, costs, perturbation=Perturbation(jitter=0.2, seed=seed))
    for device, trace in enumerate(step.memory):
        own = np.asarray(schedule.stage_device) == device
        assert trace.held[-1] == pytest.approx(np.asarray(costs.static_bytes)[own].sum())
        assert trace.held.min() > 0
    start = step.timeline.start[step.row_first, 0]
    end = step.timeline.end[step.row_task, 0]
    for device in range(3):
        mine = schedule.device == device
        assert np.all(start[mine][1:] >= end[mine][:-1] - 1e-12)


def test_degraded_links_and_slow_devices():
    costs = StageCosts(1.0, 1.0, 1.0, send_forward=0.1, send_backward=0.1)
    base = run(p=4, m=8, costs=costs).seconds
    links = np.ones((4, 1))
    links[1] = 8.0
    assert run(p=4, m=8, costs=costs, perturbation=Perturbation(links=links)).seconds > base
    slow = np.ones((4, 1))
    slow[2] = 1.5
    step = run(p=4, m=32, perturbation=Perturbation(compute=slow))
    assert step.seconds == pytest.approx(1.5 * 32 * 3, rel=0.15)


def test_folding_changes_nothing():
    rng = np.random.default_rng(0)
    compute = np.ones((4, 64))
    compute[:, rng.integers(0, 64, 5)] = 1.2
    costs = StageCosts(1.0, 1.0, 1.0, gradient_buckets=[[0.2, 0.2]] * 4, optimizer=0.1)
    folded = run(p=4, m=8, costs=costs, replicas=64, perturbation=Perturbation(compute=compute))
    assert folded.timeline.start.shape[1] == 2
    # Random times of no spread forbid folding, so every replica is simulated.
    whole = run(
        p=4, m=8, costs=costs, replicas=64,
        perturbation=Perturbation(compute=compute, jitter=1e-13),
    )  # fmt: skip
    assert whole.timeline.start.shape[1] == 64
    assert whole.seconds == pytest.approx(folded.seconds, rel=1e-9)
    np.testing.assert_allclose(
        whole.timeline.end, folded.timeline.end[:, folded.replica_class], rtol=1e-9
    )


def test_fold_and_ranks():
    chosen, members = fold(np.array([[1.0, 2.0, 1.0, 2.0]]))
    assert len(chosen) == 2
    np.testing.assert_array_equal(members[[0, 1]], members[[2, 3]])
    table = factors_from_ranks({0: 2.0, 1: 3.0, 63: 1.5}, tp=8, cp=1, pp=2, dp=4)
    assert table.shape == (2, 4)
    assert table[0, 0] == 3.0
    assert table[1, 3] == 1.5
    with pytest.raises(ScenarioError, match="0 to 63"):
        factors_from_ranks({64: 2.0}, tp=8, pp=2, dp=4)


@pytest.mark.parametrize("distribution", ["lognormal", "gamma", "exponential", "uniform"])
def test_jitter_has_the_asked_mean_and_spread(distribution):
    sample = draw(np.random.default_rng(1), distribution, 0.3, (200_000,))
    assert sample.mean() == pytest.approx(1.0, abs=0.005)
    assert sample.std() == pytest.approx(0.3, rel=0.02)
    assert sample.min() > 0


def test_uneven_experts():
    rng = np.random.default_rng(2)
    even = expert_load(rng, 8, float("inf"), (10,))
    mild = expert_load(rng, 8, 50.0, (5000,))
    wild = expert_load(rng, 8, 0.5, (5000,))
    assert np.all(even == 1.0)
    assert 1.0 < mild.mean() < wild.mean() <= 8.0
    # Exponential shares: the mean of the largest of n is the harmonic number of n.
    assert expert_load(rng, 8, 1.0, (50_000,)).mean() == pytest.approx(2.7179, rel=0.01)
    moe = Perturbation(expert_share=0.5, experts=8, expert_concentration=5.0)
    assert run(p=4, m=8, replicas=2, perturbation=moe).seconds > run(p=4, m=8).seconds


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"compute": 0.0}, "above 0"),
        ({"compute": float("inf")}, "finite"),
        ({"jitter": -0.1}, "jitter"),
        ({"distribution": "normal"}, "lognormal"),
        ({"expert_share": 2.0}, "experts"),
    ],
)
def test_bad_perturbations(options, words):
    with pytest.raises(ScenarioError, match=words):
        Perturbation(**options)


@pytest.mark.parametrize(
    ("costs", "words"),
    [
        (StageCosts([1.0, 2.0, 3.0], 1.0, 1.0), "forward"),
        (StageCosts(1.0, -1.0, 1.0), "backward_input"),
        (StageCosts(1.0, 1.0, float("nan")), "backward_weight"),
        (StageCosts(1.0, 1.0, 1.0, gradient_buckets=[[1.0]]), "gradient_buckets"),
    ],
)
def test_bad_costs(costs, words):
    with pytest.raises(ScenarioError, match=words):
        run(costs=costs)


def test_bad_options():
    with pytest.raises(ScenarioError, match="blocking"):
        run(sends="blocked")
    with pytest.raises(ScenarioError, match="replicas"):
        run(replicas=0)
    with pytest.raises(ScenarioError, match="exponential"):
        run(perturbation=Perturbation(jitter=1.5, distribution="exponential"))
    with pytest.raises(ScenarioError, match="one value for each device"):
        run(replicas=4, perturbation=Perturbation(compute=np.ones((2, 3))))
