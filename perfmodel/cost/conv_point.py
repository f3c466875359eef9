"""Convolutions of one tap and one step: matrix products, which a library runs as such.

cuDNN hands them to the library of matrix products beside its own kernels, and whichever wins its
search runs. Channels last, all places of all images are rows of one product; channels first, every
image is a product of its own, whose columns are the places of the map.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.parts import Floats

# How the factors of that product lie, in the words of a GEMM's ``trans``.
POINT_TRANS = {
    "nhwc": {"fwd": "tn", "dgrad": "nn", "wgrad": "nt"},
    "nchw": {"fwd": "nn", "dgrad": "nt", "wgrad": "tn"},
}

_SUM_BYTES = 4.0  # of one element of a partial sum


def is_point(sizes: Mapping[str, Floats]) -> NDArray[np.bool_]:
    """Where a convolution is a plain product: one tap, one step, no padding, one group."""
    return np.asarray(
        (sizes["taps"] == 1) & (sizes["steps"] == 1) & (sizes["pad"] == 0) & (sizes["groups"] == 1)
    )


def uneven(value: Floats, step: float) -> NDArray[np.bool_]:
    """Where a whole number is no multiple of ``step``, a power of two (remainders are slow)."""
    steps = value / step
    return np.asarray(steps != np.floor(steps))


def whole_rows(sizes: Mapping[str, Floats], align: float) -> NDArray[np.bool_]:
    """Where maps and weights, channels first, have rows in multiples of ``align`` elements."""
    return ~uneven(sizes["inputs"], align) & ~uneven(sizes["c_in"], align)


def row_step(sizes: Mapping[str, Floats], layout: str) -> Floats:
    """Elements loaded at once of rows that do not start on 16 bytes: 2, or 1 if one is uneven."""
    rows = ("inputs", "c_in") if layout == "nchw" else ("c_in", "c_out")
    return np.asarray(2.0 - np.maximum.reduce([sizes[row] % 2.0 for row in rows]))


def point_sizes(sizes: Mapping[str, Floats], direction: str, layout: str) -> dict[str, Floats]:
    """The product's ``m n k batch`` in place of the convolution's sizes.

    ==========  ====================  ================  ==================  =====
    pass        m                     n                 k                   batch
    ==========  ====================  ================  ==================  =====
    fwd         n h w                 c_out             c_in                1
    dgrad       n h w                 c_in              c_out               1
    wgrad       c_out                 c_in              n h w               1
    ==========  ====================  ================  ==================  =====

    Channels first the forward product is ``c_out x h w`` of depth ``c_in``, ``n`` times, and the
    input gradient the same with the channels exchanged. A weight gradient, whose sum runs over the
    images, is either ``n`` products of depth ``h w`` in full precision, which another kernel adds
    up, or one product of maps that copies bring into the other order: what moves fewer bytes, and
    ``read`` and ``written`` count them.
    """
    c_in, c_out, images, places = (sizes[key] for key in ("c_in", "c_out", "n", "inputs"))
    one = np.ones_like(images)
    if direction == "wgrad":
        if layout == "nchw":
            return _summed(sizes)
        product = (c_out, c_in, images * places, one)
    else:
        wide, deep = (c_out, c_in) if direction == "fwd" else (c_in, c_out)
        product = (images * places, wide, deep, one)
        if layout == "nchw":
            product = (wide, places, deep, images)
    kept = {key: sizes[key] for key in ("flops", "read", "written")}
    return dict(zip(("m", "n", "k", "batch"), product, strict=True)) | kept


def _summed(sizes: Mapping[str, Floats]) -> dict[str, Floats]:
    """Sizes of the weight gradient of maps that lie channels first."""
    c_in, c_out, images, places = (sizes[key] for key in ("c_in", "c_out", "n", "inputs"))
    element = sizes["written"] / (c_in * c_out)
    many = images > 1.0
    sums = _SUM_BYTES * images * c_in * c_out
    copies = element * images * places * (c_in + c_out)
    apart = many & (sums < copies)
    again = many * np.minimum(sums, copies)
    return {
        "m": c_out,
        "n": c_in,
        "k": np.where(apart, places, images * places),
        "batch": np.where(apart, images, 1.0),
        "flops": sizes["flops"],
        "read": sizes["read"] + again,
        "written": sizes["written"] + again,
    }
