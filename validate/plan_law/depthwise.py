"""What a depth-wise kernel's blocks are, where it is none of matrix tiles.

cuDNN's searches try a few kernels that were made for depth-wise convolutions, channels last. Their
grids, as ``search/plan-times.jsonl.gz`` has them, tell what a thread makes; prices see
most of it (:mod:`perfmodel.cost.depthwise_grids`):

========= ======= ==================================================================== =======
engine    pass    results of a block                                                   threads
========= ======= ==================================================================== =======
5         forward 8 lines of 3 places (2 with steps) of a pair of channels a thread:      128
                  half precision, 8 images or more, an even number of channels
5         forward 2 x 2 places of a channel a thread: all others                          256
6         dgrad   2 x 2 places of a channel of one image a thread                         256
16        wgrad   32 channels of one image and of a part of its lines                     128
19        wgrad   all of a channel                                                        128
57 61 62  all     tiles of ``p x q`` places of 32 or 64 channels, one after another       128
0         all     a result a thread, of a weight gradient a warp; of groups, too   1024 or 256
========= ======= ==================================================================== =======
"""

from __future__ import annotations

import functools
from typing import Final

import torch
from torch import Tensor

from perfmodel.cost.answers import UNITS

KINDS: Final = 7
NATIVE: Final = KINDS + 10
_DIRECT: Final = 7
_LINES, _IMAGES, _FEW_TAPS = 8.0, 8.0, 3.0
_PASS_OF: Final = (-1, 0, 0, 1, 2, 2, -1, -1)
"""In which an engine is of its kind; -1 for any."""
_ENOUGH: Final = 396.0
"""Blocks at which engine 16 cuts an image no further (three a multiprocessor), into 8 at most."""
_SIDES: Final = (4.0, 4.0, 6.0, 8.0, 8.0, 10.0)
"""Of square tiles, by choice 2 of engines 57, 61 and 62."""
_SLOTS: Final = (1.0, 7.0, 6.0, 6.0, 8.0, 8.0, 3.0, 2.0)
"""Blocks of each kind that a multiprocessor holds about."""


def native(sizes: Tensor, cell: Tensor, known: Tensor) -> Tensor:
    """What blocks of depth-wise kernels do, shape (..., P, 17): zeros for all others.

    Columns: the kind, one of seven; then, as shares or logarithms of base 2, waves of blocks, how
    full they are of one, of four and of as many as there is room for, how many of these there are,
    what a thread or a tile does in turn, results of use, evenness of the channels, and parts.

    Parameters
    ----------
    sizes, cell : Tensor, shapes (..., 10) and (...)
        Those of :class:`~validate.plan_law.table.Operators`.
    known : Tensor, shape (..., P, 3)
        :func:`~validate.plan_law.names.natives` of the proposed plans.
    """
    kind, count, turns, used = blocks(sizes, cell, known)
    given = kind > 0
    waves = count / UNITS
    room = table(_SLOTS, sizes.device)[kind]
    channels = sizes[..., 1:2]
    even = sum((torch.remainder(channels, 2**power) == 0).float() for power in (1, 2, 3, 4))
    log = torch.log2
    columns = [
        log(waves) / 4,
        fill(waves),
        fill(waves / 4),
        fill(waves / room),
        log(torch.ceil(waves / room)) / 3,
        log(waves / room).clamp(max=0.0) / 3,
        log(turns + 1.0) / 3,
        log(used),
        (torch.as_tensor(even) / 4).expand_as(waves),
        log(known[..., 2]) / 4,
    ]
    marks = torch.nn.functional.one_hot(kind, KINDS + 1)[..., 1:].float()
    return torch.cat([marks, torch.where(given[..., None], torch.stack(columns, -1), 0.0)], -1)


def blocks(sizes: Tensor, cell: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Kind of a plan (whole numbers), its blocks, turns of a thread, and share of use: (..., P).

    Arguments are those of :func:`native`.
    """
    n, c, c_out, h, w, _, side, step, pad, groups = (sizes[..., i : i + 1] for i in range(10))
    high, wide = (torch.floor((size + 2 * pad - side) / step) + 1 for size in (h, w))
    one, ceil, way = torch.ones_like(n), torch.ceil, torch.floor(cell / 8)[..., None]
    last = torch.remainder(torch.floor(cell / 4), 2)[..., None] == 0
    kind = torch.where((groups > 1) & last, known[..., 0].long(), 0)
    kind = torch.where((groups == c) | (kind == _DIRECT), kind, 0)
    own = table(_PASS_OF, sizes.device)[kind]
    kind = torch.where((own < 0) | (own == way), kind, 0)
    half = torch.remainder(cell, 4)[..., None] < 2
    pairs = half & (n >= _IMAGES) & (torch.remainder(c, 2) == 0)
    kind = torch.where((kind == 2) & pairs, 1, kind)

    choice, parts = known[..., 1].long(), known[..., 2]
    few = (step > 1) & (side <= _FEW_TAPS)
    broad = table(_SIDES, sizes.device)[choice]
    tall = torch.where(few & (choice == 3), 4.0, broad)
    thin = torch.where((choice == 3) | (few & (choice == 4)), 32.0, 64.0)
    rows, cols, made = (torch.where(way == 1, *both) for both in ((h, high), (w, wide), (c, c_out)))
    tiles = n * ceil(rows / tall) * ceil(cols / broad)

    lines, places = ceil(high / _LINES), torch.where(step == 1, 3.0, 2.0)
    line = ceil(wide / places)
    slices = n * ceil(c / 32)
    cut = ceil(_ENOUGH / slices).clamp(max=8.0)
    reads = side * side * c / groups
    by_kind = (
        (one, one, one),
        (
            ceil(n * c / 2 * lines * line / 128),
            high.clamp(max=_LINES),
            high * wide / (lines * _LINES * line * places),
        ),
        (
            ceil(n * c * ceil(high / 2) * ceil(wide / 2) / 256),
            2 * one,
            high * wide / (4 * ceil(high / 2) * ceil(wide / 2)),
        ),
        (
            n * ceil(c * ceil(h / 2) * ceil(w / 2) / 256),
            2 * one,
            h * w / (4 * ceil(h / 2) * ceil(w / 2)),
        ),
        (slices * cut, ceil(high / cut) * wide, c / (32 * ceil(c / 32))),
        (c, n * high * wide / 128, one),
        (
            ceil(c / thin) * parts,
            ceil(tiles / parts),
            n * rows * cols / (parts * ceil(tiles / parts) * tall * broad),
        ),
        (
            # A block has 8 warps, or 1024 threads.
            ceil(torch.where(way == 2, c_out * reads / 8, n * made * rows * cols / 1024)),
            torch.where(way == 2, n * high * wide / 32, reads),
            one,
        ),
    )
    found = [torch.ones_like(parts) for _ in range(3)]
    for number, told in enumerate(by_kind):
        found = [
            torch.where(kind == number, value.expand_as(parts), so_far)
            for value, so_far in zip(told, found, strict=True)
        ]
    return kind, found[0], found[1], found[2]


def fill(waves: Tensor) -> Tensor:
    """Logarithm of base 2 of how full the waves are; of very many, no matter."""
    return torch.log2(torch.where(waves > 64, torch.ones_like(waves), waves / torch.ceil(waves)))


@functools.cache
def table(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Constants on a device, once: a step that is captured as a graph may copy nothing to it."""
    return torch.tensor(values, dtype=torch.float32, device=device)
