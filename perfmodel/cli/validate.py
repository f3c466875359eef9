"""``perfmodel validate``: how far predictions are from measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from perfmodel.cli.output import Json, emit
from perfmodel.errors import CalibrationError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("validate")(validate)


def validate(
    training: Annotated[Path | None, typer.Option(help="Own training rows (CSV).")] = None,
    inference: Annotated[
        Path | None, typer.Option(help="Own answers of decoders, batch by batch (CSV).")
    ] = None,
    ops: Annotated[
        Path | None, typer.Option(help="Own operator times: JSON lines, or a CSV.")
    ] = None,
    on: Annotated[str | None, typer.Option(help="The chip of --ops.")] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Processes at once; by default one a processor.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write report and pictures here.")] = None,
    json: Json = False,
) -> None:
    """The accuracy report: against everything published, or against a user's own measurements."""
    from perfmodel.study import accuracy

    if ops is not None and on is None:
        raise CalibrationError(
            "validate: --on",
            "<nothing>",
            "the chip on which the operators of --ops were measured",
            repair="add --on, for example --on h100-sxm5-80gb",
        )
    if on is not None and ops is None:
        raise CalibrationError(
            "validate: --on",
            on,
            "--ops FILE.jsonl beside it: training rows name their own chips",
            repair="name the measured operators with --ops, or leave --on out",
        )
    if jobs is not None and jobs < 1:
        raise CalibrationError("--jobs", jobs, "1 or more", repair="leave it out to use them all")
    documents: dict[str, Any] = {}
    texts: list[str] = []
    for part in accuracy.parts(training=training, inference=inference, ops=ops, on=on, jobs=jobs):
        documents[part.name] = part.document
        texts.append(part.markdown)
        if out is not None:
            from perfmodel.report.accuracy import write_part

            write_part(part, out)
    if json:
        emit(next(iter(documents.values())) if len(documents) == 1 else documents)
    else:
        typer.echo("\n\n".join(texts))
