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


def monolithic_program(
    problem: PlanningProblem, *, target: float = np.inf
) -> tuple[Program, float]:
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
    build = _Builder(problem, target)
    build.nodes()
    build.arcs()
    build.flow()
    build.epigraphs()
    build.memory()
    return build.program(), build.unit


class _Builder:
    """Columns and rows of the programme, part by part."""

    def __init__(self, problem: PlanningProblem, target: float) -> None:
        self.problem = problem
        self.n, self.stages, self.k = (
            len(problem.layers), problem.stages, len(problem.strategies),
        )  # fmt: skip
        self.seconds = problem.seconds[0]
        legal = self.seconds[np.isfinite(self.seconds)]
        self.unit = float(legal.mean()) * self.n / self.stages
        self.cap = _stage_cap(problem, target)
        self.weight = float(problem.sum_weights[problem.kinds[0].device_type])
        self.cost: list[float] = []
        self.matrix = _Rows()
        self.node: dict[tuple[int, int, int], int] = {}
        self.time_of: list[list[tuple[int, float]]] = [[] for _ in range(self.stages)]
        self.inward: dict[int, list[int]] = {}
        self.outward: dict[int, list[int]] = {}
        self.upper: dict[int, float] = {}

    def variable(self, value: float) -> int:
        """A new column; returns its place."""
        self.cost.append(value)
        return len(self.cost) - 1

    def nodes(self) -> None:
        """One binary per layer, stage within reach, and legal strategy."""
        low, high = _windows(self.seconds.min(axis=1), self.stages, self.cap)
        for layer in range(self.n):
            for s in range(low[layer], high[layer] + 1):
                for a in np.flatnonzero(np.isfinite(self.seconds[layer])):
                    value = float(self.seconds[layer, a]) / self.unit
                    place = self.variable(self.weight * value)
                    self.node[layer, s, int(a)] = place
                    self.time_of[s].append((place, value))
                    self.inward[place], self.outward[place] = [], []
        self.whole = len(self.cost)

    def arc(self, start: int | None, end: int | None, s: int, seconds: float) -> int:
        """A flow between two nodes, or to or from a boundary, that stage ``s`` pays for."""
        extra = seconds / self.unit
        flow = self.variable(self.weight * extra)
        if start is not None:
            self.outward[start].append(flow)
        if end is not None:
            self.inward[end].append(flow)
        if extra:
            self.time_of[s].append((flow, extra))
        return flow

    def arcs(self) -> None:
        """Staying in a stage pays the resharding; moving on passes a boundary node."""
        problem = self.problem
        for layer in range(1, self.n):
            for s in range(self.stages):
                leaving = self.at(layer - 1, s)
                for a, start in leaving:
                    for b, end in self.at(layer, s):
                        self.arc(start, end, s, float(problem.reshard[0, layer, a, b]))
                # Moving on does not depend on the strategy left behind.
                entering = self.at(layer, s + 1)
                if leaving and entering:
                    price = float(problem.enter[0, 0, layer])
                    out = [(self.arc(x, None, s, 0.0), 1.0) for _, x in leaving]
                    into = [(self.arc(None, x, s + 1, price), -1.0) for _, x in entering]
                    self.matrix.add(out + into, 0.0, 0.0)

    def at(self, layer: int, s: int) -> list[tuple[int, int]]:
        """Strategies and nodes of a layer in a stage."""
        found = [(a, self.node.get((layer, s, a))) for a in range(self.k)]
        return [(a, x) for a, x in found if x is not None]

    def flow(self) -> None:
        """What arrives at a node leaves it; each layer is somewhere; the ends are the ends."""
        for (layer, s, _), x in self.node.items():
            if layer > 0:
                self.matrix.add([(x, 1.0), *((f, -1.0) for f in self.inward[x])], 0.0, 0.0)
            elif s > 0:
                self.matrix.add([(x, 1.0)], 0.0, 0.0)
            if layer < self.n - 1:
                self.matrix.add([(x, 1.0), *((f, -1.0) for f in self.outward[x])], 0.0, 0.0)
            elif s < self.stages - 1:
                self.matrix.add([(x, 1.0)], 0.0, 0.0)
        for layer in range(self.n):
            here = [(x, 1.0) for (place, _, _), x in self.node.items() if place == layer]
            self.matrix.add(here, 1.0, 1.0)

    def epigraphs(self) -> None:
        """The slowest stage, and the longest work of once a step."""
        problem = self.problem
        slowest, longest = self.variable(problem.tail_weight), self.variable(1.0)
        self.upper[slowest] = self.cap / self.unit
        fixed = float(problem.stage_once[0]) / self.unit
        for s in range(self.stages):
            self.matrix.add([*self.time_of[s], (slowest, -1.0)], -np.inf, 0.0)
            once = [
                (x, float(problem.once[0, layer]) / self.unit)
                for (layer, t, _), x in self.node.items()
                if t == s
            ]
            self.matrix.add([*once, (longest, -1.0)], -np.inf, -fixed)

    def memory(self) -> None:
        """Bytes of each stage, in units of its capacity, with the largest transient on top."""
        problem = self.problem
        capacity = problem.kinds[0].capacity
        for s, count in enumerate(problem.in_flight):
            peak = self.variable(0.0)
            self.upper[peak] = 1.0
            terms = [(peak, 1.0)]
            for (layer, t, a), x in self.node.items():
                if t != s:
                    continue
                held = problem.persistent[0, layer, a] + count * problem.activation[0, layer, a]
                terms.append((x, float(held / capacity)))
                transient = float(problem.transient[0, layer, a] / capacity)
                if transient:
                    self.matrix.add([(x, transient), (peak, -1.0)], -np.inf, 0.0)
            self.matrix.add(terms, -np.inf, 1.0)

    def program(self) -> Program:
        """The finished programme."""
        size = len(self.cost)
        upper = np.full(size, np.inf)
        upper[: self.whole] = 1.0
        for place, value in self.upper.items():
            upper[place] = value
        return Program(
            np.array(self.cost),
            np.zeros(size),
            upper,
            np.arange(size) < self.whole,
            np.array(self.matrix.rows),
            np.array(self.matrix.columns),
            np.array(self.matrix.values),
            np.array(self.matrix.lower),
            np.array(self.matrix.upper),
        )


def _stage_cap(problem: PlanningProblem, target: float) -> float:
    """The slowest stage of any plan as good as the target [s]."""
    if not np.isfinite(target) or problem.tail_weight <= 0:
        return float("inf")
    least = problem.seconds[0].min(axis=1)
    return float(
        (target * (1 + 1e-6) - problem.sum_weights.min() * least.sum()) / problem.tail_weight
    )


def _windows(least: Floats, stages: int, cap: float) -> tuple[list[int], list[int]]:
    """First and last stage in which each layer can lie if no stage is slower than ``cap``."""
    n = len(least)
    earliest: list[int] = []
    latest: list[int] = []
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
