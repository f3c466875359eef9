"""Pipeline schedules against closed forms and published makespans."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.errors import ScenarioError
from perfmodel.sim.schedules import SCHEDULES, build_schedule
from perfmodel.sim.stage_costs import StageCosts
from perfmodel.sim.step import replay
from perfmodel.sim.table import FORWARD, read_schedule

# Published search results (sail-sg's schedulers; forward = input = weight = 1,000, no
# communication), in thousands: 1F1B, interleaved x2, interleaved x4, ZB-H1, ZBV, V-Half, V-Min.
MAKESPANS = {
    (4, 8): (33, 28.5, 26.25, 27, 25.5, 26.5, 29.5),
    (8, 32): (117, 106.5, 101.25, 103, 99.5, 104.5, 109),
    (16, 64): (237, 214.5, 203.25, 207, 199.5, 212.5, 221.5),
}
PEAKS_8X32 = (8, 11.5, 9.75, 8, 8, 5, 4)
KINDS = (
    ("1f1b", 1),
    ("interleaved", 2),
    ("interleaved", 4),
    ("zb-h1", 1),
    ("zbv", 2),
    ("v-half", 2),
    ("v-min", 2),
)


def unit_step(name, stages, micro_batches, chunks=1):
    virtual = chunks if name == "interleaved" else 1
    schedule = build_schedule(name, stages, micro_batches, virtual_stages=virtual)
    third = 1000 / chunks
    return replay(schedule, StageCosts(third, third, third, activation_bytes=1 / chunks))


@pytest.mark.parametrize("size", MAKESPANS)
@pytest.mark.parametrize("index", range(len(KINDS)))
def test_makespans_of_the_literature(size, index):
    name, chunks = KINDS[index]
    step = unit_step(name, *size, chunks)
    published = MAKESPANS[size][index] * 1000
    if index < 4:
        assert step.seconds == pytest.approx(published, rel=1e-12)
    else:
        assert step.seconds <= published * (1 + 1e-12)


@pytest.mark.parametrize("index", range(len(KINDS)))
def test_peak_activations_at_8x32(index):
    name, chunks = KINDS[index]
    step = unit_step(name, 8, 32, chunks)
    assert step.peak_memory.max() <= PEAKS_8X32[index] + 1e-9


@pytest.mark.parametrize(("p", "m"), [(2, 2), (3, 7), (4, 8), (7, 21), (8, 32)])
def test_closed_forms(p, m):
    assert unit_step("gpipe", p, m).seconds == pytest.approx(3000 * (m + p - 1), rel=1e-12)
    assert unit_step("1f1b", p, m).seconds == pytest.approx(3000 * (m + p - 1), rel=1e-12)
    for v in (2, 3):
        expected = 3000 * m + 3000 * (p - 1) / v
        if m % p == 0:
            assert unit_step("interleaved", p, m, v).seconds == pytest.approx(expected, rel=1e-12)
    if m >= 2 * p:
        expected = 1000 * (3 * m + p - 1)
        assert unit_step("zb-h1", p, m).seconds == pytest.approx(expected, rel=1e-12)
        assert unit_step("zb-h2", p, m).seconds == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("p", "m"), [(4, 8), (8, 32), (16, 64)])
def test_zb_h2_leaves_no_hole_between_the_ramps(p, m):
    step = unit_step("zb-h2", p, m)
    start, end = step.timeline.start[step.row_first, 0], step.timeline.end[step.row_task, 0]
    for device in range(p):
        mine = step.schedule.device == device
        span = end[mine].max() - start[mine].min()
        assert span == pytest.approx(3000 * m, rel=1e-12)
    assert step.peak_memory.max() <= 2 * p - 1


@pytest.mark.parametrize(("p", "m"), [(2, 4), (4, 8), (6, 20), (8, 32), (16, 64)])
def test_dualpipe_is_no_worse_than_its_paper(p, m):
    # Bubble (p/2 - 1)(F&B + B - 3W) with F&B = 3, B = 2, W = 1; activations p + 1.
    step = unit_step("dualpipe", p, m)
    assert step.seconds <= 1000 * (3 * m + 2 * (p // 2 - 1)) * (1 + 1e-12)
    assert step.peak_memory.max() <= p + 1


@given(st.integers(1, 9), st.integers(1, 24), st.sampled_from(SCHEDULES))
@settings(max_examples=120, deadline=None)
def test_any_size_runs_or_says_why(p, m, name):
    chunks = 2 if name in ("interleaved", "zbv", "v-half", "v-min") else 1
    refused = name == "interleaved" and m % p != 0
    refused |= name == "dualpipe" and (p % 2 or m % 2 or m < 2 * p)
    if refused:
        with pytest.raises(ScenarioError):
            unit_step(name, p, m, chunks)
        return
    step = unit_step(name, p, m, chunks)
    work = 3000 * m
    assert step.seconds >= work * (1 - 1e-12)
    busy = step.timeline.busy(0)
    assert busy[0] == pytest.approx(work)
    assert step.bubble_fraction == pytest.approx(1 - work / step.seconds, abs=1e-12)


@given(st.integers(2, 6), st.integers(1, 3), st.data())
@settings(max_examples=40, deadline=None)
def test_slower_is_never_faster_when_rows_are_in_order(p, rounds, data):
    schedule = build_schedule("1f1b", p, p * rounds)
    times = st.floats(0.1, 10)
    forward = data.draw(st.lists(times, min_size=p, max_size=p))
    base = replay(schedule, StageCosts(forward, 1.0, 1.0)).seconds
    stage = data.draw(st.integers(0, p - 1))
    forward[stage] *= 1.5
    assert replay(schedule, StageCosts(forward, 1.0, 1.0)).seconds >= base


def test_table_round_trip_and_user_table():
    schedule = build_schedule("v-min", 4, 8)
    again = read_schedule(schedule.to_csv(), name="mine")
    assert again.stage_device == schedule.stage_device
    for column in ("device", "work", "stage", "micro_batch"):
        np.testing.assert_array_equal(getattr(again, column), getattr(schedule, column))
    assert (
        replay(again, StageCosts(1, 1, 1)).seconds == replay(schedule, StageCosts(1, 1, 1)).seconds
    )
    assert np.count_nonzero(schedule.work == FORWARD) == 8 * 8


HEADER = "device,work,stage,micro_batch\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "header"),
        (HEADER, "at least one row"),
        (HEADER + "0,X,0,0\n", "line 2, work"),
        (HEADER + "0,F,zero,0\n", "line 2"),
        (HEADER + "0,F,0,-1\n", "line 2"),
        (HEADER + "0,F,0,99999999\n", "line 2"),
        (HEADER + "0,F,0,0\n", "backward is missing"),
        (HEADER + "0,F,0,0\n0,F,0,0\n0,B,0,0\n", "twice"),
        (HEADER + "0,B,0,0\n0,F,0,0\n", "too early"),
        (HEADER + "0,F,0,0\n0,I,0,0\n", "weight gradient is missing"),
        (HEADER + "0,F,0,0\n0,B,0,0\n0,W,0,0\n", "no input backward"),
        (HEADER + "0,F,0,0\n1,B,0,0\n", "device"),
        (HEADER + "0,F,0,0\n0,B,0,0\n2,F,1,0\n2,B,1,0\n", "no row for device 1"),
        (HEADER + "0,F,0,0\n0,B,0,0\n0,F,0,1\n0,B,0,1\n1,F,1,0\n1,B,1,0\n", "one of two linked"),
    ],
)
def test_malformed_tables_name_the_place(text, words):
    with pytest.raises(ScenarioError) as caught:
        read_schedule(text)
    assert words in str(caught.value)
    assert caught.value.repair


def test_a_deadlocking_table_is_named_not_run_forever():
    # Device 0 wants the gradient of micro-batch 1 before it has sent micro-batch 1 forward:
    # legal on each device alone, a circle between them.
    text = HEADER + "0,F,0,0\n0,B,0,0\n0,F,0,1\n0,B,0,1\n1,F,1,1\n1,B,1,1\n1,F,1,0\n1,B,1,0\n"
    with pytest.raises(ScenarioError, match="circle") as caught:
        replay(read_schedule(text), StageCosts(1, 1, 1))
    assert "device 1" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "p", "m", "v", "words"),
    [
        ("1F1B-typo", 4, 8, 1, "1f1b"),
        ("1f1b", 0, 8, 1, "stages"),
        ("1f1b", 4, -1, 1, "micro_batches"),
        ("1f1b", 100_000, 100_000, 1, "rows"),
        ("interleaved", 4, 6, 2, "multiple"),
        ("1f1b", 4, 8, 2, "interleaved"),
        ("dualpipe", 3, 8, 1, "even"),
        ("dualpipe", 4, 6, 1, "even"),
    ],
)
def test_impossible_schedules(name, p, m, v, words):
    with pytest.raises(ScenarioError) as caught:
        build_schedule(name, p, m, virtual_stages=v)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["interleaved", "v-half", "v-min", "zbv"])
def test_speed_of_a_16x64_schedule(benchmark, name):
    def build_and_run():
        return unit_step(name, 16, 64, 2)

    step = benchmark.pedantic(build_and_run, rounds=5)
    assert step.schedule.rows >= 4096


def test_row_counts_are_exact():
    # Counting tasks stands in for timing: the work of the simulator cannot grow unseen.
    step = unit_step("v-half", 16, 64, 2)
    assert step.schedule.rows == 16 * 64 * 6
    assert len(step.timeline.graph) == step.schedule.rows
