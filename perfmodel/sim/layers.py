"""A data-parallel step layer by layer: buckets, gathers ahead of use, and the ranks they join.

The same program runs on every rank, so one graph with an array over ranks describes them all:
1,024 ranks of 32 layers are about a hundred tasks of 1,024 times each, not 100,000 events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfmodel.errors import ScenarioError, nearest_name
from perfmodel.sim.graph import Stop, TaskGraph, Timeline, solve
from perfmodel.sim.perturb import Perturbation, check_cells, factors, fold, row_factors
from perfmodel.units import format_seconds

Floats = NDArray[np.float64]
MODES: Final = ("replicated", "sharded")
MOST_LAYERS: Final = 20_000
MOST_TASKS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class LayerCosts:
    """Times of each layer of one rank [s], shape ``[layers]`` (or one value for all).

    Parameters
    ----------
    forward, backward : array
        Compute.
    inline_forward, inline_backward : array
        Collectives that the next layer waits for (tensor, context, expert parallel).
    gather : array
        To gather a layer's weights from the ranks that share them.
    reduce : array
        To reduce a layer's gradients (all-reduce, or reduce-scatter where sharded).
    launch : array
        Host time to launch one pass of the layer.
    optimizer : float
        After the last gradients.
    """

    forward: ArrayLike
    backward: ArrayLike
    inline_forward: ArrayLike = 0.0
    inline_backward: ArrayLike = 0.0
    gather: ArrayLike = 0.0
    reduce: ArrayLike = 0.0
    launch: ArrayLike = 0.0
    optimizer: float = 0.0


@dataclass(frozen=True, slots=True)
class LayerStepResult:
    """A simulated data-parallel step.

    Parameters
    ----------
    timeline : Timeline
        Every task; one column per class of equal ranks.
    rank_class : int array
        Column of each rank.
    """

    timeline: Timeline
    rank_class: NDArray[np.int64]

    @property
    def seconds(self) -> float:
        """Until the last task of the last rank ends [s]."""
        return self.timeline.seconds

    @property
    def exposed_seconds(self) -> Floats:
        """Time that the compute stream of each class spends waiting, shape ``[classes]`` [s]."""
        return self.seconds - self.timeline.busy(0)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready summary."""
        return {
            "step_time_s": self.seconds,
            "exposed_s": float(self.exposed_seconds.max()),
            "ranks": len(self.rank_class),
            "rank_classes": self.timeline.start.shape[1],
            "tasks": len(self.timeline.graph),
        }

    def explain(self) -> str:
        """The summary as text."""
        return (
            f"data-parallel step: {format_seconds(self.seconds)}\n"
            f"├─ compute waits: {format_seconds(float(self.exposed_seconds.max()))}\n"
            f"└─ {len(self.rank_class)} ranks in {self.timeline.start.shape[1]} classes,"
            f" {len(self.timeline.graph):,} tasks each"
        )


def layer_step(
    costs: LayerCosts,
    layers: int,
    *,
    ranks: int = 1,
    mode: str = "replicated",
    prefetch: int = 1,
    bucket_layers: int = 1,
    micro_batches: int = 1,
    perturbation: Perturbation | None = None,
    stop: Stop | None = None,
) -> LayerStepResult:
    """Run one step of a data-parallel job.

    Parameters
    ----------
    costs : LayerCosts
        Times of a layer.
    layers, ranks : int
        Layers of the model; ranks that reduce together.
    mode : str
        ``"replicated"`` (DDP: gradients reduced in buckets after the last micro-batch) or
        ``"sharded"`` (FSDP: weights gathered before each pass of each layer, gradients reduced
        after each backward).
    prefetch : int
        How many layers ahead of the running one weights may be gathered; 0 gathers in line.
    bucket_layers : int
        Layers whose gradients travel together.
    micro_batches : int
        Gradient accumulation.
    perturbation : Perturbation, optional
        Its ``compute`` and ``links`` have one device and a column per rank.

    Raises
    ------
    ScenarioError
        For sizes or times that make no step.
    """
    _check(layers, ranks, mode, prefetch, bucket_layers, micro_batches)
    perturbation = perturbation or Perturbation()
    compute = factors(perturbation.compute, 1, ranks, "compute")
    links = factors(perturbation.links, 1, ranks, "links")
    members = np.arange(ranks)
    if not perturbation.random:
        chosen, members = fold(compute, links)
        compute, links = compute[:, chosen], links[:, chosen]
    graph = TaskGraph("data-parallel step", compute.shape[1])
    if (tasks := 4 * layers * micro_batches) > MOST_TASKS:
        raise ScenarioError(
            "layer step: layers x micro_batches",
            tasks,
            f"at most {MOST_TASKS:,} tasks",
            repair="simulate fewer micro-batches",
        )
    check_cells(tasks * compute.shape[1])
    chance = row_factors(perturbation, 2 * layers * micro_batches, compute.shape[1])
    builder = _Builder(graph, _columns(costs, layers), compute[0], links[0], chance)
    sharded = mode == "sharded"
    for micro in range(micro_batches):
        last = micro == micro_batches - 1
        builder.forward(range(layers), micro, prefetch if sharded else -1)
        buckets = _buckets(layers, bucket_layers) if last or sharded else []
        builder.backward(range(layers), micro, prefetch if sharded else -1, buckets)
    builder.finish(costs.optimizer)
    return LayerStepResult(solve(graph, stop=stop), members)


class _Builder:
    """Adds passes to the graph; streams: compute, inline, gather, reduce, host."""

    def __init__(
        self,
        graph: TaskGraph,
        column: dict[str, Floats],
        compute: Floats,
        links: Floats,
        chance: Floats | None,
    ) -> None:
        self.graph, self.column, self.compute, self.links = graph, column, compute, links
        self.chance = chance
        self.drawn = 0
        names = ("compute", "inline collectives", "weight gathers", "gradient reductions", "host")
        self.main, self.inline, self.gathers, self.reductions, self.host = (
            graph.add_stream(name) for name in names
        )
        self.done: list[int] = []  # what each pass of a layer ended with
        self.reduced: list[int] = []

    def forward(self, order: Sequence[int], micro: int, ahead: int) -> None:
        for layer in order:
            self._pass("forward", layer, micro, ahead)

    def backward(
        self, layers: Sequence[int], micro: int, ahead: int, buckets: list[list[int]]
    ) -> None:
        closing = {bucket[-1]: bucket for bucket in buckets}
        for layer in reversed(layers):
            ended = self._pass("backward", layer, micro, ahead)
            if layer in closing:
                seconds = sum(float(self.column["reduce"][one]) for one in closing[layer])
                if seconds > 0:
                    name = f"reduce layers {layer}..{closing[layer][0]} m{micro}"
                    self.reduced.append(
                        self._collective(name, self.reductions, seconds, (ended,), "reduce")
                    )

    def finish(self, optimizer: float) -> None:
        after = (*self.done[-1:], *self.reduced[-1:])
        self.graph.add("optimizer", self.main, optimizer * self.compute, after, kind="optimizer")

    def _pass(self, way: str, layer: int, micro: int, ahead: int) -> int:
        name = f"{way} l{layer} m{micro}"
        after = list(self.done[-1:])
        if ahead >= 0 and self.column["gather"][layer] > 0:
            # A gather may start once the layer ``ahead + 1`` before this one has run.
            free = self.done[-1 - ahead : len(self.done) - ahead] if ahead else self.done[-1:]
            seconds = float(self.column["gather"][layer])
            gathered = self._collective(f"gather {name}", self.gathers, seconds, free, "gather")
            after.append(gathered)
        if self.column["launch"][layer] > 0:
            launch = float(self.column["launch"][layer])
            after.append(self.graph.add(f"launch {name}", self.host, launch, kind="launch"))
        factor = self.compute if self.chance is None else self.compute * self.chance[self.drawn]
        self.drawn += 1
        task = self.graph.add(name, self.main, self.column[way][layer] * factor, after, kind=way)
        inline = float(self.column[f"inline_{way}"][layer])
        if inline > 0:
            task = self.graph.add(
                f"collective {name}", self.inline, inline * self.links, (task,), kind="inline"
            )
        self.done.append(task)
        return task

    def _collective(
        self, name: str, stream: int, seconds: float, after: Sequence[int], kind: str
    ) -> int:
        return self.graph.add(name, stream, seconds * self.links, after, kind=kind, sync=True)


def _buckets(layers: int, size: int) -> list[list[int]]:
    """Layers of each bucket in the order of the backward; the last of each closes it."""
    order = list(reversed(range(layers)))
    return [order[k : k + size] for k in range(0, layers, size)]


def _columns(costs: LayerCosts, layers: int) -> dict[str, Floats]:
    found = {}
    for name in ("forward", "backward", "inline_forward", "inline_backward", "gather", "reduce",
                 "launch"):  # fmt: skip
        given = np.asarray(getattr(costs, name), dtype=np.float64)
        if (
            given.shape not in ((), (layers,))
            or not np.all(np.isfinite(given))
            or np.any(given < 0)
        ):
            raise ScenarioError(
                f"layer costs: {name}",
                getattr(costs, name),
                f"one finite time, or {layers} of them, not negative",
                repair="give a time for every layer",
            )
        found[name] = np.broadcast_to(given, (layers,))
    return found


def _check(
    layers: int, ranks: int, mode: str, prefetch: int, bucket_layers: int, micro_batches: int
) -> None:
    if mode not in MODES:
        raise ScenarioError(
            "layer step: mode",
            mode,
            ", ".join(MODES),
            nearest=nearest_name(mode, MODES),
            repair="name one of these",
        )
    for what, value, low, high in (
        ("layers", layers, 1, MOST_LAYERS),
        ("ranks", ranks, 1, 10_000_000),
        ("prefetch", prefetch, 0, MOST_LAYERS),
        ("bucket_layers", bucket_layers, 1, MOST_LAYERS),
        ("micro_batches", micro_batches, 1, 100_000),
    ):
        if not low <= value <= high:
            raise ScenarioError(
                f"layer step: {what}", value, f"{low} to {high:,}", repair=f"correct {what}"
            )
