"""A month of a cluster against the formulas of Young and Daly, and against its own books."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.errors import ScenarioError
from perfmodel.sim.graph import Stopped
from perfmodel.sim.intervals import best_interval, mean_interval, replicate
from perfmodel.sim.power import Power
from perfmodel.sim.reliability import (
    DAY,
    HOUR,
    daly_interval,
    effective_ratio,
    expected_time,
    mean_time_between,
    rate_from_node_days,
    young_interval,
)
from perfmodel.sim.training_run import simulate_run
from perfmodel.sim.training_setup import Checkpoints, FailureClass, TrainingRun


def a_run(**changes):
    saves = {"size": 100.0, "write_bandwidth": 1.0, "read_bandwidth": 1e9, "interval": 1000.0}
    saves |= {k: changes.pop(k) for k in list(changes) if k in (*saves, "mode", "snapshot_seconds")}
    values = {
        "duration": 60 * DAY,
        "nodes": 64,
        "devices_per_node": 8,
        "failures": (FailureClass("crash", 1 / (3 * HOUR), takes_node=False),),
        "restart_seconds": 300.0,
        "seed": 1,
    }
    return TrainingRun(**values | changes, checkpoints=Checkpoints(**saves))


def test_rates():
    rate = rate_from_node_days(6.5)
    assert mean_time_between(rate, 16384 / 8) / HOUR == pytest.approx(1.803, abs=0.001)


def test_young_and_daly():
    assert young_interval(60.0, 10_800.0) == pytest.approx((2 * 60 * 10_800) ** 0.5)
    # Daly's is the better: it maximises the exact expectation.
    c, m, r = 300.0, 7200.0, 600.0
    grid = np.geomspace(100, 20_000, 4000)
    best = grid[np.argmin(expected_time(1.0, grid, c, r, m))]
    assert daly_interval(c, m) == pytest.approx(best, rel=0.01)
    assert abs(daly_interval(c, m) - best) < abs(young_interval(c, m) - best)
    # sqrt(2 C M) (1 + sqrt(1/2) / 3 + 1/18) - C
    assert daly_interval(1000.0, 1000.0) == pytest.approx(826.1143, abs=1e-3)
    assert daly_interval(1000.0, 100.0) == 100.0


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_rates_of_zero_are_refused(bad):
    with pytest.raises(ScenarioError):
        mean_time_between(bad, 8)
    with pytest.raises(ScenarioError):
        daly_interval(1.0, bad)


def test_without_failures_only_checkpoints_cost():
    result = simulate_run(a_run(failures=(), duration=110_000.0))
    assert result.effective_ratio == pytest.approx(1000 / 1100)
    assert result.checkpoints == 100
    assert result.interruption_count == 0
    assert result.mean_between is None
    # One event to start, one for each interval and each checkpoint: never one for a step.
    assert result.events == 1 + 200


def test_the_simulated_ratio_meets_the_expectation():
    run = a_run()
    found = replicate(run, 12)
    expected = effective_ratio(1000.0, 100.0, 300.0, 3 * HOUR)
    assert found.low - 0.002 <= expected <= found.high + 0.002
    assert found.high - found.low < 0.02


def test_best_interval_by_simulation_is_near_daly():
    run = a_run(size=120.0)
    best = best_interval(run, seeds=4, points=9)
    assert 0.4 * best.daly <= best.interval <= 2.5 * best.daly
    ends = (best.ratios[0], best.ratios[-1])
    assert best.ratio > max(ends) + 0.01


@given(st.integers(0, 50), st.sampled_from(["sync", "async"]), st.booleans(), st.integers(0, 2))
@settings(max_examples=25, deadline=None)
def test_the_books_balance(seed, mode, elastic, spares):
    run = a_run(
        seed=seed,
        mode=mode,
        snapshot_seconds=5.0,
        elastic=elastic,
        spares=spares,
        duration=20 * DAY,
        failures=(
            FailureClass("gpu", 1 / (5 * HOUR)),
            FailureClass("software", 1 / (9 * HOUR), takes_node=False, detect_seconds=30.0),
        ),
        detect_seconds=120.0,
        swap_seconds=60.0,
        repair_seconds=6 * HOUR,
        power=Power(700.0, 100.0, caps=((5 * DAY, 64 * 8 * 400.0),)),
    )
    result = simulate_run(run)
    rest = sum(seconds for state, seconds in result.spent.items() if state != "train")
    total = result.productive + result.lost + result.slowed + rest
    assert total == pytest.approx(run.duration, rel=1e-9)
    assert sum(result.spent.values()) == pytest.approx(run.duration, rel=1e-9)
    starts = [s.start for s in result.segments]
    ends = [s.end for s in result.segments]
    assert starts[0] == 0.0
    assert starts[1:] == ends[:-1]
    assert ends[-1] == run.duration
    assert all(0 < s.nodes <= 64 for s in result.segments)


def test_asynchronous_checkpoints_cost_less_and_keep_less_fresh():
    sync = simulate_run(a_run(failures=()))
    quick = simulate_run(a_run(failures=(), mode="async", snapshot_seconds=2.0))
    assert quick.effective_ratio == pytest.approx(1000 / 1002, rel=1e-3)
    assert quick.effective_ratio > sync.effective_ratio
    # A write longer than the interval holds up the next snapshot.
    slow = simulate_run(a_run(failures=(), mode="async", size=1500.0, snapshot_seconds=2.0))
    assert slow.effective_ratio == pytest.approx(1000 / 1502, rel=1e-3)


def test_a_write_that_fails_is_not_a_checkpoint():
    # Writes of 900 s in the background of intervals of 1,000 s: a failure loses up to 1,900 s.
    run = a_run(mode="async", size=900.0, snapshot_seconds=0.0, duration=200 * DAY)
    lost = simulate_run(run).lost / simulate_run(run).interruption_count
    fresh = simulate_run(replace(run, checkpoints=replace(run.checkpoints, size=1.0)))
    assert lost > fresh.lost / fresh.interruption_count + 500


def test_spares_then_elasticity_then_waiting():
    base = {
        "failures": (FailureClass("gpu", 1 / (4 * HOUR)),),
        "repair_seconds": 12 * HOUR,
        "swap_seconds": 30.0,
    }
    waits = simulate_run(a_run(**base))
    shrinks = simulate_run(a_run(**base, elastic=True, shrink_nodes=4))
    spared = simulate_run(a_run(**base, spares=16))
    assert waits.spent["wait for node"] > 0.3 * waits.duration
    assert shrinks.spent["wait for node"] == 0.0
    assert shrinks.slowed > 0
    assert min(s.nodes for s in shrinks.segments) < 64
    assert max(s.nodes for s in shrinks.segments[len(shrinks.segments) // 2 :]) >= 60
    assert waits.effective_ratio < shrinks.effective_ratio < spared.effective_ratio


def test_power_caps_slow_the_run_and_save_energy():
    plain = simulate_run(a_run(failures=(), power=Power(700.0, 100.0, overhead=1.1)))
    # Half the dynamic power leaves half ** (1/3) of the speed.
    cap = 64 * 8 * (100.0 + 300.0)
    capped = simulate_run(
        a_run(failures=(), power=Power(700.0, 100.0, caps=((0.0, cap),), overhead=1.1))
    )
    train = capped.spent["train"]
    assert capped.productive / train == pytest.approx(0.5 ** (1 / 3), rel=1e-6)
    assert capped.energy < plain.energy
    mean = plain.energy / (512 * plain.duration)
    expected = 1.1 * (700 * 1000 + 100 * 100) / 1100
    assert mean == pytest.approx(expected, rel=1e-3)
    with pytest.raises(ScenarioError, match="idle devices"):
        simulate_run(a_run(failures=(), power=Power(700.0, 100.0, caps=((0.0, 1000.0),))))


def test_energy_of_gpt3_as_published():
    # 10,000 V100 x 14.8 days x 330 W x PUE 1.10 = 1,289 MWh (Patterson et al. 2021: 1,287 MWh).
    run = a_run(
        duration=14.8 * DAY,
        nodes=1250,
        failures=(),
        interval=14.8 * DAY,
        power=Power(330.0, 330.0, overhead=1.10),
    )
    assert simulate_run(run).energy / 3.6e9 == pytest.approx(1287, rel=0.01)


def test_same_seed_same_run_other_settings_same_failures():
    one, two = simulate_run(a_run()), simulate_run(a_run())
    assert one == two
    assert simulate_run(a_run(seed=2)) != one
    other = simulate_run(a_run(interval=500.0))
    assert other.interruptions == one.interruptions


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"duration": 0.0}, "duration"),
        ({"nodes": 0}, "nodes"),
        ({"failures": (FailureClass("gpu", 0.0),)}, "failures.gpu.rate"),
        ({"failures": (FailureClass("gpu", 1.0), FailureClass("gpu", 1.0))}, "name of its own"),
        ({"interval": 0.0}, "interval"),
        ({"interval": "dali"}, "daly"),
        ({"mode": "asink"}, "async"),
        ({"write_bandwidth": 0.0}, "write_bandwidth"),
        ({"interval": 1e-9, "size": 0.0}, "events"),
        ({"repair_seconds": float("nan")}, "repair_seconds"),
    ],
)
def test_bad_runs_are_refused(changes, words):
    with pytest.raises(ScenarioError, match=words):
        simulate_run(a_run(**changes))


def test_failures_faster_than_recovery_end_and_say_zero():
    run = a_run(duration=HOUR, failures=(FailureClass("storm", 1.0, takes_node=False),))
    result = simulate_run(run)
    assert result.productive == 0.0
    assert result.effective_ratio == 0.0


def test_a_run_can_be_stopped():
    with pytest.raises(Stopped):
        simulate_run(a_run(interval=10.0), stop=lambda: True)


def test_mean_interval():
    mean, low, high = mean_interval([1.0, 2.0, 3.0])
    assert (mean, low, high) == pytest.approx((2.0, -0.4841, 4.4841), abs=1e-3)
    assert mean_interval([5.0]) == (5.0, 5.0, 5.0)


def test_speed_of_54_days_of_16384_gpus(benchmark):
    run = a_run(
        duration=54 * DAY,
        nodes=2048,
        failures=(FailureClass("all", 466 / (54 * DAY)),),
        spares=64,
        interval=600.0,
        size=3.0,
    )
    result = benchmark(simulate_run, run)
    assert result.interruption_count > 300
