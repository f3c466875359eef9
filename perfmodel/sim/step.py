"""One training step of a pipeline, task by task.

The table of a schedule becomes a :class:`~perfmodel.sim.graph.TaskGraph`: a compute stream, a send
stream in each direction and a gradient stream per device, an optional host stream that launches the
work, gradient buckets that become ready while the last backward of a stage still runs, and the
optimizer. Data-parallel replicas are the graph's replicas; those that nothing distinguishes are
folded into one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfmodel.errors import ScenarioError, nearest_name
from perfmodel.sim.graph import Stop, TaskGraph, Timeline, solve
from perfmodel.sim.memory import MemoryTrace, activation_traces
from perfmodel.sim.perturb import Perturbation, factors, fold, row_factors
from perfmodel.sim.stage_costs import StageCosts
from perfmodel.sim.step_graph import fill_graph
from perfmodel.sim.table import Schedule
from perfmodel.units import format_bytes, format_seconds

Floats = NDArray[np.float64]
SENDS: Final = ("overlapped", "blocking")


@dataclass(frozen=True, slots=True)
class StepResult:
    """A simulated step.

    Parameters
    ----------
    schedule : Schedule
        What was run.
    timeline : Timeline
        Start and end of every task; one column per class of equal replicas.
    row_first, row_task : int array
        First and last task of each row of the schedule (a last backward has one task a bucket).
    replica_class : int array
        Column of the timeline that stands for each data-parallel replica.
    memory : tuple of MemoryTrace
        Memory over time of each device (of the first class).
    """

    schedule: Schedule
    timeline: Timeline
    row_first: NDArray[np.int64]
    row_task: NDArray[np.int64]
    replica_class: NDArray[np.int64]
    memory: tuple[MemoryTrace, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def seconds(self) -> float:
        """Until the last task of the last replica ends [s]."""
        return self.timeline.seconds

    @property
    def pipeline_seconds(self) -> float:
        """Until the last row of the schedule ends [s]."""
        return float(self.timeline.end[self.row_task].max())

    @property
    def bubble_fraction(self) -> float:
        """Share of the pipeline's device time without compute, 0 to 1 (mean over replicas)."""
        length = self.timeline.end[self.row_task] - self.timeline.start[self.row_first]
        classes = np.bincount(self.replica_class, minlength=length.shape[1])
        busy = float((length.sum(axis=0) * classes).sum() / classes.sum())
        span = self.schedule.devices * self.pipeline_seconds
        return 1 - busy / span if span > 0 else 0.0

    @property
    def peak_memory(self) -> Floats:
        """Most memory held by each device, shape ``[devices]`` [B]."""
        return np.array([trace.peak for trace in self.memory])

    def exposed(self) -> float:
        """Time after the pipeline's last row: gradients, optimizer, gathers not hidden [s]."""
        return self.seconds - self.pipeline_seconds

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready summary."""
        return {
            "schedule": self.schedule.name,
            "stages": self.schedule.stages,
            "devices": self.schedule.devices,
            "micro_batches": self.schedule.micro_batches,
            "replicas": len(self.replica_class),
            "replica_classes": self.timeline.start.shape[1],
            "tasks": len(self.timeline.graph),
            "step_time_s": self.seconds,
            "pipeline_s": self.pipeline_seconds,
            "after_pipeline_s": self.exposed(),
            "bubble_fraction": self.bubble_fraction,
            "peak_memory_bytes": [float(x) for x in self.peak_memory],
            "notes": list(self.notes),
        }

    def explain(self) -> str:
        """The summary as text."""
        lines = [
            f"step of {self.schedule.name}: {format_seconds(self.seconds)}",
            f"├─ pipeline: {format_seconds(self.pipeline_seconds)}"
            f" (bubble {self.bubble_fraction:.1%}, {self.schedule.devices} devices,"
            f" {self.schedule.micro_batches} micro-batches)",
            f"├─ after it (gradients, optimizer, gathers): {format_seconds(self.exposed())}",
            f"├─ peak memory: {format_bytes(float(self.peak_memory.max()))} on device"
            f" {int(self.peak_memory.argmax())}",
            f"└─ {len(self.replica_class)} replicas in {self.timeline.start.shape[1]} classes,"
            f" {len(self.timeline.graph):,} tasks each",
        ]
        return "\n".join([*lines, *self.notes])


def replay(
    schedule: Schedule,
    costs: StageCosts,
    *,
    replicas: int = 1,
    perturbation: Perturbation | None = None,
    sends: str = "overlapped",
    input_ready: ArrayLike = 0.0,
    stop: Stop | None = None,
) -> StepResult:
    """Run one step of a schedule.

    Parameters
    ----------
    schedule : Schedule
        The table.
    costs : StageCosts
        Times and bytes per stage.
    replicas : int
        Data-parallel copies, joined by their gradient buckets.
    perturbation : Perturbation, optional
        What is slow, jittery or uneven.
    sends : str
        ``"overlapped"``: a send occupies its own stream; ``"blocking"``: it also holds up the
        sender's compute.
    input_ready : array
        When the data of each micro-batch is there [s], one value or shape ``[micro_batches]``.
    stop : callable, optional
        Asked now and then; true ends the simulation with :class:`~perfmodel.sim.graph.Stopped`.

    Raises
    ------
    ScenarioError
        For costs that do not fit the schedule, or a schedule that waits for itself.
    """
    if sends not in SENDS:
        raise ScenarioError(
            "replay: sends", sends, ", ".join(SENDS), nearest=nearest_name(sends, SENDS),
            repair="name one of these",
        )  # fmt: skip
    if replicas < 1:
        raise ScenarioError(
            "replay: replicas", replicas, "at least 1", repair="give the data-parallel degree"
        )
    perturbation = perturbation or Perturbation()
    compute = factors(perturbation.compute, schedule.devices, replicas, "compute")
    links = factors(perturbation.links, schedule.devices, replicas, "links")
    members = np.arange(replicas)
    if not perturbation.random:
        chosen, members = fold(compute, links)
        compute, links = compute[:, chosen], links[:, chosen]
    classes = compute.shape[1]
    graph = TaskGraph(f"schedule {schedule.name!r}", classes)
    chance = row_factors(perturbation, schedule.rows, classes)
    tasks = fill_graph(
        graph, schedule, costs, compute, links, chance, sends == "blocking", input_ready
    )
    timeline = solve(graph, stop=stop)
    memory = activation_traces(
        schedule,
        timeline.start[tasks.first, 0],
        timeline.end[tasks.last, 0],
        costs.column("activation_bytes", schedule.stages),
        costs.column("static_bytes", schedule.stages),
    )
    return StepResult(schedule, timeline, tasks.first, tasks.last, members, memory)
