"""The second of the three steps: every kernel's mechanism, by the name of its task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.attention import attention_parts
from perfmodel.cost.conv import conv_parts, implicit_gemm
from perfmodel.cost.conv_forms import (
    FEW,
    FEW_TAPS,
    direct_parts,
    fastest,
    later,
    times,
)
from perfmodel.cost.conv_groups import (
    LARGEST_GROUP,
    SLICED_LAUNCHES,
    Form,
    generic_parts,
    is_product,
    pad_seconds,
    padded_groups,
    tried,
)
from perfmodel.cost.conv_point import is_point, point_sizes
from perfmodel.cost.conv_search import searched
from perfmodel.cost.cycle import warmed
from perfmodel.cost.device import Device, Tiles, device_of
from perfmodel.cost.fourier import fourier_parts
from perfmodel.cost.gemm import MANY_SPLITS, PRODUCT_SPLITS, SPLITS, TILES, gemm_parts
from perfmodel.cost.memory_bound import memory_parts
from perfmodel.cost.parts import Floats, Parts, combine
from perfmodel.cost.scatter import scatter_parts
from perfmodel.cost.tasks import Task, row_lengths
from perfmodel.hardware import Accelerator

Coefficients = Mapping[str, float]
# Elements that PyTorch's fused optimisers give to one block (kChunkSize, MultiTensorApply.cuh).
OPTIMIZER_CHUNK = 65536
# Channels that a matrix kernel takes at once from one tap of a filter.
CHANNEL_BLOCK = 32
# Channels of thin groups that a matrix kernel takes at once, with zeros between the groups.
GROUP_BLOCK = 64
# Threads of a block of PyTorch's depth-wise kernels (DepthwiseConv2d.cu).
DEPTHWISE_THREADS = 512.0
# Operand bytes times operations a clock of the fastest unit that coefficients were fitted to.
FED_RATE = 8192.0
MATRIX_KERNELS = ("gemm", "gemm_batched", "gemm_grouped", "attention", "conv", "spmm")


def task_device(task: Task, accelerator: Accelerator) -> Device:
    """The chip as the kernel of ``task`` sees it."""
    return device_of(accelerator, task.dtype, matrix=task.base.startswith(MATRIX_KERNELS))


def mechanism(task: Task, device: Device, coefficients: Coefficients) -> Parts:
    """Time of every operator of ``task`` and its parts, arrays of shape (N,) [s]."""
    task = warmed(task, device, coefficients)
    base = task.base
    s = task.sizes
    if task.product:
        return _gemm(task, device, coefficients)
    if base.startswith("attention"):
        return attention_parts(
            s["batch"],
            s["q_heads"],
            s["kv_heads"],
            s["q_len"],
            s["kv_len"],
            s["head_dim"],
            s["flops"],
            s["read"] + s["written"],
            device,
            coefficients,
        )
    if task.convolution:
        return _conv(task, device, coefficients)
    if base == "copy_host":
        moved = s["bytes"] / coefficients["host_bytes_per_second"]
        none = np.zeros_like(moved)
        return combine(none, moved, none, none + coefficients["floor_seconds"], 4.0)
    if base.startswith(("fourier", "scatter_add")):
        return _scattered(task, device, coefficients)
    rows, taken = row_count(task), row_bytes(task)
    if base == "embedding":
        odd = s["dim"] * task.element % 16 > 0
        taken = taken * np.where(odd, coefficients["scalar_cost"], 1.0)
    if base == "embedding_few":  # one after another
        rows = rows * device.units * coefficients["rows_per_unit"]
    return memory_parts(
        s["read"],
        s["written"],
        rows,
        s["flops"],
        device,
        coefficients,
        row_bytes=taken,
    )


def _scattered(task: Task, device: Device, coefficients: Coefficients) -> Parts:
    """Kernels whose accesses lie far apart: Fourier transforms and scattered sums."""
    if task.base.startswith("fourier"):
        return fourier_parts(task.words["kind"], task.sizes, device, coefficients)
    return scatter_parts(task.base, task.element, task.sizes, device, coefficients)


def row_bytes(task: Task) -> Floats:
    """Bytes that the block of one row moves [B]; weights shared by all rows left out."""
    s = task.sizes
    if task.base == "softmax_warp":  # a warp's loop is unrolled for the next power of two
        return np.asarray(2.0 * 2.0 ** np.ceil(np.log2(s["cols"])) * 2.0)
    if task.base.startswith(("rmsnorm", "layernorm", "softmax")) and "cols" in s:
        return np.asarray(2.0 * s["cols"] * 2.0)
    if task.base in ("adamw", "sgd"):
        each = (s["read"] + s["written"]) / s["numel"]
        return np.asarray(each * np.minimum(s["numel"], OPTIMIZER_CHUNK))
    rows = row_count(task)
    return np.asarray((s["read"] + s["written"]) / np.maximum(rows, 1.0))


def row_count(task: Task) -> Floats:
    """Rows, gathers or transforms that each cost a block of threads; 0 for flat streams."""
    if task.base in ("adamw", "sgd"):
        return np.ceil(task.sizes["numel"] / OPTIMIZER_CHUNK)
    if task.base.startswith("fourier"):
        return task.sizes["batch"] * task.sizes["rows"]
    for name in ("rows", "tokens", "batch"):
        if name in task.sizes:
            return task.sizes[name]
    return np.zeros_like(task.sizes["flops"])


def product_sizes(task: Task) -> tuple[Floats, Floats, Floats, Floats]:
    """Sizes (m, n, k, batch) of the matrix product that a GEMM or convolution is."""
    s = task.sizes
    if task.convolution:
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
    if task.base == "gemm_grouped":
        rows = np.where(s["rows"] > 0, s["rows"], s["groups"] * s["m"]) / s["groups"]
        return np.maximum(rows, 1.0), s["n"], s["k"], s["groups"]
    return s["m"], s["n"], s["k"], s["batch"]


def fed(task: Task, device: Device, coefficients: Coefficients) -> Coefficients:
    """Coefficients with the operand rate of units that multiply faster than those known.

    A unit can take in what a 128 x 128 tile needs at its full rate, or it would be built in vain:
    at 4096 operations of two bytes a clock 64 bytes (Hopper), at twice that 128 (Blackwell).
    """
    rate = device.peak / (device.units * device.clock) * task.element
    faster = rate / FED_RATE
    if faster <= 1.0:
        return coefficients
    taken = coefficients["operand_bytes_per_clock"] * faster
    return dict(coefficients) | {"operand_bytes_per_clock": taken}


def issued(task: Task, device: Device, coefficients: Coefficients) -> Device:
    """The chip with the fp32 rate that is left beside the other instructions of a product."""
    slots = device.issue_share * (1.0 + coefficients.get("issue_overhead", 0.0))
    if task.dtype != "fp32" or slots <= 1.0:
        return device
    return replace(device, peak=device.peak / slots)


def _gemm(task: Task, device: Device, coefficients: Coefficients) -> Parts:
    coefficients = fed(task, device, coefficients)
    device = issued(task, device, coefficients)
    tiles: Tiles = ()
    if task.dtype == "fp32":
        batched = task.base.startswith("gemm_batched")
        tiles = device.batched_tiles if batched else device.product_tiles
    return gemm_parts(
        *product_sizes(task),
        task.element,
        task.out_element,
        device,
        coefficients,
        traffic=task.sizes["read"] + task.sizes["written"],
        even=row_evenness(task),
        splits=PRODUCT_SPLITS,
        tiles=tiles or TILES,
    )


def row_evenness(task: Task) -> Floats:
    """Largest power of two, up to 64, that divides every row of a product in memory [elements]."""
    _, n, k, _ = product_sizes(task)
    rows = (k, k)
    if "m" in task.sizes and "batch" in task.sizes:
        rows = row_lengths(task.sizes, task.words)
    whole = n.astype(np.int64) | rows[0].astype(np.int64) | rows[1].astype(np.int64) | 64
    return np.asarray((whole & -whole).astype(np.float64))


def repacking(task: Task) -> tuple[Floats, Floats]:
    """Bytes that kernels around a convolution on matrix units copy [B], and how many kernels.

    Matrix units read channels last, on 16 bytes. A channels-first convolution copies input, weights
    and output into the other order, except where it is a plain product already: one tap, one step,
    no padding, and maps that start on 16 bytes. A channels-last one pads the operands whose channel
    count is no multiple of 16 bytes.
    """
    s = task.sizes
    align = 16.0 / task.element
    maps = (
        (s["n"] * s["c_in"] * s["inputs"], s["c_in"]),
        (s["n"] * s["c_out"] * s["outputs"], s["c_out"]),
    )
    moved, kernels = np.zeros_like(s["n"]), np.zeros_like(s["n"])
    first = task.words.get("layout", "nchw") == "nchw"
    direct = (pointwise(task) * (s["inputs"] % align == 0)) if first else np.zeros_like(moved)
    for size, channels in maps:
        copied = (1.0 - direct) if first else channels % align > 0
        moved += copied * 2.0 * size * task.element
        kernels += copied
    weights = s["c_in"] * s["c_out"] / s["groups"] * s["taps"]
    copied = np.minimum(kernels, 1.0)
    return moved + copied * 2.0 * weights * task.element, kernels + copied


def depthwise_blocks(task: Task) -> tuple[Floats, Floats]:
    """Blocks of threads of a depth-wise convolution, and the bytes that one takes in from caches.

    A thread makes an element of the result, which reads as many elements as the filter has taps.
    The weight gradient of channels-first maps gives a block one tap of one channel; up to 8 of its
    warps take an image each and pass over the map, 32 places at a time.
    """
    s = task.sizes
    direction = task.words["direction"]
    if direction == "wgrad" and task.words["layout"] == "nchw":
        rounds = np.ceil(s["n"] / 8.0) * (1.0 + np.ceil(s["outputs"] / 32.0))
        return s["c_in"] * s["taps"] * np.minimum(s["n"] / 8.0, 1.0), 512.0 * rounds
    if direction == "wgrad" and task.family == "conv_depthwise":
        # A block adds up 32 channels of one image, of 16 lines where the map is large.
        parts = np.maximum(1.0, np.floor(np.sqrt(s["outputs"]) / 16.0))
        blocks = np.ceil(s["c_in"] / 32.0) * s["n"] * parts
        return blocks, 32.0 * task.element * s["outputs"] / parts * (1.0 + s["taps"] / 30.0)
    places = s["n"] * (
        s["c_in"] * s["inputs"] if direction == "dgrad" else s["c_out"] * s["outputs"]
    )
    return places / DEPTHWISE_THREADS, DEPTHWISE_THREADS * s["taps"] * task.element


def pointwise(task: Task) -> Floats:
    """1 where a convolution is a plain product: one tap, one step, no padding, one group."""
    return is_point(task.sizes).astype(np.float64)


def _conv(task: Task, device: Device, coefficients: Coefficients) -> Parts:
    s = task.sizes
    # Matrix units read channels last; plain fp32 kernels take either order.
    matrix = device.peak > device.vector
    if task.base.startswith("conv_depthwise"):
        rows, taken = depthwise_blocks(task)
        special = memory_parts(
            s["read"], s["written"], rows, s["flops"], device, coefficients, row_bytes=taken
        )
        if task.family == "conv_depthwise_native":
            return special
        made = np.isin(s["side"], (3.0, 5.0, 7.0)) & (s["step"] <= 2.0)
        return searched(special, made, s["flops"], device, coefficients)
    if task.base.startswith("conv_grouped"):
        return _groups(task, device, coefficients)
    if matrix and (task.base.startswith("conv_odd") or task.words["layout"] == "nchw"):
        return _unaligned(task, device, coefficients)
    return _implicit(task, device, coefficients)


def _unaligned(task: Task, device: Device, coefficients: Coefficients) -> Parts:
    """What does not start on 16 bytes: copied, taken singly, or laid beside the taps."""
    s = task.sizes
    align = 16.0 / task.element
    odd = (s["c_in"] % align > 0) | (s["c_out"] % align > 0)
    plain = is_point(s)
    first_layer = (task.dtype == "fp16") & (task.words["layout"] == "nhwc")
    few = (s["c_in"] <= FEW) & (s["taps"] <= FEW_TAPS) & odd & first_layer
    few &= task.words["direction"] == "fwd"
    forms: list[tuple[Parts, NDArray[np.bool_] | bool]] = [
        (_implicit(task, device, coefficients), True)
    ]
    if odd.any():
        traffic = s["read"] * s["seen"] + s["written"]
        forms.append((direct_parts(product_sizes(task), traffic, device, coefficients), odd))
    if few.any():
        m, n, _, batch = product_sizes(task)
        beside_taps = (m, n, FEW * s["taps"], batch)
        forms.append((_product(beside_taps, task, device, coefficients), few))
    if plain.any():
        sizes = point_sizes(s, task.words["direction"], task.words["layout"])
        product = (sizes["m"], sizes["n"], sizes["k"], sizes["batch"])
        slow = coefficients["compute_efficiency"] * coefficients["unaligned_efficiency"]
        singly = dict(coefficients) | {"compute_efficiency": slow}
        forms.append((_product(product, task, device, singly), plain))
    return fastest(forms)


def _groups(task: Task, device: Device, coefficients: Coefficients) -> Parts:
    """Groups in one kernel, padded where it needs that, one after another, or on vector units."""
    s = task.sizes
    groups = s["groups"]
    one = {"groups": np.ones_like(groups)}
    each = {name: s[name] / groups for name in ("c_in", "c_out", "read", "written", "flops")}
    alone = replace(task, sizes=s | one | each)
    sliced = later(_implicit(alone, device, coefficients), coefficients["slice_floor_seconds"])
    traffic = alone.sizes["read"] * s["seen"] + alone.sizes["written"]
    direct = direct_parts(product_sizes(alone), traffic, device, coefficients)
    forms: list[Form] = [
        (times(sliced, groups), True, SLICED_LAUNCHES * groups),
        (times(direct, groups), True, groups),
        (generic_parts(s["flops"], device, coefficients), True, np.zeros_like(groups)),
    ]
    if device.peak > device.vector:
        padded, kernels, moved = padded_groups(s, task.element, task.words["direction"])
        wide = _implicit(replace(task, sizes=padded), device, coefficients)
        copies = pad_seconds(kernels, moved, device, coefficients)
        narrow = padded["c_in"] / groups <= LARGEST_GROUP
        forms.append((later(wide, copies), narrow, kernels))
        plain = is_product(s) & (task.words["direction"] == "fwd")
        product = _product(product_sizes(task), task, device, coefficients)
        forms.append((product, plain, one["groups"]))
    return tried(forms, coefficients["launch_seconds"])


def _product(
    sizes: tuple[Floats, Floats, Floats, Floats],
    task: Task,
    device: Device,
    coefficients: Coefficients,
) -> Parts:
    """A convolution as the product of ``sizes``, without copies around it."""
    s = task.sizes
    return gemm_parts(
        *sizes,
        task.element,
        task.element,
        device,
        coefficients,
        traffic=s["read"] * s["seen"] + s["written"],
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
    m, n, k, batch = product_sizes(task)
    # A step wider than the kernel skips input that no output sees.
    traffic = s["read"] * s["seen"] + s["written"]
    plain = pointwise(task)
    moved, kernels = np.zeros_like(m), np.zeros_like(m)
    if matrix:
        moved, kernels = repacking(task)
        if task.words["direction"] != "wgrad":
            taken = s["c_in"] if task.words["direction"] == "fwd" else s["c_out"]
            taken = taken / s["groups"]
            rounded = np.ceil(taken / CHANNEL_BLOCK) * CHANNEL_BLOCK
            k = k * np.where(plain > 0.0, 1.0, rounded / taken)
    forms = [(m, n, k, batch)]
    if task.words["direction"] == "dgrad":
        # With few input channels the taps stand beside them, and their shares are added up later.
        channels = s["c_in"] / s["groups"]
        few = channels < CHANNEL_BLOCK
        forms.append(
            (
                np.where(few, s["n"] * s["outputs"], m),
                np.where(few, channels * s["taps"], n),
                np.where(few, s["c_out"] / s["groups"], k),
                batch,
            )
        )
    return conv_parts(
        forms,
        s["winograd"],
        s["taps"],
        plain,
        (moved, kernels),
        traffic,
        task.element,
        device,
        coefficients,
        splits=MANY_SPLITS if task.words["direction"] == "wgrad" else SPLITS,
    )
