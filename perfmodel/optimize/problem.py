"""The planning problem as arrays: what each layer costs on each kind of stage under each strategy.

Layers 0..L-1 run in order through S pipeline stages. A stage is a run of consecutive layers on one
*kind* of stage: a block of devices of one type, cut one way (tensor, context, expert and data
parallelism, ZeRO). Inside a stage every layer picks one of K *strategies* (what to recompute or
offload, or how it is sharded), and changing the strategy between neighbours costs resharding time.

A step of M micro-batches lasts

    T = w * sum_s C_s + (M - w) * max_s C_s + max_s D_s

with C_s the time stage s needs for one micro-batch (forward, backward, receiving its input), D_s
its work once a step (exposed gradient reduction, optimiser) and w the warm-up weight of the
schedule: 1 for 1F1B (and GPipe), less for schedules that fill the bubble. Stage s must hold

    sum_l (persistent + f_s * activation) + max_l transient  <=  capacity

with f_s the micro-batches in flight there. Reference: Narayanan et al., "Efficient large-scale
language model training on GPU clusters using Megatron-LM", SC 2021, section 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from perfmodel.errors import PlanError

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StageKind:
    """One way to build a stage.

    Parameters
    ----------
    name : str
        For people, e.g. ``"8 x h100 tp8"``.
    device_type : int
        Index into :attr:`PlanningProblem.available`.
    devices : int
        Devices the stage takes.
    capacity : float
        Usable memory of one device [B].
    """

    name: str
    device_type: int
    devices: int
    capacity: float


@dataclass(frozen=True, slots=True, eq=False)
class PlanningProblem:
    """One point of the outer enumeration: so many stages, so many micro-batches, one schedule.

    Q kinds, L layers, K strategies, S stages, G device types. Times in s, sizes in B per device.

    Parameters
    ----------
    layers : tuple of str
        Names of the L layers, in order.
    strategies : tuple of str
        Names of the K strategies.
    kinds : tuple of StageKind
        The Q ways to build a stage.
    available : tuple of int
        Devices of each of the G types.
    seconds : (Q, L, K) array
        Forward and backward of one micro-batch; ``inf`` where the strategy is not legal.
    persistent, activation, transient : (Q, L, K) arrays
        Bytes held always, per micro-batch in flight, and only while the layer runs.
    once : (Q, L) array
        Seconds once a step.
    stage_once : (Q,) array
        The same for a stage as such, whatever it holds.
    reshard : (Q, L, K, K) array
        ``reshard[q, l, a, b]``: seconds per micro-batch when layer ``l - 1`` uses ``a`` and ``l``
        uses ``b`` in one stage; the slice ``l = 0`` is not used.
    enter : (G, Q, L) array
        ``enter[g, q, l]``: seconds per micro-batch for a stage of kind ``q`` that begins with layer
        ``l`` to receive its input from (and return the gradient to) a stage of device type ``g``.
    micro_batches : int
        M.
    in_flight : tuple of float
        f_s for each of the S stages.
    warmup : float
        w.
    extra : tuple of float
        What a second of work of a stage of each device type adds to the objective beyond the step
        time, e.g. for energy; none by default.
    """

    layers: tuple[str, ...]
    strategies: tuple[str, ...]
    kinds: tuple[StageKind, ...]
    available: tuple[int, ...]
    seconds: Floats
    persistent: Floats
    activation: Floats
    transient: Floats
    once: Floats
    reshard: Floats
    enter: Floats
    micro_batches: int
    in_flight: tuple[float, ...]
    stage_once: Floats
    warmup: float = 1.0
    extra: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        q, n, k, g = len(self.kinds), len(self.layers), len(self.strategies), len(self.available)
        shapes = {
            "seconds": (q, n, k),
            "persistent": (q, n, k),
            "activation": (q, n, k),
            "transient": (q, n, k),
            "once": (q, n),
            "stage_once": (q,),
            "reshard": (q, n, k, k),
            "enter": (g, q, n),
        }
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array.shape != shape:
                raise PlanError(
                    f"PlanningProblem.{name}",
                    array.shape,
                    f"an array of shape {shape}",
                    repair="fill one entry per kind, layer and strategy",
                )
            if np.isnan(array).any() or (array < 0).any():
                raise PlanError(
                    f"PlanningProblem.{name}",
                    "a negative or undefined entry",
                    "numbers that are not negative (inf forbids a strategy)",
                    repair="look for a missing size or rate in the costs",
                )
        if not 1 <= len(self.in_flight) <= n or self.micro_batches < 1:
            raise PlanError(
                "PlanningProblem: stages, micro_batches",
                (len(self.in_flight), self.micro_batches),
                f"between 1 and {n} stages (one layer each at least), and a micro-batch or more",
                repair="use fewer pipeline stages",
            )

    @property
    def stages(self) -> int:
        """S."""
        return len(self.in_flight)

    @property
    def sum_weights(self) -> Floats:
        """(G,) weight of the sum of stage times in the objective, for each device type."""
        extra = np.asarray(self.extra or (0.0,) * len(self.available), dtype=np.float64)
        return np.asarray(self.warmup + extra, dtype=np.float64)

    @property
    def tail_weight(self) -> float:
        """(M - w): how often the slowest stage counts beyond the sum."""
        return self.micro_batches - self.warmup


@dataclass(frozen=True, slots=True)
class Stage:
    """Layers ``first`` to ``last`` (inclusive) on stage kind ``kind``, each with its strategy."""

    first: int
    last: int
    kind: int
    strategies: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """A layout priced from first principles, independently of how it was found."""

    step: float
    objective: float
    stage_seconds: Floats
    stage_once: Floats
    stage_bytes: Floats
    capacity: Floats
    devices: tuple[int, ...]
    feasible: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "step_time_s": self.step,
            "objective": self.objective,
            "stage_seconds": self.stage_seconds.tolist(),
            "stage_once_s": self.stage_once.tolist(),
            "stage_bytes": self.stage_bytes.tolist(),
            "capacity_bytes": self.capacity.tolist(),
            "devices": list(self.devices),
            "feasible": self.feasible,
        }


def uniform_in_flight(schedule: str, stages: int, micro_batches: int) -> tuple[int, ...]:
    """Micro-batches whose activations stage s holds: M for GPipe, min(M, S - s) for 1F1B.

    Raises
    ------
    PlanError
        For a schedule without a rule.
    """
    if schedule == "gpipe":
        return (micro_batches,) * stages
    if schedule in ("1f1b", "zb-h1"):
        return tuple(min(micro_batches, stages - s) for s in range(stages))
    raise PlanError(
        "schedule", schedule, "1f1b, gpipe, zb-h1", repair="name one of the accepted schedules"
    )


def step_seconds(problem: PlanningProblem, stage_seconds: Floats, stage_once: Floats) -> float:
    """T from C_s and D_s (both of shape (S,)) [s]."""
    return float(
        problem.warmup * stage_seconds.sum()
        + problem.tail_weight * stage_seconds.max()
        + stage_once.max()
    )


def gathered_runs(problem: PlanningProblem, layout: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """The same layout with the strategies of interchangeable layers put in order.

    Layers of a stage that cost the same may swap strategies where nothing is paid for changing
    them; then each strategy comes in as few runs as possible.
    """
    tidy = []
    for stage in layout:
        span = slice(stage.first, stage.last + 1)
        if problem.reshard[stage.kind, span].any():
            tidy.append(stage)
            continue
        rows = np.concatenate(
            [
                getattr(problem, name)[stage.kind, span]
                for name in ("seconds", "persistent", "activation", "transient")
            ],
            axis=1,
        )
        _, alike = np.unique(rows, axis=0, return_inverse=True)
        chosen = np.array(stage.strategies)
        for group in range(int(alike.max()) + 1):
            members = np.flatnonzero(alike.reshape(-1) == group)
            chosen[members] = np.sort(chosen[members])
        tidy.append(Stage(stage.first, stage.last, stage.kind, tuple(int(k) for k in chosen)))
    return tuple(tidy)


def evaluate(problem: PlanningProblem, layout: tuple[Stage, ...]) -> Evaluation:
    """Price a layout term by term.

    Raises
    ------
    PlanError
        If the stages do not cover the layers in order.
    """
    covered = [layer for stage in layout for layer in range(stage.first, stage.last + 1)]
    if covered != list(range(len(problem.layers))) or len(layout) != problem.stages:
        raise PlanError(
            "layout",
            covered,
            f"{problem.stages} stages that hold layers 0 to {len(problem.layers) - 1} in order",
            repair="let every stage begin where the one before it ends",
        )
    seconds, once, size = (np.zeros(problem.stages) for _ in range(3))
    used = [0] * len(problem.available)
    before = -1
    for s, stage in enumerate(layout):
        q = stage.kind
        if before >= 0:
            seconds[s] += problem.enter[before, q, stage.first]
        held, peak = 0.0, 0.0
        once[s] = problem.stage_once[q]
        for offset, k in enumerate(stage.strategies):
            layer = stage.first + offset
            seconds[s] += problem.seconds[q, layer, k]
            if offset:
                seconds[s] += problem.reshard[q, layer, stage.strategies[offset - 1], k]
            held += problem.persistent[q, layer, k]
            held += problem.in_flight[s] * problem.activation[q, layer, k]
            peak = max(peak, problem.transient[q, layer, k])
            once[s] += problem.once[q, layer]
        size[s] = held + peak
        used[problem.kinds[q].device_type] += problem.kinds[q].devices
        before = problem.kinds[q].device_type
    capacity = np.array([problem.kinds[stage.kind].capacity for stage in layout])
    fits = bool(np.all(size <= capacity * (1 + 1e-9)))
    enough = all(u <= a for u, a in zip(used, problem.available, strict=True))
    legal = bool(np.isfinite(seconds).all())
    step = step_seconds(problem, seconds, once) if legal else float("inf")
    types = [problem.kinds[stage.kind].device_type for stage in layout]
    return Evaluation(
        step,
        step + float((problem.sum_weights[types] - problem.warmup) @ seconds) if legal else step,
        seconds,
        once,
        size,
        capacity,
        tuple(used),
        fits and enough and legal,
    )
