"""Weights from a direction and a length: few blocks where the last axis keeps its length."""

from __future__ import annotations

from typing import Final

from perfmodel.workload.lowering.site import Site, Work, numel
from perfmodel.workload.lowering.stream import stream

_COLUMNS, _ROWS = 32, 16
_TURN: Final = 4.7e5
"""What the device could do while a block goes one turn down its columns: 69 ns on an H100."""


def weight_norm(site: Site) -> Work:
    """Norms first, then the quotient: twice through the weight.

    A block takes a slice of the first axis, or 32 columns of the last one, down which it goes with
    16 threads each (ATen/native/cuda/WeightNorm.cu).
    """
    weight = site.inputs[0]
    elements = numel(weight.shape)
    if elements == 0:
        return Work("norm")
    read = 2 * site.bytes(weight) + sum(site.bytes(tensor) for tensor in site.inputs[1:])
    written = sum(site.bytes(tensor) for tensor in site.outputs)
    work = 4.0 * elements
    if int(site.attribute("dim", 0)) % len(weight.shape) > 0:
        columns = weight.shape[-1]
        turns = 2 * -(-elements // (columns * _ROWS))
        blocks = -(-columns // _COLUMNS)
        work = max(work, _TURN * turns * max(1.0, blocks / (4 * site.device.units)))
    op = stream(site.name, elements, read, written, work)
    return Work("norm", (site.kernel("norm", op),))
