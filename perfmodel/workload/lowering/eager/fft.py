"""Fourier transforms: cuFFT, one pass over the data for each transformed axis."""

from __future__ import annotations

from perfmodel.workload.lowering.site import Site, Work, numel
from perfmodel.workload.op import Fft

_LARGEST_IN_ONE_KERNEL = 4096


def transform(site: Site) -> Work:
    """A batched transform along each axis; a real one is half a complex one."""
    x, out = site.inputs[0], site.outputs[0]
    real = "r2c" in site.name or "c2r" in site.name
    full = x if "c2r" not in site.name else out
    shape = full.shape
    elements = numel(shape)
    if elements == 0:
        return Work("fft")
    dims = site.attribute("dim", [-1])
    axes = [int(dims)] if isinstance(dims, int) else [int(axis) for axis in dims]
    dtype = "fp64" if "128" in x.dtype + out.dtype or "fp64" in (x.dtype, out.dtype) else "fp32"
    ops, launches = [], 0
    for axis in axes:
        length = shape[axis]
        if length < 2:
            continue
        batch = elements // length
        ops.append(Fft(-(-batch // 2) if real else batch, length, dtype))
        launches += 1 if length <= _LARGEST_IN_ONE_KERNEL else 2
    if not ops:
        return Work("fft")
    scratch = ((site.temporary(), site.bytes(out)),) if len(axes) > 1 or real else ()
    return Work("fft", (site.kernel("fft", tuple(ops), launches=launches),), scratch)
