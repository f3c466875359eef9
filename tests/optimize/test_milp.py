"""The solver door: two solvers, one answer, honest bounds, no leftovers."""

import math
import stat
import tempfile
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint
from scipy.optimize import milp as scipy_milp
from scipy.sparse import coo_array

from perfmodel.optimize.milp import Program, SolverError, relative_gap, solve


def knapsack(rng, items=14, rows=3):
    """Maximise value under a few weight limits, as a minimisation."""
    weights = rng.integers(1, 30, size=(rows, items)).astype(float)
    row, column = np.nonzero(weights)
    return Program(
        cost=-rng.integers(1, 40, size=items).astype(float),
        lower=np.zeros(items),
        upper=np.full(items, 2.0),
        integer=np.ones(items, dtype=bool),
        rows=row,
        columns=column,
        values=weights[row, column],
        row_lower=np.full(rows, -np.inf),
        row_upper=weights.sum(axis=1) * 0.6,
    )


def oracle(program):
    matrix = coo_array(
        (program.values, (program.rows, program.columns)),
        shape=(len(program.row_lower), len(program.cost)),
    )
    result = scipy_milp(
        program.cost,
        integrality=program.integer.astype(int),
        bounds=Bounds(program.lower, program.upper),
        constraints=LinearConstraint(matrix.tocsr(), program.row_lower, program.row_upper),
    )
    return result.fun


@pytest.mark.parametrize("seed", range(6))
def test_both_solvers_agree_with_scipy(seed):
    program = knapsack(np.random.default_rng(seed))
    expected = oracle(program)
    for solver in ("highs", "cbc"):
        found = solve(program, solver=solver)
        assert found.status == "optimal"
        assert found.objective == pytest.approx(expected, abs=1e-6)
        assert found.bound <= found.objective + 1e-9
        assert found.gap <= 1e-6
        assert found.columns == 14
        assert found.rows == 3
        assert program.violation(found.values) <= 1e-9


@pytest.mark.parametrize("solver", ["highs", "cbc"])
def test_infeasible_is_said(solver):
    program = knapsack(np.random.default_rng(1))
    low = program.row_lower.copy()
    low[0] = 1e6
    impossible = Program(
        program.cost,
        program.lower,
        program.upper,
        program.integer,
        program.rows,
        program.columns,
        program.values,
        low,
        np.full(3, np.inf),
    )
    found = solve(impossible, solver=solver)
    assert found.status == "infeasible"
    assert found.values is None
    assert found.gap == math.inf


@pytest.mark.parametrize("solver", ["highs", "cbc"])
def test_relaxation_bounds_the_integer_optimum(solver):
    program = knapsack(np.random.default_rng(2))
    assert solve(program, solver=solver, relax=True).objective <= oracle(program) + 1e-6


def hard_program(size=40, seed=3):
    """A market-split-like program that no solver closes quickly."""
    rng = np.random.default_rng(seed)
    rows = 5
    weights = rng.integers(1, 100, size=(rows, size)).astype(float)
    total = size + 2 * rows
    row = np.concatenate([np.repeat(np.arange(rows), size), np.arange(rows), np.arange(rows)])
    column = np.concatenate(
        [np.tile(np.arange(size), rows), size + np.arange(rows), size + rows + np.arange(rows)]
    )
    value = np.concatenate([weights.ravel(), np.ones(rows), -np.ones(rows)])
    half = np.floor(weights.sum(axis=1) / 2)
    return Program(
        cost=np.concatenate([np.full(size, 1e-3), np.ones(2 * rows)]),
        lower=np.zeros(total),
        upper=np.concatenate([np.ones(size), np.full(2 * rows, np.inf)]),
        integer=np.arange(total) < size,
        rows=row,
        columns=column,
        values=value,
        row_lower=half,
        row_upper=half,
    )


@pytest.mark.parametrize("solver", ["highs", "cbc"])
def test_a_time_limit_returns_the_incumbent_with_its_gap(solver):
    program = hard_program()
    point = np.zeros(len(program.cost))
    point[40:45] = program.row_lower
    found = solve(program, solver=solver, time_limit_s=0.5, start=point)
    assert found.status == "feasible"
    assert found.objective <= program.cost @ point
    assert found.bound < found.objective
    assert 0 < found.gap <= 1
    assert program.violation(found.values) <= 1e-5


def test_a_killed_solver_leaves_nothing_behind_and_keeps_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    killer = tmp_path / "cbc"
    killer.write_text("#!/bin/sh\nkill -9 $$\n")
    killer.chmod(killer.stat().st_mode | stat.S_IXUSR)
    program = knapsack(np.random.default_rng(4))
    here = sorted(Path.cwd().iterdir())
    found = solve(program, solver="cbc", start=np.zeros(14), executable=str(killer))
    assert found.status == "feasible"
    assert found.objective == 0
    assert found.gap == math.inf
    assert "without an answer" in found.note
    assert not list((tmp_path / "scratch").iterdir())
    assert sorted(Path.cwd().iterdir()) == here


def test_an_infeasible_start_is_not_returned():
    program = knapsack(np.random.default_rng(5))
    found = solve(program, start=np.full(14, 2.0))
    assert found.objective == pytest.approx(oracle(program))


def test_bad_input_says_how_to_repair():
    program = knapsack(np.random.default_rng(6))
    with pytest.raises(SolverError, match=r"Nearest: highs"):
        solve(program, solver="high")
    with pytest.raises(SolverError, match=r"positive"):
        solve(program, time_limit_s=0)


def test_relative_gap_is_never_negative():
    assert relative_gap(2.0, 1.0) == 0.5
    assert relative_gap(1.0, 2.0) == 0.0
    assert relative_gap(math.inf, 0.0) == math.inf
