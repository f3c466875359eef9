"""The interval programme: which layers on which stage, as binaries, for the solver.

min  sum w C u + (M - w) * Tmax + Dmax
s.t. exactly one first stage; stage s + 1 begins where stage s ends (and knows its device type);
     Tmax >= sum C u,  Dmax >= sum D u          one row per stage
     devices used of each type <= available
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perfmodel.optimize import stages as chains
from perfmodel.optimize.milp import Program
from perfmodel.optimize.problem import PlanningProblem, Stage

Floats = npt.NDArray[np.float64]
Layout = tuple[Stage, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """The programme, the column behind each binary (s, g, q, i, j), and the unit of time [s]."""

    program: Program
    which: npt.NDArray[np.int64]
    unit: float


def interval_program(
    problem: PlanningProblem,
    table: chains.Columns,
    which: npt.NDArray[np.int64],
    target: float = math.inf,
) -> Built:
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
    return Built(program, which, unit)


def start_point(
    problem: PlanningProblem, built: Built, table: chains.Columns, layout: Layout
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
