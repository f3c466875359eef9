"""One planning problem, solved with a certificate: bracket, column elimination, interval MILP.

A first plan comes from a coarse memory grid. It eliminates every (stage, interval) that cannot be
part of a better one; for the others the inner programme brackets the time, on a finer grid each
round and exactly in the last. The interval programme is solved with the lower times first: if the
layout it returns really fits, the optimum is proven; if not, the upper times give a plan and the
lower ones its bound.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perfmodel.optimize import stages as chains
from perfmodel.optimize.exact import exact_costs, exact_interval
from perfmodel.optimize.interval_program import interval_program, start_point
from perfmodel.optimize.intervals import IntervalCosts, free_costs, interval_costs, recover
from perfmodel.optimize.milp import relative_gap, solve
from perfmodel.optimize.problem import Evaluation, PlanningProblem, Stage, evaluate

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
EXACT = 0  # stands for a memory grid without cells
COARSE = 48  # cells of the grid for first plans
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
    return _Solve(problem, cutoff, solver, time_limit_s, gap, cells, certify).run()


Plan = tuple[Layout, Evaluation]


@dataclass(slots=True, eq=False)
class _Solve:
    """The state of one solve: best plan, proven bound, and what it took."""

    problem: PlanningProblem
    cutoff: float
    solver: str
    time_limit_s: float
    gap: float
    cells: int
    certify: bool
    began: float = 0.0
    best: Plan | None = None
    bound: float = -math.inf
    columns: int = 0
    kept: int = 0
    tables: int = 0

    @property
    def reached(self) -> float:
        """The objective of the best plan so far."""
        return math.inf if self.best is None else self.best[1].objective

    @property
    def target(self) -> float:
        """What a plan must beat to matter."""
        return min(self.cutoff, self.reached)

    @property
    def closed(self) -> bool:
        """Whether the bound has met the best plan, or the cutoff."""
        met = relative_gap(self.reached, self.bound) <= self.gap
        return met or (self.reached > self.cutoff and self.bound >= self.cutoff * (1 - self.gap))

    @property
    def left(self) -> float:
        """Seconds that remain."""
        return self.time_limit_s - (time.perf_counter() - self.began)

    def run(self) -> PointSolution:
        """First plan, elimination, then rounds on ever finer memory grids."""
        problem = self.problem
        self.began = time.perf_counter()
        self.bound = quick_bound(problem)
        if self.bound >= self.cutoff or not math.isfinite(self.bound):
            return self.result()
        counts = tuple(sorted(set(problem.in_flight)))
        free = np.repeat(free_costs(problem)[0][:, None], len(counts), axis=1)
        relaxed = chains.columns(problem, free, counts)
        self.columns = int(np.isfinite(relaxed.cost).sum())
        if math.isfinite(self.cutoff):
            wanted = self.sift(survivors(problem, relaxed, self.cutoff), counts)
        else:
            self.best, self.tables = _first_plan(problem, free, counts)
            wanted = survivors(problem, relaxed, self.target)
        fine: IntervalCosts | None = None
        for grid in (self.cells, 8 * self.cells, EXACT):
            if not wanted.any():
                # Nothing can beat the target: the plan is optimal, or the cutoff stands.
                self.bound = max(self.bound, self.target)
                break
            asked = _asked(problem, wanted, counts)
            if fine is not None and grid == EXACT:
                fine = exact_costs(problem, asked, fine)
            else:
                fine = interval_costs(problem, wanted=asked, cells=grid)
            self.tables += fine.tables
            low = chains.columns(problem, fine.lower, counts)
            self.round(low, chains.columns(problem, fine.upper, counts), grid)
            if self.closed or self.left <= 0:
                break
            wanted = survivors(problem, low, self.target)
        return self.result()

    def sift(self, wanted: Mask, counts: tuple[float, ...]) -> Mask:
        """A coarse round against the cutoff: most points end here."""
        if not wanted.any():
            return wanted
        problem = self.problem
        coarse = interval_costs(problem, wanted=_asked(problem, wanted, counts), cells=COARSE)
        self.tables += coarse.tables
        low = chains.columns(problem, coarse.lower, counts)
        wanted = survivors(problem, low, self.cutoff)
        if wanted.any():
            self.best = _plan(problem, chains.columns(problem, coarse.upper, counts), COARSE)
        return wanted

    def round(self, low: chains.Columns, high: chains.Columns, grid: int) -> None:
        """Threshold paths on both sides of the bracket, then the programme where it is needed."""
        problem = self.problem
        self.best = _better(self.best, _plan(problem, high, grid))
        path = chains.best_chain(low, problem.tail_weight)[1] + once_bound(problem)
        # What was eliminated before cannot beat the target.
        self.bound = max(self.bound, min(path, self.target))
        if (self.closed and not self.certify) or (self.best is None and math.isinf(self.bound)):
            return
        for table, side in ((low, "lower"), (high, "upper")):
            if self.left <= 0:
                return
            proven = self.programme(table, grid, side)
            if side == "lower":
                self.bound = max(self.bound, min(proven, self.target))
            if self.closed:
                return

    def programme(self, table: chains.Columns, grid: int, side: str) -> float:
        """Solve the interval programme on one side of the bracket; returns its bound."""
        problem, target = self.problem, self.target
        which = np.argwhere(survivors(problem, table, target))
        if not len(which):
            return target
        self.kept = max(self.kept, len(which))
        built = interval_program(problem, table, which)
        start = None if self.best is None else start_point(problem, built, table, self.best[0])
        solution = solve(
            built.program,
            solver=self.solver,
            time_limit_s=self.left,
            gap=self.gap,
            start=start,
        )
        if solution.status == "infeasible":
            return target
        if solution.values is not None:
            chosen = which[np.flatnonzero(solution.values[: len(which)] > 0.5)]
            order = chosen[np.argsort(chosen[:, 0])]
            pieces = tuple((int(i), int(j), int(q)) for _, _, q, i, j in order)
            self.best = _better(self.best, _layout(problem, pieces, grid, side))
        return solution.bound * built.unit

    def result(self) -> PointSolution:
        """Where the solve stands, as an answer."""
        bound = min(self.bound, self.reached)
        if self.best is not None and self.reached <= self.cutoff:
            proven = relative_gap(self.reached, bound) <= max(self.gap, 2e-6)
            status = "optimal" if proven else "feasible"
        elif self.best is None and math.isinf(self.bound) and math.isinf(self.cutoff):
            status = "infeasible"
        elif self.bound >= self.cutoff * (1 - max(self.gap, 1e-12)):
            status = "pruned"
        else:
            status = "unknown" if self.best is None else "feasible"
        layout, evaluation = self.best or (None, None)
        if status in ("pruned", "infeasible", "unknown"):
            layout, evaluation, bound = None, None, self.bound
        spent = time.perf_counter() - self.began
        return PointSolution(
            status,
            layout,
            evaluation,
            bound,
            self.solver,
            spent,
            self.columns,
            self.kept,
            self.tables,
        )


def _better(one: Plan | None, other: Plan | None) -> Plan | None:
    if one is None or other is None:
        return other if one is None else one
    return other if other[1].objective < one[1].objective else one


def _first_plan(
    problem: PlanningProblem, free: Floats, counts: tuple[float, ...]
) -> tuple[Plan | None, int]:
    """An incumbent from a coarse memory grid, in growing windows of interval times."""
    even = free[:, 0, 0, -1].min() / problem.stages
    even = max(even, problem.seconds.min(axis=(0, 2)).max())
    tables = 0
    for window in (1.3, 2.0, math.inf):
        table = chains.columns(problem, free, counts)
        wanted = table.cost <= window * even
        coarse = interval_costs(problem, wanted=_asked(problem, wanted, counts), cells=COARSE)
        tables += coarse.tables
        found = _plan(problem, chains.columns(problem, coarse.upper, counts), COARSE)
        if found is not None:
            return found, tables
    return None, tables


def _asked(
    problem: PlanningProblem, wanted: npt.NDArray[np.bool_], counts: tuple[float, ...]
) -> npt.NDArray[np.bool_]:
    """(S, G, Q, L, L) -> (Q, F, L, L): intervals that some stage with that count may use."""
    q, n = len(problem.kinds), len(problem.layers)
    mask = np.zeros((q, len(counts), n, n), dtype=bool)
    per_stage = np.asarray(wanted.any(axis=1))
    for s, count in enumerate(problem.in_flight):
        mask[:, counts.index(count)] |= per_stage[s]
    return mask


def survivors(
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


def _plan(problem: PlanningProblem, table: chains.Columns, cells: int) -> Plan | None:
    """The best chain of certain columns within the devices."""
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
