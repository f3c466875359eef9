"""What fits: the change that ends a shortage, the longest context, the largest micro-batch."""

from __future__ import annotations

from dataclasses import replace

from perfmodel.errors import PlanError
from perfmodel.hardware import Cluster, load_cluster
from perfmodel.optimize.answer import Relaxation
from perfmodel.optimize.candidates import Candidate, candidates_of, closest
from perfmodel.optimize.pricing import priced, problem_of
from perfmodel.optimize.relax import shortage
from perfmodel.optimize.space import Piece, Space, divisors, pieces_of
from perfmodel.optimize.uniform import space_of
from perfmodel.units import format_bytes
from perfmodel.workload.transformer import ModelConfig, Stack, stack_of


def relaxation_of(
    candidates: list[Candidate],
    pieces: tuple[Piece, ...],
    clusters: tuple[Cluster, ...],
    batch: int,
    space: Space,
    stack: Stack,
) -> Relaxation | None:
    """The smallest shortage, and which single changes would end it."""
    found = closest(candidates)
    if found is None:
        return None
    lack, candidate = found
    first, last, _ = lack.pieces[lack.stage]
    names = candidate.problem.layers
    where = f"stage {lack.stage} of {candidate.point.stages} ({names[first]} .. {names[last]})"

    def fits(
        changed_space: Space = space,
        changed_clusters: tuple[Cluster, ...] = clusters,
        changed_pieces: tuple[Piece, ...] = pieces,
    ) -> bool:
        try:
            table = priced(changed_pieces, changed_clusters, batch, changed_space, stack)
        except PlanError:
            return False
        some = closest(candidates_of(table, "step_time", 1.0, 1))
        return some is not None and some[0].missing <= 0

    changes = [(f"{format_bytes(lack.missing)} more memory on every device", True)]
    if "full" not in space.strategies:
        wider = replace(space, strategies=(*space.strategies, "full"))
        changes.append(("full recomputation", fits(wider)))
    if 3 not in space.zero:
        changes.append(
            ("fully sharded weights (zero 3)", fits(replace(space, zero=(*space.zero, 3))))
        )
    if "offload" not in space.strategies and all(c.host_link for c in clusters):
        wider = replace(space, strategies=(*space.strategies, "offload"))
        changes.append(("activations in host memory", fits(wider)))
    if not any(ok for _, ok in changes[1:]):
        for factor in (2, 4, 8, 16):
            more = tuple(resized(c, c.nodes * factor) for c in clusters)
            if fits(changed_clusters=more):
                changes.append((f"{factor} x the nodes", True))
                break
        for divisor in (2, 4, 8, 16):
            shorter = tuple(
                piece if piece.model.patch else replace(piece, seq_len=piece.seq_len // divisor)
                for piece in pieces
            )
            if fits(changed_pieces=shorter):
                changes.append((f"sequences of 1/{divisor} the length", True))
                break
    return Relaxation(lack.missing, lack.needed, where, tuple(changes))


def longest_context(
    model: ModelConfig | str,
    cluster: Cluster,
    global_batch_size: int,
    *,
    space: Space | None = None,
    stack: Stack | str = "megatron",
    step: int = 1024,
    most: int = 2**24,
) -> int:
    """The longest sequence, in multiples of ``step`` tokens, for which some plan fits; 0 if none.

    Memory grows with the length, so the limit is found by bisection over exact feasibility.
    """
    space = space_of(space, Space, "planner")
    stack = stack_of(stack)

    def fits(length: int) -> bool:
        pieces = pieces_of(model, length)
        table = priced(pieces, (cluster,), global_batch_size, space, stack)
        return any(
            lack is not None and lack.missing <= 0
            for point in table.points
            for lack in [shortage(problem_of(table, point)[0])]
        )

    if not fits(step):
        return 0
    low = 1
    while low * 2 * step <= most and fits(low * 2 * step):
        low *= 2
    high = low * 2
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * step) else (low, middle)
    return low * step


def largest_micro_batch(
    model: ModelConfig | str,
    cluster: Cluster,
    global_batch_size: int,
    seq_len: int,
    *,
    space: Space | None = None,
    stack: Stack | str = "megatron",
) -> int:
    """The largest micro-batch of a data-parallel rank for which some plan fits; 0 if none."""
    space = space_of(space, Space, "planner")
    stack = stack_of(stack)
    pieces = pieces_of(model, seq_len)
    for size in reversed(divisors(global_batch_size)):
        try:
            table = priced(
                pieces, (cluster,), global_batch_size,
                replace(space, micro_batch_sizes=(size,)), stack,
            )  # fmt: skip
        except PlanError:
            continue
        for point in table.points:
            lack = shortage(problem_of(table, point)[0])
            if lack is not None and lack.missing <= 0:
                return size
    return 0


def resized(cluster: Cluster, nodes: int) -> Cluster:
    """The same kind of cluster with another number of nodes."""
    if nodes == cluster.nodes:
        return cluster
    name = cluster.name.lower().replace(" ", "-")
    return load_cluster(name, nodes=nodes, gpus_per_node=cluster.devices_per_node)
