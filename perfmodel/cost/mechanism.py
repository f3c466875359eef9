"""The second of the three steps: every kernel's mechanism, by the name of its task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from perfmodel.cost.attention import attention_parts
from perfmodel.cost.chains import chain_parts
from perfmodel.cost.choices import choice_parts
from perfmodel.cost.conv_kernels import conv_sizes, convolution
from perfmodel.cost.cycle import warmed
from perfmodel.cost.device import Device, Tiles, device_of
from perfmodel.cost.fourier import fourier_parts
from perfmodel.cost.gemm import PRODUCT_SPLITS, TILES, gemm_parts
from perfmodel.cost.gemm_grouped import grouped_parts
from perfmodel.cost.losses import loss_parts
from perfmodel.cost.memory_bound import by_words, copy_parts, memory_parts, scalar_gather_parts
from perfmodel.cost.norms import norm_parts
from perfmodel.cost.parts import Floats, Parts, combine, either
from perfmodel.cost.recurrent import recurrent_parts
from perfmodel.cost.scatter import scatter_parts
from perfmodel.cost.tasks import WARP_COLUMNS, WARPS, Task, row_lengths
from perfmodel.hardware import Accelerator

_SURE = 1.0 - 1e-9
Coefficients = Mapping[str, float]
# Elements that PyTorch's fused optimisers give to one block (kChunkSize, MultiTensorApply.cuh).
OPTIMIZER_CHUNK = 65536
# Operand bytes times operations a clock of the fastest unit that coefficients were fitted to.
FED_RATE = 8192.0
NORMS = ("rmsnorm", "layernorm", "rmsnorm_odd", "layernorm_odd")
MATRIX_KERNELS = ("gemm", "gemm_batched", "gemm_grouped", "attention", "conv", "spmm", "recurrent")


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
        return attention_parts(base, s, device, coefficients, full=task.element > 2.0)
    if task.convolution:
        return convolution(task, device, coefficients)
    if base.startswith("copy"):
        return _copied(task, device, coefficients)
    if base.startswith(("fourier", "scatter_add", "recurrent")):
        return _scattered(task, device, coefficients)
    return _stepped(task, device, coefficients) or _streamed(task, device, coefficients)


def _stepped(task: Task, device: Device, coefficients: Coefficients) -> Parts | None:
    """Kernels whose blocks wait step after step, where coefficients of their steps are known."""
    base, s = task.base, task.sizes
    if base in NORMS and "load_cycles" in coefficients:
        odd = base.endswith("_odd")
        return norm_parts(s, task.element, device, coefficients, odd=odd)
    if base == "elementwise_rows" and "load_cycles" in coefficients:
        return chain_parts(s, task.element, device, coefficients)
    if base == "cross_entropy" and "load_cycles" in coefficients:
        return loss_parts(s, task.element, device, coefficients)
    if base == "topk" and "warp_cycles" in coefficients:
        return choice_parts(s, task.element, device, coefficients)
    return None


def _streamed(task: Task, device: Device, coefficients: Coefficients) -> Parts:
    """Kernels that move bytes in rows or flat."""
    base, s = task.base, task.sizes
    rows, taken = row_count(task), row_bytes(task)
    read = s["read"]
    if base == "embedding":
        odd = s["dim"] * task.element % 16 > 0
        taken = taken * np.where(odd, coefficients["scalar_cost"], 1.0)
        read = read - found_again(task, device, coefficients)
    if base == "spmm":
        read = read - (s["k"] - rows_met(s["nnz"], s["k"])) * s["n"] * task.element
    if base == "cross_entropy":  # a warp a row, where softmax has one
        rows = np.where(s["vocab"] <= WARP_COLUMNS, rows / WARPS, rows)
    if base == "embedding_few":  # one after another
        rows = rows * device.units * coefficients["rows_per_unit"]
    parts = memory_parts(
        read,
        s["written"],
        rows,
        s["flops"],
        device,
        coefficients,
        row_bytes=taken,
        copies=by_words(s["written"]) if _copies(task) else 0.0,
        through=s["read"] + s["written"] if base == "embedding" else None,
        losses=s["tokens"] if base == "cross_entropy" else None,
        # What is chosen is sorted by a second kernel, where it is more than one value.
        started=np.where(s["k"] > 1, 1.0, 0.5) if base == "topk" else 1.0,
    )
    if base == "embedding" and "round_cycles" in coefficients:
        values = s["tokens"] * s["dim"]
        scalar = scalar_gather_parts(read, s["written"], values, device, coefficients)
        parts = either(s["dim"] * task.element % 16 > 0, scalar, parts)
    return parts


def _copies(task: Task) -> bool:
    """Whether the driver's own copy does it."""
    return task.base == "elementwise" and task.words.get("kind") == "copy"


def rows_met(stored: Floats, rows: Floats) -> Floats:
    """Rows of a dense factor that so many stored elements in no order meet, shape (N,)."""
    return np.asarray(-rows * np.expm1(stored * np.log1p(-np.minimum(1.0 / rows, _SURE))))


def found_again(task: Task, device: Device, coefficients: Coefficients) -> Floats:
    """Bytes of looked-up rows that the cache still holds from an earlier look-up, shape (N,) [B].

    Indices come in no order: of a table that is larger than what the cache has room for, so large
    a share is found as there is room for.
    """
    s = task.sizes
    row = s["dim"] * task.element
    room = coefficients["reuse_room"] * device.cache
    held = (1.0 + (s["distinct"] * row / max(room, 1.0)) ** 4) ** -0.25
    return np.asarray(np.maximum(s["tokens"] - s["distinct"], 0.0) * row * held)


def _copied(task: Task, device: Device, coefficients: Coefficients) -> Parts:
    """Copies within device memory, or over the link to the host."""
    if task.base == "copy":
        return copy_parts(task.sizes["bytes"], device, coefficients)
    moved = task.sizes["bytes"] / coefficients["host_bytes_per_second"]
    none = np.zeros_like(moved)
    return combine(none, moved, none, none + coefficients["floor_seconds"], 4.0)


def _scattered(task: Task, device: Device, coefficients: Coefficients) -> Parts:
    """Kernels with files of their own: transforms, scattered sums, recurrent layers."""
    if task.base.startswith("recurrent"):
        return recurrent_parts(
            task.sizes, task.words, task.dtype, task.element, device, coefficients
        )
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
    if task.base == "embedding_bwd":  # a token's row is added to its own; the table streams
        return np.asarray(2.0 * s["dim"] * task.element)
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
        return conv_sizes(task)
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
    of = (*product_sizes(task), task.element, task.out_element, device, coefficients)
    traffic, even = task.sizes["read"] + task.sizes["written"], row_evenness(task)
    if task.base == "gemm_grouped" and "cluster_rows" in coefficients:
        return grouped_parts(*of, traffic=traffic, even=even, dtype=task.dtype)
    return gemm_parts(
        *of,
        traffic=traffic,
        even=even,
        splits=PRODUCT_SPLITS,
        tiles=tiles or TILES,
        along_k=task.words.get("trans", "tn") == "tn",
        dtype=task.dtype,
        trans=task.words.get("trans", "nn" if task.base.startswith("gemm_batched") else "tn"),
    )


def row_evenness(task: Task) -> Floats:
    """Largest power of two, up to 64, that divides every row of a product in memory [elements]."""
    _, n, k, _ = product_sizes(task)
    rows = (k, k)
    if "m" in task.sizes and "batch" in task.sizes:
        rows = row_lengths(task.sizes, task.words)
    whole = np.full(n.shape, 64, dtype=np.int64)
    for row in (n, *rows):
        whole |= np.where(row > 1.0, row, 64.0).astype(np.int64)
    return np.asarray((whole & -whole).astype(np.float64))
