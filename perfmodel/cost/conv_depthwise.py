r"""Depth-wise convolutions: which kernels there are, and what a block of theirs takes in.

Channels last every one goes to a library. Channels first PyTorch has kernels of its own, and hands
fp16 to the library where :func:`by_library` says (``use_cudnn_depthwise`` in its Convolution.cpp).

A thread of a plain kernel makes one element of the result and reads one element a tap. Forward,
channels last in half precision, the library has one whose threads hold :math:`t` neighbours of a
line each: they see :math:`r (r + t - 1)` elements of the map rather than :math:`t r^2`. And fp16
has one that works on pairs of channels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.depthwise_grids import takes_pairs
from perfmodel.cost.parts import Floats

# Without half precision, kernels on the vector units are tried too.
FULL = ("tf32", "fp32")
# Threads of a block of PyTorch's depth-wise kernels (DepthwiseConv2d.cu).
THREADS = 512.0
# Channels that depth-wise kernels of full precision load at once, and the one of pairs in fp16.
_VECTOR, _PACKED = 4.0, 8.0
# Neighbours that a thread of the kernel of pairs holds.
_NEIGHBOURS = 4.0
# What PyTorch asks of a depth-wise convolution that it gives away.
_LEAST_CHANNELS, _LEAST_WIDTH = 32.0, 7.0


def by_library(sizes: Mapping[str, Floats]) -> NDArray[np.bool_]:
    """Where PyTorch leaves a depth-wise convolution of fp16, channels first, to the library."""
    s = sizes
    channels, width, side, step = s["c_in"], s["w"], s["side"], s["step"]
    small, large = side == 1.0, (side == 3.0) | (side == 5.0)
    alone = (small & (width <= 28.0)) | large
    few = small & (s["n"] <= 16.0) & (channels >= 128.0) & (width <= 7.0)
    many = large & ((channels >= 512.0) | ((channels >= 256.0) & (width >= 28.0)))
    halved = (step == 2.0) & np.where(s["n"] == 1.0, alone, few | many)
    square = (s["square"] == 1.0) & (small | large) & (width >= _LEAST_WIDTH)
    served = (square & ((step == 1.0) | halved)) | ((s["h"] == 1.0) & (step == 1.0))
    return np.asarray(served & (channels >= _LEAST_CHANNELS))


def blocks(
    sizes: Mapping[str, Floats], words: Mapping[str, str], dtype: str, element: float, native: bool
) -> tuple[Floats, Floats]:
    """Blocks of threads of a depth-wise convolution, and the bytes that one takes in from caches.

    PyTorch's own weight gradient gives a block one tap of one channel; up to 8 of its
    warps take an image each and pass over the map, 32 places at a time.
    """
    s, direction = sizes, words["direction"]
    if direction == "wgrad" and native:
        rounds = np.ceil(s["n"] / 8.0) * (1.0 + np.ceil(s["outputs"] / 32.0))
        return s["c_in"] * s["taps"] * np.minimum(s["n"] / 8.0, 1.0), 512.0 * rounds
    if direction == "wgrad" and dtype not in FULL:
        # A block adds up 32 channels of one image, of 16 lines where the map is large.
        parts = np.maximum(1.0, np.floor(np.sqrt(s["outputs"]) / 16.0))
        rows = np.ceil(s["c_in"] / 32.0) * s["n"] * parts
        return rows, 32.0 * element * s["outputs"] / parts * (1.0 + s["taps"] / 30.0)
    places = s["n"] * (s["c_out"] * s["outputs"] if direction == "fwd" else s["c_in"] * s["inputs"])
    return places / THREADS, THREADS * s["taps"] * element


def is_packed(
    sizes: Mapping[str, Floats], words: Mapping[str, str], dtype: str
) -> NDArray[np.bool_]:
    """Where fp16 has a kernel that works on pairs of channels, by the library's searches."""
    s = sizes
    most = {"fwd": 2.0, "dgrad": 1.0, "wgrad": 0.0}[words["direction"]]
    served = np.isin(s["side"], (3.0, 5.0)) & np.isin(s["step"], (1.0, 2.0)) & (s["step"] <= most)
    served &= s["c_in"] % _PACKED == 0.0
    return np.asarray(served & (dtype == "fp16" and words["layout"] == "nhwc"))


def taken_share(sizes: Mapping[str, Floats], words: Mapping[str, str], dtype: str) -> Floats:
    """Share of a plain kernel's reads that one makes whose threads hold neighbours."""
    s = sizes
    if words["layout"] != "nhwc" or dtype in FULL or words["direction"] != "fwd":
        return np.ones_like(s["n"])
    tiled = (s["step"] == 1.0) & takes_pairs(s, half=True)
    reads = (s["side"] + _NEIGHBOURS - 1.0) / (_NEIGHBOURS * s["side"])
    return np.where(tiled, reads, 1.0)


def is_made(sizes: Mapping[str, Floats], words: Mapping[str, str], dtype: str) -> NDArray[np.bool_]:
    """Where the library has a depth-wise kernel beside its generic one, by its searches.

    Up to 7 taps a side (9 for input gradients) and steps of 1 and 2, one output a channel. Channels
    first up to 5 taps a side, 32 channels or more, and step 1 for input gradients; for weight
    gradients 3 and 5 taps there and in full precision, which takes channels in whole vectors.
    """
    s, direction, first = sizes, words["direction"], words["layout"] == "nchw"
    full = direction == "wgrad" and dtype in FULL
    sides = [1.0, 3.0, 5.0, 7.0, 9.0]
    if full or (first and direction == "wgrad"):
        sides = [3.0, 5.0]
    elif first:
        sides = [1.0, 3.0, 5.0]
    elif direction != "dgrad":
        sides = [1.0, 3.0, 5.0, 7.0]
    made = np.isin(s["side"], sides) & (s["c_in"] == s["c_out"])
    made &= s["step"] <= (1.0 if first and direction == "dgrad" else 2.0)
    if full:
        # Small problems of few channels are left to the generic kernel.
        few = (s["c_in"] <= 256.0) & (s["w"] <= 20.0) & (s["n"] * s["outputs"] <= 12e3)
        made &= (s["c_in"] % _VECTOR == 0.0) & ~(few & (s["step"] == 1.0) & (s["n"] > 2.0))
    return np.asarray(made & (s["c_in"] >= _LEAST_CHANNELS) if first else made)
