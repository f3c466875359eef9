"""Points and modes with their prices: from the planner's space to the arrays of a problem."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from perfmodel.errors import PlanError
from perfmodel.hardware import Cluster
from perfmodel.network import collective_seconds
from perfmodel.optimize.costs import STRATEGIES, ModeCosts, degrees_of, mode_costs
from perfmodel.optimize.problem import Floats, PlanningProblem, StageKind, uniform_in_flight
from perfmodel.optimize.space import (
    Piece,
    Point,
    Space,
    divides,
    modes_of,
    padded_length,
    points_of,
)
from perfmodel.parallel import placement
from perfmodel.parallel import schedule as schedules
from perfmodel.parallel.footprint import (
    CONTEXT,
    GEMM_WORKSPACE,
    NCCL_CHANNEL,
    NCCL_CHANNELS,
    PROGRAM,
)
from perfmodel.parallel.plan import Plan
from perfmodel.workload.transformer import Stack, layer_kinds

_BY_LAYER: Final = (
    "seconds", "forward", "persistent", "activation", "transient", "once", "accumulation",
)  # fmt: skip
_BY_KIND: Final = (
    "seconds", "persistent", "activation", "transient", "once", "stage_once", "reshard",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Priced:
    """All modes of all device types with their costs, ready to make problems of points.

    ``modes[g]`` lists the plans of type g; ``costs[g]`` the cost of every layer under each.
    """

    pieces: tuple[Piece, ...]
    clusters: tuple[Cluster, ...]
    batch: int
    space: Space
    modes: tuple[tuple[Plan, ...], ...]
    costs: tuple[ModeCosts, ...]
    points: tuple[Point, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of all planning layers."""
        return self.costs[0].layers

    def mode_name(self, device_type: int, mode: int) -> str:
        """A mode's degrees for people."""
        return degrees_of(self.modes[device_type][mode])


def priced(
    pieces: tuple[Piece, ...],
    clusters: tuple[Cluster, ...],
    batch: int,
    space: Space,
    stack: Stack,
) -> Priced:
    """Enumerate points, and price every layer under every mode that some point needs.

    Raises
    ------
    PlanError
        If no mode divides the model, the batch and the clusters.
    """
    layers = sum(
        piece.model.layers + piece.model.encoder_layers + sum(piece.ends) for piece in pieces
    )
    alike = len(pieces) == 1 and len(layer_kinds(pieces[0].model)) == 1
    points = points_of(clusters, layers, batch, space, alike)
    modes: list[tuple[Plan, ...]] = []
    for g, cluster in enumerate(clusters):
        needed = {(point.sizes[g], point.samples) for point in points}
        modes.append(tuple(modes_of(pieces, cluster, needed, space)))
    usable = [
        {(plan.tp * plan.cp * plan.dp, plan.dp * plan.micro_batch_size) for plan in plans}
        for plans in modes
    ]
    points = [
        point
        for point in points
        if all((n, point.samples) in known for n, known in zip(point.sizes, usable, strict=True))
    ]
    if not points:
        raise PlanError(
            "planner: degrees",
            f"batch {batch} on {' + '.join(str(c.devices) for c in clusters)} devices",
            "a batch, a number of devices and degrees that divide one another",
            repair="change the global batch size, allow other degrees, or use another node count",
        )
    costs = tuple(
        _joined(pieces, cluster, list(plans), stack)
        for cluster, plans in zip(clusters, modes, strict=True)
    )
    return Priced(pieces, clusters, batch, space, tuple(modes), costs, tuple(points))


def _joined(
    pieces: tuple[Piece, ...], cluster: Cluster, plans: list[Plan], stack: Stack
) -> ModeCosts:
    """Costs of all pieces one after another."""
    parts = []
    for piece in pieces:
        # A mode that does not divide the piece is priced as another one, then forbidden.
        legal = np.array(
            [
                divides(
                    piece, plan.micro_batch_size, plan.tp, plan.cp, plan.ep, plan.experts_tensor
                )
                for plan in plans
            ]
        )
        own = [_own(piece, plan, bool(ok)) for plan, ok in zip(plans, legal, strict=True)]
        prefix = f"{piece.model.name}: " if len(pieces) > 1 else ""
        lengths = sorted({padded_length(piece, plan.tp * plan.cp) for plan in own})
        # A padded length depends on the degrees: price each length once and pick.
        tables = [
            mode_costs(piece.model, cluster, own, length, stack, ends=piece.ends, prefix=prefix)
            for length in lengths
        ]
        pick = [lengths.index(padded_length(piece, plan.tp * plan.cp)) for plan in own]
        part = _picked(tables, pick)
        part.seconds[~legal] = np.inf
        parts.append(part)
    names = tuple(name for part in parts for name in part.layers)
    boundary = np.concatenate(
        [np.repeat(part.boundary[:, None], len(part.layers), axis=1) for part in parts], axis=1
    )
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts], axis=1) for name in _BY_LAYER
    }
    bucket = np.max([part.bucket for part in parts], axis=0)
    return ModeCosts(names, **arrays, bucket=bucket, boundary=boundary)


def _own(piece: Piece, plan: Plan, legal: bool) -> Plan:
    """The mode as a piece sees it: its own sequences, and experts only if it has some."""
    changes: dict[str, int | bool | None] = {
        "micro_batch_size": plan.micro_batch_size * piece.repeat
    }
    if not piece.model.is_moe or not legal:
        changes |= {"ep": 1, "expert_tp": None}
    if not legal:
        changes |= {"tp": 1, "sequence_parallel": False}
    return replace(plan, **changes)  # type: ignore[arg-type]


def _picked(tables: list[ModeCosts], pick: list[int]) -> ModeCosts:
    if len(tables) == 1:
        return tables[0]
    rows = np.arange(len(pick))
    values = {
        name: np.stack([getattr(table, name) for table in tables])[pick, rows]
        for name in ModeCosts.__slots__
        if name != "layers"
    }
    return ModeCosts(tables[0].layers, **values)


def fixed_bytes(plan: Plan, stages: int, boundary: float, family: str) -> float:
    """What a device holds besides the layers: context, buffers, workspace, pipeline buffers [B]."""
    groups = (plan.tp > 1) + (plan.cp > 1) + (plan.dp * plan.cp > 1) + (plan.ep > 1) + (stages > 1)
    libraries = PROGRAM if family == "tpu" else CONTEXT + groups * NCCL_CHANNELS * 2 * NCCL_CHANNEL
    held = libraries + GEMM_WORKSPACE + (4 * boundary if stages > 1 else 0.0)
    # ZeRO 2 scatters one bucket of fp32 gradients while the next one fills.
    return float(held + (2 * 4 * plan.bucket_parameters if plan.zero == 2 else 0.0))


def problem_of(
    table: Priced, point: Point, *, extra: tuple[float, ...] = ()
) -> tuple[PlanningProblem, tuple[tuple[int, int], ...]]:
    """The planning problem of a point, and (type, mode) behind each of its stage kinds."""
    chosen: list[tuple[int, int]] = []
    for g, plans in enumerate(table.modes):
        for index, plan in enumerate(plans):
            size = plan.tp * plan.cp * plan.dp
            if size == point.sizes[g] and plan.dp * plan.micro_batch_size == point.samples:
                chosen.append((g, index))
    strategies = [STRATEGIES.index(word) for word in table.space.strategies]

    def gathered(name: str) -> Floats:
        return np.stack([getattr(table.costs[g], name)[i] for g, i in chosen])

    kinds = []
    for g, i in chosen:
        plan, cluster = table.modes[g][i], table.clusters[g]
        held = fixed_bytes(
            plan, point.stages, float(table.costs[g].boundary[i].max()), cluster.accelerator.family
        )
        kinds.append(
            StageKind(
                cluster.accelerator.name,
                g,
                point.sizes[g],
                cluster.accelerator.memory_capacity - held,
            )
        )
    enter = _enter(table, point, chosen)
    seconds = gathered("seconds")[:, :, strategies]
    if point.micro_batches > 1:
        seconds = seconds + gathered("accumulation")[:, :, None]
    if point.stages > 1:
        # The first stage waits for its sends as the others do for what they receive.
        seconds = seconds.copy()
        own = np.array([enter[kind.device_type, q, 1] for q, kind in enumerate(kinds)])
        seconds[:, 0] += own[:, None]
    activation = gathered("activation")[:, :, strategies]
    transient = gathered("transient")[:, :, strategies]
    if table.space.schedule != "gpipe":
        # Logits and loss are gone before the backward pass of the block before them begins.
        heads = [place for place, name in enumerate(table.layers) if name.endswith("head")]
        transient[:, heads] += activation[:, heads]
        activation[:, heads] = 0.0
    k = len(strategies)
    layers = seconds.shape[1]
    problem = PlanningProblem(
        layers=table.layers,
        strategies=table.space.strategies,
        kinds=tuple(kinds),
        available=tuple(cluster.devices for cluster in table.clusters),
        seconds=seconds,
        persistent=gathered("persistent")[:, :, strategies],
        activation=activation,
        transient=transient,
        once=gathered("once"),
        stage_once=np.array([table.costs[g].bucket[i] for g, i in chosen]),
        reshard=np.zeros((len(chosen), layers, k, k)),
        enter=enter,
        micro_batches=point.micro_batches,
        in_flight=_in_flight(table.space.schedule, point),
        warmup=1.0 / point.virtual_stages,
        extra=extra,
    )
    problem, kept = undominated(problem, tuple(chosen))
    if table.space.per_layer:
        problem = _per_layer(table, problem, kept)
    return problem, kept


def _in_flight(schedule: str, point: Point) -> tuple[float, ...]:
    """Micro-batches that each stage holds, in units of all its layers."""
    if point.virtual_stages == 1:
        return uniform_in_flight(schedule, point.stages, point.micro_batches)
    return tuple(
        float(
            schedules.in_flight(
                schedule, s, point.stages, point.virtual_stages, point.micro_batches
            )
        )
        for s in range(point.stages)
    )


def _per_layer(
    table: Priced, problem: PlanningProblem, chosen: tuple[tuple[int, int], ...]
) -> PlanningProblem:
    """One stage kind in which every layer picks its mode as well: strategy = (mode, word).

    Between layers of different modes the activations are dealt out anew, forward and backward: an
    all-to-all among the devices of the stage. What a mode costs once a step beyond the cheapest is
    spread over the micro-batches.
    """
    if len(table.clusters) > 1:
        raise PlanError(
            "space: per_layer",
            f"{len(table.clusters)} device types",
            "one device type",
            repair="plan one cluster, or leave per_layer off",
        )
    cluster, words = table.clusters[0], len(problem.strategies)
    modes, layers = len(chosen), len(problem.layers)

    def merged(array: Floats) -> Floats:
        return array.swapaxes(0, 1).reshape(1, layers, modes * words)

    least = problem.once.min(axis=0)
    beyond = (problem.once - least) / problem.micro_batches
    devices = problem.kinds[0].devices
    near = min(devices, placement.domain_devices(cluster))
    reshard = np.zeros((1, layers, modes, words, modes, words))
    for to, (g, i) in enumerate(chosen):
        size = np.concatenate([[0.0], table.costs[g].boundary[i][:-1]])
        moved = 2.0 * collective_seconds("all_to_all", size, devices, cluster, ranks_per_node=near)
        reshard[0, :, :, :, to] = moved[:, None, None, None]
    same = np.arange(modes)
    reshard[:, :, same, :, same, :] = 0.0
    return replace(
        problem,
        strategies=tuple(
            f"{table.mode_name(*mode)} {word}" for mode in chosen for word in problem.strategies
        ),
        kinds=(min(problem.kinds, key=lambda kind: kind.capacity),),
        seconds=merged(problem.seconds + beyond[:, :, None]),
        persistent=merged(problem.persistent),
        activation=merged(problem.activation),
        transient=merged(problem.transient),
        once=least[None],
        stage_once=problem.stage_once.max(keepdims=True),
        reshard=reshard.reshape(1, layers, modes * words, modes * words),
        enter=problem.enter.max(axis=1, keepdims=True),
    )


def _enter(table: Priced, point: Point, chosen: list[tuple[int, int]]) -> Floats:
    """(G, Q, L): receiving activations and returning gradients, on the slower of two networks."""
    types, layers = len(table.clusters), len(table.layers)
    enter = np.zeros((types, len(chosen), layers))
    if point.stages == 1 or point.virtual_stages > 1:
        return enter  # interleaved chunks hide their sends behind one another
    for q, (g, i) in enumerate(chosen):
        # What enters at layer l is what layer l - 1 puts out.
        size = np.concatenate([[0.0], table.costs[g].boundary[i][:-1]])
        for came in range(types):
            times = []
            for which in {g, came}:
                cluster = table.clusters[which]
                whole = sum(c.devices for c in table.clusters)
                near = whole <= placement.domain_devices(cluster)
                if cluster.devices < 2:
                    continue
                outside = 2 if near or len(cluster.tiers) == 1 else 1
                times.append(collective_seconds("p2p", size, 2, cluster, ranks_per_node=outside))
            if times:
                enter[came, q] = 2.0 * np.max(times, axis=0)
        enter[:, q, 0] = 0.0
    return enter


def undominated(
    problem: PlanningProblem, chosen: tuple[tuple[int, int], ...]
) -> tuple[PlanningProblem, tuple[tuple[int, int], ...]]:
    """Leave out kinds that another of the same type and size beats in everything."""
    count = len(problem.kinds)
    rows = np.concatenate(
        [
            a.reshape(count, -1)
            for a in (
                problem.seconds,
                problem.persistent,
                problem.activation,
                problem.transient,
                problem.once,
                problem.stage_once[:, None],
                problem.enter.swapaxes(0, 1),
                -np.array([[kind.capacity] for kind in problem.kinds]),
            )
        ],
        axis=1,
    )
    keep: list[int] = []
    for q in range(count):
        same = [
            r
            for r in range(count)
            if r != q and problem.kinds[r].device_type == problem.kinds[q].device_type
        ]
        beaten = any(
            (rows[r] <= rows[q]).all() and ((rows[r] < rows[q]).any() or r < q) for r in same
        )
        if not beaten:
            keep.append(q)
    if len(keep) == count:
        return problem, chosen
    picked = {name: getattr(problem, name)[keep] for name in _BY_KIND}
    smaller = replace(
        problem,
        kinds=tuple(problem.kinds[q] for q in keep),
        enter=problem.enter[:, keep],
        **picked,
    )
    return smaller, tuple(chosen[q] for q in keep)
