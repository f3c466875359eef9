"""``perfmodel simulate``: a cluster over time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perfmodel.cli.output import Json, emit


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("simulate")(simulate)


def simulate(
    scenario: Annotated[Path, typer.Argument(help="A scenario file (TOML).")],
    trace: Annotated[Path | None, typer.Option(help="Write a Chrome trace here.")] = None,
    json: Json = False,
) -> None:
    """Run a scenario: a step, failures, jobs and checkpoints over time."""
    from perfmodel.sim import run_scenario

    result = run_scenario(scenario)
    if trace is not None:
        result.write_trace(trace)
    if json:
        emit(result.to_dict())
    else:
        typer.echo(result.explain())
