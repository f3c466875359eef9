"""A command line that cannot be read, told in the five parts of every other error."""

from __future__ import annotations

import re
import sys
from typing import Any

import typer

from perfmodel.errors import UsageError, nearest_name

# The parser's own class, from whichever copy of it typer brings.
Misuse: Any = typer.BadParameter.__mro__[1]


def told(error: Any) -> UsageError:
    """The parser's complaint as ours: what is accepted is what the verb has."""
    context = error.ctx
    place = "perfmodel" if context is None else context.command_path
    command = None if context is None else context.command
    verbs = list(getattr(command, "commands", {}))
    options = [
        name
        for param in getattr(command, "params", ())
        for name in param.opts
        if name.startswith("--")
    ]
    accepted = ", ".join(verbs or options) or "what its help lists"
    # A hint in the middle of the message is a part of its own here.
    message = re.split(r" Did you mean| \(Possible", error.format_message())[0].rstrip(".")
    word = re.search(r"'([^']*)'|(--\S+)", message)
    asked = next(filter(None, word.groups())) if word else ""
    if asked in options and error.message:
        kind = getattr(getattr(getattr(error, "param", None), "type", None), "name", "")
        wanted = f"a value of type {kind}" if kind else "as many values as its help says"
        accepted = f"{asked} with {wanted}"
    return UsageError(
        place,
        f"<{message}>",
        accepted,
        nearest=nearest_name(asked, verbs or options) if asked not in options else None,
        repair=f"see `{place} --help`",
    )


def wants_json() -> bool:
    """Whether the answer has to be a JSON document, bad or good."""
    return "--json" in sys.argv
