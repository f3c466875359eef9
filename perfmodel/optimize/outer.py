"""One planning problem, solved with a certificate: bracket, column elimination, interval MILP.

The interval programme has one binary per (stage, kind, first layer, last layer) that survives, one
variable for the slowest stage and one for the longest once-a-step work:

    min  sum w C u + (M - w) * Tmax + Dmax
    s.t. exactly one first stage; stage s + 1 begins where stage s ends (and knows its device type);
         Tmax >= sum C u,  Dmax >= sum D u          one row per stage
         devices used of each type <= available

It is solved with the inner programme's lower times first. If the layout it returns really fits, the
optimum is proven; if not, the upper times give a plan and the lower ones its bound.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perfmodel.optimize import stages as chains
from perfmodel.optimize.exact import exact_costs, exact_interval
from perfmodel.optimize.intervals import IntervalCosts, free_costs, interval_costs, recover
from perfmodel.optimize.milp import Program, Solution, relative_gap, solve
from perfmodel.optimize.problem import Evaluation, PlanningProblem, Stage, evaluate

Floats = npt.NDArray[np.float64]
EXACT = 0  # stands for a memory grid without cells
Layout = tuple[Stage, ...]


@dataclass(frozen=True, slots=True, eq=False)
class PointSolution:
    """The best layout of one problem and how far it can be from optimal.

    ``status``: ``"optimal"``, ``"feasible"`` (with a gap), ``"pruned"`` (the bound is not below the
    cutoff; no layout), ``"infeasible"`` (proven: nothing fits) or ``"unknown"`` (time ran out
    before a layout was found). ``columns`` counts the candidate columns, ``kept`` those that
    survived elimination and went to the solver.
    """

    status: str
    layout: Layout | None
    evaluation: Evaluation | None
    bound: float
    solver: str
    seconds: float
    columns: int
    kept: int
    tables: int

    @property
    def step(self) -> float:
        """Step time of the layout [s]; inf without one."""
        return math.inf if self.evaluation is None else self.evaluation.step

    @property
    def objective(self) -> float:
        """What was minimised: the step time, and extra weights if any."""
        return math.inf if self.evaluation is None else self.evaluation.objective

    @property
    def gap(self) -> float:
        """(objective - bound) / objective."""
        return relative_gap(self.objective, self.bound)


def once_bound(problem: PlanningProblem) -> float:
    """Lower bound of the longest once-a-step work: its mean over stages, or one layer's."""
    least = problem.once.min(axis=0)
    return float(max(least.sum() / problem.stages, least.max()) + problem.stage_once.min())


def quick_bound(problem: PlanningProblem) -> float:
    """Lower bound of the step from the layers' fastest strategies, cut evenly at will [s]."""
    least = problem.seconds.min(axis=(0, 2))
    slowest = max(least.sum() / problem.stages, least.max(), _shared_bound(problem))
    total = problem.sum_weights.min() * least.sum()
    return float(total + problem.tail_weight * slowest + once_bound(problem))


def _shared_bound(problem: PlanningProblem) -> float:
    """Lower bound of the slowest stage where every stage of every type must be used [s].

    For any weights of the types, all layers at their cheapest weighted time have to fit into all
    stages; and the stages of a type hold a layer each at least.
    """
    types = sorted({kind.device_type for kind in problem.kinds})
    if len(types) < 2:
        return 0.0
    least, rooms = [], []
    for t in types:
        members = [q for q, kind in enumerate(problem.kinds) if kind.device_type == t]
        least.append(problem.seconds[members].min(axis=(0, 2)))
        rooms.append(problem.available[t] // min(problem.kinds[q].devices for q in members))
    times, room = np.array(least), np.array(rooms)
    if not np.isfinite(times).all():
        return 0.0
    bound = 0.0
    for tilt in (0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 4.0):
        weight = 1.0 / times.sum(axis=1)
        weight[0] *= tilt
        bound = max(bound, float((weight[:, None] * times).min(axis=0).sum() / (weight @ room)))
    if room.sum() == problem.stages:
        each = [np.sort(row)[min(r, len(row)) - 1] for row, r in zip(times, room, strict=True)]
        bound = max(bound, float(max(each)))
    return bound


def solve_point(
    problem: PlanningProblem,
    *,
    cutoff: float = math.inf,
    solver: str = "highs",
    time_limit_s: float = 60.0,
    gap: float = 1e-9,
    cells: int = 1024,
    certify: bool = True,
) -> PointSolution:
    """Find the layout with the shortest step, with a bound.

    Parameters
    ----------
    problem : PlanningProblem
        The arrays.
    cutoff : float
        A step time already reached elsewhere [s]: proving that this problem cannot beat it is
        enough.
    solver : str
        ``"highs"`` or ``"cbc"``.
    time_limit_s : float
        Wall-clock limit of the whole solve [s].
    gap : float
        Relative gap that counts as optimal.
    cells : int
        Memory cells of the inner programme.
    certify : bool
        Run the interval programme also where the threshold path has closed the gap already.
    """
    began = time.perf_counter()
    spent = lambda: time.perf_counter() - began  # noqa: E731
    floor = quick_bound(problem)

    def without(status: str, bound: float, count: int = 0, tables: int = 0) -> PointSolution:
        return PointSolution(status, None, None, bound, solver, spent(), count, 0, tables)

    if floor >= cutoff:
        return without("pruned", floor)
    if not math.isfinite(floor):
        return without("infeasible", math.inf)
    counts = tuple(sorted(set(problem.in_flight)))
    free = np.repeat(free_costs(problem)[0][:, None], len(counts), axis=1)
    best, tables = _first_plan(problem, free, counts)
    target = min(cutoff, math.inf if best is None else best[1].objective)
    relaxed = chains.columns(problem, free, counts)
    wanted = _survivors(problem, relaxed, target)
    count = int(np.isfinite(relaxed.cost).sum())
    if not wanted.any():
        return _closed(problem, best, target, cutoff, solver, spent(), count, tables, without)
    bound, kept, step = -math.inf, 0, math.inf
    fine: IntervalCosts | None = None
    for grid in (cells, 8 * cells, EXACT):
        # Every round asks for the surviving intervals only, on a finer memory grid, then on none.
        asked = _asked(problem, wanted, counts)
        if fine is not None and grid == EXACT:
            fine = exact_costs(problem, asked, fine)
        else:
            fine = interval_costs(problem, wanted=asked, cells=grid)
        tables += fine.tables
        low = chains.columns(problem, fine.lower, counts)
        high = chains.columns(problem, fine.upper, counts)
        best = _better(best, _plan(problem, high, fine, grid))
        step = math.inf if best is None else best[1].objective
        target = min(target, step)
        path = chains.best_chain(low, problem.tail_weight)[1] + once_bound(problem)
        bound = max(bound, min(path, target))  # what was eliminated cannot beat the target
        if best is None and math.isinf(bound):
            return without("infeasible", math.inf, count, tables)
        if bound >= cutoff * (1 - gap) and step > cutoff:
            return without("pruned", bound, count, tables)
        if certify or relative_gap(step, bound) > gap:
            for table, side in ((low, "lower"), (high, "upper")):
                left = time_limit_s - spent()
                if left <= 0:
                    break
                found, program_bound, columns = _program(
                    problem, table, target, solver, left, gap, best, grid, side
                )
                kept = max(kept, columns)
                best = _better(best, found)
                step = math.inf if best is None else best[1].objective
                target = min(target, step)
                if side == "lower":
                    bound = max(bound, min(program_bound, target))
                if relative_gap(step, bound) <= gap:
                    break
        wanted = _survivors(problem, low, target)
        if relative_gap(step, bound) <= gap or spent() > time_limit_s or not wanted.any():
            break
    if not wanted.any():
        return _closed(problem, best, target, cutoff, solver, spent(), count, tables, without)
    if best is None or (step > cutoff and bound >= cutoff * (1 - 1e-12)):
        status = "pruned" if bound >= cutoff * (1 - 1e-12) else "unknown"
        return without(status, bound, count, tables)
    status = "optimal" if relative_gap(step, bound) <= max(gap, 2e-6) else "feasible"
    return PointSolution(
        status, best[0], best[1], min(bound, step), solver, spent(), count, kept, tables
    )


Plan = tuple[Layout, Evaluation]


def _better(one: Plan | None, other: Plan | None) -> Plan | None:
    if one is None or other is None:
        return other if one is None else one
    return other if other[1].objective < one[1].objective else one


def _closed(problem, best, target, cutoff, solver, seconds, count, tables, without):  # type: ignore[no-untyped-def]
    """No column can beat the target: the incumbent is optimal, or the cutoff stands."""
    if best is None or best[1].objective > cutoff:
        status = "pruned" if math.isfinite(cutoff) else "infeasible"
        return without(status, cutoff, count, tables)
    layout, evaluation = best
    return PointSolution(
        "optimal", layout, evaluation, evaluation.objective, solver, seconds, count, 0, tables
    )


def _first_plan(
    problem: PlanningProblem, free: Floats, counts: tuple[int, ...]
) -> tuple[Plan | None, int]:
    """An incumbent from a coarse memory grid, in growing windows of interval times."""
    even = free[:, 0, 0, -1].min() / problem.stages
    even = max(even, problem.seconds.min(axis=(0, 2)).max())
    tables = 0
    for window in (1.3, 2.0, math.inf):
        table = chains.columns(problem, free, counts)
        wanted = table.cost <= window * even
        coarse = interval_costs(problem, wanted=_asked(problem, wanted, counts), cells=48)
        tables += coarse.tables
        found = _plan(problem, chains.columns(problem, coarse.upper, counts), coarse, 48)
        if found is not None:
            return found, tables
    return None, tables


def _asked(
    problem: PlanningProblem, wanted: npt.NDArray[np.bool_], counts: tuple[int, ...]
) -> npt.NDArray[np.bool_]:
    """(S, G, Q, L, L) -> (Q, F, L, L): intervals that some stage with that count may use."""
    q, n = len(problem.kinds), len(problem.layers)
    mask = np.zeros((q, len(counts), n, n), dtype=bool)
    per_stage = wanted.any(axis=1)
    for s, count in enumerate(problem.in_flight):
        mask[:, counts.index(count)] |= per_stage[s]
    return mask


def _survivors(
    problem: PlanningProblem, table: chains.Columns, target: float
) -> npt.NDArray[np.bool_]:
    """Columns that may be part of a plan at least as good as the target."""
    finite = np.isfinite(table.cost)
    if not math.isfinite(target):
        return finite
    once, tail = once_bound(problem), problem.tail_weight
    total = chains.least_total(table)
    cap = math.inf
    if tail > 0:
        cap = (target * (1 + 1e-9) - once - total) / tail
    smallest = chains.least_slowest(table)
    through = chains.through_bounds(table, cap)
    slowest = np.maximum(np.where(finite, table.cost, 0.0), smallest)
    with np.errstate(invalid="ignore"):
        value = through + tail * slowest + once
    return finite & np.isfinite(through) & (value <= target * (1 + 1e-9))


def _plan(
    problem: PlanningProblem, table: chains.Columns, interval: IntervalCosts, cells: int
) -> Plan | None:
    """The best chain of certain columns within the devices, over the natural orders of types."""
    best: Plan | None = None
    for variant in chains.variants(problem, table):
        chain, _ = chains.best_chain(variant, problem.tail_weight)
        if chain is not None:
            best = _better(best, _layout(problem, chain.pieces, cells, "upper"))
    return best


def _layout(
    problem: PlanningProblem, pieces: tuple[tuple[int, int, int], ...], cells: int, side: str
) -> Plan | None:
    """Fill in the strategies of a chain; ``None`` if the result does not fit."""
    layout = []
    for s, (first, last, kind) in enumerate(pieces):
        count = problem.in_flight[s]
        if cells == EXACT:
            chosen = exact_interval(problem, kind, count, first, last)[1]
        else:
            low, high = recover(problem, kind, count, first, last, cells=cells)
            chosen = low if side == "lower" else high
        if chosen is None:
            return None
        layout.append(Stage(first, last, kind, chosen))
    evaluation = evaluate(problem, tuple(layout))
    return (tuple(layout), evaluation) if evaluation.feasible else None


@dataclass(frozen=True, slots=True, eq=False)
class _Built:
    program: Program
    which: npt.NDArray[np.int64]  # (n, 5): s, g, q, i, j of each binary
    unit: float


def _program(
    problem: PlanningProblem,
    table: chains.Columns,
    target: float,
    solver: str,
    time_limit_s: float,
    gap: float,
    best: Plan | None,
    cells: int,
    side: str,
) -> tuple[Plan | None, float, int]:
    """Solve the interval programme on one side of the bracket: plan, bound, columns kept."""
    wanted = _survivors(problem, table, target)
    which = np.argwhere(wanted)
    if not len(which):
        return None, target, 0
    built = interval_program(problem, table, which, target)
    start = None if best is None else _start(problem, built, table, best[0])
    solution: Solution = solve(
        built.program, solver=solver, time_limit_s=time_limit_s, gap=gap, start=start
    )
    bound = solution.bound * built.unit
    if solution.status == "infeasible":
        bound = target
    if solution.values is None:
        return None, bound, len(which)
    chosen = which[np.flatnonzero(solution.values[: len(which)] > 0.5)]
    pieces = tuple((int(i), int(j), int(q)) for s, g, q, i, j in sorted(map(tuple, chosen)))
    return _layout(problem, pieces, cells, side), bound, len(which)


def interval_program(
    problem: PlanningProblem,
    table: chains.Columns,
    which: npt.NDArray[np.int64],
    target: float = math.inf,
) -> _Built:
    """The interval programme over the given columns, in units that bring times near one."""
    cost = table.cost[tuple(which.T)]
    s, g, q, i, j = which.T
    cumulative = np.concatenate(
        [np.zeros((len(problem.kinds), 1)), np.cumsum(problem.once, axis=1)], axis=1
    )
    once = cumulative[q, j + 1] - cumulative[q, i] + problem.stage_once[q]
    unit = float(cost.max())
    n, stages, types = len(cost), problem.stages, table.types
    rows: list[npt.NDArray[np.int64]] = []
    columns: list[npt.NDArray[np.int64]] = []
    values: list[Floats] = []
    lower: list[float] = []
    upper: list[float] = []
    every = np.arange(n)

    def row(members: npt.NDArray[np.int64], entries: Floats, low: float, high: float) -> None:
        rows.append(np.full(len(members), len(lower)))
        columns.append(members)
        values.append(entries)
        lower.append(low)
        upper.append(high)

    opening = every[s == 0]
    row(opening, np.ones(len(opening)), 1.0, 1.0)
    own = table.type_of[q]
    for stage in range(1, stages):
        came, went = s == stage - 1, s == stage
        for t in range(types):
            for cut in np.union1d(j[came & (own == t)] + 1, i[went & (g == t)]):
                entering = every[came & (own == t) & (j + 1 == cut)]
                leaving = every[went & (g == t) & (i == cut)]
                signs = np.concatenate([np.ones(len(entering)), -np.ones(len(leaving))])
                row(np.concatenate([entering, leaving]), signs, 0.0, 0.0)
    slowest, longest = n, n + 1
    for stage in range(stages):
        here = every[s == stage]
        members = np.append(here, slowest)
        row(members, np.append(cost[here] / unit, -1.0), -np.inf, 0.0)
        members = np.append(here, longest)
        row(members, np.append(once[here] / unit, -1.0), -np.inf, 0.0)
    devices = np.array([kind.devices for kind in problem.kinds])
    for t in range(types):
        here = every[own == t]
        if len(here) and devices.max() * stages > problem.available[t]:
            row(here, devices[q[here]].astype(float), -np.inf, float(problem.available[t]))
    least = chains.least_slowest(table) / unit
    program = Program(
        cost=np.concatenate([table.weights[own] * cost / unit, [problem.tail_weight, 1.0]]),
        lower=np.concatenate([np.zeros(n), [min(least, 1.0), 0.0]]),
        upper=np.concatenate([np.ones(n), [np.inf, np.inf]]),
        integer=np.arange(n + 2) < n,
        rows=np.concatenate(rows),
        columns=np.concatenate(columns),
        values=np.concatenate(values),
        row_lower=np.array(lower),
        row_upper=np.array(upper),
    )
    return _Built(program, which, unit)


def _start(
    problem: PlanningProblem, built: _Built, table: chains.Columns, layout: Layout
) -> Floats | None:
    """The incumbent as a point of the programme, if its columns survived."""
    n = len(built.which)
    point = np.zeros(n + 2)
    before = 0
    for s, stage in enumerate(layout):
        key = np.array([s, before, stage.kind, stage.first, stage.last])
        found = np.flatnonzero((built.which == key).all(axis=1))
        if not len(found):
            return None
        point[found[0]] = 1.0
        point[n] = max(point[n], table.cost[tuple(key)] / built.unit)
        once = problem.once[stage.kind, stage.first : stage.last + 1].sum()
        once += problem.stage_once[stage.kind]
        point[n + 1] = max(point[n + 1], float(once) / built.unit)
        before = int(table.type_of[stage.kind])
    return point
