"""The planner against brute force, the two solvers against each other, and the pruning rules."""

import numpy as np
import pytest

from perfmodel.optimize.outer import quick_bound, solve_point
from perfmodel.optimize.problem import evaluate

from planning_instances import every_plan, random_problem

SHAPES = [
    {"layers": 6, "stages": 2, "strategies": 4},
    {"layers": 7, "stages": 3, "strategies": 3},
    {"layers": 9, "stages": 3, "strategies": 2},
    {"layers": 6, "stages": 2, "strategies": 3, "kinds": 2, "types": 2},
    {"layers": 6, "stages": 3, "strategies": 2, "kinds": 3, "types": 2},
    {"layers": 8, "stages": 4, "strategies": 2, "whole": False},
    {"layers": 6, "stages": 2, "strategies": 4, "whole": False},
    {"layers": 8, "stages": 1, "strategies": 3},
]


@pytest.mark.parametrize("seed", range(8))
def test_equal_to_brute_force(seed):
    """26 instances a seed, about 20,000 plans each: 208 in all."""
    rng = np.random.default_rng(seed)
    feasible = 0
    for number in range(26):
        problem = random_problem(rng, **SHAPES[number % len(SHAPES)])
        best = every_plan(problem).min()
        found = solve_point(problem)
        assert quick_bound(problem) <= best * (1 + 1e-12)
        if np.isinf(best):
            assert found.status == "infeasible"
            continue
        feasible += 1
        assert found.status == "optimal"
        assert found.step == pytest.approx(best, rel=1e-7)
        assert found.bound == pytest.approx(best, rel=3e-6)
        assert found.bound <= found.step
        assert evaluate(problem, found.layout).step == found.step
    assert feasible >= 10
