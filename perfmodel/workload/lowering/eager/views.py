"""Operators without device work: views, bookkeeping, and empty allocations."""

from __future__ import annotations

from perfmodel.workload.lowering.kernel import Kernel
from perfmodel.workload.lowering.site import Site, Work, numel
from perfmodel.workload.lowering.stream import map_op


def view(site: Site) -> Work:
    """Metadata only."""
    return Work("view")


def alias(site: Site) -> Work:
    """A new handle on the same tensor; a composed view of several stays one call."""
    return Work("alias")


def allocate(site: Site) -> Work:
    """A block from the allocator, no kernel."""
    return Work("allocate")


def fill(site: Site) -> Work:
    """Constant or counted values written once."""
    return Work("pointwise", _written(site, "zero", "fill", 0.0))


def random(site: Site) -> Work:
    """Philox random numbers: about six operations an element."""
    return Work("pointwise", _written(site, "random", "random", 6.0))


def _written(site: Site, chain: str, kind: str, flops: float) -> tuple[Kernel, ...]:
    out = site.outputs[:1] or site.inputs[:1]
    elements = sum(numel(tensor.shape) for tensor in out)
    if elements == 0:
        return ()
    written = sum(site.bytes(tensor) for tensor in out)
    width = written // elements
    op = map_op(chain, elements, 0, written, flops * elements, out[0].dtype, width)
    return (site.kernel(kind, op, reads=(), writes=out, host="pointwise"),)
