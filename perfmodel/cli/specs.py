"""``perfmodel specs``: what hardware is known, and on whose word."""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby
from typing import Annotated

import typer

from perfmodel.cli.output import Json, emit, table


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("specs")(specs)


def specs(
    name: Annotated[str | None, typer.Argument(help="A spec's name or a TOML path.")] = None,
    json: Json = False,
) -> None:
    """List the known hardware, or show one spec with the source of every value."""
    from perfmodel.hardware import describe, list_specs, references

    if name is None:
        known = list_specs()
        if json:
            emit([asdict(entry) for entry in known])
            return
        for kind, entries in groupby(known, key=lambda entry: entry.kind):
            rows = [[entry.name, entry.title, entry.summary] for entry in entries]
            typer.echo(f"\n{kind} ({len(rows)})")
            table([f"  {'name'}", "title", "what"], [[f"  {row[0]}", *row[1:]] for row in rows])
        return
    fields = describe(name)
    if json:
        emit({"name": name, "fields": [field._asdict() for field in fields]})
        return
    table(["field", "value", "source"], [[one.field, one.value, one.source] for one in fields])
    titles = references()
    cited = {word for one in fields for word in one.source.split() if word in titles}
    for key in sorted(cited):
        typer.echo(f"[{key}] {titles[key]['title']}, {titles[key]['publisher']}")
