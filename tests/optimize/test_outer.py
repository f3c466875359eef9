"""The planner against brute force, the two solvers against each other, and the pruning rules."""

from dataclasses import replace

import numpy as np
import pytest

from perfmodel.errors import PlanError
from perfmodel.optimize.monolithic import solve_monolithic
from perfmodel.optimize.outer import quick_bound, solve_point
from perfmodel.optimize.problem import (
    Stage,
    evaluate,
)
from perfmodel.optimize.relax import shortage
from perfmodel.optimize.replicas import split_micro_batches

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
def test_equal_to_brute_force(seed, random_problem, every_plan):
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
        assert found.objective == pytest.approx(best, rel=1e-7)
        assert found.bound == pytest.approx(best, rel=3e-6)
        assert found.bound <= found.objective
        assert evaluate(problem, found.layout).step == found.step
    assert feasible >= 10


@pytest.mark.parametrize("seed", range(2))
def test_cbc_equals_highs(seed, random_problem):
    rng = np.random.default_rng(100 + seed)
    for shape in SHAPES:
        problem = random_problem(rng, **shape)
        one, other = solve_point(problem), solve_point(problem, solver="cbc")
        assert one.status == other.status
        if one.layout is not None:
            assert one.step == pytest.approx(other.step, rel=1e-7)


@pytest.mark.parametrize("seed", range(2))
def test_monolithic_equals_decomposed(seed, pipeline):
    problem = pipeline(10, 3, 4, seed=seed)
    found = solve_point(problem)
    step, bound, solution = solve_monolithic(problem, time_limit_s=60)
    assert solution.status == "optimal"
    assert step == pytest.approx(found.step, rel=1e-6)
    assert bound <= found.step * (1 + 1e-6)


def test_monolithic_equals_decomposed_with_every_term(random_problem):
    rng = np.random.default_rng(7)
    for _ in range(6):
        problem = random_problem(rng, layers=6, stages=3, strategies=3)
        found = solve_point(problem)
        if found.layout is not None:
            assert solve_monolithic(problem)[0] == pytest.approx(found.objective, rel=1e-6)


@pytest.mark.slow
def test_monolithic_equals_decomposed_at_48_layers(pipeline):
    problem = pipeline(48, 8, 8)
    found = solve_point(problem)
    step, bound, _ = solve_monolithic(
        problem, target=found.step * 1.0001, time_limit_s=300, gap=1e-7
    )
    assert step == pytest.approx(found.step, rel=1e-6)
    assert bound == pytest.approx(found.step, rel=2e-6)


@pytest.mark.parametrize("solver", ["highs", "cbc"])
def test_96_layers_16_stages_8_strategies_is_proven(solver, pipeline):
    found = solve_point(pipeline(96, 16, 8, seed=1), solver=solver)
    assert found.status == "optimal"
    assert found.gap <= 1e-9
    assert found.kept < found.columns / 10


def test_a_cutoff_prunes_what_cannot_beat_it(pipeline):
    problem = pipeline(24, 4, 4)
    best = solve_point(problem)
    pruned = solve_point(problem, cutoff=best.step * 0.999)
    assert pruned.status == "pruned"
    assert pruned.layout is None
    assert pruned.bound >= best.step * 0.999 * (1 - 1e-9)
    again = solve_point(problem, cutoff=best.step * 1.001)
    assert again.step == pytest.approx(best.step)


def test_out_of_time_returns_the_incumbent_with_an_honest_gap(pipeline):
    problem = pipeline(48, 8, 8, seed=1)
    best = solve_point(problem)
    early = solve_point(problem, time_limit_s=1e-6)
    assert early.layout is not None
    assert early.bound <= best.step <= early.step
    assert early.status == "feasible"
    assert early.gap > 0


def test_more_memory_is_never_slower(pipeline):
    steps = [solve_point(pipeline(24, 4, 8, cap=cap)).step for cap in (0.8, 1.0, 1.2, 5.0)]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] > steps[-1]


def test_infeasible_says_how_much_memory_is_missing(pipeline):
    problem = pipeline(24, 4, 8, cap=0.1)
    assert solve_point(problem).status == "infeasible"
    lack = shortage(problem)
    assert lack.missing > 0
    kind = problem.kinds[0]
    for extra, status in ((1.000001, "optimal"), (0.9999, "infeasible")):
        larger = replace(kind, capacity=kind.capacity + lack.missing * extra)
        assert solve_point(replace(problem, kinds=(larger,))).status == status


def test_problems_are_checked(pipeline):
    problem = pipeline(6, 2, 4)
    with pytest.raises(PlanError, match="shape"):
        replace(problem, once=np.zeros((2, 6)))
    with pytest.raises(PlanError, match="negative"):
        replace(problem, seconds=-problem.seconds)
    with pytest.raises(PlanError, match="stages"):
        replace(problem, in_flight=(1,) * 7)
    with pytest.raises(PlanError, match="in order"):
        evaluate(problem, (Stage(0, 2, 0, (0, 0, 0)), Stage(4, 5, 0, (0, 0))))


@pytest.mark.parametrize("seed", range(5))
def test_unequal_batches_are_optimal(seed):
    rng = np.random.default_rng(seed)
    pace, fixed = rng.uniform(0.5, 3.0, 3), rng.uniform(0, 4.0, 3)
    total = 14
    shares, slowest = split_micro_batches(pace, fixed, total)
    assert sum(shares) == total
    every = [
        max(fixed + pace * np.array([a, b, total - a - b]))
        for a in range(1, total - 1)
        for b in range(1, total - a)
    ]
    assert slowest == pytest.approx(min(every))
    with pytest.raises(PlanError, match="replicas"):
        split_micro_batches(pace, fixed, 2)
