"""How far predicted steps of whole models are from measured ones, on models that no fit read.

The table of measured models, the recorded programs beside it, and one estimate for each: records
that the tables of ``docs/accuracy/programs.md`` and the coefficients are made from.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from perfmodel.calibrate.programs import (
    Measured,
    ModelRow,
    assumed_paces,
    behind_pace,
    hosts_of,
    issue_pace,
    program_path,
    read_model_rows,
    row_pace,
)
from perfmodel.calibrate.programs.profile import kernel_words, profiled_sums
from perfmodel.calibrate.programs.rows import KernelRow, read_kernel_rows
from perfmodel.cost.program import ProgramEstimate, estimate_lowered
from perfmodel.cost.program.coefficients import ProgramCoefficients, program_coefficients
from perfmodel.cost.program.device import lowering_device
from perfmodel.cost.program.host import pace_of_probe
from perfmodel.cost.program.memory import library_workspace, replay
from perfmodel.cost.program.spread import over_paces, within
from perfmodel.cost.program.step import Prepared, prepare, step
from perfmodel.errors import PerfmodelError, WorkloadError
from perfmodel.hardware import Accelerator, Cluster, load
from perfmodel.study.scores import Score, groups, half, score
from perfmodel.workload.lowering.lower import lower
from perfmodel.workload.program import Program, load_program
from perfmodel.workload.stack import Stack, load_stack

FAMILIES: Final = {
    "llama": "language", "tinyllama": "language", "gpt2": "language", "bert": "language",
    "t5": "language", "mixtral": "mixture of experts", "qwen3_moe": "mixture of experts",
    "mamba": "state space", "whisper": "speech", "clip": "vision and language",
    "vit": "vision transformer", "deit": "vision transformer", "swin": "vision transformer",
    "mixer": "vision transformer", "segformer": "segmentation", "unet": "segmentation",
    "detr": "detection", "espcn": "super-resolution",
}  # fmt: skip
"""Family of a model by how its name begins; all others are convolutional classifiers."""

PLAIN: Final = ("eager", "compiled")
"""Modes whose allocator was watched during steps; a captured one allocates while it is captured."""

UNREAD: Final = "unread"
"""Begins the names of runs that no fit reads, whatever models are in them: a check of the whole."""


@dataclass(frozen=True, slots=True)
class Record:
    """One measured step and its prediction.

    Parameters
    ----------
    case, run, kind, model, mode, family, split : str
        What was run, and in which run; ``split`` is ``"tune"`` where coefficients may have seen the
        model, :data:`UNREAD` for the runs of that name.
    measured_s, predicted_s : float
        Time of one step in a steady stream; predicted for the pace of the host where a probe
        tells it [s].
    unprobed_s : float
        The same prediction for a host of unknown pace: of a host that the assumed pace was taken
        from, with the pace that the other hosts give [s].
    low_s, high_s : float
        The interval of the prediction [s].
    unprobed_low_s, unprobed_high_s : float
        That of the prediction for a host of unknown pace, over the paces of the other hosts [s].
    host_s, device_s : float
        Predicted work of either side [s].
    host_pace, issue_pace : float or None
        What the probes around the stream say, and those between the single steps.
    issued_s : float or None
        Predicted time in which a single step is issued, where its pace is known [s].
    after_profiler : bool
        Whether a profiler was attached to the measuring process; predictions are then of a step
        with one.
    superseded : bool
        Whether another row of the same case stands for it: it is in no score of times.
    measured_host_s, measured_kernel_s : float or None
        The same as measured, where it was [s].
    peak_measured, peak_predicted : int or None
        Peak of allocated memory [B]. The measuring process ran many cases, and every captured graph
        left a workspace behind: measured is what the step takes above what was there before it,
        plus what a process of its own holds there (weights, state, inputs, workspaces).
    reserved_measured, reserved_predicted : int or None
        Peak of reserved segments of the whole measuring process, and of a process of its own [B].
    unknown : int
        Operators that no table knows.
    refused : str
        Why there is no prediction; empty if there is one.
    """

    case: str
    run: str
    kind: str
    model: str
    mode: str
    family: str
    split: str
    measured_s: float
    predicted_s: float = 0.0
    unprobed_s: float = 0.0
    low_s: float = 0.0
    high_s: float = 0.0
    unprobed_low_s: float = 0.0
    unprobed_high_s: float = 0.0
    host_s: float = 0.0
    device_s: float = 0.0
    host_pace: float | None = None
    issue_pace: float | None = None
    issued_s: float | None = None
    after_profiler: bool = False
    superseded: bool = False
    measured_host_s: float | None = None
    measured_kernel_s: float | None = None
    peak_measured: int | None = None
    peak_predicted: int | None = None
    reserved_measured: int | None = None
    reserved_predicted: int | None = None
    unknown: int = 0
    refused: str = ""

    @property
    def error(self) -> float:
        """Signed, as a fraction of the measurement."""
        return self.predicted_s / self.measured_s - 1.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def estimate_program(
    program: Program | str | Path,
    on: str | Path | Accelerator | Cluster,
    *,
    stack: str | Stack = "torch-eager",
    host_pace: float | None = None,
    backward_pace: float | None = None,
) -> ProgramEstimate:
    """Step time and memory of a recorded program, or of a file that holds one.

    Parameters
    ----------
    program : Program, str or Path
        What :func:`perfmodel.trace` gave, or the path of graph JSON.
    on : str, Path, Accelerator or Cluster
        The device; of a cluster, one of its devices.
    stack : str or Stack
        How it is run: ``"torch-eager"``, ``"cuda-graph"``, ``"torch-compile"`` or a stack of one's
        own.
    host_pace : float, optional
        How much longer the host takes for a call than the reference (:func:`host_pace_of`); without
        it, what was usual among measured hosts, with an interval over their spread.
    backward_pace : float, optional
        The same of the thread that runs the backward pass of a training step; without it, what
        usually goes with the other.
    """
    accelerator = _device(on)
    recorded = load_program(program) if isinstance(program, str | Path) else program
    chosen = load_stack(stack) if isinstance(stack, str) else stack
    stack_there = _without_tf32(chosen, accelerator)
    lowered = lower(recorded, stack_there, device=lowering_device(accelerator))
    return estimate_lowered(lowered, accelerator, host_pace=host_pace, backward_pace=backward_pace)


def host_pace_of(
    call: float, on: str | Path | Accelerator | Cluster, *, block: float | None = None
) -> float:
    """The pace of a host from its probe, for ``host_pace`` of :func:`estimate_program`.

    Parameters
    ----------
    call : float
        What ``python3 validate/bench/host_probe.py`` prints: seconds of one tiny operator [s].
    on : str, Path, Accelerator or Cluster
        The device of the estimate: its coefficients hold the reference.
    block : float, optional
        The block that the probe prints too; it tells the pace better [s].
    """
    accelerator = _device(on)
    for name, value, most in (("call", call, 0.01), ("block", 1e-3 if block is None else block, 1)):
        wrong = isinstance(value, bool) or not isinstance(value, (int, float))
        if wrong or not 1e-7 <= value <= most:
            raise WorkloadError(
                f"host pace: {name}",
                value,
                f"seconds between 1e-7 and {most}",
                repair="probe again",
            )
    return pace_of_probe(float(call), program_coefficients(accelerator), block=block)


def _device(on: str | Path | Accelerator | Cluster) -> Accelerator:
    target = load(on) if isinstance(on, str | Path) else on
    accelerator = target.accelerator if isinstance(target, Cluster) else target
    if not isinstance(accelerator, Accelerator):
        raise WorkloadError(
            "program: on", on, "an accelerator, a node or a cluster", repair="name a device"
        )
    return accelerator


def _without_tf32(stack: Stack, accelerator: Accelerator) -> Stack:
    """A chip without TF32 ignores the switches that allow it."""
    if accelerator.has_matrix("tf32"):
        return stack
    return stack.model_copy(update={"matmul_fp32": "fp32", "convolution_fp32": "fp32"})


def family_of(model: str) -> str:
    """The family of a measured model."""
    return next((f for name, f in FAMILIES.items() if model.startswith(name)), "convolutional")


def measured_cases(
    measurements: Path,
    programs: Path,
    accelerator: Accelerator,
    *,
    chosen: Callable[[ModelRow], bool] = lambda row: True,
) -> tuple[list[Measured], list[Record]]:
    """Measured steps beside their priced programs, and records of those that cannot be.

    Parameters
    ----------
    measurements : path
        The folder of the table of models.
    programs : path
        The folder of recorded programs.
    accelerator : Accelerator
        The device.
    chosen : callable
        Which rows.
    """
    cases, refused = [], []
    chip = lowering_device(accelerator)
    profiles: dict[tuple[str, str], list[KernelRow]] = {}
    for kernel in read_kernel_rows(measurements):
        profiles.setdefault((kernel.run, kernel.case), []).append(kernel)
    lowered_from: tuple[Path, Program] | None = None
    rows = filter(chosen, read_model_rows(measurements))
    paths = [(program_path(programs, row), row) for row in rows]
    for path, row in sorted(paths, key=lambda pair: str(pair[0])):
        try:
            if lowered_from is None or lowered_from[0] != path:
                lowered_from = (path, load_program(path))
            lowered = lower(lowered_from[1], row.stack(), device=chip)
            prepared = prepare(lowered, accelerator)
            profile = profiled_sums(profiles.get((row.run, row.case), ()))
            cases.append(Measured(row, prepared, profile, kernel_words(prepared)))
        except PerfmodelError as error:
            reason = " ".join(str(error).replace(f"{programs}/", "").split())
            refused.append(replace(_blank(row), refused=reason))
        gc.collect(0)
    return cases, refused


def records(
    cases: Iterable[Measured],
    accelerator: Accelerator,
    *,
    coefficients: ProgramCoefficients | None = None,
) -> list[Record]:
    """A prediction for every case."""
    cases = list(cases)
    c = program_coefficients(accelerator) if coefficients is None else coefficients
    others = elsewhere(cases, c) if c.device == accelerator.name.lower() else {}
    workspace = library_workspace(accelerator)
    return [
        _record(one.row, one.prepared, c, others.get(one.row.run, c), workspace) for one in cases
    ]


def elsewhere(cases: Sequence[Measured], c: ProgramCoefficients) -> dict[str, ProgramCoefficients]:
    """For each run, the coefficients with the assumed paces of all hosts but its own."""
    hosts, found = hosts_of([one.row for one in cases]), {}
    for host in set(hosts.values()):
        paces = assumed_paces([one for one in cases if hosts[one.row.run] != host], c)
        found[host] = replace(c, scalars=dict(c.scalars) | paces)
    return {run: found[host] for run, host in hosts.items()}


def _record(
    row: ModelRow,
    prepared: Prepared,
    c: ProgramCoefficients,
    other: ProgramCoefficients,
    workspace: int,
) -> Record:
    pace = row_pace(row, c)
    unknown = step(prepared, other, profiler=row.after_profiler)
    behind = behind_pace(row, c)
    done = (
        unknown
        if pace is None
        else step(prepared, c, pace=pace, behind=behind, profiler=row.after_profiler)
    )
    issuing = None if prepared.lowered.graph else issue_pace(row, c)
    issued = None
    if issuing is not None:  # with what the host waits where the queue is full
        one = step(prepared, c, pace=issuing, profiler=row.after_profiler)
        issued = one.timeline.host_end
    memory = replay(prepared.lowered, workspace=workspace)
    width = c.interval.get(prepared.mode, 0.0)
    apart = (unknown.seconds, unknown.seconds)
    low, high = within(done.seconds, (done.seconds, done.seconds), width)
    if not prepared.lowered.graph:
        apart = over_paces(prepared, other)
    wide_low, wide_high = within(unknown.seconds, apart, width)
    blank = _blank(row)
    if row.peak_allocated is not None and row.before_allocated is not None and row.mode in PLAIN:
        held = memory.resident + memory.at_peak.get("workspace", 0)
        blank = replace(blank, peak_measured=row.peak_allocated - row.before_allocated + held)
    return replace(
        blank,
        predicted_s=done.seconds,
        unprobed_s=unknown.seconds,
        host_pace=pace,
        issue_pace=issuing,
        issued_s=issued,
        low_s=low,
        high_s=high,
        unprobed_low_s=wide_low,
        unprobed_high_s=wide_high,
        host_s=done.host,
        device_s=done.device,
        peak_predicted=memory.peak_allocated,
        reserved_predicted=memory.peak_reserved,
        unknown=sum(prepared.lowered.unknown.values()),
    )


def part_of(row: ModelRow) -> str:
    """Whose a row is: the fit's, the report's, or of a check that no fit reads."""
    return UNREAD if row.run.startswith(UNREAD) else half(row.model)


def _blank(row: ModelRow) -> Record:
    return Record(
        case=row.case,
        run=row.run,
        kind=row.kind,
        model=row.model,
        mode=row.mode,
        family=family_of(row.model),
        split=part_of(row),
        measured_s=row.step_s,
        after_profiler=row.after_profiler,
        superseded=row.superseded,
        measured_host_s=row.host_s,
        measured_kernel_s=row.kernel_s,
        reserved_measured=row.peak_reserved,
    )


def purpose(record: Record) -> str:
    """What a row is scored as: training and decoding apart from the ways of inference.

    Steps that were launched one by one in a process where a profiler had been are apart too: they
    are no measurement of a host by itself.
    """
    kind = {"train": "training", "decode": "decoding"}.get(record.kind, "inference")
    apart = " (profiler attached)" if record.after_profiler and record.mode in PLAIN else ""
    return f"{kind}, {record.mode}{apart}"


def bounded(record: Record) -> str:
    """The purpose, and which side held the measured step up: the device where it was busy for 85 %.

    The device's part is a property of the chip; the host's of the processor beside it, and of what
    else it did. Where no profile was taken, the predicted kernels stand for the measured ones.
    """
    busy = record.measured_kernel_s or record.device_s
    device = record.mode.endswith("graph") or busy > 0.85 * record.measured_s
    return f"{purpose(record)}: {'device' if device else 'host'}"


def blind(found: Sequence[Record]) -> list[Record]:
    """The same rows as predicted for a host of unknown pace."""
    return [replace(one, predicted_s=one.unprobed_s or one.predicted_s) for one in found]


def time_scores(found: Sequence[Record], key: Callable[[Record], str]) -> dict[str, Score]:
    """Errors of the step time by group; refused and superseded rows are not in them."""
    kept = [one for one in found if not one.refused and not one.superseded]
    table = {}
    for name, places in groups([key(one) for one in kept]).items():
        mine = [kept[k] for k in places]
        one = score([r.predicted_s for r in mine], [r.measured_s for r in mine])
        if one is not None:
            table[str(name)] = one
    return table


def memory_scores(found: Sequence[Record], key: Callable[[Record], str]) -> dict[str, Score]:
    """Errors of the peak of allocated memory by group."""
    kept = [one for one in found if one.peak_measured and one.peak_predicted]
    table = {}
    for name, places in groups([key(one) for one in kept]).items():
        mine = [kept[k] for k in places]
        one = score(
            [float(r.peak_predicted or 0) for r in mine],
            [float(r.peak_measured or 0) for r in mine],
        )
        if one is not None:
            table[str(name)] = one
    return table
