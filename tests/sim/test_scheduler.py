"""Many jobs on one cluster: queueing theory, small cases by hand, invariants."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.errors import ScenarioError
from perfmodel.sim.graph import Stopped
from perfmodel.sim.intervals import mean_interval
from perfmodel.sim.jobs import generate_jobs, make_trace, read_jobs
from perfmodel.sim.placement import Pool
from perfmodel.sim.power import Power
from perfmodel.sim.scheduler import Scheduling, schedule_jobs


def erlang_c_wait(arrival, service, servers):
    """Mean wait of M/M/c: C(c, a) / (c mu - lambda)."""
    load = arrival / service
    top = load**servers / math.factorial(servers) * servers / (servers - load)
    below = sum(load**k / math.factorial(k) for k in range(servers))
    return top / (below + top) / (servers * service - arrival)


@pytest.mark.parametrize(("servers", "arrival"), [(1, 0.5), (1, 0.7), (4, 3.0), (8, 6.0)])
def test_waits_of_queueing_theory(servers, arrival):
    means = []
    for seed in range(8):
        trace = generate_jobs(
            8000, arrival_rate=arrival, mean_seconds=1.0, distribution="exponential", seed=seed
        )
        result = schedule_jobs(trace, Pool(servers, devices_per_node=1))
        means.append(result.wait[1000:].mean())
    mean, low, high = mean_interval(means)
    theory = erlang_c_wait(arrival, 1.0, servers)
    if servers == 1:
        assert theory == pytest.approx(arrival / (1 - arrival))
    assert low <= theory <= high
    assert high - low < 0.5 * mean


def busy_profile(result, trace):
    edges = sorted({*result.start, *result.end})
    return [(int(trace.devices[(result.start <= t) & (result.end > t)].sum()), t) for t in edges]


@given(
    st.integers(0, 10_000),
    st.sampled_from(["fifo", "priority", "fair"]),
    st.booleans(),
    st.sampled_from(["pack", "rack", "any"]),
)
@settings(max_examples=40, deadline=None)
def test_every_job_runs_whole_and_nothing_is_overbooked(seed, policy, backfill, placement):
    sizes = {1: 4, 2: 2, 3: 1, 4: 1, 8: 1, 12: 1}
    trace = generate_jobs(
        150, arrival_rate=0.2, mean_seconds=20, sizes=sizes, users=5, priorities=3, seed=seed
    )
    pool = Pool(4, 4, 2, placement)
    how = Scheduling(policy, backfill=backfill)
    result = schedule_jobs(trace, pool, how)
    np.testing.assert_allclose(result.end - result.start, trace.seconds)
    assert np.all(result.wait >= 0)
    assert max(used for used, _ in busy_profile(result, trace)) <= pool.devices
    assert 0 < result.utilisation <= 1
    assert result.usage[-1] == 0
    if policy == "fifo" and not backfill:
        assert np.all(np.diff(result.start) >= 0)


def three_jobs():
    # 4 devices: a big job runs to 10; the next needs all 4; small ones could slip in beside.
    return make_trace(
        [0, 1, 2, 3], [10, 5, 8, 20], [3, 4, 1, 1], names=["big", "whole", "short", "long"]
    )


def test_fifo_blocks_and_easy_backfill_fills_without_delay():
    pool = Pool(1, 4)
    fifo = schedule_jobs(three_jobs(), pool)
    np.testing.assert_allclose(fifo.start, [0, 10, 15, 15])
    easy = schedule_jobs(three_jobs(), pool, Scheduling(backfill=True))
    np.testing.assert_allclose(easy.start, [0, 10, 2, 15])  # "long" would have delayed "whole"


def test_wrong_estimates_do_delay():
    trace = make_trace([0, 1, 2], [10, 5, 30], [3, 4, 1], estimate=[10, 5, 8])
    easy = schedule_jobs(trace, Pool(1, 4), Scheduling(backfill=True))
    np.testing.assert_allclose(easy.start, [0, 32, 2])


def test_priority_preempts_and_restarts_from_the_checkpoint():
    trace = make_trace([0, 25], [100, 10], [4, 4], priority=[0, 1])
    how = Scheduling("priority", preempt=True, checkpoint_seconds=10.0, restart_seconds=3.0)
    result = schedule_jobs(trace, Pool(1, 4), how)
    # Interrupted at 25 with 20 kept; back at 35 for 3 + 80.
    np.testing.assert_allclose(result.end, [118, 35])
    assert result.preemptions == 1
    assert list(result.restarts) == [1, 0]
    waits = schedule_jobs(trace, Pool(1, 4), Scheduling("priority"))
    np.testing.assert_allclose(waits.start, [0, 100])


def test_fair_share_lets_the_small_user_through():
    many = [0.0] * 20
    trace = make_trace([*many, 1.0], [10.0] * 21, [4] * 21, user=["heavy"] * 20 + ["light"])
    light = trace.users.index("light")
    fifo = schedule_jobs(trace, Pool(1, 4))
    fair = schedule_jobs(trace, Pool(1, 4), Scheduling("fair"))
    job = int(np.flatnonzero(trace.user == light)[0])
    assert fifo.start[job] == 200.0
    assert fair.start[job] == 10.0
    alike = make_trace([0.0, 0.0], [10.0, 10.0], [2, 2], user=["a", "b"])
    assert schedule_jobs(alike, Pool(1, 4)).fairness == pytest.approx(1.0)
    assert fifo.fairness < 1


def test_locality():
    trace = make_trace([0, 0, 0], [10, 10, 10], [4, 8, 8])
    pool = Pool(8, 4, 2, "rack", slowdown=(1.0, 1.1, 1.5))
    result = schedule_jobs(trace, pool)
    assert list(result.span) == [0, 1, 1]
    np.testing.assert_allclose(result.end, [10, 11, 11])
    # Fragments: 3 + 3 + 3 leaves one device on each of three nodes.
    crowd = make_trace([0, 0, 0, 1], [10, 10, 10, 1], [3, 3, 3, 3])
    packed = schedule_jobs(crowd, Pool(3, 4))
    taken = schedule_jobs(crowd, Pool(3, 4, placement="any", slowdown=(1, 2, 2)))
    assert packed.start[3] == 10.0
    assert taken.start[3] == 1.0
    assert taken.end[3] == 3.0


def test_node_failures_send_jobs_back():
    trace = generate_jobs(200, arrival_rate=0.05, mean_seconds=100, sizes={4: 1, 8: 1}, seed=3)
    how = Scheduling(node_failure_rate=1 / 2000, repair_seconds=200.0, restart_seconds=5.0)
    result = schedule_jobs(trace, Pool(6, 4), how)
    assert result.failures > 10
    assert result.restarts.sum() > 0
    hit = result.restarts > 0
    assert np.all(result.end[hit] - result.start[hit] > trace.seconds[hit])
    assert np.all(np.isfinite(result.end))


def test_energy_and_power_cap():
    trace = make_trace([0, 0], [10, 10], [4, 4])
    free = schedule_jobs(trace, Pool(2, 4), Scheduling(power=Power(500, 100)))
    assert free.energy == pytest.approx(8 * 500 * 10)
    # 2,400 W for 8 devices: 800 idle, 1,600 for work: 4 busy devices.
    cap = Power(500, 100, caps=((0.0, 2400.0),))
    capped = schedule_jobs(trace, Pool(2, 4), Scheduling(power=cap))
    np.testing.assert_allclose(sorted(capped.start), [0, 10])
    assert capped.energy == pytest.approx(20 * 2400)
    # A cap that lifts at 5 lets the second job start then.
    lifted = Power(500, 100, caps=((0.0, 2400.0), (5.0, 8000.0)))
    later = schedule_jobs(trace, Pool(2, 4), Scheduling(power=lifted))
    np.testing.assert_allclose(sorted(later.start), [0, 5])


def test_two_events_a_job():
    trace = generate_jobs(500, arrival_rate=1.0, mean_seconds=3.0, seed=1)
    result = schedule_jobs(trace, Pool(2, 8))
    # One arrival and one end for each job, and the arrival process's own start and end.
    assert result.events == 2 * 500 + 2


def test_same_seed_same_schedule():
    def run(seed):
        trace = generate_jobs(300, arrival_rate=1, mean_seconds=9, sizes={1: 1, 4: 1}, seed=seed)
        return schedule_jobs(trace, Pool(3, 4), Scheduling(node_failure_rate=1e-3, seed=seed))

    np.testing.assert_array_equal(run(1).end, run(1).end)
    assert run(1).to_dict() == run(1).to_dict()
    assert run(1).to_dict() != run(2).to_dict()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"policy": "fifa"}, "fifo"),
        ({"policy": "fifo", "preempt": True}, "priority"),
        ({"backfill_depth": 0}, "backfill_depth"),
        ({"node_failure_rate": float("inf")}, "node_failure_rate"),
    ],
)
def test_bad_scheduling(changes, words):
    with pytest.raises(ScenarioError, match=words):
        Scheduling(**changes)


def test_impossible_jobs_are_named_not_waited_for():
    trace = make_trace([0, 0], [1, 1], [4, 64], names=["ok", "giant"])
    with pytest.raises(ScenarioError, match="giant"):
        schedule_jobs(trace, Pool(2, 4))
    cap = Power(500, 100, caps=((0.0, 1300.0),))
    with pytest.raises(ScenarioError, match="power cap"):
        schedule_jobs(make_trace([0], [1], [4]), Pool(2, 4), Scheduling(power=cap))
    how = Scheduling(node_failure_rate=1.0, repair_seconds=1e-3, checkpoint_seconds=1e9)
    with pytest.raises(ScenarioError, match="interrupted 1000 times"):
        schedule_jobs(make_trace([0], [1e6], [1]), Pool(1, 1), how)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (([0.0], [-1.0], [1]), "seconds"),
        (([0.0], [1.0], [0]), "devices"),
        (([0.0], [1.0], [1.5]), "devices"),
        (([float("nan")], [1.0], [1]), "submit"),
        (([], [], []), "jobs"),
    ],
)
def test_bad_traces(columns, words):
    with pytest.raises(ScenarioError, match=words):
        make_trace(*columns)


@pytest.mark.parametrize("changes", [{"nodes": 0}, {"slowdown": (1, 0.5, 1)}, {"placement": "pak"}])
def test_bad_pools(changes):
    with pytest.raises(ScenarioError, match=next(iter(changes))):
        Pool(**({"nodes": 2} | changes))


HELIOS = """job_id,user,vc,gpu_num,cpu_num,node_num,state,submit_time,start_time,end_time,duration
a,u1,vc1,8,64,1,COMPLETED,2020-04-01 00:00:10,2020-04-01 00:00:20,2020-04-01 00:10:20,600
b,u2,vc1,0,4,1,COMPLETED,2020-04-01 00:00:00,2020-04-01 00:00:20,2020-04-01 00:10:20,600
c,u2,vc2,1,8,1,FAILED,2020-04-01 00:01:00,2020-04-01 00:01:20,2020-04-01 00:01:50,30
"""
PAI = """job_name,task_name,inst_num,status,start_time,end_time,plan_cpu,plan_mem,plan_gpu,gpu_type
x,worker,2,Terminated,100.0,400.0,600,30,100,V100
y,ps,1,Terminated,150.0,300.0,600,30,,MISC
z,worker,1,Running,500.0,,600,30,25,T4
w,worker,3,Terminated,600.0,700.0,600,30,50,T4
"""


def test_published_trace_columns(tmp_path):
    helios = tmp_path / "helios.csv"
    helios.write_text(HELIOS)
    trace = read_jobs(helios)
    assert trace.names == ("a", "c")
    np.testing.assert_allclose(trace.submit, [0, 50])
    np.testing.assert_allclose(trace.devices, [8, 1])
    assert trace.users == ("u1", "u2")
    pai = tmp_path / "pai.csv"
    pai.write_text(PAI)
    trace = read_jobs(pai)
    assert trace.names == ("x", "w")
    np.testing.assert_allclose(trace.devices, [2, 3])
    np.testing.assert_allclose(trace.seconds, [300, 100])
    assert len(read_jobs(pai, limit=1)) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "submit_s"),
        ("submit_s,duration_s,devices\nsoon,1,1\n", "line 2, submit_s"),
        ("submit_s,duration_s,devices\n0,1,0\n", "at least one job"),
        ("submit_s,duration_s,devices\n0,-5,1\n", "job 0"),
    ],
)
def test_malformed_traces_name_the_line(tmp_path, text, words):
    path = tmp_path / "jobs.csv"
    path.write_text(text)
    with pytest.raises(ScenarioError, match=words):
        read_jobs(path)
    with pytest.raises(ScenarioError):
        read_jobs(tmp_path / "absent.csv")


def test_a_schedule_can_be_stopped():
    trace = generate_jobs(3000, arrival_rate=1, mean_seconds=1)
    with pytest.raises(Stopped):
        schedule_jobs(trace, Pool(1, 8), stop=lambda: True)


PHILLY_LIKE = {1: 50, 2: 12, 4: 12, 8: 14, 16: 6, 32: 3, 64: 2, 128: 1}


@pytest.mark.parametrize("backfill", [False, True])
def test_speed_of_100000_jobs_on_10000_gpus(benchmark, backfill):
    mean = sum(k * v for k, v in PHILLY_LIKE.items()) / 100
    trace = generate_jobs(
        100_000,
        arrival_rate=0.95 * 10_000 / (mean * 7200),
        mean_seconds=7200,
        spread=1.5,
        sizes=PHILLY_LIKE,
        users=50,
    )
    how = Scheduling("fair" if backfill else "fifo", backfill=backfill)
    pool = Pool(1250, 8, 32, "rack")
    result = benchmark.pedantic(schedule_jobs, (trace, pool, how), rounds=3)
    assert result.events <= 2 * 100_000 + 10
