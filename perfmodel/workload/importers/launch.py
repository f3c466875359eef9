"""How a step is launched, where its modules ask.

A module may run other operators while it is captured or compiled: ``transformers`` builds masks
that it leaves out otherwise, and ``nn.MultiheadAttention`` takes its fused path in uncompiled
inference only. While a step is recorded, such questions are answered as the launch would.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

from perfmodel.workload.program import Program

LAUNCHES: Final = ("eager", "graph", "compiled")
"""Operator by operator; captured as a CUDA graph; under ``torch.compile``."""
_FUSED: Final = ("aten._native_multi_head_attention", "aten._transformer_encoder_layer_fwd")


@contextlib.contextmanager
def launched(how: str) -> Iterator[list[str]]:
    """Answer as while a stream is being captured, or the step compiled.

    Parameters
    ----------
    how : str
        One of :data:`LAUNCHES`.

    Yields
    ------
    list of str
        Modules of Python, PyTorch's own left out, that have asked so far.
    """
    import torch

    asked: list[str] = []

    def answer() -> bool:
        name = str(sys._getframe(1).f_globals.get("__name__", ""))
        if not name.startswith("torch."):
            asked.append(name)
        return how != "eager"

    capturing = torch.cuda.is_current_stream_capturing
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.cuda.is_current_stream_capturing = answer
    if how == "compiled":
        torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield asked
    finally:
        torch.cuda.is_current_stream_capturing = capturing
        torch.backends.mha.set_fastpath_enabled(fused)


def asks(program: Program, asked: list[str]) -> bool:
    """Whether a step may run other operators where it is captured or compiled."""
    return bool(asked) or any(node.attributes.get("within") in _FUSED for node in program.nodes)


class Again:
    """Records a step once more as it runs captured or compiled, each way once.

    It keeps the module and its example inputs, and stays behind where a program is pickled.
    """

    __slots__ = ("_found", "_record", "nodes")

    def __init__(self, program: Program, record: Callable[[str], Program]) -> None:
        self.nodes = program.nodes
        self._record = record
        self._found: dict[str, Program] = {}

    def __call__(self, how: str) -> Program:
        """The program of a step that is launched as ``how`` says."""
        if how not in self._found:
            self._found[how] = self._record(how)
        return self._found[how]

    def __reduce__(self) -> tuple[Any, ...]:
        return _nothing, ()


def _nothing() -> None:
    return None
