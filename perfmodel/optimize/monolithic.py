"""The planning problem as one programme, without decomposition: a cross-check, not the method.

One binary per (layer, stage, strategy) with a unit flow from layer to layer: an arc either stays in
the stage (and pays the resharding between two strategies) or moves to the next one (and pays the
hand-over). Flow arcs may be continuous once the nodes are whole numbers. Its relaxation of the
slowest stage is weak, so it proves only small cases quickly; it knows nothing of the inner and
outer programmes and therefore tests both. One stage kind only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from perfmodel.errors import PlanError
from perfmodel.optimize.milp import Program, Solution, solve
from perfmodel.optimize.problem import Floats, PlanningProblem


@dataclass(slots=True)
class _Rows:
    """A matrix under construction."""

    rows: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)

    def add(self, terms: list[tuple[int, float]], low: float, high: float) -> None:
        for column, value in terms:
            self.rows.append(len(self.lower))
            self.columns.append(column)
            self.values.append(value)
        self.lower.append(low)
        self.upper.append(high)


def monolithic_program(problem: PlanningProblem, *, target: float = np.inf) -> tuple[Program, float]:
    """The programme and the unit of its objective [s].

    Parameters
    ----------
    problem : PlanningProblem
        With one stage kind.
    target : float
        A step time that is known to be reachable [s]; it limits how far a layer can lie from its
        even place and how slow a stage may be.

    Raises
    ------
    PlanError
        If there is more than one stage kind.
    """
    if len(problem.kinds) != 1:
        raise PlanError(
            "monolithic_program",
            f"{len(problem.kinds)} stage kinds",
            "one stage kind",
            repair="use solve_point, which handles any number",
        )
    n, stages, k = len(problem.layers), problem.stages, len(problem.strategies)
    seconds = problem.seconds[0]
    unit = float(seconds[np.isfinite(seconds)].mean()) * n / stages
    cap = _stage_cap(problem, target)
    low_stage, high_stage = _windows(seconds.min(axis=1), stages, cap)
    cost: list[float] = []
    matrix = _Rows()
    weight = float(problem.sum_weights[problem.kinds[0].device_type])
    node: dict[tuple[int, int, int], int] = {}
    time_of: list[list[tuple[int, float]]] = [[] for _ in range(stages)]

    def variable(value: float) -> int:
        cost.append(value)
        return len(cost) - 1

    for layer in range(n):
        for s in range(low_stage[layer], high_stage[layer] + 1):
            for a in range(k):
                if np.isfinite(seconds[layer, a]):
                    value = float(seconds[layer, a]) / unit
                    node[layer, s, a] = variable(weight * value)
                    time_of[s].append((node[layer, s, a], value))
    whole = len(cost)
    inward: dict[int, list[int]] = {x: [] for x in node.values()}
    outward: dict[int, list[int]] = {x: [] for x in node.values()}

    def arc(start: int | None, end: int | None, s: int, extra: float) -> int:
        flow = variable(weight * extra)
        if start is not None:
            outward[start].append(flow)
        if end is not None:
            inward[end].append(flow)
        if extra:
            time_of[s].append((flow, extra))
        return flow

    for layer in range(1, n):
        for s in range(stages):
            here = [(a, node.get((layer, s, a))) for a in range(k)]
            for a in range(k):
                start = node.get((layer - 1, s, a))
                for b, end in here:
                    if start is not None and end is not None:
                        arc(start, end, s, float(problem.reshard[0, layer, a, b]) / unit)
            # Moving on does not depend on the strategy left behind: gather at a boundary node.
            leaving = [node[layer - 1, s, a] for a in range(k) if (layer - 1, s, a) in node]
            entering = [node[layer, s + 1, a] for a in range(k) if (layer, s + 1, a) in node]
            if leaving and entering:
                extra = float(problem.enter[0, 0, layer]) / unit
                out = [(arc(x, None, s, 0.0), 1.0) for x in leaving]
                into = [(arc(None, x, s + 1, extra), -1.0) for x in entering]
                matrix.add(out + into, 0.0, 0.0)
    for (layer, s, _), x in node.items():
        if layer > 0:
            matrix.add([(x, 1.0), *((f, -1.0) for f in inward[x])], 0.0, 0.0)
        elif s > 0:
            matrix.add([(x, 1.0)], 0.0, 0.0)
        if layer < n - 1:
            matrix.add([(x, 1.0), *((f, -1.0) for f in outward[x])], 0.0, 0.0)
        elif s < stages - 1:
            matrix.add([(x, 1.0)], 0.0, 0.0)
    for layer in range(n):
        matrix.add([(x, 1.0) for (l, _, _), x in node.items() if l == layer], 1.0, 1.0)
    slowest, longest = variable(problem.tail_weight), variable(1.0)
    for s in range(stages):
        matrix.add([*time_of[s], (slowest, -1.0)], -np.inf, 0.0)
        once = [(x, float(problem.once[0, l]) / unit) for (l, t, _), x in node.items() if t == s]
        matrix.add([*once, (longest, -1.0)], -np.inf, -float(problem.stage_once[0]) / unit)
    peaks = _memory_rows(problem, node, matrix, variable)
    n_columns = len(cost)
    upper = np.full(n_columns, np.inf)
    upper[:whole] = 1.0
    upper[slowest] = cap / unit
    upper[peaks] = 1.0
    program = Program(
        np.array(cost),
        np.zeros(n_columns),
        upper,
        np.arange(n_columns) < whole,
        np.array(matrix.rows),
        np.array(matrix.columns),
        np.array(matrix.values),
        np.array(matrix.lower),
        np.array(matrix.upper),
    )
    return program, unit


def _memory_rows(problem, node, matrix, variable):  # type: ignore[no-untyped-def]
    """Bytes of each stage, in units of its capacity; returns the columns of the peaks."""
    capacity = problem.kinds[0].capacity
    peaks = []
    for s, count in enumerate(problem.in_flight):
        peak = variable(0.0)
        peaks.append(peak)
        terms = [(peak, 1.0)]
        for (layer, t, a), x in node.items():
            if t != s:
                continue
            held = problem.persistent[0, layer, a] + count * problem.activation[0, layer, a]
            terms.append((x, float(held / capacity)))
            transient = float(problem.transient[0, layer, a] / capacity)
            if transient:
                matrix.add([(x, transient), (peak, -1.0)], -np.inf, 0.0)
        matrix.add(terms, -np.inf, 1.0)
    return peaks


def _stage_cap(problem: PlanningProblem, target: float) -> float:
    """The slowest stage of any plan as good as the target [s]."""
    if not np.isfinite(target) or problem.tail_weight <= 0:
        return float("inf")
    least = problem.seconds[0].min(axis=1)
    return float((target * (1 + 1e-6) - problem.sum_weights.min() * least.sum()) / problem.tail_weight)


def _windows(least: Floats, stages: int, cap: float) -> tuple[list[int], list[int]]:
    """First and last stage in which each layer can lie if no stage is slower than ``cap``."""
    n = len(least)
    earliest, latest = [], []
    for side in (least, least[::-1]):
        stage, filled, count, packed = 0, 0.0, 0, []
        for value in side:
            if count and filled + value > cap * (1 + 1e-9):
                stage, filled, count = stage + 1, 0.0, 0
            filled, count = filled + value, count + 1
            packed.append(stage)
        (earliest if side is least else latest).extend(packed)
    low = [max(earliest[i], stages - (n - i), 0) for i in range(n)]
    high = [min(stages - 1 - latest[n - 1 - i], i) for i in range(n)]
    return low, high


def solve_monolithic(
    problem: PlanningProblem,
    *,
    target: float = np.inf,
    solver: str = "highs",
    time_limit_s: float = 60.0,
    gap: float = 1e-6,
) -> tuple[float, float, Solution]:
    """Step time, proven bound [s] and the raw solution of the monolithic programme."""
    program, unit = monolithic_program(problem, target=target)
    found = solve(program, solver=solver, time_limit_s=time_limit_s, gap=gap)
    return found.objective * unit, found.bound * unit, found
