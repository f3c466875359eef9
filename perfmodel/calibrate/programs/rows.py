"""Measured models: the table that ``validate/bench/models`` writes, row by row."""

from __future__ import annotations

import csv
import gzip
import math
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

from perfmodel.errors import CalibrationError
from perfmodel.workload.stack import Stack, load_stack

STACKS: Final = {
    "eager": "torch-eager",
    "graph": "torch-eager",
    "compiled": "torch-compile",
    "compiled-graph": "torch-compile",
}
"""Measured mode -> the stack that describes it."""
HOSTED: Final = ("eager", "compiled")
"""Modes in which the host issues every kernel."""
LONG_STEP: Final = 0.01
"""Spells of a shared host last some ten milliseconds [s]."""
MEANT: Final = 5
"""Probes whose mean counts."""
ENDS: Final = 10
"""Of so many values one at each end says nothing of the others."""
LAG: Final = 0.3
"""A device that is done so soon after the host, in steps, did not hold a stream of many up."""
FAULT_S: Final = 20e-6
FAULTED: Final = 0.05
"""What a page may cost that is faulted in, where these rows were measured [s], and the share of a
step from which on such pages disturb it."""
TABLE: Final = "cases.csv"
ABOUT: Final = "about.toml"
"""The sidecar of a table."""
KERNEL_TABLE: Final = "kernels.csv.gz"
OWN_PROGRAMS: Final = {
    "graph": ("-captured",),
    "compiled": ("-compiled", "-captured"),
    "compiled-graph": ("-compiled", "-captured"),
}
"""Ends of the names of programs that only these modes run, the first that exists counts."""


@dataclass(frozen=True, slots=True)
class Woven:
    """A stream with blocks of the probe between its steps, which are no part of them.

    Parameters
    ----------
    step_s : float
        A step [s].
    block_s, behind_block_s : float
        A block in the caller's thread, and in that of the backward pass (0 without one) [s].
    phases_s : (float, float, float) or None
        Of a training step: forward pass, backward pass, optimizer [s].
    """

    step_s: float
    block_s: float
    behind_block_s: float = 0.0
    phases_s: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One measured step.

    Parameters
    ----------
    case : str
        Identity: kind, model, mode, batch, sequence, formats.
    kind : str
        ``infer``, ``prefill``, ``decode`` or ``train``.
    model, mode : str
        Name in the zoo; ``eager``, ``graph`` (a captured eager step) or ``compiled``.
    batch, seq : int
        Sizes; ``seq`` is 0 for images.
    dtype : str
        Format of the arithmetic; ``tf32`` and ``fp32`` are fp32 tensors with and without it.
    step_s : float
        A step of a steady stream without waiting [s].
    latency_s, host_s : float or None
        A single step from an idle device to its end, and until the host has issued it [s].
    kernel_s : float or None
        Sum of the kernel durations that the profiler saw in one step [s].
    kernels : int or None
        How many these are.
    before_allocated, peak_allocated, before_reserved, peak_reserved : int or None
        Memory of the caching allocator [B].
    probe_call_s, probe_add_s, probe_block_s : float or None
        Probe of the host beside the single steps: a tiny operator's call, a Python addition, a
        block of modules and operators [s].
    stream_call_s, stream_add_s, stream_block_s : float or None
        The same around the steady stream; with a block also inside it [s].
    after_profiler : bool
        Whether a profiler had been attached to the measuring process: every launch takes longer.
    run : str
        Folder of the table below the one that was read: a case may be measured in several runs.
    superseded : bool
        Whether another row of the same case stands for it: of two rows, the one without a profiler,
        then the one with a probe, then the later one.
    began : float or None
        When the run began, by the table's sidecar [s since 1970].
    phases_s : (float, float, float) or None
        Of single training steps: until the forward pass was issued, the backward pass, the
        optimizer's step [s].
    backward_block_s : float or None
        The probe's block in the thread that runs the backward pass, beside the single steps [s].
    stream_backward_block_s : float or None
        The same around the pieces of the steady stream [s].
    woven : Woven or None
        Another stream, which the host held up too, with blocks of the probe between its steps;
        `step_s` is then the middle of both.
    faulted : bool or None
        Whether each step faulted in many pages anew, which takes time that no fit should see as
        that of calls; None where nobody counted.
    """

    case: str
    kind: str
    model: str
    mode: str
    batch: int
    seq: int
    dtype: str
    step_s: float
    latency_s: float | None = None
    host_s: float | None = None
    kernel_s: float | None = None
    kernels: int | None = None
    before_allocated: int | None = None
    peak_allocated: int | None = None
    before_reserved: int | None = None
    peak_reserved: int | None = None
    probe_call_s: float | None = None
    probe_add_s: float | None = None
    stream_call_s: float | None = None
    stream_add_s: float | None = None
    after_profiler: bool = False
    run: str = ""
    probe_block_s: float | None = None
    stream_block_s: float | None = None
    superseded: bool = False
    began: float | None = None
    phases_s: tuple[float, float, float] | None = None
    backward_block_s: float | None = None
    stream_backward_block_s: float | None = None
    woven: Woven | None = None
    faulted: bool | None = None

    @property
    def recorded(self) -> str:
        """Identity of the program that was run: the case without the way it was launched."""
        parts = self.case.split("/")
        return "-".join(part for part in [*parts[:2], *parts[3:]] if part != "nobench")

    def stack(self) -> Stack:
        """The stack that describes the mode and the library's switches."""
        rate = "fp32" if self.dtype == "fp32" else "tf32"
        changes = {
            "mode": "compile" if self.mode.startswith("compiled") else "eager",
            "graph": self.mode.endswith("graph"),
            "matmul_fp32": rate,
            "convolution_fp32": rate,
        }
        return load_stack(STACKS[self.mode]).model_copy(update=changes)


@dataclass(frozen=True, slots=True)
class KernelRow:
    """Kernels of one profiled step that share a name, an operator and shapes."""

    case: str
    first: int
    kernel: str
    op: str
    outer: str
    shapes: str
    count: int
    total_s: float
    run: str = ""


def program_path(programs: Path, row: ModelRow) -> Path:
    """The recorded program that a row ran.

    A model may ask whether its stream is being captured or compiled (transformers then builds masks
    that it leaves out otherwise); such a step has a program of its own beside the eager one.
    """
    for end in (*OWN_PROGRAMS.get(row.mode, ()), ""):
        path = programs / f"{row.recorded}{end}.json.gz"
        if path.is_file():
            break
    return path


def tables(folder: Path) -> list[Path]:
    """The tables of measured models in a folder and below it.

    Raises
    ------
    CalibrationError
        If there is none.
    """
    found = sorted(folder.rglob(TABLE))
    if not found:
        raise CalibrationError(
            str(folder / TABLE),
            "<no such file>",
            "a table of measured models",
            repair="measure some first",
        )
    return found


def read_model_rows(folder: Path) -> list[ModelRow]:
    """All rows with a measured step, of all tables.

    Raises
    ------
    CalibrationError
        If there is no table, or a row cannot be read.
    """
    rows = [row for path in tables(folder) for row in _rows(path, _run(path, folder))]
    best: dict[str, ModelRow] = {}
    for row in rows:
        if row.case not in best or _standing(row) > _standing(best[row.case]):
            best[row.case] = row
    return [replace(row, superseded=row is not best[row.case]) for row in rows]


def _standing(row: ModelRow) -> tuple[bool, bool, float, int]:
    """What makes one row of a case stand for it rather than another; runs count up: eager-2."""
    number = row.run.rpartition("-")[2]
    return (
        not row.after_profiler,
        row.stream_call_s is not None,
        row.began or 0.0,
        int(number) if number.isdigit() else 1,
    )


def _run(path: Path, folder: Path) -> str:
    """The folder of a table below the one that is read."""
    return path.parent.relative_to(folder).as_posix()


def _rows(path: Path, run: str) -> Iterator[ModelRow]:
    attached, began = False, _began(path.with_name(ABOUT))
    with path.open(encoding="utf-8", newline="") as handle:
        for number, record in enumerate(csv.DictReader(handle), start=2):
            # Compiled steps run in processes of their own; the others in one, in this order.
            own = record.get("mode", "").startswith("compiled")
            before = attached and not own
            attached = attached or bool(record.get("kernel_us") and not own)
            if not record.get("step_us") or record.get("mode") not in STACKS:
                continue
            try:
                yield replace(_row(record, run, before), began=began)
            except (KeyError, ValueError) as error:
                raise CalibrationError(
                    f"{path}:{number}",
                    f"<{error}>",
                    "the columns that validate/bench/models writes",
                    repair="measure the row again",
                ) from None


def _began(about: Path) -> float | None:
    """When a run began; None where no sidecar tells."""
    if not about.is_file():
        return None
    with about.open("rb") as handle:
        date = tomllib.load(handle).get("date")
    return datetime.fromisoformat(date).timestamp() if isinstance(date, str) else None


def read_kernel_rows(folder: Path) -> Iterator[KernelRow]:
    """Profiled kernels of all cases; nothing where no step was profiled."""
    for path in sorted(folder.rglob(KERNEL_TABLE)):
        with gzip.open(path, "rt", encoding="utf-8", newline="") as handle:
            for record in csv.DictReader(handle):
                yield KernelRow(
                    case=record["case"],
                    first=int(record["first"]),
                    kernel=record["kernel"],
                    op=record["op"],
                    outer=record["outer"],
                    shapes=record["shapes"],
                    count=int(record["count"]),
                    total_s=float(record["total_us"]) * 1e-6,
                    run=_run(path, folder),
                )


def _row(record: dict[str, Any], run: str, attached: bool) -> ModelRow:
    def seconds(name: str, unit: float = 1e-6) -> float | None:
        return _time(record, name) * unit if record.get(name) else None

    def whole(name: str) -> int | None:
        return int(float(record[name])) if record.get(name) else None

    woven, step = _woven(record), _stream(record)
    return ModelRow(
        case=record["case"],
        kind=record["kind"],
        model=record["model"],
        mode=record["mode"],
        batch=int(record["batch"]),
        seq=int(record["seq"]),
        dtype=record["dtype"],
        step_s=step if woven is None else math.sqrt(step * woven.step_s),
        latency_s=seconds("latency_us"),
        host_s=seconds("host_us"),
        kernel_s=seconds("kernel_us"),
        kernels=whole("kernel_count"),
        before_allocated=whole("before_allocated"),
        peak_allocated=whole("peak_allocated"),
        before_reserved=whole("before_reserved"),
        peak_reserved=whole("peak_reserved"),
        probe_call_s=seconds("probe_call_us"),
        probe_add_s=seconds("probe_add_ns", 1e-9),
        stream_call_s=seconds("stream_probe_call_us"),
        stream_add_s=seconds("stream_probe_add_ns", 1e-9),
        probe_block_s=seconds("probe_block_us"),
        stream_block_s=_around(record, "pieces_block_us") or seconds("stream_probe_block_us"),
        after_profiler=record["after_profiler"] == "true"
        if record.get("after_profiler")
        else attached,
        run=run,
        phases_s=_phases(record),
        backward_block_s=seconds("backward_probe_block_us"),
        stream_backward_block_s=_around(record, "pieces_backward_us"),
        woven=woven,
        faulted=float(record["faults"]) * FAULT_S > FAULTED * step
        if record.get("faults")
        else None,
    )


def _stream(record: dict[str, Any]) -> float:
    """A step of the stream in pieces [s]."""
    pieces = _listed(record, "pieces_us") if record.get("pieces_block_us") else []
    if pieces and record["kind"] != "train":
        return middle(pieces)
    return _time(record, "step_us") * 1e-6


def _woven(record: dict[str, Any]) -> Woven | None:
    """The stream with blocks between its steps; None where the device held it up."""
    steps = _listed(record, "woven_us")
    if not steps:
        return None
    if _time(record, "woven_lag_us") * 1e-6 > LAG * median(steps):
        return None
    blocks = _listed(record, "woven_block_us")
    if record["kind"] != "train":
        return Woven(middle(steps), middle(blocks), 0.0, None)
    forward, backward = (_listed(record, f"woven_{name}_us") for name in ("forward", "backward"))
    phases = None
    if forward and backward:
        last = [a - b - c for a, b, c in zip(steps, forward, backward, strict=True)]
        phases = median(forward), median(backward), max(median(last), 1e-9)
    behind = _listed(record, "woven_backward_block_us")
    return Woven(median(steps), median(blocks), median(behind) if behind else 0.0, phases)


def _listed(record: dict[str, Any], name: str) -> list[float]:
    return [float(one) * 1e-6 for one in (record.get(name) or "").split()]


def middle(values: Sequence[float]) -> float:
    """The geometric mean of all but a tenth at each end.

    A shared host changes its state within milliseconds, and a mean holds as much of either state as
    there was, which a median does not. Two streams of one step, each over its own blocks, come
    closer to each other by it than by medians (4.8 where those left 5.5 %; 224 steps).
    """
    ordered = sorted(values)
    cut = max(1, len(ordered) // ENDS) if len(ordered) >= MEANT else 0
    return math.exp(fmean(math.log(value) for value in ordered[cut : len(ordered) - cut]))


def _around(record: dict[str, Any], name: str) -> float | None:
    """What probes around the pieces of a stream say of a step [s]; None where there are none.

    A long step that trains goes through several of the spells of a shared host and takes their mean
    (without the least and the most of the probes); a short one, as the median of many, that of its
    kind.
    """
    seconds = sorted(_listed(record, name))
    if not seconds:
        return None
    if record["kind"] != "train":
        return middle(seconds)
    if _time(record, "step_us") * 1e-6 < LONG_STEP or len(seconds) < MEANT:
        return median(seconds)
    return fmean(seconds[1:-1])


def _phases(record: dict[str, Any]) -> tuple[float, float, float] | None:
    """What single training steps spent where; None of a step that does not train."""
    told = [record.get(f"{name}_host_us") for name in ("forward", "backward", "optimizer")]
    if not all(told):
        return None
    forward, backward, optimizer = (float(value or 0.0) * 1e-6 for value in told)
    return forward, backward, optimizer


def _time(record: dict[str, Any], name: str) -> float:
    value = float(record[name])
    if not (math.isfinite(value) and value > 0.0):
        message = f"{name} = {record[name]}, which is no time"
        raise ValueError(message)
    return value
