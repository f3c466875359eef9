r"""Grouped convolutions: one kernel for all groups, or one a group.

A matrix kernel serves groups whose channels :math:`w = c_i/g = c_o/g` are a power of two, from 4 to
128. What else a library does, as the plans tell that cuDNN's search tries:

- *padded*: copies bring the maps whose groups are narrower to the next such width, the kernel
  runs, and a copy brings the result back. Every copied tensor costs ``pad_floor_seconds`` and its
  bytes, both as they are and padded, at ``pad_efficiency`` of the bandwidth; without any copy this
  is the kernel itself;
- *sliced*: a dense kernel a group, with copies that cut the group out and put it back
  (``slice_floor_seconds`` for the copies of one group);
- *direct*: a kernel on vector units a group, which takes it where it lies;
- *product*: forward, one tap and step, the wider of the two channel counts of a group above 128
  and at most 256: a batch of products, which reads the groups where they lie;
- *generic*: one kernel at a fixed number of operations a second (``generic_efficiency``); for
  weight gradients every place of the output takes ``generic_place_cycles`` besides;
- *native*: weight gradients channels last in half precision, of groups of 32 to 256 channels in
  whole vectors and short sums (:data:`NATIVE_TERMS`): the kernel itself, without padding.

**A search takes time by the host's clock.** It runs each form once, and a form of many kernels is
then as slow as its launches:

.. math::

    \text{trial} = \max(t, \ell \, t_\text{launch})

with :math:`\ell` launches. What wins the trial runs, though it may not be the fastest in a graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.conv_forms import pick
from perfmodel.cost.conv_point import is_point
from perfmodel.cost.device import Device
from perfmodel.cost.parts import Floats, Parts, combine

COEFFICIENTS = {
    "pad_floor_seconds": "start and end of a copy that pads the groups of one tensor [s]",
    "pad_efficiency": "share of the memory peak at which such a copy streams",
    "slice_floor_seconds": "copies around the kernel of one group where groups run in turn [s]",
    "launch_seconds": "host time of one launch while a search tries a form [s]",
    "generic_efficiency": "share of the vector peak that the generic kernel reaches",
    "generic_floor_seconds": "start and end of the generic kernel, where it is another [s]",
    "generic_place_cycles": "what a place of the output adds to a generic weight gradient [clocks]",
}
SMALLEST_GROUP, LARGEST_GROUP, LARGEST_PRODUCT = 4.0, 128.0, 256.0
# Narrowest groups that a kernel for short weight gradients takes as they are, in steps of so many,
# and the most terms of a sum, times taps: it was among the plans of 16 of 19 such searches with at
# most so many, and of 2 of 54 with more.
NATIVE_GROUP, _NATIVE_STEP, NATIVE_TERMS = 32.0, 8.0, 2400.0
_LOADED = 2.0  # channels that the batch of products loads at once
SLICED_LAUNCHES = 3.0
Form = tuple[Parts, NDArray[np.bool_] | bool, Floats]
"""A way to run: its time, where it serves, and its launches."""


def is_product(sizes: Mapping[str, Floats]) -> NDArray[np.bool_]:
    """Where a forward convolution of groups is a batch of products without copies."""
    c_in, c_out = sizes["c_in"] / sizes["groups"], sizes["c_out"] / sizes["groups"]
    widest = np.maximum(c_in, c_out)
    even = (c_in % _LOADED == 0.0) & (c_out % _LOADED == 0.0)
    alone = dict(sizes) | {"groups": np.ones_like(widest)}
    wide = (widest > LARGEST_GROUP) & (widest <= LARGEST_PRODUCT)
    return np.asarray(wide & even & is_point(alone))


def is_native(sizes: Mapping[str, Floats]) -> NDArray[np.bool_]:
    """Where a kernel takes a weight gradient of groups as they lie, channels last."""
    c_in, c_out = sizes["c_in"] / sizes["groups"], sizes["c_out"] / sizes["groups"]
    narrow, wide = np.minimum(c_in, c_out), np.maximum(c_in, c_out)
    even = (c_in % _NATIVE_STEP == 0.0) & (c_out % _NATIVE_STEP == 0.0)
    short = sizes["n"] * sizes["outputs"] * sizes["taps"] <= NATIVE_TERMS
    return np.asarray(even & short & (narrow >= NATIVE_GROUP) & (wide <= LARGEST_PRODUCT))


def group_width(c_in: Floats, c_out: Floats) -> Floats:
    """The power of two that holds the channels of a group, input and output."""
    widest = np.maximum(np.maximum(c_in, c_out), SMALLEST_GROUP)
    return np.asarray(2.0 ** np.ceil(np.log2(widest)))


def padded_groups(
    sizes: Mapping[str, Floats], element: float, direction: str
) -> tuple[dict[str, Floats], Floats, Floats]:
    """Sizes with padded groups, the number of tensors copied, and the bytes of both copies [B].

    Weights are copied wherever a map is.
    """
    s = dict(sizes)
    groups = s["groups"]
    width = group_width(s["c_in"] / groups, s["c_out"] / groups)
    wide = width * groups
    kernels, moved = np.zeros_like(groups), np.zeros_like(groups)
    for places, channels in (("inputs", "c_in"), ("outputs", "c_out")):
        copied = s[channels] < wide
        kernels = kernels + copied
        moved = moved + copied * s["n"] * s[places] * (s[channels] + wide) * element
    weights = (s["c_in"] * s["c_out"] / groups + width * wide) * s["taps"] * element
    copied = kernels > 0.0
    kernels, moved = kernels + copied, moved + copied * weights
    tensors = {
        "fwd": s["n"] * s["outputs"] * wide * element,
        "dgrad": s["n"] * s["inputs"] * wide * element,
        "wgrad": width * wide * s["taps"] * element,
    }
    written = np.where(copied, tensors[direction], s["written"])
    whole = tensors["fwd"] + tensors["dgrad"] + tensors["wgrad"]
    read = np.where(copied, whole - tensors[direction], s["read"])
    return s | {"c_in": wide, "c_out": wide, "read": read, "written": written}, kernels, moved


def pad_seconds(
    kernels: Floats, moved: Floats, device: Device, coefficients: Mapping[str, float]
) -> Floats:
    """Time of the copies that pad groups and take the padding away [s]."""
    rate = device.bandwidth * coefficients["pad_efficiency"]
    return np.asarray(kernels * coefficients["pad_floor_seconds"] + moved / rate)


def generic_parts(
    flops: Floats, places: Floats, device: Device, coefficients: Mapping[str, float]
) -> Parts:
    """A kernel that does a fixed number of operations a second.

    ``places`` each take a time of their own: those of the output for a weight gradient, which are
    summed one after another, else none.
    """
    c = coefficients
    none = np.zeros_like(flops)
    arithmetic = flops / (device.vector * c["generic_efficiency"])
    return combine(
        arithmetic + places * c["generic_place_cycles"] / device.clock,
        none,
        none,
        none + c.get("generic_floor_seconds", c["floor_seconds"]),
        c["overlap_exponent"],
    )


def tried(forms: Sequence[Form], launch: float) -> Parts:
    """The form that wins a trial by the host's clock, operator by operator."""
    trials = np.stack(
        [
            np.where(serves, np.maximum(parts.seconds, launches * launch), np.inf)
            for parts, serves, launches in forms
        ]
    )
    return pick([parts for parts, _, _ in forms], np.argmin(trials, axis=0))
