"""Compute and a collective at once."""

import numpy as np
import pytest

from perfmodel.network import Interference, interference, run_beside
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
