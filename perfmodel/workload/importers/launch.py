"""How a step is launched, where its modules ask.

A module may run other operators while it is captured or compiled: ``transformers`` builds masks
that it leaves out otherwise, and ``nn.MultiheadAttention`` takes its fused path in uncompiled
inference only. While a step is recorded, such questions are answered as the launch would.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

LAUNCHES: Final = ("eager", "graph", "compiled")
"""Operator by operator; captured as a CUDA graph; under ``torch.compile``."""


@contextlib.contextmanager
def launched(how: str) -> Iterator[None]:
    """Answer as while a stream is being captured, or the step compiled.

    Parameters
    ----------
    how : str
        One of :data:`LAUNCHES`.
    """
    import torch

    capturing = torch.cuda.is_current_stream_capturing
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.cuda.is_current_stream_capturing = lambda: how != "eager"
    if how == "compiled":
        torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.cuda.is_current_stream_capturing = capturing
        torch.backends.mha.set_fastpath_enabled(fused)
