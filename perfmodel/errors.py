"""The project's exceptions.

Every complaint about input has five parts: where it was found, what came, what is accepted, the
nearest accepted name (for a misspelling), and how to repair it.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Self


class PerfmodelError(Exception):
    """Base of every error that perfmodel raises on purpose.

    Parameters
    ----------
    where : str
        The file, argument or field at fault, e.g. ``"my-gpu.toml: memory.bandwidth"``.
    got : object
        The offending value, shown with ``repr`` (long ones are cut).
    accepted : str
        What would have been accepted.
    nearest : str, optional
        The closest accepted name.
    repair : str
        What to do about it.
    """

    def __init__(
        self, where: str, got: object, accepted: str, *, nearest: str | None = None, repair: str
    ) -> None:
        self.where = where
        self.got = _shown(got)
        self.accepted = accepted
        self.nearest = nearest
        self.repair = repair
        super().__init__(where, got, accepted)

    def __str__(self) -> str:
        lines = [f"{self.where}: got {self.got}.", f"  Accepted: {self.accepted}."]
        if self.nearest is not None:
            lines.append(f"  Nearest: {self.nearest}.")
        lines.append(f"  Repair: {self.repair}.")
        return "\n".join(lines)

    def inside(self, place: str) -> Self:
        """The error itself, now with ``place`` (a file's line, say) before where it was found."""
        self.where = f"{place}: {self.where}"
        self.args = (self.where, *self.args[1:])
        return self

    def to_dict(self) -> dict[str, str | None]:
        """The five parts, plus the kind of error, for ``--json``."""
        return {
            "error": type(self).__name__,
            "where": self.where,
            "got": self.got,
            "accepted": self.accepted,
            "nearest": self.nearest,
            "repair": self.repair,
        }


class UnitError(PerfmodelError):
    """A quantity that cannot be read, or has the wrong dimension."""


class SpecError(PerfmodelError):
    """A hardware description that is missing, misspelt, incomplete or inconsistent."""


class WorkloadError(PerfmodelError):
    """An operator, graph or model description that cannot be used."""


class NetworkError(PerfmodelError):
    """A topology, group or collective that does not exist or does not fit together."""


class PlanError(PerfmodelError):
    """A parallelism plan whose degrees do not fit the model, the batch or the cluster."""


class ScenarioError(PerfmodelError):
    """A simulation scenario, schedule or trace that cannot be run."""


class CalibrationError(PerfmodelError):
    """Measurements that cannot be trusted or fitted."""


class UsageError(PerfmodelError):
    """A command line with a verb, an option or a value that does not exist."""


class FileError(PerfmodelError):
    """A file that cannot be read, or a file or folder that cannot be written."""


class Infeasible(PerfmodelError):
    """A well-posed question whose answer is "it does not fit"; ``repair`` lists the levers."""


def nearest_name(name: object, known: Iterable[str]) -> str | None:
    """The known name closest to ``name``, or ``None`` when nothing is close or it is no text."""
    if not isinstance(name, str):
        return None
    candidates = {candidate.lower(): candidate for candidate in known}
    found = get_close_matches(name.lower(), candidates, n=1, cutoff=0.5)
    return candidates[found[0]] if found else None


def _shown(value: object, limit: int = 120) -> str:
    text = value if isinstance(value, str) and value.startswith("<") else repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
