"""The one door to the mixed-integer solvers: arrays in, solution and proven bound out.

A :class:`Program` is a plain matrix description; :func:`solve` hands it to PuLP with HiGHS (in
process) or CBC (a child process in a private folder that is removed whatever happens) and brings
every outcome to one :class:`Solution`. Solver statuses are not trusted: both solvers call a
time-limited run "optimal" when they hold an incumbent, so the status here is derived from the
point found (checked against the rows) and from the bound.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pulp

from perfmodel.errors import PerfmodelError, nearest_name

SOLVERS: Final = ("highs", "cbc")
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class SolverError(PerfmodelError):
    """A program that no solver can be asked about."""


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Minimise ``cost @ x`` with ``row_lower <= A x <= row_upper``, ``lower <= x <= upper``.

    Parameters
    ----------
    cost, lower, upper : (n,) float arrays
        Objective and bounds of the variables; infinite bounds are allowed.
    integer : (n,) bool array
        Which variables must be whole numbers.
    rows, columns, values : (nnz,) arrays
        The matrix ``A`` in coordinate form; no entry twice.
    row_lower, row_upper : (m,) float arrays
        Bounds of the rows; equal ones make an equation.
    """

    cost: Floats
    lower: Floats
    upper: Floats
    integer: npt.NDArray[np.bool_]
    rows: Integers
    columns: Integers
    values: Floats
    row_lower: Floats
    row_upper: Floats

    def violation(self, point: Floats) -> float:
        """Largest violation of a bound, a row or integrality at ``point``, relative to its size."""
        activity = np.zeros(len(self.row_lower))
        size = np.ones(len(self.row_lower))
        product = self.values * point[self.columns]
        np.add.at(activity, self.rows, product)
        np.maximum.at(size, self.rows, np.abs(product))
        fraction = np.where(self.integer, np.abs(point - np.round(point)), 0.0)
        gaps = [
            np.max((self.row_lower - activity) / size, initial=0.0),
            np.max((activity - self.row_upper) / size, initial=0.0),
            np.max(self.lower - point, initial=0.0),
            np.max(point - self.upper, initial=0.0),
            np.max(fraction, initial=0.0),
        ]
        return float(max(gaps))


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """What a solver found, and what it proved.

    ``status`` is ``"optimal"`` (bound met within the asked gap), ``"feasible"`` (a point without
    the proof), ``"infeasible"`` (proven) or ``"unknown"`` (neither). ``values`` is the point or
    ``None``; ``bound`` is a proven lower bound of the objective (-inf when none is known).
    """

    status: str
    values: Floats | None
    objective: float
    bound: float
    solver: str
    seconds: float
    columns: int
    rows: int
    note: str = ""

    @property
    def gap(self) -> float:
        """(objective - bound) / objective; 0 when proven, inf when there is no point or bound."""
        return relative_gap(self.objective, self.bound)


def relative_gap(objective: float, bound: float) -> float:
    """Share of ``objective`` by which the truth may still lie below it."""
    if not (math.isfinite(objective) and math.isfinite(bound)):
        return math.inf
    return max(0.0, objective - bound) / max(abs(objective), 1e-300)


def solve(
    program: Program,
    *,
    solver: str = "highs",
    time_limit_s: float = 60.0,
    gap: float = 1e-9,
    start: Floats | None = None,
    relax: bool = False,
    executable: str | None = None,
) -> Solution:
    """Minimise ``program``.

    Parameters
    ----------
    program : Program
        The matrix form; scale it so that the numbers lie near one.
    solver : str
        One of :data:`SOLVERS`.
    time_limit_s : float
        Wall-clock limit of the solver [s]; at the limit the incumbent comes back with its bound.
    gap : float
        Relative gap at which the solver may stop.
    start : (n,) float array, optional
        A feasible point to start from. It is also what comes back if the solver finds nothing.
    relax : bool
        Drop integrality: the linear relaxation.
    executable : str, optional
        Path of the CBC binary; the one bundled with PuLP if left out.

    Raises
    ------
    SolverError
        If the solver is unknown or the time limit is not positive.
    """
    if solver not in SOLVERS:
        raise SolverError(
            "solver",
            solver,
            ", ".join(SOLVERS),
            nearest=nearest_name(solver, SOLVERS),
            repair="name one of the accepted solvers",
        )
    if not time_limit_s > 0:
        raise SolverError(
            "time_limit_s",
            time_limit_s,
            "a positive number of seconds",
            repair="give the solver some time, e.g. 10",
        )
    if start is not None and program.violation(start) > 1e-6:
        start = None
    began = time.perf_counter()
    problem, variables = _to_pulp(program, relax)
    if solver == "highs":
        point, bound, infeasible, note = _highs(problem, variables, time_limit_s, gap, start, relax)
    else:
        point, bound, infeasible, note = _cbc(
            problem, variables, time_limit_s, gap, start, relax, executable
        )
    seconds = time.perf_counter() - began
    tidy = None if point is None else _tidied(program, point, relax)
    if tidy is None and start is not None and not infeasible:
        tidy = start
    objective = math.inf if tidy is None else float(program.cost @ tidy)
    bound = min(bound, objective)
    if tidy is not None:
        status = "optimal" if relative_gap(objective, bound) <= max(gap, 2e-6) else "feasible"
    else:
        status = "infeasible" if infeasible else "unknown"
    return Solution(
        status,
        tidy,
        objective,
        bound if not infeasible else math.inf,
        solver,
        seconds,
        len(program.cost),
        len(program.row_lower),
        note,
    )


def _tidied(program: Program, point: Floats, relax: bool) -> Floats | None:
    """The point with whole numbers whole, or ``None`` if it does not satisfy the rows."""
    tidy = point if relax else np.where(program.integer, np.round(point), point)
    tidy = np.clip(tidy, program.lower, program.upper)
    if relax:
        return tidy
    return tidy if program.violation(tidy) <= 1e-5 else None


def _to_pulp(program: Program, relax: bool) -> tuple[pulp.LpProblem, list[Any]]:
    problem = pulp.LpProblem("plan", pulp.LpMinimize)
    variables = [
        problem.add_variable(
            f"x{index}",
            None if low == -np.inf else float(low),
            None if high == np.inf else float(high),
            "Integer" if whole and not relax else "Continuous",
        )
        for index, (low, high, whole) in enumerate(
            zip(program.lower, program.upper, program.integer, strict=True)
        )
    ]
    problem += pulp.LpAffineExpression(
        [(variables[i], float(c)) for i, c in enumerate(program.cost) if c]
    )
    order = np.argsort(program.rows, kind="stable")
    starts = np.searchsorted(program.rows[order], np.arange(len(program.row_lower) + 1))
    for row, (low, high) in enumerate(zip(program.row_lower, program.row_upper, strict=True)):
        entries = order[starts[row] : starts[row + 1]]
        terms = [(variables[program.columns[e]], float(program.values[e])) for e in entries]
        expression = pulp.LpAffineExpression(terms)
        if low == high:
            problem += expression == float(low)
            continue
        if high < np.inf:
            problem += expression <= float(high)
        if low > -np.inf:
            problem += expression >= float(low)
    return problem, variables


class _Highs(pulp.HiGHS):  # type: ignore[misc]
    """PuLP's in-process HiGHS, plus the starting point it does not pass on."""

    start: Floats | None = None

    def callSolver(self, lp: Any) -> None:
        if self.start is not None:
            index = np.arange(len(self.start), dtype=np.int32)
            lp.solverModel.setSolution(len(self.start), index, self.start)
        lp.solverModel.run()


def _highs(
    problem: pulp.LpProblem,
    variables: list[Any],
    time_limit_s: float,
    gap: float,
    start: Floats | None,
    relax: bool,
) -> tuple[Floats | None, float, bool, str]:
    # One thread always: HiGHS keeps the thread count of its first run in the process, and a later
    # run with another count fails.
    door = _Highs(
        mip=not relax,
        msg=False,
        timeLimit=time_limit_s,
        gapRel=gap,
        gapAbs=0.0,
        threads=1,
        primal_feasibility_tolerance=1e-9,
        mip_feasibility_tolerance=1e-9,
    )
    names = {variable.name: i for i, variable in enumerate(variables)}
    order = [names[variable.name] for variable in problem.variables()]
    door.start = None if start is None else start[order]
    problem.solve(door)
    model = problem.solverModel
    info, status = model.getInfo(), model.getModelStatus().name
    infeasible = status in ("kInfeasible", "kUnboundedOrInfeasible")
    found = int(info.primal_solution_status) == 2
    values = np.empty(len(variables))
    values[order] = np.asarray(model.getSolution().col_value, dtype=float)
    if relax:
        bound = float(info.objective_function_value) if status == "kOptimal" else -math.inf
    else:
        bound = float(info.mip_dual_bound)
        if status == "kOptimal" and not math.isfinite(bound):
            bound = float(info.objective_function_value)
    if not math.isfinite(bound):
        bound = -math.inf
    return (values if found else None), bound, infeasible, status


def _cbc(
    problem: pulp.LpProblem,
    variables: list[Any],
    time_limit_s: float,
    gap: float,
    start: Floats | None,
    relax: bool,
    executable: str | None,
) -> tuple[Floats | None, float, bool, str]:
    path = executable or os.fspath(pulp.PULP_CBC_CMD.pulp_cbc_path)
    with tempfile.TemporaryDirectory(prefix="perfmodel-cbc-") as folder:
        log = Path(folder) / "cbc.log"
        door = pulp.COIN_CMD(
            path=path,
            mip=not relax,
            msg=False,
            timeLimit=time_limit_s,
            gapRel=gap,
            gapAbs=0.0,
            threads=1,
            warmStart=start is not None,
            logPath=str(log),
            options=["primalT 1e-9", "integerT 1e-9"],
        )
        door.tmpDir = folder
        if start is not None:
            for variable, value in zip(variables, start, strict=True):
                variable.setInitialValue(float(value), check=False)
        try:
            problem.solve(door)
        except pulp.PulpSolverError as error:
            return None, -math.inf, False, f"the solver stopped without an answer ({error})"
        text = log.read_text(errors="replace") if log.exists() else ""
    infeasible = problem.sol_status == pulp.LpSolutionInfeasible and "infeasible" in text.lower()
    found = problem.sol_status in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible)
    values = np.array([variable.value() or 0.0 for variable in variables])
    return (values if found else None), _cbc_bound(text, gap), infeasible, _cbc_result(text)


def _cbc_result(text: str) -> str:
    found = re.findall(r"^Result - (.*)$", text, flags=re.MULTILINE)
    return found[-1].strip() if found else "no result line"


def _cbc_bound(text: str, gap: float) -> float:
    """The proven bound from CBC's log: its own bound line, or the optimum it says it proved."""
    bounds = re.findall(r"^Lower bound:\s*([-+.\deE]+)", text, flags=re.MULTILINE)
    if bounds:
        return float(bounds[-1])
    proven = re.findall(r"^Objective value:\s*([-+.\deE]+)", text, flags=re.MULTILINE)
    if proven and _cbc_result(text).startswith("Optimal solution found"):
        value = float(proven[-1])
        return value - gap * abs(value)
    linear = re.findall(r"^Optimal objective\s*([-+.\deE]+)", text, flags=re.MULTILINE)
    return float(linear[-1]) if linear else -math.inf
