"""Stacks of recurrent layers: LSTM, GRU and plain cells, step after step."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Final

import numpy as np

from perfmodel.workload.ops.base import Count, Op, Size, exact, product, storage

GATES: Final = MappingProxyType({"lstm": 4, "gru": 3, "rnn": 1})
"""Products of a cell, each with its own weights."""


@dataclass(frozen=True, slots=True)
class Recurrent(Op):
    """One pass through a stack of recurrent layers, all sequences of one length.

    Parameters
    ----------
    steps, batch : int
        Length of the sequences, and how many there are.
    width, hidden : int
        What the first layer reads at a step, and the width of a cell's state.
    layers : int
        Layers; each reads what all directions of the one before hand on.
    ways : int
        Directions: 1, or 2 for a bidirectional stack.
    dtype : str
        Format of states and weights.
    kind : str
        ``"lstm"``, ``"gru"`` or ``"rnn"`` (tanh or relu).
    direction : str
        ``"fwd"`` inference, ``"train"`` the forward pass that keeps what gradients need, ``"bwd"``
        gradients of the input and of all weights.
    """

    family: ClassVar[str] = "recurrent"
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "kind": tuple(GATES),
        "direction": ("fwd", "train", "bwd"),
    }

    steps: Size
    batch: Size
    width: Size
    hidden: Size
    layers: Size = 1
    ways: Size = 1
    dtype: str = "fp32"
    kind: str = "lstm"
    direction: str = "fwd"

    @property
    def flops(self) -> Count:
        """Products alone; a backward pass has twice as many [FLOP]."""
        gates = GATES[self.kind]
        each = product(self.hidden, self._read_by_layers + product(self.layers, self.hidden))
        forward = 2 * gates * product(self.steps, self.batch, self.ways) * each
        return forward * 2 if self.direction == "bwd" else forward

    @property
    def bytes_read(self) -> Count:
        """Inputs and weights, and backwards the results and their gradients [B]."""
        read = storage(self.dtype, self._inputs + self._weights)
        if self.direction == "bwd":
            read = read + 2 * storage(self.dtype, self._results)
        return read

    @property
    def bytes_written(self) -> Count:
        """Results, or backwards the gradients of inputs and weights [B]."""
        if self.direction == "bwd":
            return storage(self.dtype, self._inputs + self._weights)
        return storage(self.dtype, self._results)

    @property
    def _read_by_layers(self) -> Count:
        """Widths of what the layers read, added up over the layers."""
        above = np.subtract(self.layers, 1) if not isinstance(self.layers, int) else self.layers - 1
        return exact(self.width) + product(above, self.ways, self.hidden)

    @property
    def _weights(self) -> Count:
        each = self._read_by_layers + product(self.layers, exact(self.hidden) + 2)
        return GATES[self.kind] * product(self.ways, self.hidden) * each

    @property
    def _inputs(self) -> Count:
        return product(self.steps, self.batch, self.width)

    @property
    def _results(self) -> Count:
        return product(self.steps, self.batch, self.ways, self.hidden)
