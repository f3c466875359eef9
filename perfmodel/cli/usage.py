"""A command line that cannot be read, told in the five parts of every other error."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any, Final

import typer

from perfmodel.errors import UsageError, nearest_name

# The parser's own class, from whichever copy of it typer brings.
Misuse: Any = typer.BadParameter.__mro__[1]
_KINDS: Final = {"integer": "a whole number", "float": "a number", "number": "a number"}


def told(error: Any) -> UsageError:
    """The parser's complaint as ours: what came, and what the verb or the option takes."""
    context, param = error.ctx, getattr(error, "param", None)
    command = None if context is None else context.command
    place = _verb(sys.argv[1:]) if context is None else context.command_path
    # A hint in the middle of the message is a part of its own here.
    message = re.split(r" Did you mean| \(Possible", error.format_message())[0].rstrip(".")
    if param is not None:
        return _of_a_value(error, place, param, message)
    verbs = list(getattr(command, "commands", {}))
    options = [
        name
        for param in getattr(command, "params", ())
        for name in param.opts
        if name.startswith("--")
    ]
    known = options if " --" in message else verbs or options
    unknown = re.match(r"No such (?:command|option):? '?([^']*)", message)
    return UsageError(
        place,
        unknown[1] if unknown else f"<{message}>",
        ", ".join(known) or "what its help lists",
        nearest=nearest_name(unknown[1], known) if unknown else None,
        repair=f"see `{place} --help`",
    )


def _of_a_value(error: Any, place: str, param: Any, message: str) -> UsageError:
    """An option or argument that is missing, or has a value of another type."""
    name = next((name for name in param.opts if name.startswith("--")), param.name)
    repair = f"see `{place} --help`"
    if message.startswith("Missing"):
        what = (getattr(param, "help", None) or "a value").partition(" [required]")[0]
        return UsageError(place, f"<no {name}>", f"{name}: {what.rstrip('.')}", repair=repair)
    found = re.search(rf"valid ({'|'.join(_KINDS)})\b", message)
    kind = _KINDS[found[1]] if found else message.partition(": ")[2] or message
    return UsageError(f"{place}: {name}", _given(error, message), kind, repair=repair)


def _given(error: Any, message: str) -> object:
    """The word that could not be read: pydantic keeps it aside, click has it in its message."""
    errors = getattr(error.__cause__, "errors", None)
    if errors is not None:
        return errors()[0]["input"]
    quoted = re.search(r": '([^']*)'", message)
    return quoted[1] if quoted else f"<{message}>"


def _verb(words: Sequence[str]) -> str:
    """The command that was meant, where the parser does not say."""
    verb = [word for word in words[:2] if not word.startswith("-")]
    return " ".join(["perfmodel", *(verb if verb[:1] == ["conv"] else verb[:1])])


def wants_json() -> bool:
    """Whether the answer has to be a JSON document, bad or good."""
    return "--json" in sys.argv
