"""Exact search over the whole grid of uniform plans.

Every plan of the grid is evaluated by the same array expression that prices one plan, so the best
of the grid is known, not guessed. Plans within :data:`TIE` of each other are taken as equal, and
the simpler one is named first.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost import Efficiency
from perfmodel.errors import Infeasible, PlanError, nearest_name
from perfmodel.hardware import Cluster
from perfmodel.optimize.pareto import pareto_front
from perfmodel.optimize.uniform import Space, plan_blocks, space_of
from perfmodel.parallel.grid import COLUMNS, PlanGrid
from perfmodel.parallel.plan import Plan, counted, sizes_of_step
from perfmodel.parallel.result import TrainResult
from perfmodel.parallel.step import compute_bound
from perfmodel.parallel.training import evaluate_grid, tables_of, train
from perfmodel.units import format_bytes, number
from perfmodel.workload.transformer import ModelConfig, Stack, stack_of

OBJECTIVES: Final = ("step_time", "memory")
TIE: Final = 0.005
"""Relative difference below which two plans count as equally good."""
HEADROOM: Final = 0.05
"""Memory left free by default: what a caching allocator loses to fragments. SimuMax takes 6 %."""
CHUNK: Final = 2**15
"""Plans evaluated at once: small enough for the caches."""
POOL: Final = 2048
"""Best plans kept of every chunk, from which ties are resolved; no answer lists more."""


@dataclass(frozen=True, slots=True)
class ParetoPoint:
    """A plan that no other beats in both time and memory."""

    plan: Plan
    step_time_s: float
    peak_memory_bytes: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found.

    Parameters
    ----------
    plans : tuple of TrainResult
        The best plans, in order.
    pareto : tuple of ParetoPoint
        The front of step time against peak memory, fastest first.
    evaluated : int
        Plans whose time and memory were computed.
    infeasible : dict of str to int
        Plans left out, by reason; ``"memory"`` counts evaluated plans that do not fit.
    lower_bound_s : float
        No plan of the grid can be faster: the least compute of any of them at peak rates [s].
    gap : float
        Share of the best step above that bound.
    seconds : float
        How long the search took [s].
    """

    plans: tuple[TrainResult, ...]
    pareto: tuple[ParetoPoint, ...]
    evaluated: int
    infeasible: dict[str, int]
    lower_bound_s: float
    gap: float
    seconds: float

    @property
    def best(self) -> TrainResult:
        """The first of the plans."""
        return self.plans[0]

    def explain(self) -> str:
        """The best plan explained, and what the search did."""
        lines = [self.best.explain(), ""]
        lines.append(
            f"{self.evaluated} plans evaluated in {self.seconds:.2f} s; "
            f"lower bound {self.lower_bound_s:.4g} s, {self.gap:.1%} of the best step is above it"
        )
        for reason, count in sorted(self.infeasible.items(), key=lambda item: -item[1]):
            lines.append(f"  left out: {count} ({reason})")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "plans": [result.to_dict() for result in self.plans],
            "pareto": [
                {
                    "plan": point.plan.to_dict(),
                    "step_time_s": point.step_time_s,
                    "peak_memory_bytes": point.peak_memory_bytes,
                }
                for point in self.pareto
            ],
            "evaluated": self.evaluated,
            "infeasible": self.infeasible,
            "lower_bound_s": self.lower_bound_s,
            "gap": self.gap,
            "seconds": self.seconds,
        }


def search(
    model: ModelConfig,
    cluster: Cluster,
    global_batch_size: int,
    seq_len: int,
    objective: str = "step_time",
    top: int = 5,
    *,
    space: Space | None = None,
    stack: Stack | str = "megatron",
    efficiency: Efficiency | None = None,
    headroom: float = HEADROOM,
    progress: Callable[[int], None] | None = None,
) -> SearchResult:
    """The best uniform plans for a model on a cluster.

    Parameters
    ----------
    model, cluster, global_batch_size, seq_len
        What is trained, on what, sequences in a step, tokens in a sequence.
    objective : str
        ``"step_time"`` or ``"memory"``.
    top : int
        Plans returned.
    space : Space, optional
        Degrees and settings to try; everything that divides by default.
    stack : Stack or str
        How the software runs the work.
    efficiency : Efficiency, optional
        Instead of the chip's own.
    headroom : float
        Share of the memory that a plan must leave free.
    progress : callable, optional
        Called with the number of plans evaluated so far.

    Raises
    ------
    PlanError
        If an argument makes no sense.
    Infeasible
        If no plan of the grid fits in memory.
    """
    global_batch_size, seq_len = sizes_of_step(global_batch_size, seq_len, "search")
    top = counted("search: top", top, most=POOL)
    _check(objective, headroom)
    space = space_of(space, Space, "search")
    stack = stack_of(stack)
    start = time.perf_counter()
    rejected: Counter[str] = Counter()
    state = _Best(objective, top)
    for block in plan_blocks(space, model, cluster.devices, global_batch_size, seq_len, rejected):
        tables = tables_of(model, cluster, block, global_batch_size, seq_len, stack, efficiency)
        for first in range(0, len(block), CHUNK):
            places = slice(first, first + CHUNK)
            part = block.take(places)
            there = tables.take(places)
            table = evaluate_grid(part, there)
            bound = float(compute_bound(part, there).min())
            fits = table.peak_memory <= table.capacity * (1.0 - headroom)
            state.add(part, table.step_time, table.peak_memory, fits, bound)
            if progress is not None:
                progress(state.evaluated)
    if state.evaluated == 0 or not state.grids:
        raise _nothing(state, rejected, cluster)
    plans = state.ranked(top)
    results = tuple(
        train(model, cluster, plan, global_batch_size, seq_len, stack, efficiency=efficiency)
        for plan in plans
    )
    reasons = {reason: count for reason, count in rejected.items() if count}
    if state.evaluated > state.feasible:
        reasons["memory"] = state.evaluated - state.feasible
    best = results[0].step_time_s
    return SearchResult(
        plans=results,
        pareto=state.front(),
        evaluated=state.evaluated,
        infeasible=reasons,
        lower_bound_s=state.bound,
        gap=max(0.0, 1.0 - state.bound / best),
        seconds=time.perf_counter() - start,
    )


class _Best:
    """The best plans so far, the front so far, and counts."""

    def __init__(self, objective: str, top: int) -> None:
        self.objective = objective
        self.keep = max(POOL, top)
        self.evaluated = 0
        self.feasible = 0
        self.bound = np.inf
        self.least_memory = np.inf
        self.grids: list[PlanGrid] = []
        self.scores: list[NDArray[np.float64]] = []
        self.memory: list[NDArray[np.float64]] = []
        self.fronts: list[tuple[PlanGrid, NDArray[np.float64], NDArray[np.float64]]] = []

    def add(
        self,
        grid: PlanGrid,
        step: NDArray[np.float64],
        memory: NDArray[np.float64],
        fits: NDArray[np.bool_],
        bound: float,
    ) -> None:
        """One chunk of evaluated plans."""
        self.evaluated += len(grid)
        self.bound = min(self.bound, bound)
        self.least_memory = min(self.least_memory, float(memory.min()))
        places = np.flatnonzero(fits)
        self.feasible += len(places)
        if len(places) == 0:
            return
        scores = (step if self.objective == "step_time" else memory)[places]
        if len(places) > self.keep:
            order = np.argpartition(scores, self.keep)[: self.keep]
            near = np.flatnonzero(scores <= scores.min() * (1 + TIE))
            order = np.union1d(order, near)
        else:
            order = np.arange(len(places))
        self.grids.append(grid.take(places[order]))
        self.scores.append(scores[order])
        self.memory.append(memory[places[order]])
        front = places[pareto_front(step[places], memory[places])]
        self.fronts.append((grid.take(front), step[front], memory[front]))

    def ranked(self, top: int) -> list[Plan]:
        """The best plans; of those within a tie of the best one left, the simplest comes first."""
        grid = joined(self.grids)
        scores = np.concatenate(self.scores)
        memory = np.concatenate(self.memory)
        order = np.lexsort((memory, *reversed(complexity(grid)), scores))
        simple = np.empty(len(order), dtype=np.int64)
        simple[np.lexsort((scores, memory, *reversed(complexity(grid))))] = np.arange(len(order))
        left = list(order)
        plans: list[Plan] = []
        while left and len(plans) < top:
            limit = scores[left[0]] * (1 + TIE)
            tied = []
            for place in left:
                if scores[place] > limit:
                    break
                tied.append(place)
            chosen = min(tied, key=lambda place: simple[place])
            left.remove(chosen)
            plans.append(grid.plan(int(chosen)))
        return plans

    def front(self) -> tuple[ParetoPoint, ...]:
        """The front of everything seen."""
        grid = joined([front[0] for front in self.fronts])
        step = np.concatenate([front[1] for front in self.fronts])
        memory = np.concatenate([front[2] for front in self.fronts])
        return tuple(
            ParetoPoint(grid.plan(int(place)), float(step[place]), float(memory[place]))
            for place in pareto_front(step, memory)
        )


def complexity(grid: PlanGrid) -> tuple[NDArray[np.int64], ...]:
    """What makes a plan simple, most important first; smaller is simpler.

    Mechanisms in use; devices that one copy of the model is spread over; chunks; ZeRO stage.
    """
    mechanisms = (
        (grid.tp > 1).astype(np.int64)
        + (grid.pp > 1)
        + (grid.cp > 1)
        + (grid.ep > 1)
        + (grid.virtual_stages > 1)
        + (grid.zero > 0)
        + (grid.recompute > 0)
        + grid.sequence_parallel
    )
    return mechanisms, grid.tp * grid.pp * grid.cp, grid.virtual_stages, grid.zero


def joined(grids: list[PlanGrid]) -> PlanGrid:
    """Grids that share everything but their columns, as one."""
    columns = {name: np.concatenate([getattr(g, name) for g in grids]) for name in COLUMNS}
    return PlanGrid(**columns, base=grids[0].base)


def _nothing(state: _Best, rejected: Counter[str], cluster: Cluster) -> Infeasible | PlanError:
    reasons = "; ".join(f"{reason}: {count}" for reason, count in rejected.most_common() if count)
    if state.evaluated == 0:
        reasons = reasons or "no product of the degrees divides them"
        return PlanError(
            "search",
            "<no valid plan>",
            f"a batch and a model that can be split over {cluster.devices} devices ({reasons})",
            repair="change the batch, the number of nodes, or widen the space",
        )
    has = cluster.accelerator.memory_capacity
    return Infeasible(
        f"search on {cluster.name}",
        f"<{state.evaluated} plans, the smallest needs {format_bytes(state.least_memory)}>",
        f"at most {format_bytes(has)} a device",
        repair="use more devices, a shorter sequence, offloading, or devices with more memory",
    )


def _check(objective: str, headroom: float) -> None:
    share = number(headroom)
    if share is None or not 0.0 <= share < 1.0:
        raise PlanError(
            "search: headroom",
            headroom,
            "a share of the memory, at least 0 and below 1",
            repair="give 0.05 to leave a twentieth free",
        )
    if not isinstance(objective, str) or objective not in OBJECTIVES:
        raise PlanError(
            "search: objective",
            objective,
            ", ".join(OBJECTIVES),
            nearest=nearest_name(objective, OBJECTIVES),
            repair="choose one of the objectives",
        )
