"""What every verb shares: options, JSON on stdout, complaints on stderr, progress."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from perfmodel.errors import PerfmodelError

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]


def emit(document: object) -> None:
    """Print one JSON document."""
    typer.echo(json.dumps(plain(document), allow_nan=False))


def plain(value: object) -> Any:
    """JSON-ready: NumPy values become Python's, what is not finite becomes ``null``."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy's arrays and scalars, which need not be imported for it
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def complain(error: PerfmodelError, *, as_json: bool) -> None:
    """Show the five parts: as JSON on stdout when that was asked for, else as text on stderr."""
    if as_json:
        emit(error.to_dict())
    else:
        typer.echo(f"{type(error).__name__}: {error}", err=True)


@contextmanager
def progress(label: str, *, quiet: bool) -> Iterator[Callable[[float], None]]:
    """A bar on stderr for long work; the callback takes the share that is done.

    Nothing is drawn when JSON was asked for or stderr is not a terminal.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda share: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=1.0)
        yield lambda share: bar.update(task, completed=share)


def table(header: list[str], rows: list[list[str]]) -> None:
    """Aligned columns of text."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        typer.echo("  ".join(cells).rstrip())
