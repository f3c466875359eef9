"""Grids of the library's depth-wise kernels, channels last, which searches choose from.

What a thread or a block makes is told by grids of kernels that were timed:

======== ============================================================================ ==========
pass     what a block makes                                                           of a unit
======== ============================================================================ ==========
forward  128 threads, each 8 lines of 3 places (2 with steps) of a pair of channels:           7
         half precision, 8 images or more, an even number of channels
forward  256 threads, each 2 x 2 places of a channel: all others                               6
dgrad    256 threads, each 2 x 2 places of a channel of one image                              6
wgrad    32 channels of one image and of a part of its lines; images are cut in up to          8
         8 while there are fewer than three blocks a multiprocessor
all      square tiles of 4 to 10 places of 32 or 64 channels, one after another                6
======== ============================================================================ ==========

Source: names and grids that a profiler gives beside every plan of cuDNN 9 on an H200,
``validate/measurements/h200-sxm-141gb/search/plan-times.jsonl.gz``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.parts import Floats

# Of 41 measured with 7 x 7 taps, the 18 of fewer images take two to four times as long for a place.
_IMAGES = 8.0
_LINES, _PIECES, _BLOCKS = 8.0, 8.0, 3.0
_SIDES, _CHANNELS = (4.0, 6.0, 8.0, 10.0), (32.0, 64.0)
_TILES_OF_A_UNIT = 6.0
_MANY = 64.0
"""Waves of which the last one no longer matters."""


def grid_columns(
    sizes: Mapping[str, Floats], direction: str, half: bool, units: float
) -> tuple[tuple[str, ...], tuple[Floats, ...]]:
    """How the kernels' blocks share out convolutions: names and columns, each of shape (N,).

    Logarithms of base 2: waves of the blocks and how full they are, of one a multiprocessor and of
    as many as it holds; the share of results that are of use, also of tiles; and how the channels
    fall into blocks.

    Parameters
    ----------
    sizes : mapping of str to array, shape (N,)
        Of depth-wise convolutions: ``n, c_in, h, w, outputs, side, step, pad``.
    direction : str
        ``fwd``, ``dgrad`` or ``wgrad``.
    half : bool
        Whether results have half precision.
    units : float
        Multiprocessors.
    """
    s = sizes
    high = np.maximum(np.floor((s["h"] + 2.0 * s["pad"] - s["side"]) / s["step"]) + 1.0, 1.0)
    wide = s["outputs"] / high
    count, room, used, turns = _blocks(s, high, wide, direction, half, units)
    waves = count / units
    names = ["grid_waves", "grid_fill", "grid_room", "grid_rounds", "grid_used", "grid_turns"]
    columns = [
        np.log2(waves),
        _fill(waves),
        _fill(waves / room),
        np.log2(np.ceil(waves / room)),
        np.log2(used),
        np.log2(turns),
    ]
    if direction == "dgrad":
        high, wide = s["h"], s["w"]
    for side in _SIDES:
        tiles = np.ceil(high / side) * np.ceil(wide / side)
        names.append(f"tile_used_{side:g}")
        columns.append(np.log2(high * wide / (tiles * side * side)))
        for channels in _CHANNELS:
            blocks = s["n"] * tiles * np.ceil(s["c_in"] / channels)
            names.append(f"tile_fill_{side:g}x{channels:g}")
            columns.append(_fill(blocks / (units * _TILES_OF_A_UNIT)))
    for channels in _CHANNELS:
        names.append(f"channels_used_{channels:g}")
        columns.append(np.log2(s["c_in"] / (channels * np.ceil(s["c_in"] / channels))))
    names.append("channels_fill")
    columns.append(_fill(s["c_in"] / units))
    return tuple(names), tuple(columns)


def _blocks(
    s: Mapping[str, Floats], high: Floats, wide: Floats, direction: str, half: bool, units: float
) -> tuple[Floats, Floats, Floats, Floats]:
    """Blocks, how many a multiprocessor holds, their share of use, and places a thread makes.

    ``high`` and ``wide`` are the sides of the output.
    """
    n, c = s["n"], s["c_in"]
    if direction == "wgrad":
        slices = n * np.ceil(c / 32.0)
        pieces = np.minimum(np.ceil(_BLOCKS * units / slices), _PIECES)
        turns = np.ceil(high / pieces) * wide
        return slices * pieces, np.full_like(n, 8.0), c / (32.0 * np.ceil(c / 32.0)), turns
    if direction == "dgrad":
        quads = np.ceil(s["h"] / 2.0) * np.ceil(s["w"] / 2.0)
        count = n * np.ceil(c * quads / 256.0)
        return count, np.full_like(n, 6.0), s["h"] * s["w"] / (4.0 * quads), np.full_like(n, 4.0)
    quads = np.ceil(high / 2.0) * np.ceil(wide / 2.0)
    places = np.where(s["step"] == 1.0, 3.0, 2.0)
    lines = np.ceil(high / _LINES) * np.ceil(wide / places)
    paired = takes_pairs(s, half)
    return (
        np.where(paired, np.ceil(n * c / 2.0 * lines / 128.0), np.ceil(n * c * quads / 256.0)),
        np.where(paired, 7.0, 6.0),
        high * wide / np.where(paired, lines * _LINES * places, 4.0 * quads),
        np.where(paired, 2.0 * places * np.minimum(high, _LINES), 4.0),
    )


def takes_pairs(sizes: Mapping[str, Floats], half: bool) -> NDArray[np.bool_]:
    """Where the forward kernel works on pairs of channels."""
    return np.asarray((sizes["n"] >= _IMAGES) & (sizes["c_in"] % 2.0 == 0.0) & half)


def _fill(waves: Floats) -> Floats:
    """Logarithm of base 2 of how full the waves are; of very many, no matter."""
    return np.asarray(np.log2(np.where(waves > _MANY, 1.0, waves / np.ceil(waves))))
