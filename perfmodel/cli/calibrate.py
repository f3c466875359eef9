"""``perfmodel calibrate``: from measurements to fitted coefficients."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from perfmodel.cli.output import Json, emit
from perfmodel.errors import CalibrationError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("calibrate")(calibrate)


def calibrate(
    device: Annotated[str, typer.Option(help="The chip: a name or a TOML path.")],
    folder: Annotated[Path | None, typer.Argument(help="CSV files with sidecars.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Efficiency folder to write; perfmodel's own by default.")
    ] = None,
    support: Annotated[
        Path | None,
        typer.Option(help="A sibling chip's measurements, in a folder of its name."),
    ] = None,
    programs: Annotated[
        Path | None, typer.Option(help="Recorded programs of the models in DIR/models.")
    ] = None,
    kernels: Annotated[
        list[str] | None,
        typer.Option(help="Fit only kernels that begin so, and keep the others' files."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Processes at once; by default one a processor.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what to measure.")] = False,
    json: Json = False,
) -> None:
    """Fit the cost model to a folder of measurements, or say what to measure first."""
    import perfmodel.calibrate as package

    if plan:
        from perfmodel.hardware import load_accelerator

        text = package.measurement_plan(load_accelerator(device), device)
        if json:
            commands = [line.strip() for line in text.splitlines() if line.startswith("  ")]
            emit({"device": device, "plan": text, "commands": commands})
        else:
            typer.echo(text)
        return
    if folder is None:
        raise CalibrationError(
            "calibrate: DIR",
            "<nothing>",
            "a folder of CSV files with TOML sidecars",
            repair="name the folder, or ask with --plan what to measure",
        )
    if jobs is not None and jobs < 1:
        raise CalibrationError("--jobs", jobs, "1 or more", repair="leave it out to use them all")
    if out is None:
        _check_models(folder, device)
    from perfmodel.study.executor import processes

    result = package.calibrate(
        folder,
        device,
        out=out,
        support=None if support is None else (support, support.resolve().name),
        kernels=kernels or (),
        progress=lambda done: typer.echo(done, err=True),
        spread=processes(jobs),
    )
    scores = package.summaries(result.records, lambda record: record.kernel)
    models = _models(folder, device, programs) if out is None else {}
    if json:
        emit(
            {
                "device": result.device,
                "folder": str(result.folder),
                "held_out": scores,
                "held_out_models": models,
                "refused": [{"row": row, "reason": why} for row, why in result.refused],
                "skipped": dict(result.skipped),
            }
        )
        return
    typer.echo(package.markdown(scores, "held-out operators"))
    for mode, (count, error) in models.items():
        typer.echo(f"whole models, {mode}: {count} held-out rows, {error:.1%}")
    for reason, count in Counter(reason for _, reason in result.refused).most_common():
        typer.echo(f"left out: {count} ({reason})")
    typer.echo(f"{len(result.refused)} rows refused, files in {result.folder}")


def _check_models(folder: Path, device: str) -> None:
    """Refuse damaged tables of whole models before the kernels' files are replaced."""
    from perfmodel.calibrate.programs.sound import check_models
    from perfmodel.hardware import load_accelerator

    if (folder / "models").is_dir():
        check_models(folder / "models", load_accelerator(device).name.lower())


def _models(folder: Path, device: str, programs: Path | None) -> dict[str, tuple[int, float]]:
    """Fit what whole models add to their kernels, where some were measured; mode -> rows, error.

    It rests on the kernels' prices, so it follows every fit of them.
    """
    from perfmodel.study.accuracy import data_folder
    from perfmodel.study.programs_fit import fit_folder

    measurements = folder / "models"
    if not measurements.is_dir():
        return {}
    recorded = data_folder() / "programs" if programs is None else programs
    held, _, _ = fit_folder(measurements, recorded, device)
    return {mode: (one.count, one.mape) for mode, one in held.items()}
