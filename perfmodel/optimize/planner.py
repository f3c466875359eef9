"""Plan a training job exactly: every mesh, micro-batch and stage size, with one certificate.

Points are visited in the order of a bound that costs nothing; a point whose bound is not below the
best plan so far is cut off unsolved. The bound of the answer is the least over all points, solved
or not, so a search that runs out of time still says how far from optimal it can be.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from perfmodel.errors import PlanError, nearest_name
from perfmodel.hardware import Cluster
from perfmodel.optimize.answer import Alternative, MilpPlan, Relaxation
from perfmodel.optimize.candidates import Candidate, answer_of, candidates_of
from perfmodel.optimize.limits import relaxation_of, resized
from perfmodel.optimize.milp import SOLVERS
from perfmodel.optimize.outer import PointSolution, solve_point
from perfmodel.optimize.pricing import Priced, priced
from perfmodel.optimize.space import Piece, Space, pieces_of
from perfmodel.optimize.uniform import space_of
from perfmodel.parallel.plan import sizes_of_step
from perfmodel.workload.transformer import ModelConfig, Stack, stack_of

OBJECTIVES: Final = ("step_time", "cost", "energy", "devices")
"""``step_time`` [s]; ``cost`` of a token [USD], the inverse of tokens per second per dollar;
``energy`` of a token [J]; ``devices``, the fewest that meet a deadline."""
Confirm = Callable[[MilpPlan], float]


def milp_plan(
    model: ModelConfig | str | Sequence[Piece],
    cluster_or_clusters: Cluster | Sequence[Cluster],
    global_batch_size: int,
    seq_len: int,
    *,
    objective: str = "step_time",
    deadline_s: float | None = None,
    price_per_hour: Sequence[float] | None = None,
    space: Space | None = None,
    stack: Stack | str = "megatron",
    solver: str = "highs",
    time_limit_s: float = 60.0,
    gap: float = 1e-6,
    confirm: Confirm | None = None,
    keep: int = 3,
    slack: float = 0.02,
) -> MilpPlan:
    """The best pipeline plan, with a proven bound.

    Parameters
    ----------
    model : ModelConfig, str or sequence of Piece
        A model, or towers one after another (a vision encoder, then a language model).
    cluster_or_clusters : Cluster or sequence of Cluster
        Where it runs. With several device types every subset is planned: one pipeline over all of
        them, or over one.
    global_batch_size, seq_len : int
        Sequences in a step, tokens in a sequence.
    objective : str
        One of :data:`OBJECTIVES`.
    deadline_s : float, optional
        For ``devices``: the step must not be longer [s].
    price_per_hour : sequence of float, optional
        Of a device of each cluster [USD/h]; by default the accelerators' own.
    space : Space, optional
        Degrees and strategies that may be used.
    stack : Stack or str
        How the software runs the work.
    solver : str
        ``"highs"`` or ``"cbc"``.
    time_limit_s : float
        For the whole search [s]; at the limit the best plan so far comes back with its gap.
    gap : float
        Relative gap that counts as optimal.
    confirm : callable, optional
        Step time of a plan by other means, such as a simulator [s]; the best ``keep`` plans within
        ``slack`` of the best are ranked by it.

    Returns
    -------
    MilpPlan
        ``status`` tells whether it is optimal, feasible or infeasible.

    Raises
    ------
    PlanError
        If the question itself is wrong: unknown objective, degrees that divide nothing.
    """
    began = time.perf_counter()
    global_batch_size, seq_len = sizes_of_step(global_batch_size, seq_len, "planner")
    _check(objective, deadline_s, solver, time_limit_s)
    space = space_of(space, Space, "planner")
    stack = stack_of(stack)
    pieces = pieces_of(model, seq_len)
    clusters = _clusters(cluster_or_clusters)
    pools = _pools(clusters, objective, price_per_hour)
    name = " + ".join(piece.model.name for piece in pieces)
    tables, candidates, notes = _points(
        pieces, pools, objective, global_batch_size, seq_len, space, stack
    )
    # Near-best plans are sought only for someone who ranks them by other means.
    reach = slack if confirm is not None and keep > 1 else 0.0
    search = _Search(objective, deadline_s, solver, gap, began + time_limit_s, reach, keep)
    search.run(candidates)
    head: dict[str, Any] = {
        "objective": objective,
        "model": name,
        "global_batch_size": global_batch_size,
        "seq_len": seq_len,
        "solver": solver,
        "points": len(candidates),
        "solved": search.solved,
        "layers": tables[0].layers,
        "schedule": space.schedule,
    }
    if not search.found:
        relaxation = None
        if not search.unsettled and deadline_s is None:
            relaxation = relaxation_of(
                candidates, pieces, clusters, global_batch_size, space, stack
            )
        return _nothing(search, clusters, relaxation, notes, began, head)
    plans = [
        answer_of(
            candidate,
            solution,
            search.value(candidate, solution.objective),
            search.bound,
            head | {"columns": search.columns, "notes": notes},
            search.gap,
        )
        for candidate, solution in search.ranked()
    ]
    if confirm is not None:
        plans = sorted(
            (replace(plan, confirmed=float(confirm(plan))) for plan in plans),
            key=lambda plan: float(plan.confirmed or math.inf) * plan.value / plan.step_time,
        )
    others = tuple(
        Alternative(plan.value, plan.step_time, _describe(plan), plan.confirmed)
        for plan in plans[1:]
    )
    return replace(plans[0], alternatives=others, seconds=time.perf_counter() - began)


@dataclass(slots=True)
class _Search:
    """Visits candidates in the order of their bounds and keeps the best plans."""

    objective: str
    deadline_s: float | None
    solver: str
    gap: float
    until: float
    slack: float
    keep: int
    found: list[tuple[float, Candidate, PointSolution]] = field(default_factory=list)
    solved: int = 0
    columns: int = 0
    bound: float = math.inf
    unsettled: bool = False

    def run(self, candidates: list[Candidate]) -> None:
        best = math.inf
        for candidate in sorted(candidates, key=lambda c: c.floor):
            reach = best * (1 + self.slack)
            left = self.until - time.perf_counter()
            if left <= 0:
                # Out of time: what was not looked at is known by its bound only.
                self.bound = min(self.bound, candidate.floor)
                self.unsettled = True
                continue
            if candidate.floor >= reach:
                self.bound = min(self.bound, candidate.floor)
                continue
            cutoff = self._cutoff(reach, candidate)
            solution = solve_point(
                candidate.problem,
                cutoff=cutoff,
                solver=self.solver,
                time_limit_s=left,
                gap=self.gap,
                certify=False,
            )
            self.solved += 1
            self.columns += solution.columns
            self.unsettled |= solution.status == "unknown"
            value = self.value(candidate, solution.objective)
            bound = self.value(candidate, solution.bound)
            if self.objective == "devices" and self.deadline_s is not None:
                reachable = solution.bound <= self.deadline_s
                bound = candidate.floor if reachable else math.inf
                if solution.step > self.deadline_s:
                    value = math.inf
            self.bound = min(self.bound, bound)
            if math.isfinite(value):
                self.found.append((value, candidate, solution))
                best = min(best, value)
        self.found.sort(key=lambda item: (item[0], item[2].step))
        if self.found:
            self.bound = min(self.bound, self.found[0][0])

    def _cutoff(self, reach: float, candidate: Candidate) -> float:
        if self.objective == "devices":
            return math.inf if self.deadline_s is None else self.deadline_s * (1 + 1e-9)
        return reach / candidate.scale

    def value(self, candidate: Candidate, objective: float) -> float:
        if self.objective == "devices":
            return candidate.scale if math.isfinite(objective) else math.inf
        return objective * candidate.scale

    def ranked(self) -> list[tuple[Candidate, PointSolution]]:
        """The best plan with its certificate from the solver, and the next ones."""
        best = self.found[0][0]
        near = best * (1 + max(self.slack, 0.02))
        kept = [item for item in self.found if item[0] <= near][: self.keep]
        result = []
        for place, (_, candidate, solution) in enumerate(kept):
            left = self.until - time.perf_counter()
            final = solution
            if place == 0 and left > 0:
                again = solve_point(
                    candidate.problem, solver=self.solver, time_limit_s=left, gap=self.gap
                )
                if again.layout is not None and again.objective <= solution.objective:
                    final = again
            result.append((candidate, final))
        return result


def _points(
    pieces: tuple[Piece, ...],
    pools: Sequence[tuple[tuple[Cluster, ...], float]],
    objective: str,
    global_batch_size: int,
    seq_len: int,
    space: Space,
    stack: Stack,
) -> tuple[list[Priced], list[Candidate], tuple[str, ...]]:
    """Prices and points of every pool of clusters, and why a pool has none.

    Raises
    ------
    PlanError
        If no pool has a point.
    """
    notes: list[str] = []
    candidates: list[Candidate] = []
    tables: list[Priced] = []
    for pool, rate in pools:
        try:
            table = priced(pieces, pool, global_batch_size, space, stack)
        except PlanError as error:
            notes.append(f"{_names(pool)}: {error.accepted} needed, got {error.got}")
            continue
        tables.append(table)
        candidates += candidates_of(table, objective, rate, global_batch_size * seq_len)
    if not candidates:
        raise PlanError(
            "planner: degrees",
            "; ".join(notes),
            "a batch, a number of devices and degrees that divide one another",
            repair="change the global batch size, allow other degrees, or use another node count",
        )
    return tables, candidates, tuple(notes)


def _nothing(
    search: _Search,
    clusters: Sequence[Cluster],
    relaxation: Relaxation | None,
    notes: tuple[str, ...],
    began: float,
    head: Mapping[str, Any],
) -> MilpPlan:
    """The answer where no plan was found: none exists, or the time ended before one was."""
    return MilpPlan(
        status="unknown" if search.unsettled else "infeasible",
        value=math.inf,
        bound=search.bound,
        step_time=math.inf,
        micro_batches=0,
        virtual_stages=1,
        stages=(),
        clusters=tuple(c.name for c in clusters),
        devices=sum(c.devices for c in clusters),
        seconds=time.perf_counter() - began,
        columns=search.columns,
        kept=0,
        relaxation=relaxation,
        notes=notes,
        **head,
    )


def _describe(plan: MilpPlan) -> str:
    degrees = sorted({stage.degrees for stage in plan.stages})
    return (
        f"{len(plan.stages)} stages, {plan.micro_batches} micro-batches, {'; '.join(degrees)}"
        f" on {' + '.join(plan.clusters)}"
    )


def _clusters(given: Cluster | Sequence[Cluster]) -> tuple[Cluster, ...]:
    return (given,) if isinstance(given, Cluster) else tuple(given)


def _names(pool: tuple[Cluster, ...]) -> str:
    return " + ".join(f"{c.nodes} x {c.name}" for c in pool)


def _pools(
    clusters: tuple[Cluster, ...], objective: str, prices: Sequence[float] | None
) -> list[tuple[tuple[Cluster, ...], float]]:
    """Sets of devices to plan for, with what they cost [USD/s] (1 unless cost is asked)."""
    subsets = [
        tuple(c for g, c in enumerate(clusters) if mask >> g & 1)
        for mask in range(1, 2 ** len(clusters))
    ]
    if objective in ("cost", "devices"):
        sized = []
        for subset in subsets:
            counts = [_node_counts(c.nodes) for c in subset]
            grid = np.array(np.meshgrid(*counts, indexing="ij")).reshape(len(subset), -1).T
            sized += [
                tuple(resized(c, int(k)) for c, k in zip(subset, row, strict=True)) for row in grid
            ]
        subsets = sized
    if objective != "cost":
        return [(subset, 1.0) for subset in subsets]
    rates = {}
    for g, cluster in enumerate(clusters):
        price = prices[g] if prices is not None else cluster.accelerator.price_per_hour
        if price is None:
            raise PlanError(
                "planner: price_per_hour",
                None,
                "a price for a device of each cluster [USD/h]",
                repair=f"pass price_per_hour, since {cluster.accelerator.name} has none on file",
            )
        rates[cluster.name] = float(price) / 3600.0
    return [(s, sum(rates[c.name] * c.devices for c in s)) for s in subsets]


def _node_counts(nodes: int) -> list[int]:
    return sorted({2**k for k in range(nodes.bit_length()) if 2**k <= nodes} | {nodes})


def _check(
    objective: str,
    deadline_s: float | None,
    solver: str,
    time_limit_s: float,
) -> None:
    for name, value, known in (
        ("objective", objective, OBJECTIVES),
        ("solver", solver, SOLVERS),
    ):
        if value not in known:
            raise PlanError(
                f"planner: {name}",
                value,
                ", ".join(known),
                nearest=nearest_name(value, known),
                repair="name one of the accepted words",
            )
    if objective == "devices" and not (deadline_s and deadline_s > 0):
        raise PlanError(
            "planner: deadline_s",
            deadline_s,
            "a positive step time [s]",
            repair="say how long a step may take",
        )
    if not time_limit_s > 0:
        raise PlanError(
            "planner: time_limit_s", time_limit_s, "a positive time [s]", repair="give some time"
        )
