r"""Grouped convolutions: one kernel for all groups, or one a group.

A matrix kernel serves groups whose channels :math:`w = c_i/g = c_o/g` are a power of two, from 4 to
128. What else a library does, as the plans tell that cuDNN's search tries:

- *padded*: copies bring the maps whose groups are narrower to the next such width, the kernel
  runs, and a copy brings the result back. Every copied tensor costs ``pad_floor_seconds`` and its
  bytes, both as they are and padded, at ``pad_efficiency`` of the bandwidth; without any copy this
  is the kernel itself;
- *sliced*: a dense kernel a group, which starts after ``slice_floor_seconds``, and copies that cut
  the group out of channels-last maps and put it back at ``slice_efficiency`` of the bandwidth;
- *direct*: a kernel on vector units a group, which takes it where it lies;
- *product*: forward, one tap and step, the wider of the two channel counts of a group above 128
  and at most 256: a batch of products, which reads the groups where they lie;
- *generic*: a thread an element of the result, which adds up its terms one after another
  (:func:`looped_parts`);
- *native*: weight gradients channels last in half precision, of groups of 32 to 256 channels in
  whole vectors and short sums (:data:`NATIVE_TERMS`): the kernel itself, without padding.

**A search takes time by the host's clock.** It runs each form once, and a form of many kernels is
then as slow as its launches:

.. math::

    \text{trial} = \max(t, \ell \, t_\text{launch})

with :math:`\ell` launches. What wins the trial runs, though it may not be the fastest in a graph. A
search tries some ten plans, ranked by a rule of its own, so that the best form may be missing: with
:math:`\lambda` how far ahead a form must be and :math:`\sigma` the scatter,

.. math::

    p_i \propto (\lambda_i \, \text{trial}_i)^{-1 / \sigma}, \qquad t = \prod_i t_i^{p_i}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.conv_forms import pick
from perfmodel.cost.conv_point import is_point
from perfmodel.cost.device import Device
from perfmodel.cost.parts import Floats, Parts, combine

COEFFICIENTS = {
    "pad_floor_seconds": "start and end of a copy that pads the groups of one tensor [s]",
    "pad_efficiency": "share of the memory peak at which such a copy streams",
    "slice_floor_seconds": "start and end of the kernels of one group where groups run in turn [s]",
    "slice_efficiency": "share of the memory peak at which a group is cut out and put back",
    "direct_bandwidth_share": "share of the memory peak at which a direct kernel takes a group",
    "launch_seconds": "host time of one launch while a search tries a form [s]",
    "direct_lead": "how many times faster a direct kernel must be to be tried and kept",
    "generic_lead": "how many times faster the generic kernel must be to be tried and kept",
    "search_scatter": "how far a search may prefer a longer trial, as a logarithm of times",
    "generic_efficiency": "share of the vector peak that the generic kernel reaches",
    "generic_floor_seconds": "start and end of the generic kernel, where it is another [s]",
    "generic_place_cycles": "what a place of the output adds to a generic weight gradient [clocks]",
    "generic_wait_cycles": "clocks between two terms of one sum of the generic kernel [clocks]",
    "generic_loop_taps": "what its loop over channels costs beside the taps, channels first [taps]",
    "generic_last_share": "its pace where maps lie channels last, against channels first",
}
SMALLEST_GROUP, LARGEST_GROUP, LARGEST_PRODUCT = 4.0, 128.0, 256.0
# Narrowest groups that a kernel for short weight gradients takes as they are, in steps of so many,
# and the most terms of a sum, times taps: it was among the plans of 16 of 19 such searches with at
# most so many, and of 2 of 54 with more.
NATIVE_GROUP, _NATIVE_STEP, NATIVE_TERMS = 32.0, 8.0, 2400.0
_LOADED = 2.0  # channels that the batch of products loads at once
# Launches a group while a search tries it: cut out, kernel, put back; sums over places take more
# kernels, and so do copies that pad. A direct kernel is one launch forward only.
SLICED_LAUNCHES = {"fwd": 3.0, "dgrad": 3.0, "wgrad": 6.0}
UNEVEN_LAUNCHES = 8.0
DIRECT_LAUNCHES = {"fwd": 1.5, "dgrad": 4.0, "wgrad": 4.0}
_SECTOR = 32.0  # bytes that device memory moves at once
Form = tuple[Parts, NDArray[np.bool_] | bool, Floats, float]
"""A way to run: its time, where it serves, its launches, and how far ahead it must be."""


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


def slice_seconds(
    alone: Mapping[str, Floats],
    element: float,
    layout: str,
    device: Device,
    coefficients: Mapping[str, float],
) -> Floats:
    """Time in which one group is cut out of maps channels last and put back [s].

    ``alone`` are the sizes of the group. Maps that a copy brings to 16 bytes, or into the other
    order, are cut by that copy.
    """
    align = 16.0 / element
    moved = np.zeros_like(alone["n"])
    if layout == "nhwc":
        for places, channels in (("inputs", "c_in"), ("outputs", "c_out")):
            cut = alone[channels] % align == 0.0
            moved = moved + cut * 2.0 * alone["n"] * alone[places] * alone[channels] * element
    return np.asarray(moved / (device.bandwidth * coefficients["slice_efficiency"]))


def sliced_bytes(alone: Mapping[str, Floats], element: float, layout: str) -> Floats:
    """Bytes that cross device memory for one group, which may be a part of every sector [B]."""
    weights = alone["c_in"] * alone["c_out"] * alone["taps"] * element
    moved = np.asarray(weights)
    for places, channels in (("inputs", "c_in"), ("outputs", "c_out")):
        row = alone[channels] * element
        if layout == "nhwc":
            row = np.where(row % _SECTOR == 0.0, row, row + _SECTOR - element)
        seen = alone["seen"] if places == "inputs" else 1.0
        moved = moved + alone["n"] * alone[places] * row * seen
    return moved


def looped_parts(
    sizes: Mapping[str, Floats],
    direction: str,
    layout: str,
    device: Device,
    coefficients: Mapping[str, float],
) -> Parts:
    """The kernel that serves whatever no other does: a thread an element of the result.

    It adds the terms of its sum one after another. Channels first an input gradient tries every tap
    at every place, and the loop over channels costs as much as some taps.
    """
    s, c = sizes, coefficients
    c_in, c_out = s["c_in"] / s["groups"], s["c_out"] / s["groups"]
    first = layout == "nchw"
    if direction == "fwd":
        results, terms = s["n"] * s["c_out"] * s["outputs"], c_in * s["taps"]
    elif direction == "dgrad":
        results = s["n"] * s["c_in"] * s["inputs"]
        terms = c_out * s["taps"] / (1.0 if first else s["steps"])
    else:
        results, terms = s["c_out"] * c_in * s["taps"], s["n"] * s["outputs"]
    looped = first and direction != "wgrad"
    loop = 1.0 + c["generic_loop_taps"] / s["taps"] if looped else 1.0
    pace = 1.0 if first else c["generic_last_share"]
    arithmetic = 2.0 * results * terms * loop / (device.vector * c["generic_efficiency"] * pace)
    waits = terms * loop * c["generic_wait_cycles"] / (device.clock * pace)
    none = np.zeros_like(results)
    floor = none + c["generic_floor_seconds"]
    return combine(np.maximum(arithmetic, waits), none, none, floor, c["overlap_exponent"])


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


def tried(forms: Sequence[Form], c: Mapping[str, float]) -> Parts:
    """What a search keeps, operator by operator: the less likely, the longer a form's trial."""
    seconds = np.stack([parts.seconds for parts, *_ in forms])
    serves = np.stack([np.broadcast_to(one, seconds.shape[1:]) for _, one, *_ in forms])
    trials = np.stack(
        [
            np.maximum(parts.seconds, launches * c["launch_seconds"]) * lead
            for parts, _, launches, lead in forms
        ]
    )
    trials = np.where(serves, trials, np.inf)
    best = np.argmin(trials, axis=0)
    first = pick([parts for parts, *_ in forms], best)
    shares = (np.min(trials, axis=0) / trials) ** (1.0 / c["search_scatter"])
    shares = shares / np.sum(shares, axis=0)
    kept = np.exp(np.sum(shares * np.log(seconds), axis=0))
    floor = np.maximum(first.floor + kept - first.seconds, 0.0)
    beside = np.where(serves, seconds, np.inf)
    return replace(first, seconds=kept, floor=floor, beside=beside)
