"""What the zoo knows of one model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


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


def tokens(
    vocab: int, batch: int, seq: int, dtype: Any, tiny: bool
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Random token ids below `vocab`, (batch, seq)."""
    del dtype, tiny
    return (torch.randint(0, vocab, (batch, seq)),), {}


def image(
    side: int, batch: int, seq: int, dtype: Any, tiny: bool
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Square images, (batch, 3, side, side)."""
    del seq, tiny
    return (torch.randn(batch, 3, side, side).to(dtype),), {}


def of_tokens(
    shapes: Mapping[str, Any], tiny: Any, module: Callable[[Any], Any]
) -> dict[str, Entry]:
    """Entries of models that take token ids below the ``vocab`` of their shape."""

    def build(name: str, small: bool) -> Any:
        return module(tiny if small else shapes[name])

    def inputs(
        name: str, batch: int, seq: int, dtype: Any, small: bool
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tokens((tiny if small else shapes[name]).vocab, batch, seq, dtype, small)

    return {
        name: Entry(functools.partial(build, name), functools.partial(inputs, name))
        for name in shapes
    }
