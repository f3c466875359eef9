"""Compute and a collective at once."""

import numpy as np
import pytest

from perfmodel.network import Interference, among_kernels, interference, run_beside
from perfmodel.network.interference import NONE

HALF = Interference(2.0, 4.0, 2.0, 1.0, 0.5)


def test_alone_nothing_changes():
    assert run_beside(3.0, 0.0, HALF) == (3.0, 0.0)
    assert run_beside(0.0, 3.0, HALF) == (0.0, 3.0)
    assert run_beside(3.0, 5.0, NONE) == (3.0, 5.0)


def test_the_rest_runs_at_full_speed():
    compute, collective = run_beside(1.0, 3.0, HALF)
    assert (compute, collective) == (2.0, 4.0)  # 2 s together, then 3 - 2/2 left


def test_memory_bound_work_loses_more():
    assert run_beside(1.0, 100.0, HALF, memory_bound=1.0)[0] == 4.0
    assert run_beside(1.0, 100.0, HALF, memory_bound=0.5)[0] == 3.0


def test_never_faster_than_alone_nor_slower_than_one_after_the_other():
    times = np.linspace(0.0, 5.0, 21)
    measured = interference("nccl-nvlink4")
    first, second = run_beside(times[:, None], times[None, :], measured)
    assert (first >= times[:, None] - 1e-12).all()
    assert (second >= times[None, :] - 1e-12).all()
    assert (np.maximum(first, second) <= times[:, None] + times[None, :] + 1e-12).all()


def test_measured_share_of_the_units_is_that_of_the_channels():
    """NCCL ran 24 to 32 blocks on 132 multiprocessors."""
    measured = interference("nccl-nvlink4")
    assert measured.fitted
    assert 0.1 < measured.unit_share < 0.25
    assert interference("no-such-link") == NONE


def test_unit_share():
    assert HALF.unit_share == pytest.approx(0.5)


def test_among_kernels_it_waits_and_shares():
    factors = Interference(1.2, 1.5, 1.5, 1.0, 0.5, wait_memory=1.0, entry=1.0)
    assert among_kernels(2.0, 10.0, factors) == (8.0, 13.0)  # 0.5 * 10 + 1.5 * 2; 1.2 * 10 + 1
    assert among_kernels(2.0, 10.0, factors, memory_bound=1.0) == (12.0, 15.0)
    assert among_kernels(0.0, 10.0, factors) == (0.0, 10.0)


def test_short_kernels_lose_more_of_their_time():
    measured = interference("nccl-nvlink4")
    slowed = among_kernels(1.0, [90e-6, 760e-6], measured)[1] / [90e-6, 760e-6]
    assert 1.5 < slowed[0] < 1.8  # measured 1.63
    assert 1.15 < slowed[1] < 1.25  # measured 1.20
