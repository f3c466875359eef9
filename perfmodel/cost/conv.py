r"""Convolution as the matrix product that it is (implicit GEMM).

With output ``p x q``, kernel ``r``, groups ``g``:

========  =====================  ================  ===================
pass      m                      n                 k
========  =====================  ================  ===================
fwd       n p q                  c_out / g         c_in r^2 / g
dgrad     n h w min(1, r^2/s^2)  c_in / g          c_out max(1, r^2/s^2) / g
wgrad     c_out / g              c_in r^2 / g      n p q
========  =====================  ================  ===================

each ``g`` times. What a product does not have: the repacking that a channels-first layout, or a
channel count that is no multiple of 8, costs on matrix units (they work channels-last), channels
of a tap that are rounded up to a block, and Winograd's saving for 3 x 3 kernels of stride 1 on
vector units. A depth-wise convolution, whose "product" has one column, runs on vector units
(:mod:`perfmodel.cost.memory_bound`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from perfmodel.cost.device import Device
from perfmodel.cost.gemm import SPLITS, gemm_parts
from perfmodel.cost.parts import Floats, Parts, combine

COEFFICIENTS = {
    "transpose_passes": "time of repacking against streaming the bytes that it copies",
    "weight_passes": "the same for weights, whose order is changed",
    "uneven_weight_passes": "the same for weights whose channels are padded",
    "transpose_floor_seconds": "start and end of the repacking kernels [s]",
    "winograd_gain": "how much faster 3 x 3, stride 1 runs where Winograd applies (1: not used)",
    "vector_efficiency": "share of the vector peak of plain fp32 kernels, which TF32 may fall to",
    "gather_efficiency": "arithmetic rate of an implicit product against a plain one",
    "eighth_rate": "rate of taps whose channels are an odd multiple of 16 bytes, against others",
    "many_taps_efficiency": "rate of the kernels for more than 32 taps, against those for fewer",
}
MOST_TAPS = 32
"""Taps of which a kernel can tell by the bits of one word whether they lie on the input."""
DIRECTIONS = ("fwd", "dgrad", "wgrad")


def implicit_gemm(
    n: Floats,
    c_in: Floats,
    inputs: Floats,
    outputs: Floats,
    c_out: Floats,
    taps: Floats,
    steps: Floats,
    groups: Floats,
    direction: str,
) -> tuple[Floats, Floats, Floats, Floats]:
    """Sizes (m, n, k, batch) of the product that a convolution is.

    ``inputs`` and ``outputs`` are positions of one map, ``taps`` those of the kernel, ``steps`` the
    product of the strides.
    """
    if direction == "fwd":
        return n * outputs, c_out / groups, c_in * taps / groups, groups
    if direction == "dgrad":
        reached = np.minimum(taps / steps, 1.0)  # a tap takes part at every step-th place
        return n * inputs * reached, c_in / groups, c_out * taps / groups / steps / reached, groups
    return c_out / groups, c_in * taps / groups, n * outputs, groups


def conv_parts(
    product: tuple[Floats, Floats, Floats, Floats],
    winograd: Floats,
    taps: Floats,
    pointwise: Floats,
    repacked: tuple[Floats, Floats, Floats, Floats],
    traffic: Floats,
    element: float,
    device: Device,
    coefficients: Mapping[str, float],
    *,
    splits: tuple[int, ...] = SPLITS,
    at_least: Floats | None = None,
    at_most: Floats | None = None,
) -> Parts:
    """Time of a convolution from the sizes of its implicit product.

    Parameters
    ----------
    product : tuple of array, shape (N,)
        What :func:`implicit_gemm` answers.
    winograd : array
        1 for 3 x 3 kernels of step 1 without dilation, else 0.
    taps : array
        Places of a filter; beyond :data:`MOST_TAPS` older kernels serve.
    pointwise : array
        1 where nothing is gathered: a plain product.
    repacked : tuple of array
        Bytes of maps that kernels around it copy into another order (or pad) [B], their number,
        bytes of weights, and those of them that are padded [B].
    traffic : array
        Unique bytes [B].
    element : float
        Bytes of one element.
    device : Device
        The chip.
    coefficients : mapping
        Of the product, with :data:`COEFFICIENTS` added.
    splits : tuple of int
        Parts that the sum over ``k`` may be cut into.
    at_least, at_most : array, optional
        What the arithmetic takes at least, and at most for another form that serves [s].
    """
    c = coefficients
    moved, kernels, weights, padded = repacked
    passes = c["transpose_passes"] * moved + c["weight_passes"] * (weights - padded)
    passes = passes + c["uneven_weight_passes"] * padded
    repack = kernels * c["transpose_floor_seconds"] + passes / (
        device.bandwidth * c["bandwidth_efficiency"]
    )
    whole = gemm_parts(*product, element, element, device, c, traffic=traffic, splits=splits)
    compute = whole.compute
    if at_most is not None:
        compute = np.minimum(compute, at_most)
    if at_least is not None:
        compute = np.maximum(compute, at_least)
    gain = np.where(winograd > 0.0, c["winograd_gain"], 1.0)
    gain = gain * np.where(pointwise > 0.0, 1.0, c["gather_efficiency"])
    gain = gain * np.where(taps > MOST_TAPS, c["many_taps_efficiency"], 1.0)
    return combine(
        compute / gain,
        whole.memory,
        whole.power / np.maximum(gain, 1.0),
        whole.floor + repack,
        c["overlap_exponent"],
        whole.choice,
    )
