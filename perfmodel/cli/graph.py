"""``perfmodel graph``: step time and memory of a saved model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from perfmodel.cli.output import Json, emit, table
from perfmodel.errors import WorkloadError, nearest_name

if TYPE_CHECKING:
    from perfmodel.cost.program import ProgramEstimate
    from perfmodel.hardware import Accelerator
    from perfmodel.workload.program import Program
    from perfmodel.workload.stack import Stack

MODES: Final = ("eager", "graph", "compile", "compile-graph")
_SHOWN: Final = 25
_LAYER: Final = re.compile(r"(?<![^.])\d+(?![^.])")
"""A number that stands alone in a module's path: one of several like layers."""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("graph")(graph)


def graph(
    file: Annotated[Path, typer.Argument(help="A .pt2, .onnx, .json or .json.gz file.")],
    on: Annotated[str, typer.Option(help="Accelerator, node or cluster: a name or a TOML path.")],
    batch_size: Annotated[
        int | None, typer.Option(help="For a dynamic batch; a fixed one can only be confirmed.")
    ] = None,
    stack: Annotated[str, typer.Option(help="How software runs it.")] = "torch-eager",
    mode: Annotated[
        str | None, typer.Option(help=f"{', '.join(MODES)}; by default what the stack says.")
    ] = None,
    dim: Annotated[
        list[str] | None, typer.Option(help="Another dynamic dimension, name=size; repeatable.")
    ] = None,
    host_pace: Annotated[
        str | None,
        typer.Option(help="The host against the reference, 1.4; or its probe's call, 8.9us."),
    ] = None,
    backward_pace: Annotated[
        float | None, typer.Option(help="The same of the thread that runs the backward pass.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Draw roofline, timeline, memory here.")] = None,
    profile: Annotated[
        Path | None, typer.Option(help="A Kineto trace of one step, drawn below the timeline.")
    ] = None,
    json: Json = False,
) -> None:
    """What one step of a saved model takes: time, host and device, memory, operators."""
    from perfmodel.study.own_model import estimate_program
    from perfmodel.workload.importers.load import load_graph

    if profile is not None and out is None:
        raise WorkloadError(
            "graph: --profile",
            str(profile),
            "--out DIR beside it, where the pictures go",
            repair="add --out, or leave --profile out",
        )
    accelerator, chosen, dims = _device(on), _stack(stack, mode), _dims(dim or [])
    program = load_graph(file, batch_size=batch_size, dims=dims)
    pace = None if host_pace is None else _pace(host_pace, accelerator)
    found = estimate_program(
        program, accelerator, stack=chosen, host_pace=pace, backward_pace=backward_pace
    )
    drawn = [] if out is None else _draw(found, accelerator, out, profile)
    if json:
        emit(document(program, found))
    else:
        _show(program, found)
        for path in drawn:
            typer.echo(f"drawn: {path}")
    if not found.fits:
        raise typer.Exit(3)


def _pace(text: str, accelerator: Accelerator) -> float:
    """A ratio, or the time of the probe's call with its unit."""
    from perfmodel.study.own_model import host_pace_of

    number = text.strip().removesuffix("us").strip()
    try:
        value = float(number)
    except ValueError:
        raise WorkloadError(
            "graph: --host-pace", text, "a ratio like 1.4, or a time like 8.9us",
            repair="python3 validate/bench/host_probe.py prints both",
        ) from None  # fmt: skip
    return host_pace_of(value * 1e-6, accelerator) if text.strip().endswith("us") else value


def document(program: Program, found: ProgramEstimate) -> dict[str, Any]:
    """The answer as JSON: totals, then one record a kernel under ``ops``."""
    kernels = found.kernels.kernels
    ops = [
        {
            **row,
            "module": program.nodes[kernel.nodes[0]].module if kernel.nodes else "",
            "source": program.nodes[kernel.nodes[0]].source if kernel.nodes else "",
            "nodes": [program.nodes[k].name for k in kernel.nodes],
        }
        for row, kernel in zip(found.kernels.rows(), kernels, strict=True)
    ]
    record = found.to_dict(kernels=False)
    notes = record.pop("notes")
    return {
        **record,
        "origin": program.origin,
        "parameters": program.parameters,
        "reserved_bytes": found.peak_reserved,
        "flops": sum(row["flops"] for row in ops),
        "bytes": float(sum(kernel.bytes_read + kernel.bytes_written for kernel in kernels)),
        "assumptions": [*program.assumptions, *notes],
        "ops": ops,
    }


def _show(program: Program, found: ProgramEstimate) -> None:
    typer.echo(
        f"{program.name}: {program.parameters:,} parameters, {len(program.nodes)} operators,"
        f" {len(found.kernels.kernels)} kernels ({program.origin})"
    )
    typer.echo(found.explain())
    for sentence in program.assumptions:
        typer.echo(f"assumed: {sentence}")
    typer.echo("")
    rows = _longest(program, found)
    table(["operator", "module", "calls", "time", "share", "bound", "calibrated"], rows)


def _longest(program: Program, found: ProgramEstimate) -> list[list[str]]:
    """The longest operators, equal ones of one module together."""
    places: dict[tuple[str, str], list[int]] = {}
    for k, kernel in enumerate(found.kernels.kernels):
        module = program.nodes[kernel.nodes[0]].module if kernel.nodes else ""
        places.setdefault((kernel.name, _LAYER.sub("*", module)), []).append(k)
    kernels = found.kernels
    ranked = sorted(places.items(), key=lambda item: -float(kernels.seconds[item[1]].sum()))
    busy = max(float(kernels.seconds.sum()), 1e-30)
    rows = []
    for (name, module), mine in ranked[:_SHOWN]:
        seconds = float(kernels.seconds[mine].sum())
        longest = max(mine, key=lambda k: float(kernels.seconds[k]))
        rows.append(
            [
                name,
                module,
                str(len(mine)),
                f"{seconds * 1e6:.1f} us",
                f"{seconds / busy:.1%}",
                kernels.bound[longest],
                "yes" if bool(kernels.calibrated[mine].all()) else "no",
            ]
        )
    if len(ranked) > _SHOWN:
        rest = sum(float(kernels.seconds[mine].sum()) for _, mine in ranked[_SHOWN:])
        count = sum(len(mine) for _, mine in ranked[_SHOWN:])
        rows.append(
            ["others", "", str(count), f"{rest * 1e6:.1f} us", f"{rest / busy:.1%}", "", ""]
        )
    return rows


def _draw(
    found: ProgramEstimate, accelerator: Accelerator, folder: Path, profile: Path | None
) -> list[Path]:
    from perfmodel.report.programs import memory_over_time, operator_roofline, timeline
    from perfmodel.report.style import save

    figures = {
        "roofline": operator_roofline(found, accelerator, _main_dtype(found)),
        "timeline": timeline(found, profile),
        "memory": memory_over_time(found, float(accelerator.memory_capacity)),
    }
    stem = re.sub(r"[^\w.-]+", "-", found.program) or "program"
    return [save(figure, folder / f"{stem}-{name}.svg") for name, figure in figures.items()]


def _main_dtype(found: ProgramEstimate) -> str:
    """The format that most of the arithmetic is in."""
    work: dict[str, float] = {}
    for kernel in found.kernels.kernels:
        for op in kernel.ops:
            dtype = str(getattr(op, "dtype", "fp32"))
            work[dtype] = work.get(dtype, 0.0) + float(op.flops)
    return max(work, key=lambda dtype: work[dtype], default="fp32")


def _device(on: str) -> Accelerator:
    from perfmodel.errors import SpecError
    from perfmodel.hardware import Cluster, Link, load

    found = load(on)
    if isinstance(found, Link):
        raise SpecError(
            "graph: --on",
            on,
            "an accelerator, a node or a cluster",
            repair="name the device that runs the model, not a link",
        )
    return found.accelerator if isinstance(found, Cluster) else found


def _stack(name: str, mode: str | None) -> Stack:
    from perfmodel.workload.stack import load_stack

    chosen = load_stack(name)
    if mode is None:
        return chosen
    if mode not in MODES:
        raise WorkloadError(
            "graph: --mode",
            mode,
            ", ".join(MODES),
            nearest=nearest_name(mode, MODES),
            repair="leave it out for what the stack says",
        )
    how = "compile" if mode.startswith("compile") else "eager"
    return chosen.model_copy(update={"mode": how, "graph": mode.endswith("graph")})


def _dims(given: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in given:
        name, equals, size = text.partition("=")
        if not equals or not name or not re.fullmatch(r"[0-9]{1,10}", size):
            raise WorkloadError(
                "graph: --dim",
                text,
                "a name and a whole number, such as sequence=128",
                repair="write --dim name=size, once for each dimension",
            )
        found[name] = int(size)
    return found
