"""Pictures of plans: where a step's time goes, what memory holds, the front of the two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from perfmodel.report.figures import pareto, stacked_bars

if TYPE_CHECKING:
    from perfmodel.optimize.search import SearchResult
    from perfmodel.parallel.result import TrainResult


def step_figure(results: Sequence[TrainResult], title: str) -> Figure:
    """One bar a plan: the parts of its step [s]."""
    names = list(dict.fromkeys(name for result in results for name in result.parts))
    parts = {name: np.array([result.parts.get(name, 0.0) for result in results]) for name in names}
    labels = [short(result) for result in results]
    return stacked_bars(f"{title}: the step, part by part", labels, parts, xlabel="step time [s]")


def memory_figure(results: Sequence[TrainResult], title: str) -> Figure:
    """One bar a plan: what the fullest stage holds [GiB], against the capacity."""
    names = list(dict.fromkeys(name for result in results for name in result.memory))
    parts = {
        name: np.array([result.memory.get(name, 0.0) for result in results]) / 2**30
        for name in names
    }
    capacity = results[0].capacity / 2**30
    return stacked_bars(
        f"{title}: memory of the fullest stage",
        [short(result) for result in results],
        parts,
        xlabel="memory of a device [GiB]",
        limit=capacity,
        limit_label=f"{capacity:.1f} GiB",
    )


def front_figure(result: SearchResult, title: str) -> Figure:
    """The Pareto front of a search: step time against peak memory."""
    time = np.array([point.step_time_s for point in result.pareto])
    memory = np.array([point.peak_memory_bytes for point in result.pareto])
    return pareto(
        f"{title}: step time against memory",
        time,
        memory,
        np.arange(time.size),
        result.best.capacity,
    )


def short(result: TrainResult) -> str:
    """A plan in a few words, for a label: ``tp2 pp2 dp64 cp2 v20 z2 sp``."""
    plan = result.plan
    degrees = (("tp", plan.tp), ("pp", plan.pp), ("dp", plan.dp), ("cp", plan.cp), ("ep", plan.ep))
    words = [f"{name}{degree}" for name, degree in degrees if degree > 1]
    words += [f"v{plan.virtual_stages}"] if plan.virtual_stages > 1 else []
    words += [f"mb{plan.micro_batch_size}"] if plan.micro_batch_size > 1 else []
    words += [f"z{plan.zero}"] if plan.zero else []
    words += ["sp"] if plan.sequence_parallel else []
    words += [f"recompute={plan.recompute}"] if plan.recompute != "none" else []
    return " ".join(words) or "one device"
