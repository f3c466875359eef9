"""The command line: one module a group of verbs, no physics.

Every verb takes ``--json`` (one JSON document on stdout and nothing else there); exit codes are 0
for an answer, 2 for bad input, 3 for "it does not fit".
"""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from perfmodel.cli import (
    calibrate,
    conv,
    graph,
    inference,
    models,
    operators,
    simulate,
    specs,
    training,
    validate,
)
from perfmodel.cli.output import complain
from perfmodel.cli.usage import Misuse, told, wants_json
from perfmodel.errors import FileError, Infeasible, PerfmodelError

app = typer.Typer(
    name="perfmodel",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="How fast, how big and how costly a machine-learning workload will be, and what to do.",
)
for group in (
    specs,
    models,
    operators,
    training,
    inference,
    graph,
    conv,
    simulate,
    calibrate,
    validate,
):
    group.register(app)


def _version(asked: bool) -> None:
    if asked:
        from perfmodel import __version__

        typer.echo(f"perfmodel {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it and stop.")
    ] = False,
) -> None:
    """What stands before the verb; :func:`_version` has seen to it."""


def main() -> None:
    """Run the command line; errors become a message of five parts and an exit code."""
    try:
        sys.exit(app(prog_name="perfmodel", standalone_mode=False) or 0)
    except Misuse as error:
        if not error.format_message():  # the help was shown in place of an answer
            sys.exit(2)
        _fail(told(error), 2)
    except PerfmodelError as error:
        _fail(error, 3 if isinstance(error, Infeasible) else 2)
    except OSError as error:
        _fail(
            FileError(
                str(error.filename or "perfmodel"),
                f"<{error.strerror or error}>",
                "a file that can be read, or a folder that can be written",
                repair="check that the path exists, whose it is, and that the disk has room",
            ),
            2,
        )
    except typer.Abort as error:  # typer's word for a file that ends early
        _fail(
            FileError(
                "perfmodel",
                f"<{error.__cause__ or 'an early end'}>",
                "files that are whole",
                repair="restore the file that was cut short: a disk may have been full",
            ),
            2,
        )
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(error: PerfmodelError, code: int) -> NoReturn:
    complain(error, as_json=wants_json())
    sys.exit(code)
