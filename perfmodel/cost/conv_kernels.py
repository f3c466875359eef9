"""Which forms a convolution may run in, by the kernel that its task names, and their times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.conv import conv_parts, implicit_gemm
from perfmodel.cost.conv_depthwise import FULL, blocks, is_made, is_packed, taken_share
from perfmodel.cost.conv_forms import (
    FEW,
    FEW_TAPS,
    direct_parts,
    fastest,
    later,
    spread_over,
    times,
)
from perfmodel.cost.conv_groups import (
    DIRECT_LAUNCHES,
    LARGEST_GROUP,
    SLICED_LAUNCHES,
    UNEVEN_LAUNCHES,
    Form,
    generic_parts,
    is_native,
    is_product,
    looped_parts,
    pad_seconds,
    padded_groups,
    slice_seconds,
    sliced_bytes,
    tried,
)
from perfmodel.cost.conv_point import is_point, point_sizes, row_step, uneven, whole_rows
from perfmodel.cost.conv_search import searched
from perfmodel.cost.conv_spectra import is_spectral, spectral_parts
from perfmodel.cost.device import Device
from perfmodel.cost.gemm import MANY_SPLITS, SPLITS, gemm_parts
from perfmodel.cost.memory_bound import memory_parts
from perfmodel.cost.parts import Floats, Parts
from perfmodel.cost.tasks import Task
from perfmodel.workload.ops.base import product

Coefficients = Mapping[str, float]
# Channels that a matrix kernel takes at once from one tap of a filter.
CHANNEL_BLOCK = 32
# Channels of thin groups that a matrix kernel takes at once, with zeros between the groups.
GROUP_BLOCK = 64
# A weight gradient of one place has no uneven plan with more channels (bf16: none of 16 searches).
FEW_OF_PLACE = 36.0


def conv_sizes(task: Task) -> tuple[Floats, Floats, Floats, Floats]:
    """Sizes (m, n, k, batch) of the implicit product of a convolution."""
    s = task.sizes
    return implicit_gemm(
        s["n"],
        s["c_in"],
        s["inputs"],
        s["outputs"],
        s["c_out"],
        s["taps"],
        s["steps"],
        s["groups"],
        task.words["direction"],
    )


def repacking(task: Task) -> tuple[Floats, Floats, Floats, Floats]:
    """Copies around a convolution on matrix units: bytes of maps, kernels, bytes of weights [B].

    Matrix units read channels last, on 16 bytes. A channels-first convolution copies input, weights
    and output into the other order, except where it is a plain product already: one tap, one step,
    no padding, and rows that start on 16 bytes. A channels-last one pads the operands whose channel
    count is no multiple of 16 bytes. Weights of one tap lie alike in both orders. The last answer
    are the bytes of one tap of weights that are padded: the copy takes all taps side by side.
    """
    s = task.sizes
    align = 16.0 / task.element
    maps = (
        (s["n"] * s["c_in"] * s["inputs"], s["c_in"]),
        (s["n"] * s["c_out"] * s["outputs"], s["c_out"]),
    )
    moved, kernels = np.zeros_like(s["n"]), np.zeros_like(s["n"])
    first = task.words.get("layout", "nchw") == "nchw"
    direct = pointwise(task) * whole_rows(s, align) if first else np.zeros_like(moved)
    padded = np.zeros_like(moved)
    for size, channels in maps:
        odd = uneven(channels, align)
        copied = (1.0 - direct) if first else odd
        moved += copied * 2.0 * size * task.element
        kernels += copied
        padded = np.maximum(padded, odd * (1.0 - direct))
    weights = 2.0 * s["c_in"] * s["c_out"] / s["groups"] * s["taps"] * task.element
    copied = np.minimum(kernels, 1.0)
    if first:
        copied = np.maximum(copied * (s["taps"] > 1.0), padded)
    return moved, kernels + copied, copied * weights, padded * weights / s["taps"]


def pointwise(task: Task) -> Floats:
    """1 where a convolution is a plain product: one tap, one step, no padding, one group."""
    return is_point(task.sizes).astype(np.float64)


def convolution(task: Task, device: Device, coefficients: Coefficients) -> Parts:
    """Time of every convolution of ``task`` and its parts, arrays of shape (N,) [s]."""
    s = task.sizes
    # Matrix units read channels last; plain fp32 kernels take either order.
    matrix = device.peak > device.vector
    if task.base.startswith("conv_depthwise"):
        native = task.family == "conv_depthwise_native"
        rows, taken = blocks(s, task.words, task.dtype, task.element, native)
        share = taken_share(s, task.words, task.dtype)

        def streamed(taken: Floats) -> Parts:
            """Time of a kernel whose blocks take in so many bytes."""
            return memory_parts(
                s["read"], s["written"], rows, s["flops"], device, coefficients, row_bytes=taken
            )

        special = streamed(taken * share)
        if native:
            return special
        packed = is_packed(s, task.words, task.dtype)
        if packed.any():
            pairs = streamed(taken / coefficients["packed_gain"])
            pairs = later(pairs, coefficients["packed_floor_seconds"])
            special = fastest([(special, True), (pairs, packed)])
        generic = _generic(task, device, coefficients)
        return searched(special, is_made(s, task.words, task.dtype), generic.seconds, coefficients)
    if task.base.startswith("conv_grouped"):
        return _groups(task, device, coefficients)
    if matrix:
        return _unaligned(task, device, coefficients)
    forms: list[tuple[Parts, NDArray[np.bool_] | bool]] = [
        (_implicit(task, device, coefficients), True)
    ]
    if "spectrum_passes" in coefficients:
        spectral = spectral_parts(s, task.words["direction"], device, coefficients)
        forms.append((spectral, is_spectral(s, task.words["direction"])))
    plain = is_point(s)
    if task.words["direction"] != "wgrad":
        products = _only(plain, task, lambda some: _gathered_nowhere(some, device, coefficients))
        forms.append((products, plain))
    return fastest(forms)


def _only(chosen: NDArray[np.bool_], task: Task, times: Callable[[Task], Parts]) -> Parts:
    """A form of the operators that it serves: of the others nobody needs it, and it is not free.

    A form that serves nobody here is counted all the same: the choice of an operator has one number
    whatever others are priced beside it.
    """
    if chosen.all():
        return times(task)
    if not chosen.any():
        return spread_over(chosen, None)
    sizes = {name: value[chosen] for name, value in task.sizes.items()}
    return spread_over(chosen, times(replace(task, sizes=sizes, places=task.places[chosen])))


def _gathered_nowhere(task: Task, device: Device, coefficients: Coefficients) -> Parts:
    """One tap in full precision, which vector units take as it lies in either layout."""
    c = dict(coefficients) | {
        "bandwidth_efficiency": coefficients["point_bandwidth_share"],
        "floor_seconds": coefficients["point_floor_seconds"],
    }
    return _product(conv_sizes(task), task, device, c)


def _unaligned(task: Task, device: Device, coefficients: Coefficients) -> Parts:
    """What does not start on 16 bytes: copied, taken singly, or laid beside the taps."""
    s = task.sizes
    align = 16.0 / task.element
    odd = uneven(s["c_in"], align) | uneven(s["c_out"], align)
    plain = is_point(s)
    first_layer = (task.dtype == "fp16") & (task.words["layout"] == "nhwc")
    first_layer = first_layer and task.words["direction"] == "fwd"
    few = (s["c_in"] <= FEW) & (s["taps"] <= FEW_TAPS) & odd & first_layer
    forms: list[tuple[Parts, NDArray[np.bool_] | bool]] = [
        (_implicit(task, device, coefficients), True)
    ]
    if task.words["direction"] == "wgrad" and task.dtype == "bf16":
        alone = (s["inputs"] == 1.0) & (np.minimum(s["c_in"], s["c_out"]) > FEW_OF_PLACE)
        odd, plain = odd & ~alone, plain & ~alone
    traffic = s["read"] * s["seen"] + s["written"]
    forms.append((direct_parts(conv_sizes(task), traffic, device, coefficients), odd))
    if task.words["direction"] == "wgrad" and "generic_floor_seconds" in coefficients:
        forms.append((_generic(task, device, coefficients), odd))
    if first_layer:
        forms.append((_only(few, task, lambda some: _beside_taps(some, device, coefficients)), few))
    if task.dtype == "tf32" and "vector_efficiency" in coefficients:
        # TF32 is allowed, not asked for: plain fp32 kernels, which copy nothing, are tried too.
        vector = partial(_on_vector_units, device=device, coefficients=coefficients)
        rate = device.vector * coefficients["vector_efficiency"]
        near = 2.0 * product(*conv_sizes(task)) / rate < forms[0][0].seconds
        forms.append((_only(near, task, vector), near))
    # Channels first maps and weights may start on 16 bytes though output channels do not.
    whole = whole_rows(s, align) & (task.words["layout"] == "nchw")
    for even, among in ((False, plain & ~whole), (True, plain & whole)):
        make = partial(_plain_product, device=device, coefficients=coefficients, even=even)
        forms.append((_only(among, task, make), among))
    return fastest(forms)


def _on_vector_units(task: Task, device: Device, coefficients: Coefficients) -> Parts:
    """The product at the rate of the vector units."""
    slow = device.vector / device.peak * coefficients["vector_efficiency"]
    units = dict(coefficients) | {"compute_efficiency": slow}
    return _product(conv_sizes(task), task, device, units)


def _beside_taps(task: Task, device: Device, coefficients: Coefficients) -> Parts:
    """The first layer of a network, whose few channels stand beside the taps."""
    m, n, _, batch = conv_sizes(task)
    return _product((m, n, FEW * task.sizes["taps"], batch), task, device, coefficients)


def _plain_product(task: Task, device: Device, coefficients: Coefficients, *, even: bool) -> Parts:
    """One tap, which the library of products takes as it lies: row by row, or by elements."""
    c, layout = coefficients, task.words["layout"]
    sizes = point_sizes(task.sizes, task.words["direction"], layout)
    product = (sizes["m"], sizes["n"], sizes["k"], sizes["batch"])
    traffic = sizes["read"] + sizes["written"]
    c = dict(c) | {
        "bandwidth_efficiency": c["point_bandwidth_share"],
        "floor_seconds": c["point_floor_seconds"],
    }
    if even:
        return _product(product, task, device, c, traffic)
    c["compute_efficiency"] *= c["unaligned_efficiency"]
    c["bandwidth_efficiency"] *= c["unaligned_bandwidth_share"]
    return _product(product, task, device, c, traffic, row_step(task.sizes, layout))


def tried_flops(task: Task) -> Floats:
    """Arithmetic of a kernel that tries every tap of a filter at every place of the input."""
    steps = task.sizes["steps"] if task.words["direction"] == "dgrad" else 1.0
    return np.asarray(task.sizes["flops"] * steps)


def _generic(task: Task, device: Device, coefficients: Coefficients) -> Parts:
    """The kernel that serves whatever no other does."""
    s = task.sizes
    summed = s["n"] * s["outputs"] if task.words["direction"] == "wgrad" else np.zeros_like(s["n"])
    # Channels last, a depth-wise input gradient looks at those taps alone that it needs.
    direct = task.base.startswith("conv_depthwise") and task.words["layout"] == "nhwc"
    flops = s["flops"] if direct else tried_flops(task)
    return generic_parts(flops, summed, device, coefficients)


def _groups(task: Task, device: Device, coefficients: Coefficients) -> Parts:
    """Groups in one kernel, padded where it needs that, one after another, or on vector units."""
    s = task.sizes
    groups = s["groups"]
    one = {"groups": np.ones_like(groups)}
    each = {name: s[name] / groups for name in ("c_in", "c_out", "read", "written", "flops")}
    alone = replace(task, sizes=s | one | each)
    direction, layout = task.words["direction"], task.words["layout"]
    cut = slice_seconds(alone.sizes, task.element, layout, device, coefficients)
    starts = dict(coefficients) | {"floor_seconds": coefficients["slice_floor_seconds"]}
    sliced = later(_implicit(alone, device, starts), cut)
    copied = repacking(alone)[1] > 0.0 if device.peak > device.vector else groups < 0.0
    launches = np.where(copied, UNEVEN_LAUNCHES, SLICED_LAUNCHES[direction])
    traffic = sliced_bytes(alone.sizes, task.element, layout)
    streams = dict(coefficients) | {"bandwidth_efficiency": coefficients["direct_bandwidth_share"]}
    direct = direct_parts(conv_sizes(alone), traffic, device, streams)
    forms: list[Form] = [
        (times(sliced, groups), True, launches * groups, 1.0),
        (
            times(direct, groups),
            True,
            DIRECT_LAUNCHES[direction] * groups,
            coefficients["direct_lead"],
        ),
        (
            looped_parts(s, direction, layout, device, coefficients),
            True,
            np.zeros_like(groups),
            coefficients["generic_lead"],
        ),
    ]
    if device.peak > device.vector:
        padded, kernels, moved = padded_groups(s, task.element, task.words["direction"])
        copies = pad_seconds(kernels, moved, device, coefficients)
        narrow = padded["c_in"] / groups <= LARGEST_GROUP
        native = is_native(s) & (direction == "wgrad") & (task.element == 2.0) & (layout == "nhwc")
        padded_task = replace(task, sizes=padded)
        wide = _only(
            narrow | native, padded_task, lambda some: _implicit(some, device, coefficients)
        )
        forms.append((later(wide, copies), narrow, kernels, 1.0))
        if direction == "wgrad":
            forms.append((wide, native, one["groups"], 1.0))
        if direction == "fwd":
            plain = is_product(s)
            product = _only(
                plain, task, lambda some: _product(conv_sizes(some), some, device, coefficients)
            )
            forms.append((product, plain, one["groups"], 1.0))
    return tried(forms, coefficients)


def _product(
    sizes: tuple[Floats, Floats, Floats, Floats],
    task: Task,
    device: Device,
    coefficients: Coefficients,
    traffic: Floats | None = None,
    even: Floats | float = 64.0,
) -> Parts:
    """A convolution as the product of ``sizes``, without copies around it."""
    s = task.sizes
    return gemm_parts(
        *sizes,
        task.element,
        task.element,
        device,
        coefficients,
        traffic=s["read"] * s["seen"] + s["written"] if traffic is None else traffic,
        even=even,
        splits=MANY_SPLITS if task.words["direction"] == "wgrad" else SPLITS,
    )


def _implicit(task: Task, device: Device, coefficients: Coefficients) -> Parts:
    """The implicit product on matrix units, with the copies that it needs."""
    s = task.sizes
    matrix = device.peak > device.vector
    packed = np.clip(
        GROUP_BLOCK / np.maximum(s["c_in"], s["c_out"]) * s["groups"], 1.0, s["groups"]
    )
    s = s | {"groups": s["groups"] / packed}  # thin groups share a block, with zeros between them
    task = replace(task, sizes=s)
    m, n, k, batch = conv_sizes(task)
    # A step wider than the kernel skips input that no output sees.
    traffic = s["read"] * s["seen"] + s["written"]
    plain = pointwise(task)
    copies = (np.zeros_like(m),) * 4
    if matrix:
        copies = repacking(task)
        # A weight gradient has these channels, tap by tap, along its columns.
        taken = s["c_out" if task.words["direction"] == "dgrad" else "c_in"] / s["groups"]
        rounded = np.ceil(taken / CHANNEL_BLOCK) * CHANNEL_BLOCK / taken
        if "eighth_rate" in coefficients:
            thin = (taken * task.element % CHANNEL_BLOCK == 16.0) & (s["taps"] > 1.0)
            rounded = np.where(thin, rounded / coefficients["eighth_rate"], rounded)
        rounded = np.where(plain > 0.0, 1.0, rounded)
        if task.words["direction"] == "wgrad":
            n = n * rounded
        else:
            k = k * rounded
    at_least = at_most = None
    if task.words["direction"] == "dgrad":
        at_least = _deepest_places(task, (n, k, batch), traffic, device, coefficients)
        at_most = _taps_beside(task, batch, traffic, device, coefficients)
    return conv_parts(
        (m, n, k, batch),
        s["winograd"],
        s["taps"],
        plain,
        copies,
        traffic,
        task.element,
        device,
        coefficients,
        splits=_splits(task),
        at_least=at_least,
        at_most=at_most,
    )


def _splits(task: Task) -> tuple[int, ...]:
    """Parts that the sum of an implicit product may be cut into.

    No plan of a forward convolution that a search tried says that it cuts its sum.
    """
    if task.words["direction"] == "wgrad":
        return MANY_SPLITS
    return (1,) if task.words["direction"] == "fwd" else SPLITS


def _deepest_places(
    task: Task,
    product: tuple[Floats, Floats, Floats],
    traffic: Floats,
    device: Device,
    coefficients: Coefficients,
) -> Floats | None:
    """Arithmetic of those places of a strided input gradient that see most taps [s].

    Places a step apart see the same taps and are a product of their own, which no kernel cuts along
    its sum; with few tiles the deepest of them is what the whole waits for.
    """
    s = task.sizes
    apart = s["steps"] > 1.0
    if not apart.any():
        return None
    n, k, batch = (size[apart] for size in product)
    rows = (s["n"] * s["inputs"] / s["steps"])[apart]
    depth = k * (s["deepest"] / np.maximum(s["taps"] / s["steps"], 1.0))[apart]
    alone = gemm_parts(
        rows, n, depth, batch, task.element, task.element, device, coefficients,
        traffic=traffic[apart], splits=(1,),
    )  # fmt: skip
    seconds = np.zeros(apart.shape)
    seconds[apart] = alone.compute
    return seconds


def _taps_beside(
    task: Task, batch: Floats, traffic: Floats, device: Device, coefficients: Coefficients
) -> Floats | None:
    """Arithmetic of an input gradient with the taps beside its few channels [s].

    Their shares are added up later; on matrix units of half precision it serves where patches do
    not overlap, and nothing is added.
    """
    s = task.sizes
    channels = s["c_in"] / s["groups"]
    few = (channels < CHANNEL_BLOCK) & ((task.dtype in FULL) | (s["steps"] == s["taps"]))
    if not few.any():
        return None
    rows, depth = s["n"] * s["outputs"], s["c_out"] / s["groups"]
    m, n, k, batch = (size[few] for size in (rows, channels * s["taps"], depth, batch))
    beside = gemm_parts(
        m, n, k, batch, task.element, task.element, device, coefficients,
        traffic=traffic[few], splits=_splits(task),
    )  # fmt: skip
    seconds = np.full(few.shape, np.inf)
    seconds[few] = beside.compute
    return seconds
