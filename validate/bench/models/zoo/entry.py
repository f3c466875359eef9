"""What the zoo knows of one model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Entry:
    """A builder and its example inputs.

    Attributes
    ----------
    build
        ``build(tiny)`` gives the module on the ambient device.
    inputs
        ``inputs(batch, seq, dtype, tiny)`` gives positional and keyword arguments there.
    """

    build: Callable[[bool], Any]
    inputs: Callable[[int, int, Any, bool], tuple[tuple[Any, ...], dict[str, Any]]]
