from __future__ import annotations

import numpy as np

from perfmodel.hardware import load_cluster
from perfmodel.parallel.grid import COLUMNS, distinct, grid_of
from perfmodel.parallel.placement import (
    data_group,
    domain_devices,
    expert_data_group,
    group,
    pipeline_local,
    ranks,
    tensor_group,
)
from perfmodel.parallel.plan import Plan


def test_groups_fill_a_domain_from_the_inside():
    assert int(group(8, 1, 8).local) == 8
    assert int(group(16, 1, 8).local) == 8
    assert int(group(16, 4, 8).local) == 2
    assert int(group(16, 8, 8).local) == 1
    assert int(group(4, 16, 8).local) == 1


def test_a_rack_domain_is_wider_than_its_node():
    assert domain_devices(load_cluster("gb200-nvl72", nodes=36)) == 72
    assert domain_devices(load_cluster("dgx-h100", nodes=4)) == 8


def test_ranks_number_every_device_once():
    plan = Plan(tp=4, cp=2, dp=4, pp=2, ep=8, expert_tp=2)
    there = ranks(plan)
    code = there["tp"] + 4 * (there["cp"] + 2 * (there["dp"] + 4 * there["pp"]))
    assert sorted(code) == list(range(plan.world))
    assert there["tp"][:4].tolist() == [0, 1, 2, 3]
    assert there["pp"][-1] == 1
    # experts tile each stage: expert_tp x ep x expert_dp = tp x cp x dp
    stage = np.stack([there["expert_tp"], there["ep"], there["expert_dp"]])[:, :32]
    assert len({tuple(column) for column in stage.T}) == 32


def test_groups_of_a_grid():
    grid = grid_of([Plan(tp=8, pp=2, dp=4), Plan(tp=2, pp=2, dp=16)])
    assert tensor_group(grid, 8).local.tolist() == [8, 2]
    assert data_group(grid, 8).local.tolist() == [1, 4]
    assert pipeline_local(grid, 8).tolist() == [1, 1]
    assert pipeline_local(grid_of([Plan(tp=2, pp=4)]), 8).tolist() == [2]
    assert expert_data_group(grid, 8).size.tolist() == [4, 16]


def test_a_grid_gives_its_plans_back():
    plans = [Plan(tp=2, dp=4, zero=1), Plan(dp=8, zero=3, zero_group=4, recompute="full")]
    grid = grid_of(plans)
    assert [grid.plan(i) for i in range(2)] == plans
    assert all(len(getattr(grid, name)) == 2 for name in COLUMNS)


def test_distinct_rows():
    a, b = np.array([1, 2, 1, 2, 1]), np.array([10**6, 5, 10**6, 5, 7])
    first, where = distinct(a, b)
    assert len(first) == 3
    assert np.array_equal(a[first][where], a)
    assert np.array_equal(b[first][where], b)
