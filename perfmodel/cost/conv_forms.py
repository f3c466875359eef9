r"""What a library does with convolutions that no matrix kernel takes as they are.

**Groups.** There are kernels for groups of ``c_in / g = c_out / g`` channels, a power of two. Other
groups run in one of two ways, and the faster counts:

- *expanded*: the filter is written out as that of one group, with zeros between the groups, and a
  dense kernel does ``g`` times the arithmetic (``expand_floor_seconds`` for the copies around it,
  which also move the dense filter and both maps);
- *looped*: one dense kernel a group, with copies that cut a group out of the maps and put it back
  (``slice_floor_seconds`` for the copies of one group).

A *direct* kernel works on the vector units, without copies: blocks of 128 x 32 outputs, each of
which takes ``direct_step_cycles`` clocks a term of its sums (32 at the peak of 128 lanes a unit).

**Few or uneven channels.** A map whose channels are no multiple of 16 bytes is padded by a copy, or
the direct kernel takes it as it is. In fp16 there is one more, for the first layer of a network:
up to 4 channels stand beside the taps, so that the depth of the product is ``4 r^2`` rather than
``32 r^2`` (``FEW`` channels). Plain products also have kernels that load single elements, at
``unaligned_efficiency`` of the rate of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.device import Device
from perfmodel.cost.parts import Floats, Parts, combine

COEFFICIENTS = {
    "expand_floor_seconds": "copies around the dense kernel that stands for a grouped one [s]",
    "slice_floor_seconds": "copies around the kernel of one group where groups run in turn [s]",
    "unaligned_efficiency": "rate of products whose rows do not start on 16 bytes, against others",
    "direct_step_cycles": "clocks in which a block of a direct convolution adds one term [clocks]",
}
FEW, FEW_TAPS, LARGEST_GROUP = 4.0, 49.0, 128.0
_ROWS, _COLUMNS = 128.0, 32.0


def has_kernel(c_in: Floats, c_out: Floats, groups: Floats) -> NDArray[np.bool_]:
    """Where a grouped convolution has a matrix kernel of its own."""
    width = c_in / groups
    power = np.log2(width) % 1.0 == 0.0
    return np.asarray((c_in == c_out) & power & (width >= FEW) & (width <= LARGEST_GROUP))


def direct_parts(
    product: tuple[Floats, Floats, Floats, Floats],
    traffic: Floats,
    device: Device,
    coefficients: Mapping[str, float],
) -> Parts:
    """Time of a convolution on the vector units, from the sizes of its product."""
    c = coefficients
    m, n, k, batch = product
    waves = np.maximum(1.0, m / _ROWS * np.ceil(n / _COLUMNS) * batch / device.units)
    return combine(
        waves * k * c["direct_step_cycles"] / device.clock,
        traffic / (device.bandwidth * c["bandwidth_efficiency"]),
        np.zeros_like(traffic),
        np.full_like(traffic, c["floor_seconds"]),
        c["overlap_exponent"],
    )


def later(parts: Parts, seconds: Floats | float) -> Parts:
    """The same behind copies that take ``seconds``."""
    return replace(parts, seconds=parts.seconds + seconds, floor=parts.floor + seconds)


def times(parts: Parts, count: Floats) -> Parts:
    """The same ``count`` times, one after another."""
    return Parts(
        parts.seconds * count,
        parts.compute * count,
        parts.memory * count,
        parts.power * count,
        parts.floor * count,
        parts.choice,
    )


def fastest(forms: Sequence[tuple[Parts, NDArray[np.bool_] | bool]]) -> Parts:
    """The fastest of the forms that serve, operator by operator.

    Each form comes with where it serves. ``choice`` tells forms apart: its hundreds are the form.
    """
    seconds = np.stack([np.where(serves, parts.seconds, np.inf) for parts, serves in forms])
    best = np.argmin(seconds, axis=0)
    chosen = {
        field.name: np.choose(best, [getattr(parts, field.name) for parts, _ in forms])
        for field in fields(Parts)
    }
    chosen["choice"] = chosen["choice"] + 100.0 * best
    return Parts(**chosen)
