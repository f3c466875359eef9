"""Pictures of whole programs: operators under the roofs, who waits for whom, memory over a step."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from perfmodel.cost.program import ProgramEstimate
from perfmodel.cost.program.result import counted_flops
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
MOVERS: Final = ("copy", "index", "scatter", "sort", "fill")
"""Kinds that do no arithmetic: what their models count are instructions."""
_NEAR: Final = 0.4  # of the device's memory: less, and its line would flatten the curve


def operator_roofline(found: ProgramEstimate, accelerator: Accelerator, dtype: str) -> Figure:
    """Kernels that compute under the two roofs of a device, one series a kind.

    Operands that an earlier kernel left in the cache lift a point above the slanted roof. Kernels
    that stream are drawn by their instructions, unless these are mostly waiting: more than the
    matrix units would take while the bytes move.
    """
    peak, bandwidth = accelerator.peak(dtype), accelerator.memory_bandwidth
    intensity: dict[str, list[float]] = {}
    rate: dict[str, list[float]] = {}
    for kernel, seconds in zip(found.kernels.kernels, found.kernels.seconds.tolist(), strict=True):
        moved = kernel.bytes_read + kernel.bytes_written
        waits = kernel.flops > moved * peak / bandwidth and not counted_flops(kernel)
        if waits or kernel.kind in MOVERS:
            continue
        if kernel.flops > 0 and moved > 0 and seconds > 0:
            kind = _shown(kernel.kind)
            intensity.setdefault(kind, []).append(kernel.flops / moved)
            rate.setdefault(kind, []).append(kernel.flops / seconds)
    return roofline(
        f"{found.program} on {found.accelerator}: operators, {found.mode}",
        peak,
        bandwidth,
        intensity,
        rate,
        {kind: _colour(kind) for kind in intensity},
    )


def memory_over_time(found: ProgramEstimate, capacity: float | None = None) -> Figure:
    """Allocated and reserved memory over one step, against the host's clock.

    The device's capacity is drawn where the step comes near it; otherwise the title tells it.
    """
    memory, timeline = found.memory, found.timeline
    calls = max(int(memory.call.max(initial=0)), 1)
    # Blocks change hands when the host reaches a call; calls share the host's time.
    at = memory.call / calls * max(timeline.host_end, 1e-9)
    unit, name = (2**30, "GiB") if memory.peak_reserved >= 2**30 else (2**20, "MiB")
    with figure() as (drawn, axes):
        axes.step(at * 1e3, memory.reserved / unit, where="post", color="#7F7F7F", label="reserved")
        axes.step(
            at * 1e3, memory.allocated / unit, where="post", color=COLOURS[0], label="allocated"
        )
        axes.axhline(
            memory.resident / unit, color="#333333", lw=0.8, ls=":", label="before the step"
        )
        title = (
            f"{found.program}\non {found.accelerator}, {found.mode}\npeak "
            f"{memory.peak_allocated / unit:.4g} {name} allocated, "
            f"{memory.peak_reserved / unit:.4g} {name} reserved"
        )
        if capacity is not None and memory.peak_reserved > _NEAR * capacity:
            axes.axhline(capacity / unit, color=COLOURS[1], lw=0.9, label="device memory")
        elif capacity is not None:
            title += f", of {capacity / 2**30:.4g} GiB"
        axes.set(xlabel="host time [ms]", ylabel=f"memory [{name}]", title=title)
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=4)
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
    with figure(9.0, 1.5 + 0.8 * len(rows)) as (drawn, axes):
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
            xlabel="from the first kernel of a step that found the device idle [ms]",
            title=f"{found.program} on {found.accelerator}, {found.mode}",
        )
        used = [kind for kind in KINDS if any(kind in map(_shown, words) for *_, words in rows)]
        handles = [
            axes.scatter([], [], marker="s", color=_colour(kind), label=kind) for kind in used
        ]
        drawn.legend(handles=handles, ncols=6, fontsize=7, loc="outside lower center")
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
