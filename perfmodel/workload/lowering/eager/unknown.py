"""Operators that no table knows: between one pass over their tensors and an uncoalesced one."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from perfmodel.workload.lowering.site import Site, Work, numel
from perfmodel.workload.lowering.stream import stream

SECTOR: Final = 32
"""Bytes that memory moves for one scattered element [B]."""

_PASSES = 4


def unknown(site: Site) -> Work:
    """At least every tensor once; at most a sector for every element, four times over."""
    tensors = (*site.inputs, *site.outputs)
    if not any(numel(tensor.shape) for tensor in tensors):
        return Work("unknown")
    elements = max(numel(tensor.shape) for tensor in tensors)
    read = sum(size for _, size in site.traffic(site.inputs))
    written = sum(size for _, size in site.traffic(site.outputs))
    lower = stream(site.name, elements, read, written, float(elements))
    count_in = sum(numel(tensor.shape) for tensor in site.inputs)
    count_out = sum(numel(tensor.shape) for tensor in site.outputs)
    upper = stream(
        site.name,
        elements,
        _PASSES * SECTOR * count_in,
        _PASSES * SECTOR * count_out,
        float(_PASSES * SECTOR * elements),
    )
    kernel = site.kernel("unknown", lower, name=site.node.target)
    return Work("unknown", (replace(kernel, known=False, upper=(upper,)),))
