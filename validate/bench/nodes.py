"""Which kernels a call runs: names and launch shapes of the nodes of a captured graph.

No profiler is needed and nothing runs: one call is captured on its own and CUDA prints the graph.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

# A kernel node's label holds ``name\<\<\<grid,block,shared memory\>\>\>``.
_LAUNCH = re.compile(r"([^|\n\"{}]*?)\s*\\?<\\?<\\?<(.*?)\\?>\\?>\\?>", re.DOTALL)
_LONGEST_NAME = 240


@dataclass(frozen=True, slots=True)
class Node:
    """One kernel of a call: its (mangled) name and its launch shape as CUDA prints it."""

    name: str
    launch: str


def read_dot(text: str) -> list[Node]:
    """Kernel nodes of a graph in the order in which CUDA prints them."""
    found = []
    for name, launch in _LAUNCH.findall(text):
        plain = " ".join(name.replace("\\", "").split())
        found.append(Node(plain[-_LONGEST_NAME:], re.sub(r"[\\\s]", "", launch)))
    return found


def read_file(path: Path) -> tuple[list[Node], str]:
    """Nodes of a printed graph, and its text; the file is removed."""
    text = path.read_text(encoding="utf-8", errors="replace")
    path.unlink()
    return read_dot(text), text
