"""The command line: one module a group of verbs, no physics.

Every verb takes ``--json`` (one JSON document on stdout and nothing else there); exit codes are 0
for an answer, 2 for bad input, 3 for "it does not fit".
"""

from __future__ import annotations

import sys

import typer

from perfmodel.cli import (
    calibrate,
    conv,
    graph,
    inference,
    operators,
    simulate,
    specs,
    training,
    validate,
)
from perfmodel.cli.output import complain
from perfmodel.errors import Infeasible, PerfmodelError

app = typer.Typer(
    name="perfmodel",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="How fast, how big and how costly a machine-learning workload will be, and what to do.",
)
for group in (specs, operators, training, inference, graph, conv, simulate, calibrate, validate):
    group.register(app)


def main() -> None:
    """Run the command line; our own errors become a message and an exit code."""
    try:
        app()
    except PerfmodelError as error:
        complain(error, as_json="--json" in sys.argv)
        sys.exit(3 if isinstance(error, Infeasible) else 2)
    except KeyboardInterrupt:
        sys.exit(130)
