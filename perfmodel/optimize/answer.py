"""MilpPlan: the planner's answer, with its proof, its reasons and its pictures in text."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

from perfmodel.optimize.costs import degrees_of
from perfmodel.optimize.milp import relative_gap
from perfmodel.parallel.layout import even_layout
from perfmodel.parallel.plan import Plan
from perfmodel.units import format_bytes, format_seconds


@dataclass(frozen=True, slots=True)
class StageAnswer:
    """One pipeline stage.

    Parameters
    ----------
    first, last : int
        Its layers, by place in :attr:`MilpPlan.layers`.
    device_type : str
        Which accelerator.
    devices : int
        How many of it.
    plan : Plan
        Degrees inside the stage (``pp`` 1); of most of its layers, where they differ.
    strategies : tuple of str
        What each of its layers does with its activations.
    forward, send, seconds, once : float
        Time for one micro-batch: its forward pass; receiving its input and returning the gradient;
        all of it. Once a step [s].
    bytes_held, capacity : float
        Of a device [B]; libraries and buffers are already taken off the capacity.
    """

    first: int
    last: int
    device_type: str
    devices: int
    plan: Plan
    strategies: tuple[str, ...]
    forward: float
    send: float
    seconds: float
    once: float
    bytes_held: float
    capacity: float

    @property
    def layers(self) -> int:
        """How many planning layers it holds (embedding and head count)."""
        return self.last - self.first + 1

    @property
    def recompute(self) -> str:
        """The strategies as runs: ``"none x10, full x2"``."""
        runs = [(name, len(list(run))) for name, run in groupby(self.strategies)]
        return ", ".join(f"{name} x{count}" for name, count in runs)

    @property
    def degrees(self) -> str:
        """``"tp8 dp4 zero1 mbs2"``."""
        return degrees_of(self.plan)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "first": self.first,
            "last": self.last,
            "device_type": self.device_type,
            "devices": self.devices,
            "plan": self.plan.to_dict(),
            "strategies": list(self.strategies),
            "forward_s": self.forward,
            "send_s": self.send,
            "seconds": self.seconds,
            "once_s": self.once,
            "bytes_held": self.bytes_held,
            "capacity_bytes": self.capacity,
        }


@dataclass(frozen=True, slots=True)
class Relaxation:
    """Why nothing fits, and the smallest changes that help.

    ``missing_bytes`` is what the worst device of the closest plan lacks; ``changes`` are pairs of a
    change and whether it was verified to make a plan fit.
    """

    missing_bytes: float
    needed_bytes: float
    where: str
    changes: tuple[tuple[str, bool], ...]

    def explain(self) -> str:
        """As text."""
        lines = [
            f"nothing fits: the closest plan needs {format_bytes(self.needed_bytes)} for the layers"
            f" of {self.where}, {format_bytes(self.missing_bytes)} more than there is"
        ]
        lines += [f"  {'fits with' if ok else 'not enough'}: {text}" for text, ok in self.changes]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another good plan: its value of the objective, its step time and what it looks like."""

    value: float
    step_time: float
    description: str
    confirmed: float | None = None


@dataclass(frozen=True, slots=True)
class MilpPlan:
    """A pipeline plan with its certificate.

    Parameters
    ----------
    status : str
        ``"optimal"`` (gap closed), ``"feasible"`` (with the stated gap), ``"infeasible"`` (proven),
        or ``"unknown"`` (time ran out before a plan was found).
    objective, value, bound : str, float, float
        What was minimised, what the plan reaches, and what no plan in the space can go below.
    step_time : float
        One training step [s].
    solver, seconds : str, float
        Which solver, and the wall-clock time of everything [s].
    points, solved, columns, kept : int
        Points enumerated; points that needed solving (the others were cut off by their bound);
        interval columns of the solved points; columns that reached the solver for the winner.
    confirmed : float or None
        Step time from the caller's simulator [s].
    """

    status: str
    objective: str
    value: float
    bound: float
    step_time: float
    micro_batches: int
    virtual_stages: int
    schedule: str
    stages: tuple[StageAnswer, ...]
    layers: tuple[str, ...]
    model: str
    clusters: tuple[str, ...]
    devices: int
    global_batch_size: int
    seq_len: int
    solver: str
    seconds: float
    points: int
    solved: int
    columns: int
    kept: int
    alternatives: tuple[Alternative, ...] = ()
    confirmed: float | None = None
    relaxation: Relaxation | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def gap(self) -> float:
        """(value - bound) / value: how far from optimal the plan can be."""
        return relative_gap(self.value, self.bound)

    @property
    def tokens_per_s_per_device(self) -> float:
        """Throughput of a device [token/s]."""
        if not self.stages:
            return 0.0
        return self.global_batch_size * self.seq_len / self.step_time / self.devices

    @property
    def chunks(self) -> tuple[int, ...]:
        """Blocks of each chunk in model order, each device's dealt out as evenly as can be."""
        blocks = [
            sum(
                not self.layers[place].endswith(("embedding", "head"))
                for place in range(stage.first, stage.last + 1)
            )
            for stage in self.stages
        ]
        dealt = [even_layout(count, self.virtual_stages) for count in blocks]
        return tuple(device[turn] for turn in range(self.virtual_stages) for device in dealt)

    @property
    def uniform(self) -> Plan | None:
        """The same as one :class:`Plan`, if all stages share their degrees and strategy."""
        if not self.stages or len({stage.plan for stage in self.stages}) > 1:
            return None
        inner = {
            word
            for stage in self.stages
            for place, word in enumerate(stage.strategies, start=stage.first)
            if not self.layers[place].endswith(("embedding", "head"))
        }
        if len(inner) > 1 or any(": " in name for name in self.layers):
            return None
        from dataclasses import replace

        word = inner.pop() if inner else "none"
        if word not in ("none", "selective", "full"):
            return None
        modules = ("core", "mlp", "experts") if word == "selective" else ("core",)
        return replace(
            self.stages[0].plan,
            pp=len(self.stages),
            schedule=self.schedule,
            virtual_stages=self.virtual_stages,
            recompute=word,
            recompute_modules=modules,
            layers_per_stage=self.chunks,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "status": self.status,
            "objective": self.objective,
            "value": _finite(self.value),
            "lower_bound": _finite(self.bound),
            "gap": _finite(self.gap),
            "step_time_s": _finite(self.step_time),
            "tokens_per_s_per_device": self.tokens_per_s_per_device,
            "micro_batches": self.micro_batches,
            "virtual_stages": self.virtual_stages,
            "schedule": self.schedule,
            "stages": [stage.to_dict() for stage in self.stages],
            "layers": list(self.layers),
            "model": self.model,
            "clusters": list(self.clusters),
            "devices": self.devices,
            "global_batch_size": self.global_batch_size,
            "seq_len": self.seq_len,
            "solver": self.solver,
            "solve_s": self.seconds,
            "points": self.points,
            "solved": self.solved,
            "columns": self.columns,
            "kept_columns": self.kept,
            "alternatives": [asdict(alternative) for alternative in self.alternatives],
            "confirmed_s": self.confirmed,
            "relaxation": None if self.relaxation is None else asdict(self.relaxation),
            "notes": list(self.notes),
        }

    def reasons(self) -> tuple[str, ...]:
        """The binding constraints: what sets the rhythm, where memory binds, what idles."""
        if not self.stages:
            return ()
        slow = max(self.stages, key=lambda stage: stage.seconds)
        total = sum(stage.seconds for stage in self.stages)
        found = [
            f"stage {self.stages.index(slow)} sets the rhythm: {format_seconds(slow.seconds)} a"
            f" micro-batch, {slow.seconds * len(self.stages) / total - 1:.1%} above the mean"
        ]
        full = [
            str(place)
            for place, stage in enumerate(self.stages)
            if stage.bytes_held > 0.97 * stage.capacity
        ]
        if full:
            found.append(f"memory binds (within 3 %) on stage {', '.join(full)}")
        else:
            most = max(stage.bytes_held / stage.capacity for stage in self.stages)
            found.append(f"memory does not bind: the fullest stage is at {most:.0%}")
        repeated = sum(
            word in ("selective", "full") for stage in self.stages for word in stage.strategies
        )
        if repeated:
            found.append(f"{repeated} of {len(self.layers)} layers are recomputed to fit")
        idle = (total - slow.seconds) / self.virtual_stages / self.step_time
        found.append(f"filling and draining the pipeline takes {idle:.1%} of the step")
        once = max(stage.once for stage in self.stages)
        found.append(f"gradients, weights and optimizer take {once / self.step_time:.1%}")
        return tuple(found)

    def explain(self) -> str:
        """The plan, its memory, its proof and its reasons as text."""
        if self.relaxation is not None:
            return self.relaxation.explain()
        if not self.stages:
            return f"no plan found in {self.seconds:.1f} s; the bound is {self.bound:.4g}"
        lines = [
            f"{self.model}: {format_seconds(self.step_time)} a step on"
            f" {' + '.join(self.clusters)}, {self.micro_batches} micro-batches, {self.schedule}"
            + (f", {self.virtual_stages} chunks a device" if self.virtual_stages > 1 else ""),
            f"{self.objective}: {self.value:.6g}, no plan of the space below {self.bound:.6g}"
            f" (gap {self.gap:.2%}, {self.status})",
            f"{self.points} points, {self.solved} solved, {self.columns} columns, {self.kept} left"
            f" for {self.solver}, {self.seconds:.2f} s",
        ]
        if self.confirmed is not None:
            lines.append(f"simulated: {format_seconds(self.confirmed)}")
        width = max(len(stage.degrees) for stage in self.stages)
        for place, stage in enumerate(self.stages):
            share = stage.bytes_held / stage.capacity
            bar = "#" * round(20 * min(share, 1.0))
            lines.append(
                f"  stage {place:2d}  {self.layers[stage.first]} .. {self.layers[stage.last]}"
                f" ({stage.layers})  {stage.devices} x {stage.device_type}"
                f"  {stage.degrees:<{width}}  {format_seconds(stage.seconds):>9}"
                f"  [{bar:<20}] {format_bytes(stage.bytes_held)} ({share:.0%})  {stage.recompute}"
            )
        lines += [f"  - {reason}" for reason in self.reasons()]
        lines += [f"  next: {other.value:.6g}  {other.description}" for other in self.alternatives]
        return "\n".join([*lines, *self.notes])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def difference(one: MilpPlan, other: MilpPlan) -> str:
    """What changes from one plan to another, stage by stage, as text."""
    lines = [
        f"step {format_seconds(one.step_time)} -> {format_seconds(other.step_time)}"
        f" ({one.step_time / other.step_time:.2f} x)"
    ]
    pairs = [
        ("on", " + ".join(one.clusters), " + ".join(other.clusters)),
        ("stages", len(one.stages), len(other.stages)),
        ("micro-batches", one.micro_batches, other.micro_batches),
        ("schedule", one.schedule, other.schedule),
    ]
    lines += [f"{name}: {before} -> {after}" for name, before, after in pairs if before != after]
    for place in range(max(len(one.stages), len(other.stages))):
        before = _stage_text(one, place)
        after = _stage_text(other, place)
        if before != after:
            lines.append(f"stage {place}: {before} -> {after}")
    return "\n".join(lines if len(lines) > 1 else [*lines, "the same layout"])


def _stage_text(plan: MilpPlan, place: int) -> str:
    if place >= len(plan.stages):
        return "none"
    stage = plan.stages[place]
    return (
        f"{plan.layers[stage.first]}..{plan.layers[stage.last]} on {stage.devices} x"
        f" {stage.device_type} {stage.degrees} ({stage.recompute})"
    )
