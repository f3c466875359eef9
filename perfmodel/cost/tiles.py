r"""Whole waves of tiles: how long a convolution takes in each of the tiles that libraries have.

An implicit product of ``m x n`` results, ``k`` deep, runs in blocks of ``a x b`` results, and each
adds up in steps of ``d`` terms of one tap. Blocks run in waves of one a unit, the last of which may
be almost empty:

.. math::

    t_{ab} = w \left( s \frac{2 a b d U}{P} + e \right), \quad
    s = \frac{k}{c} \lceil c / d \rceil, \quad
    w = \lceil x \rceil, \; x = \lceil m/a \rceil \lceil n/b \rceil g / U

for ``c`` channels of a tap, ``g`` products, ``U`` units of together ``P`` operations a second. Some
kernels cut their tiles along ``k``: forward and input gradients the last wave in two, where it
fills no more than half of the units; weight gradients all tiles, into as many pieces as suit.

Which kernel a library takes is not known before it has searched; these times are what a learner
looks at. Tiles and the halved wave are those of the kernels of cuDNN 9 for an H100, by their names
and grids.
"""

from __future__ import annotations

import numpy as np

from perfmodel.cost.device import Device
from perfmodel.cost.mechanism import product_sizes
from perfmodel.cost.parts import Floats
from perfmodel.cost.tasks import Task

CONVOLUTION_TILES = (
    (128, 128), (256, 128), (128, 256), (64, 64), (64, 128), (128, 64), (256, 64), (64, 256),
)  # fmt: skip
_PIECES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_STEP_BYTES = 128.0  # of one operand's row in a step of matrix units
_STEP_TERMS = 8.0  # of a step of vector units
_BLOCK_SECONDS = 1e-6
"""Of a block beside its steps: about one microsecond on an H100."""


def tile_times(task: Task, device: Device, direction: str) -> tuple[tuple[str, ...], list[Floats]]:
    """Names and times (N,) [s] in every tile: in whole waves, and cut along k.

    Of a convolution or a product that stands for one, in the pass ``direction``.
    """
    m, n, k, groups = product_sizes(task)
    terms = _STEP_TERMS if task.dtype in ("fp32", "fp64") else _STEP_BYTES / task.element
    deep = k
    if direction != "wgrad" and task.convolution:
        channels = task.sizes["c_in" if direction == "fwd" else "c_out"]
        deep = channels / task.sizes["groups"]
    steps = k / deep * np.ceil(deep / terms)
    step = 2.0 * terms * device.units / device.peak
    high = {side: np.ceil(m / side) * groups for side in (64, 128, 256)}
    wide = {side: np.ceil(n / side) for side in (64, 128, 256)}
    names: list[str] = []
    times: list[Floats] = []
    for rows, cols in CONVOLUTION_TILES:
        waves = high[rows] * wide[cols] / device.units
        each = steps * (rows * cols * step) + _BLOCK_SECONDS
        for word, count in (("whole", np.ceil(waves)), ("cut", _cut(waves, direction))):
            names.append(f"{word}_{rows}x{cols}")
            times.append(count * each)
    return tuple(names), times


def _cut(waves: Floats, direction: str) -> Floats:
    """Waves of tiles that are cut along the depth of the product."""
    if direction != "wgrad":
        return np.ceil(2.0 * waves) / 2.0
    best = np.ceil(waves)
    for pieces in _PIECES[1:]:
        best = np.minimum(best, np.ceil(waves * pieces) / pieces)
    return best
