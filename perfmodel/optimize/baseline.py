"""The best uniform plan: what a careful user of today's frameworks would run.

One set of degrees for all stages, one strategy for all layers, blocks cut as evenly as possible: by
count, or (``cut="time"``) so that the slowest stage is as fast as possible. Every degree, stage
size, micro-batch and strategy of the same space is tried, and priced by the same expression as the
planner's own plans.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np

from perfmodel.errors import Infeasible
from perfmodel.hardware import Cluster
from perfmodel.optimize.answer import MilpPlan
from perfmodel.optimize.candidates import Candidate, answer_of, candidates_of
from perfmodel.optimize.outer import PointSolution
from perfmodel.optimize.pricing import priced
from perfmodel.optimize.problem import Evaluation, Integers, PlanningProblem, Stage, evaluate
from perfmodel.optimize.space import Piece, Space, pieces_of
from perfmodel.optimize.uniform import space_of
from perfmodel.parallel.layout import even_layout
from perfmodel.workload.transformer import ModelConfig, Stack, stack_of


def best_uniform(
    model: ModelConfig | str | Sequence[Piece],
    cluster_or_clusters: Cluster | Sequence[Cluster],
    global_batch_size: int,
    seq_len: int,
    *,
    space: Space | None = None,
    stack: Stack | str = "megatron",
    cut: str = "count",
) -> MilpPlan:
    """The uniform plan with the shortest step.

    With several clusters, all of them are used, with stages of the same size and degrees on each.
    ``cut`` is ``"count"`` (blocks cut evenly) or ``"time"`` (the best cut for these degrees and
    this strategy).

    Raises
    ------
    Infeasible
        If no uniform plan fits.
    """
    space = space_of(space, Space, "planner")
    stack = stack_of(stack)
    pieces = pieces_of(model, seq_len)
    given = (
        (cluster_or_clusters,) if isinstance(cluster_or_clusters, Cluster) else cluster_or_clusters
    )
    clusters = tuple(given)
    table = priced(pieces, clusters, global_batch_size, space, stack)
    best: tuple[Candidate, tuple[Stage, ...], Evaluation] | None = None
    tried = 0
    for candidate in candidates_of(table):
        for layout in _layouts(candidate, clusters, cut):
            tried += 1
            evaluation = evaluate(candidate.problem, layout)
            if evaluation.feasible and (best is None or evaluation.step < best[2].step):
                best = (candidate, layout, evaluation)
    if best is None:
        raise Infeasible(
            "best_uniform",
            f"{tried} uniform plans",
            "a plan that fits into memory",
            repair="allow more recomputation or sharding, or plan stage by stage",
        )
    candidate, layout, evaluation = best
    solution = PointSolution(
        "feasible", layout, evaluation, -math.inf, "enumeration", 0.0, tried, 0, 0
    )
    head: dict[str, object] = {
        "objective": "step_time",
        "model": " + ".join(piece.model.name for piece in pieces),
        "global_batch_size": global_batch_size,
        "seq_len": seq_len,
        "solver": "enumeration",
        "points": tried,
        "solved": tried,
        "columns": 0,
        "layers": table.layers,
        "schedule": space.schedule,
        "notes": (),
    }
    return answer_of(candidate, solution, evaluation.step, -math.inf, head, 0.0)


def even_stages(layers: tuple[str, ...], stages: int) -> list[int]:
    """Planning layers of each stage when the blocks are cut evenly by count.

    Embeddings go with the block after them, heads with the block before.
    """
    block = np.array([not name.endswith(("embedding", "head")) for name in layers])
    if stages > block.sum():
        return []
    ends = np.cumsum(even_layout(int(block.sum()), stages))
    number = np.cumsum(block)
    edges = [0]
    for end in ends[:-1]:
        place = int(np.flatnonzero(number == end)[0]) + 1
        while place < len(layers) and layers[place].endswith("head"):
            place += 1
        edges.append(place)
    edges.append(len(layers))
    return np.diff(edges).tolist()


def _layouts(
    candidate: Candidate, clusters: tuple[Cluster, ...], cut: str
) -> list[tuple[Stage, ...]]:
    """Every uniform layout of a point: a mode, a strategy, an order of the device types."""
    problem, table = candidate.problem, candidate.table
    sizes = even_stages(problem.layers, problem.stages)
    if not sizes or len(set(candidate.point.sizes)) > 1:
        return []
    ends = np.cumsum([0, *sizes])
    by_plan: dict[str, dict[int, int]] = {}
    for q, (g, mode) in enumerate(candidate.chosen):
        by_plan.setdefault(repr(replace(table.modes[g][mode])), {})[g] = q
    found = []
    for kinds in by_plan.values():
        if len(kinds) < len(clusters):
            continue
        for order in permutations(range(len(clusters))):
            row = [
                kinds[g]
                for g in order
                for _ in range(clusters[g].devices // candidate.point.sizes[g])
            ]
            for k in range(len(problem.strategies)):
                if not np.isfinite(problem.seconds[row, :, k]).all():
                    continue
                edges = ends if cut == "count" else _balanced(problem, row, k)
                found.append(
                    tuple(
                        Stage(
                            int(edges[s]),
                            int(edges[s + 1]) - 1,
                            row[s],
                            (k,) * int(edges[s + 1] - edges[s]),
                        )
                        for s in range(problem.stages)
                    )
                )
    return found


def _balanced(problem: PlanningProblem, row: list[int], k: int) -> Integers:
    """Edges of the stages that make the slowest one as fast as possible (memory aside)."""
    n, stages = len(problem.layers), problem.stages
    total = np.concatenate(
        [np.zeros((len(row), 1)), np.cumsum(problem.seconds[row, :, k], axis=1)], axis=1
    )
    reach = np.full((stages + 1, n + 1), np.inf)
    reach[0, 0] = 0.0
    back = np.zeros((stages + 1, n + 1), dtype=np.int64)
    for s in range(stages):
        span = np.where(
            np.arange(n + 1)[:, None] < np.arange(n + 1)[None], total[s][None] - total[s][:, None],
            np.inf,
        )  # fmt: skip
        worst = np.maximum(reach[s][:, None], span)
        back[s + 1], reach[s + 1] = worst.argmin(axis=0), worst.min(axis=0)
    edges = [n]
    for s in range(stages, 0, -1):
        edges.append(int(back[s, edges[-1]]))
    return np.array(edges[::-1], dtype=np.int64)
