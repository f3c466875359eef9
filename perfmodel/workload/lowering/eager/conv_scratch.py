"""Workspace that cuDNN's convolutions take from PyTorch's allocator while they run.

Two kinds show as kernels of their own in profiled models, with copies of known size. An image of
few channels (a photograph) in half precision is padded to eight channels for the tensor cores
(``nhwcAddPaddingKernel``) where the filters overlap enough and are as many as a tile has columns;
smaller layers run an engine without tensor cores (``convolve_common_engine``). And fp32 without
TF32 has no channels-last engine for filters of more than one tap: image and result are turned over
(``nhwcToNchwKernel``, ``nchwToNhwcKernel``). Groups of more than one tap whose channels in and out
are different powers of two run with both as wide as the wider one, on a padded copy of the narrower
map (``tensorTransformGeneric``: CondenseNet at its peak). What an algorithm needs beyond such
copies (split sums, transforms) is not known here.
"""

from __future__ import annotations

from typing import Final

from perfmodel.workload.lowering.site import Site, item_bytes, numel
from perfmodel.workload.program import Tensor

CHANNELS: Final = 8
"""Channels to which the tensor cores' engines pad."""
TILE: Final = 64
"""Filters from which they are chosen for an image of few channels."""
_FARTHEST: Final = 2
_NARROWEST, _WIDEST = 4, 128  # channels of a group that a matrix kernel serves


def conv_scratch(site: Site, x: Tensor, weight: Tensor, out: Tensor, *, fp32: bool) -> int:
    """Bytes of the copies that a channels-last convolution works on; 0 where there are none [B].

    Parameters
    ----------
    site : Site
        The convolution or its backward pass.
    x, weight, out : Tensor
        Image, filters, and the result or its gradient.
    fp32 : bool
        Whether it multiplies in fp32 rather than TF32.
    """
    taps, groups = numel(weight.shape[2:]), int(site.attribute("groups", 1))
    if taps == 1 or len(x.shape) != 4:
        return 0
    if groups > 1:
        return _padded_map(x, out, groups)
    if x.dtype == "fp32":
        many = min(weight.shape[:2]) >= CHANNELS
        return site.bytes(x) + site.bytes(out) + site.bytes(weight) if fp32 and many else 0
    stride = site.attribute("stride", 1)
    steps = [stride] if isinstance(stride, int) else list(stride)
    if x.shape[1] >= CHANNELS or weight.shape[0] < TILE or max(steps, default=1) > _FARTHEST:
        return 0
    places, width = numel(x.shape) // max(1, x.shape[1]), item_bytes(x.dtype)
    return CHANNELS * width * (places + weight.shape[0] * taps)


def _padded_map(x: Tensor, out: Tensor, groups: int) -> int:
    """The narrower of two maps, its groups as wide as those of the other [B]."""
    widths = [tensor.shape[1] // groups for tensor in (x, out)]
    width = max(*widths, _NARROWEST)
    powers = all(one & (one - 1) == 0 for one in widths)
    if item_bytes(x.dtype) > 2 or not powers or 1 in widths or width > _WIDEST:
        return 0
    return sum(
        numel(tensor.shape) // one * width * item_bytes(tensor.dtype)
        for tensor, one in zip((x, out), widths, strict=True)
        if one < width
    )
