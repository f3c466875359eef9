"""Pictures of whole programs: operators under the roofs, who waits for whom, memory over a step."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from perfmodel.cost.program import ProgramEstimate
from perfmodel.hardware import Accelerator
from perfmodel.report.figures import roofline
from perfmodel.report.style import COLOURS, figure
from perfmodel.sim.kineto import KinetoTrace, read_kineto

Floats = NDArray[np.float64]
KINDS: Final = (
    "gemm", "conv", "attention", "norm", "pointwise", "reduction", "softmax", "copy", "index",
    "optimizer", "other",
)  # fmt: skip
PROFILED: Final = (
    ("optimizer", ("adam", "sgd", "multi_tensor", "FusedAdam")),
    ("attention", ("flash", "fmha", "attention", "mha")),
    ("conv", ("conv", "dgrad", "wgrad", "fprop", "implicit", "winograd", "xmma_new")),
    ("gemm", ("gemm", "cutlass", "cublas", "nvjet", "splitK", "gemv", "sm90_xmma", "sm80_xmma")),
    ("norm", ("norm", "bn_fw", "bn_bw", "batch_norm")),
    ("softmax", ("softmax", "SoftMax")),
    ("reduction", ("reduce", "pool")),
    ("copy", ("copy", "Memcpy", "nchwToNhwc", "nhwcToNchw", "cat", "transpose")),
    ("index", ("index", "gather", "scatter", "embedding")),
    ("pointwise", ("elementwise", "vectorized", "triton_poi", "fill")),
)
"""Kind of a profiled kernel by what its name contains; the first that fits."""


def operator_roofline(found: ProgramEstimate, accelerator: Accelerator, dtype: str) -> Figure:
    """Kernels of a program under the two roofs of a device, one series a kind."""
    intensity: dict[str, list[float]] = {}
    rate: dict[str, list[float]] = {}
    for kernel, seconds in zip(found.kernels.kernels, found.kernels.seconds.tolist(), strict=True):
        moved = kernel.bytes_read + kernel.bytes_written
        if kernel.flops > 0 and moved > 0 and seconds > 0:
            intensity.setdefault(kernel.kind, []).append(kernel.flops / moved)
            rate.setdefault(kernel.kind, []).append(kernel.flops / seconds)
    return roofline(
        f"{found.program} on {found.accelerator}: operators, {found.mode}",
        accelerator.peak(dtype),
        accelerator.memory_bandwidth,
        intensity,
        rate,
    )


def memory_over_time(found: ProgramEstimate, capacity: float | None = None) -> Figure:
    """Allocated and reserved memory over one step, against the host's clock."""
    memory, timeline = found.memory, found.timeline
    calls = max(int(memory.call.max(initial=0)), 1)
    # Blocks change hands when the host reaches a call; calls share the host's time.
    at = memory.call / calls * max(timeline.host_end, 1e-9)
    with figure() as (drawn, axes):
        axes.step(
            at * 1e3, memory.reserved / 2**30, where="post", color="#7F7F7F", label="reserved"
        )
        axes.step(
            at * 1e3, memory.allocated / 2**30, where="post", color=COLOURS[0], label="allocated"
        )
        axes.axhline(memory.resident / 2**30, color="#333333", lw=0.8, ls=":")
        axes.annotate(
            "before the step", (0.5, memory.resident / 2**30), xycoords=("axes fraction", "data"),
            ha="center", va="top", color="#555555",
        )  # fmt: skip
        if capacity is not None:
            axes.axhline(capacity / 2**30, color=COLOURS[1], lw=0.9)
        axes.set(
            xlabel="host time [ms]",
            ylabel="memory [GiB]",
            title=f"{found.program}\npeak {memory.peak_allocated / 2**30:.2f} GiB allocated,"
            f" {memory.peak_reserved / 2**30:.2f} GiB reserved",
        )
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
        return drawn


def timeline(
    found: ProgramEstimate,
    profiled: str | Path | KinetoTrace | None = None,
    *,
    begin: float = 0.0,
    length: float | None = None,
) -> Figure:
    """The device's kernels, predicted and, below, as a profiler saw them.

    Parameters
    ----------
    found : ProgramEstimate
        The prediction.
    profiled : path or KinetoTrace, optional
        A chrome trace of one step.
    begin, length : float
        What of the step is shown, from its first kernel [s]; by default all of it.
    """
    rows: list[tuple[str, Floats, Floats, list[str]]] = []
    kinds = [kernel.kind for kernel in found.kernels.kernels]
    first = float(found.timeline.start[0]) if found.timeline.start.size else 0.0
    rows.append(("predicted", found.timeline.start - first, found.timeline.seconds, kinds))
    if profiled is not None:
        trace = profiled if isinstance(profiled, KinetoTrace) else read_kineto(profiled)
        rows.append(
            ("profiled", trace.start, trace.seconds, [profiled_kind(n) for n in trace.names])
        )
    end = max(float((start + seconds).max(initial=0.0)) for _, start, seconds, _ in rows)
    stop = end if length is None else min(begin + length, end)
    with figure(9.0, 1.2 + 0.8 * len(rows)) as (drawn, axes):
        for place, (name, start, seconds, words) in enumerate(rows):
            _lane(axes, -place, start, seconds, words, begin, stop)
            inside = (start < stop) & (start + seconds > begin)
            busy = float(seconds[inside].sum())
            axes.annotate(
                f"{name}: {int(inside.sum())} kernels, {busy * 1e3:.3g} ms busy",
                (begin * 1e3, -place + 0.42), fontsize=8, va="bottom",
            )  # fmt: skip
        axes.set(
            xlim=(begin * 1e3, stop * 1e3),
            ylim=(-len(rows) + 0.5, 0.85),
            yticks=[],
            xlabel="from the first kernel [ms]",
            title=f"{found.program} on {found.accelerator}, {found.mode}",
        )
        used = [kind for kind in KINDS if any(kind in map(_shown, words) for *_, words in rows)]
        handles = [
            axes.scatter([], [], marker="s", color=_colour(kind), label=kind) for kind in used
        ]
        axes.legend(
            handles=handles, ncols=6, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.28)
        )
        return drawn


def profiled_kind(name: str) -> str:
    """Kind of a profiled kernel, by its name."""
    lower = name.lower()
    return next(
        (kind for kind, words in PROFILED if any(word.lower() in lower for word in words)), "other"
    )


def _lane(
    axes: Axes,
    place: int,
    start: Floats,
    seconds: Floats,
    words: list[str],
    begin: float,
    stop: float,
) -> None:
    inside = (start < stop) & (start + seconds > begin)
    for kind in dict.fromkeys(map(_shown, words)):
        mine = inside & np.array([_shown(word) == kind for word in words])
        if mine.any():
            bars = np.stack([start[mine], seconds[mine]], axis=1) * 1e3
            axes.broken_barh(
                [(float(a), float(b)) for a, b in bars], (place - 0.35, 0.7), color=_colour(kind),
                lw=0,
            )  # fmt: skip


def _shown(kind: str) -> str:
    return kind if kind in KINDS else "other"


def _colour(kind: str) -> str:
    return COLOURS[KINDS.index(_shown(kind))]
