"""Python functions that a step calls: what eager host time goes with beside the operators."""

from __future__ import annotations

import contextlib
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import torch

from perfmodel.workload.importers.stream import Stream

_TORCH: Final = str(Path(torch.__file__).parent) + "/"
_RUN: Final = tuple(
    _TORCH + part
    for part in (
        "nn/", "amp/", "autograd/", "functional.py", "utils/checkpoint.py", "_jit_internal.py",
        "_tensor.py",
    )
)  # fmt: skip
"""Of PyTorch's own Python, what a step on a device runs too; the rest computes shapes on meta."""
_APART: Final = (
    _TORCH,
    str(Path(__file__).parents[2]) + "/",
    "<frozen",
    "<string>",  # generated constructors
)
_LIBRARY: Final = sysconfig.get_paths()["stdlib"] + "/"


@contextlib.contextmanager
def python_calls(stream: Stream) -> Iterator[None]:
    """Count calls of Python functions in the stream: of the user's model and of its libraries.

    A profiler of the caller's own is set aside meanwhile.
    """
    known: dict[CodeType, tuple[bool, bool]] = {}

    def see(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            code = frame.f_code
            if code not in known:
                counted = counts(code.co_filename)
                known[code] = counted, counted and is_outside(code)
            counted, outside = known[code]
            stream.python_calls += counted
            stream.outside_calls += outside

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        yield
    finally:
        if before is None or callable(before):
            sys.setprofile(before)
        else:  # cProfile's object is not what set it
            sys.setprofile(None)
            before.enable()


def is_outside(code: CodeType) -> bool:
    """Whether a function is the model's own or of its libraries; steps of generators are none."""
    return code.co_name != "<genexpr>" and not code.co_filename.startswith(_TORCH)


def counts(file: str) -> bool:
    """Whether the functions of a file run in a step on a device as well.

    Examples
    --------
    >>> counts(torch.nn.functional.__file__), counts("<frozen os>"), counts(__file__)
    (True, False, False)
    """
    if file.startswith(_RUN):
        return True
    if file.startswith(_APART) or "/sympy/" in file:
        return False
    return not file.startswith(_LIBRARY) or "-packages/" in file
