"""Candidates of the search: the problem of a point, its cheap bound, and its answer in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from perfmodel.errors import PlanError
from perfmodel.optimize.answer import MilpPlan, StageAnswer
from perfmodel.optimize.outer import PointSolution, quick_bound
from perfmodel.optimize.pricing import Priced, problem_of
from perfmodel.optimize.problem import PlanningProblem, Stage, gathered_runs
from perfmodel.optimize.relax import Shortage, shortage
from perfmodel.optimize.space import Point
from perfmodel.parallel.training import IDLE_POWER


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A point of one pool of devices with its cheap bound, in units of the objective."""

    table: Priced
    point: Point
    problem: PlanningProblem
    chosen: tuple[tuple[int, int], ...]
    scale: float
    floor: float


def candidates_of(
    table: Priced, objective: str = "step_time", rate: float = 1.0, tokens: int = 1
) -> list[Candidate]:
    """The problem of every point of a pool, with its bound in units of the objective."""
    found = []
    watts = [0.0 for _ in table.clusters]
    if objective == "energy":
        watts = [cluster.accelerator.require("tdp") for cluster in table.clusters]
    for point in table.points:
        extra: tuple[float, ...] = ()
        scale = rate
        devices = sum(cluster.devices for cluster in table.clusters)
        if objective == "energy":
            # Everyone draws the idle share all the time; a working stage the rest as well.
            idle = IDLE_POWER * sum(
                w * c.devices for w, c in zip(watts, table.clusters, strict=True)
            )
            extra = tuple(
                (1 - IDLE_POWER) * w * n * point.micro_batches / idle
                for w, n in zip(watts, point.sizes, strict=True)
            )
            scale = idle / tokens
        elif objective == "cost":
            scale = rate / tokens
        elif objective == "devices":
            scale = float(devices)
        problem, chosen = problem_of(table, point, extra=extra)
        floor = quick_bound(problem)
        floor = scale * (1.0 if objective == "devices" and math.isfinite(floor) else floor)
        found.append(Candidate(table, point, problem, chosen, scale, floor))
    return found


def answer_of(
    candidate: Candidate,
    solution: PointSolution,
    value: float,
    bound: float,
    head: dict[str, Any],
    gap: float,
) -> MilpPlan:
    """A solved point in the words of the model and the clusters."""
    table, problem = candidate.table, candidate.problem
    layout, evaluation = solution.layout, solution.evaluation
    if layout is None or evaluation is None:
        raise PlanError("planner", "no layout", "a solved point", repair="report this as a bug")
    layout = gathered_runs(problem, layout)
    stages = []
    for s, stage in enumerate(layout):
        modes = _modes_of(candidate, stage)
        g, mode = max(set(modes), key=modes.count)
        forward = sum(
            table.costs[g].forward[own, layer]
            for layer, (_, own) in enumerate(modes, start=stage.first)
        )
        came = problem.kinds[layout[max(s - 1, 0)].kind].device_type
        send = float(problem.enter[came, stage.kind, max(stage.first, 1)])
        stages.append(
            StageAnswer(
                first=stage.first,
                last=stage.last,
                device_type=table.clusters[g].accelerator.name,
                devices=problem.kinds[stage.kind].devices,
                plan=table.modes[g][mode],
                strategies=tuple(problem.strategies[k] for k in stage.strategies),
                forward=float(forward),
                send=send if problem.stages > 1 else 0.0,
                seconds=float(evaluation.stage_seconds[s]),
                once=float(evaluation.stage_once[s]),
                bytes_held=float(evaluation.stage_bytes[s]),
                capacity=float(evaluation.capacity[s]),
            )
        )
    bound = min(bound, value)
    proven = value - bound <= max(gap, 2e-6) * abs(value)
    return MilpPlan(
        status="optimal" if proven else "feasible",
        value=value,
        bound=bound,
        step_time=solution.step,
        micro_batches=candidate.point.micro_batches,
        virtual_stages=candidate.point.virtual_stages,
        stages=tuple(stages),
        clusters=tuple(cluster.name for cluster in table.clusters),
        devices=sum(cluster.devices for cluster in table.clusters),
        seconds=0.0,
        kept=solution.kept,
        **head,
    )


def _modes_of(candidate: Candidate, stage: Stage) -> list[tuple[int, int]]:
    """(device type, mode) of every layer of a stage."""
    if not candidate.table.space.per_layer:
        return [candidate.chosen[stage.kind]] * len(stage.strategies)
    words = len(candidate.table.space.strategies)
    return [candidate.chosen[k // words] for k in stage.strategies]


def closest(candidates: list[Candidate]) -> tuple[Shortage, Candidate] | None:
    """The candidate whose worst device lacks least memory."""
    best: tuple[Shortage, Candidate] | None = None
    for candidate in candidates:
        lack = shortage(candidate.problem)
        if lack is not None and (best is None or lack.missing < best[0].missing):
            best = (lack, candidate)
    return best
