"""The user's line: the innermost frame that belongs neither to PyTorch nor to this package."""

from __future__ import annotations

import os
import re
import sys
from functools import lru_cache
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final

import torch

_LINE: Final = re.compile(r'File "([^"]+)", line (\d+)')
_SKIPPED: Final = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")


def user_line() -> str:
    """``"file.py:123"`` of the running code; packages without their ``site-packages`` part."""
    current: FrameType | None = sys._getframe(1)
    while current is not None:
        file = _shown(current.f_code.co_filename)
        if file:
            return f"{file}:{current.f_lineno}"
        current = current.f_back
    return ""


def exported_origin() -> tuple[str, str] | None:
    """Module path and user's line of the running node of an exported graph, if one runs.

    Generated code has no lines of its own: the graph remembers those it was made from.
    """
    current: FrameType | None = sys._getframe(1)
    while current is not None and not current.f_code.co_filename.startswith("<eval_with_key>"):
        current = current.f_back
    graph = None if current is None else current.f_locals.get("self")
    lines = getattr(graph, "_lineno_map", None)
    if current is None or graph is None or not lines:
        return None
    index = lines.get(current.f_lineno - getattr(graph, "_prologue_start", 0))
    nodes = list(graph.graph.nodes)
    if index is None or not 0 <= index < len(nodes):
        return None
    meta = nodes[index].meta
    path = next(reversed((meta.get("nn_module_stack") or {"": ("",)}).values()))[0]
    lines_of_user = [
        f"{file}:{line}"
        for name, line in _LINE.findall(meta.get("stack_trace") or "")
        if (file := _shown(name))
    ]
    return path, lines_of_user[-1] if lines_of_user else ""


def failing_line(trace: TracebackType | None) -> str:
    """The user's line nearest to where an exception was raised."""
    found = ""
    while trace is not None:
        file = _shown(trace.tb_frame.f_code.co_filename)
        if file:
            found = f"{file}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def written_line(text: str) -> str:
    """The last of the user's lines that a message tells, as those of ``torch.export`` do."""
    told = [f"{file}:{line}" for name, line in _LINE.findall(text) if (file := _shown(name))]
    return told[-1] if told else ""


@lru_cache(maxsize=4096)
def _shown(name: str) -> str:
    if name.startswith(_SKIPPED):
        return ""
    for part in ("site-packages/", "dist-packages/"):
        if part in name:
            return name.split(part, 1)[1]
    path = Path(name)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    found = [Path(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    for entry in found:  # a package outside of an environment
        if path.is_relative_to(entry):
            return str(path.relative_to(entry))
    return name
