"""What cuDNN's search tried: the plans that its front end logs, each timed once.

With ``torch.backends.cudnn.benchmark`` the first call of a convolution times about ten plans once
each and keeps the least. The front end writes one line a plan to a log file::

    [cudnn_frontend] Plan ConvFwd_eng62_k2=3_k13=1_k18=0_k25=1_k27=1_k28=2 took   0.059808

The name holds the pass, the engine and its knobs; the time is in milliseconds. The log is switched
on by two environment variables that must stand before torch is imported.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from validate.bench.ops import Op

SWITCH, FILE = "CUDNN_FRONTEND_LOG_INFO", "CUDNN_FRONTEND_LOG_FILE"
_TRIED = re.compile(r"Plan (\S+) took\s+([0-9.eE+-]+)")
NAME = "plans.jsonl"

Plan = tuple[str, float]


def environment(folder: Path) -> dict[str, str]:
    """Variables of a process whose searches are logged to a file in `folder`."""
    return {SWITCH: "1", FILE: str(folder / "search.log")}


def tried(text: str) -> list[Plan]:
    """Plans that a piece of the log says were timed: (name, milliseconds), in order."""
    plans = []
    for name, took in _TRIED.findall(text):
        try:
            plans.append((name, float(took)))
        except ValueError:
            continue  # a line cut short
    return plans


@dataclass(slots=True)
class SearchLog:
    """Reads a growing log piece by piece; without a log there are no plans."""

    path: Path | None
    at: int = 0

    @classmethod
    def from_environment(cls) -> SearchLog:
        """The log that this process's environment names."""
        name = os.environ.get(FILE, "")
        return cls(Path(name) if name and os.environ.get(SWITCH) == "1" else None)

    def take(self) -> list[Plan]:
        """Plans logged since the last call; never fails for the log's sake."""
        if self.path is None:
            return []
        try:
            with self.path.open("rb") as handle:
                handle.seek(self.at)
                piece = handle.read()
                self.at = handle.tell()
        except OSError:
            return []
        return tried(piece.decode("utf-8", errors="replace"))


def append(folder: Path, op: Op, plans: list[Plan]) -> None:
    """Add one operator's plans to ``plans.jsonl`` of a run."""
    with (folder / NAME).open("a", encoding="utf-8") as handle:
        handle.write(json.dumps({"op": op, "plans": plans}) + "\n")


def read(path: Path) -> list[tuple[Op, list[Plan]]]:
    """Operators of a ``plans.jsonl``, packed or not, with their plans; cut lines are left out."""
    found = []
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    for line in text.decode("utf-8").splitlines():
        try:
            entry = json.loads(line)
            plans = [(str(name), float(took)) for name, took in entry["plans"]]
            found.append((dict(entry["op"]), plans))
        except (ValueError, KeyError, TypeError):
            continue
    return found
