"""Host and device queues against a walk through the events one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.cost.program.queue import repeat_step, run_device, run_step

TIMES = st.lists(st.floats(0.0, 50.0), min_size=1, max_size=40)


def walk(host, seconds, latency, tail, waits, depth, steps):
    """Kernel by kernel: the recursion of the module's text."""
    clock = free = 0.0
    started, ends, out = [], [], []
    for _ in range(steps):
        for own, length, wait in zip(host, seconds, waits, strict=True):
            if wait:
                clock = max(clock, free)
            clock += own
            if len(started) >= depth:
                clock = max(clock, started[-depth])
            start = max(free, clock + latency)
            started.append(start)
            free = start + length
        clock += tail
        ends.append(max(clock, free))
        out.append(list(started[-len(seconds) :]))
    return ends, out


@settings(max_examples=80, deadline=None)
@given(TIMES, st.integers(1, 12), st.floats(0.0, 9.0), st.randoms())
def test_block_by_block_equals_one_by_one(host, depth, latency, random):
    seconds = [random.uniform(0.0, 50.0) for _ in host]
    waits = [random.random() < 0.1 for _ in host]
    ends, starts = walk(host, seconds, latency, 3.0, waits, depth, 1)
    found = run_step(
        np.array(host), np.array(seconds), latency, tail=3.0, waits_before=np.array(waits),
        depth=depth,
    )  # fmt: skip
    np.testing.assert_allclose(found.start, starts[0], rtol=1e-12, atol=1e-9)
    assert found.end == pytest.approx(ends[0])


@settings(max_examples=40, deadline=None)
@given(TIMES, st.randoms())
def test_a_steady_stream_takes_the_longer_side(host, random):
    seconds = np.array([random.uniform(0.1, 50.0) for _ in host])
    period, _ = repeat_step(np.array(host), seconds, 2.0, tail=1.0)
    assert period == pytest.approx(max(sum(host) + 1.0, seconds.sum()), rel=1e-6)


def test_a_short_queue_keeps_the_host_from_hiding_a_slow_half():
    # First half: the device is slow; second half: the host is. A deep queue lets the host work
    # ahead, a shallow one does not.
    host = np.full(200, 8.0)
    seconds = np.where(np.arange(200) < 100, 20.0, 2.0)
    deep, _ = repeat_step(host, seconds, 1.0)
    shallow, _ = repeat_step(host, seconds, 1.0, depth=10)
    assert deep == pytest.approx(2200.0)
    assert shallow > 1.15 * deep


def test_waiting_for_the_device_exposes_the_host():
    host, seconds = np.full(10, 5.0), np.full(10, 5.0)
    waits = np.zeros(10, dtype=bool)
    free, _ = repeat_step(host, seconds, 1.0)
    waits[5] = True
    waited, _ = repeat_step(host, seconds, 1.0, waits_before=waits)
    assert waited > free + 5.0


def test_an_idle_device_starts_when_the_launch_arrives():
    assert run_device(np.array([1.0, 2.0]), np.array([0.2, 0.2]), 0.5).tolist() == [1.5, 2.5]
    step = run_step(np.array([1.0, 1.0]), np.array([0.2, 0.2]), 0.5)
    assert step.waits.tolist() == pytest.approx([0.0, 0.8])
