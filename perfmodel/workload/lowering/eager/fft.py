"""Fourier transforms: cuFFT over the last one or two axes at once, others one by one."""

from __future__ import annotations

from perfmodel.workload.lowering.site import Site, Work, numel
from perfmodel.workload.op import Fft, Op

_LARGEST_IN_ONE_KERNEL = 8192


def transform(site: Site) -> Work:
    """A batched transform; on its way back to real values the spectrum is copied beforehand.

    A normalised result is scaled in a kernel of its own (SpectralOps.cpp).
    """
    x, out = site.inputs[0], site.outputs[0]
    kind = "rfft" if "r2c" in site.name else "irfft" if "c2r" in site.name else "fft"
    shape = out.shape if kind == "irfft" else x.shape
    if numel(shape) == 0:
        return Work("fft")
    dims = site.attribute("dim", [-1])
    lengths = [shape[int(axis)] for axis in ([dims] if isinstance(dims, int) else dims)]
    dtype = "fp64" if "128" in x.dtype + out.dtype or "fp64" in (x.dtype, out.dtype) else "fp32"
    scaled = bool(site.attribute("normalization", 0))
    ops: list[Op] = []
    if lengths and max(lengths[-2:]) > 1:
        *_, rows, n = (1, *lengths)
        ops.append(Fft(numel(shape) // (n * rows), n, dtype, kind, rows, scaled))
    # Further axes hold a spectrum already.
    spectrum = numel((x if kind == "irfft" else out).shape)
    ops += [Fft(spectrum // length, length, dtype) for length in lengths[:-2] if length > 1]
    if not ops:
        return Work("fft")
    launches = sum(1 + (length > _LARGEST_IN_ONE_KERNEL) for length in lengths if length > 1)
    scratch: tuple[tuple[int, int], ...] = ()
    if len(lengths) > 1 or kind != "fft":
        size = site.bytes(x) if kind == "irfft" else site.bytes(out)
        scratch = ((site.temporary(), size),)
    launches += scaled + (kind == "irfft")
    return Work("fft", (site.kernel("fft", tuple(ops), launches=launches),), scratch)
