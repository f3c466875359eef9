"""The user's line: the innermost frame that belongs neither to PyTorch nor to this package."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final

import torch

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


def failing_line(trace: TracebackType | None) -> str:
    """The user's line nearest to where an exception was raised."""
    found = ""
    while trace is not None:
        file = _shown(trace.tb_frame.f_code.co_filename)
        if file:
            found = f"{file}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


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
    return name
