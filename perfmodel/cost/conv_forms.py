r"""What a library does with convolutions that no matrix kernel takes as they are.

A *direct* kernel works on the vector units, without copies: blocks of 128 x 32 outputs, each of
which takes ``direct_step_cycles`` clocks a term of its sums (32 at the peak of 128 lanes a unit).
Where there are few outputs, blocks of 32 x 32 are done sooner (``direct_small_share``).

**Few or uneven channels.** A map whose channels are no multiple of 16 bytes is padded by a copy, or
the direct kernel takes it as it is. In fp16 there is one more, for the first layer of a network:
up to 4 channels stand beside the taps, so that the depth of the product is ``4 r^2`` rather than
``32 r^2`` (``FEW`` channels). Plain products, of maps channels first too, also have kernels that
load single elements, at ``unaligned_efficiency`` of the rate of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.device import Device
from perfmodel.cost.parts import Floats, Parts, combine

COEFFICIENTS = {
    "unaligned_efficiency": "rate of products whose rows do not start on 16 bytes, against others",
    "unaligned_bandwidth_share": "rate at which such products stream, against others",
    "point_bandwidth_share": "share of the memory peak at which a plain product streams",
    "point_floor_seconds": "start and end of a plain product beside kernels that copy [s]",
    "direct_floor_seconds": "start and end of a direct kernel [s]",
    "direct_small_share": "step of a block of 32 x 32 outputs against one of 128 x 32",
    "direct_step_cycles": "clocks in which a block of a direct convolution adds one term [clocks]",
}
FEW, FEW_TAPS = 4.0, 49.0
_ROWS, _FEW_ROWS, _COLUMNS = 128.0, 32.0, 32.0


def direct_parts(
    product: tuple[Floats, Floats, Floats, Floats],
    traffic: Floats,
    device: Device,
    coefficients: Mapping[str, float],
) -> Parts:
    """Time of a convolution on the vector units, from the sizes of its product."""
    c = coefficients
    m, n, k, batch = product
    waves = m / _ROWS * np.ceil(n / _COLUMNS) * batch / device.units
    small = np.maximum(1.0, waves * (_ROWS / _FEW_ROWS)) * c["direct_small_share"]
    return combine(
        np.minimum(np.maximum(1.0, waves), small) * k * c["direct_step_cycles"] / device.clock,
        traffic / (device.bandwidth * c["bandwidth_efficiency"]),
        np.zeros_like(traffic),
        np.full_like(traffic, c["direct_floor_seconds"]),
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


def spread_over(chosen: NDArray[np.bool_], parts: Parts | None) -> Parts:
    """Parts of the chosen operators among all; the others get a second that nobody looks at."""
    whole = {}
    for field in fields(Parts):
        if field.name != "beside":
            whole[field.name] = np.ones(chosen.shape)
            if parts is not None:
                whole[field.name][chosen] = getattr(parts, field.name)
    return Parts(**whole)


def fastest(forms: Sequence[tuple[Parts, NDArray[np.bool_] | bool]]) -> Parts:
    """The fastest of the forms that serve, operator by operator.

    Each form comes with where it serves. ``choice`` tells forms apart: its hundreds are the form.
    """
    seconds = np.stack([np.where(serves, parts.seconds, np.inf) for parts, serves in forms])
    return pick([parts for parts, _ in forms], np.argmin(seconds, axis=0))


def pick(forms: Sequence[Parts], best: NDArray[np.intp]) -> Parts:
    """Of each operator the form of number ``best``, which ``choice`` counts in hundreds."""
    chosen = {
        field.name: np.choose(best, [getattr(parts, field.name) for parts in forms])
        for field in fields(Parts)
        if field.name != "beside"
    }
    chosen["choice"] = chosen["choice"] + 100.0 * best
    return Parts(**chosen)
