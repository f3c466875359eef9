"""The second of the three steps: every kernel's mechanism, by the name of its task."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from perfmodel.cost.attention import attention_parts
from perfmodel.cost.conv import conv_parts, implicit_gemm
from perfmodel.cost.device import Device, device_of
from perfmodel.cost.gemm import gemm_parts
from perfmodel.cost.memory_bound import memory_parts
from perfmodel.cost.parts import Floats, Parts, combine
from perfmodel.cost.tasks import Task
from perfmodel.hardware import Accelerator

Coefficients = Mapping[str, float]
# Elements that PyTorch's fused optimisers give to one block (kChunkSize, MultiTensorApply.cuh).
OPTIMIZER_CHUNK = 65536
# Channels that a matrix kernel takes at once from one tap of a filter.
CHANNEL_BLOCK = 32
MATRIX_KERNELS = ("gemm", "gemm_batched", "gemm_grouped", "attention", "conv", "spmm")


def task_device(task: Task, accelerator: Accelerator) -> Device:
    """The chip as the kernel of ``task`` sees it."""
    return device_of(accelerator, task.dtype, matrix=task.base.startswith(MATRIX_KERNELS))


def mechanism(task: Task, device: Device, coefficients: Coefficients) -> Parts:
    """Time of every operator of ``task`` and its parts, arrays of shape (N,) [s]."""
    base = task.base
    s = task.sizes
    if base.startswith("gemm"):
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
    if base.startswith("conv"):
        return _conv(task, device, coefficients)
    if base == "copy_host":
        moved = s["bytes"] / coefficients["host_bytes_per_second"]
        none = np.zeros_like(moved)
        return combine(none, moved, none, none + coefficients["floor_seconds"], 4.0)
    return memory_parts(
        s["read"],
        s["written"],
        row_count(task),
        s["flops"],
        device,
        coefficients,
        row_bytes=row_bytes(task),
    )


def row_bytes(task: Task) -> Floats:
    """Bytes that the block of one row moves [B]; weights shared by all rows left out."""
    s = task.sizes
    if task.base in ("rmsnorm", "layernorm", "softmax"):
        return np.asarray(2.0 * s["cols"] * task.element)
    if task.base in ("adamw", "sgd"):
        each = (s["read"] + s["written"]) / s["numel"]
        return np.asarray(each * np.minimum(s["numel"], OPTIMIZER_CHUNK))
    rows = row_count(task)
    return np.asarray((s["read"] + s["written"]) / np.maximum(rows, 1.0))


def row_count(task: Task) -> Floats:
    """Rows, gathers or transforms that each cost a block of threads; 0 for flat streams."""
    if task.base in ("adamw", "sgd"):
        return np.ceil(task.sizes["numel"] / OPTIMIZER_CHUNK)
    for name in ("rows", "tokens", "batch"):
        if name in task.sizes:
            return task.sizes[name]
    return np.zeros_like(task.sizes["flops"])


def product_sizes(task: Task) -> tuple[Floats, Floats, Floats, Floats]:
    """Sizes (m, n, k, batch) of the matrix product that a GEMM or convolution is."""
    s = task.sizes
    if task.base.startswith("conv"):
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


def _gemm(task: Task, device: Device, coefficients: Coefficients) -> Parts:
    return gemm_parts(
        *product_sizes(task),
        task.element,
        task.out_element,
        device,
        coefficients,
        traffic=task.sizes["read"] + task.sizes["written"],
    )


def _conv(task: Task, device: Device, coefficients: Coefficients) -> Parts:
    s = task.sizes
    # Matrix units read channels last; plain fp32 kernels take either order.
    matrix = device.peak > device.vector
    channels_first = task.words.get("layout", "nchw") == "nchw" and matrix
    if task.base.startswith("conv_depthwise"):
        none = np.zeros_like(s["flops"])
        return memory_parts(s["read"], s["written"], none, s["flops"], device, coefficients)
    m, n, k, batch = product_sizes(task)
    # A step wider than the kernel skips input that no output sees.
    traffic = s["read"] * s["seen"] + s["written"]
    repacked = np.zeros_like(m)
    if matrix:
        odd = ((s["c_in"] / s["groups"]) % 8 > 0) | ((s["c_out"] / s["groups"]) % 8 > 0)
        repacked = np.maximum(odd * 1.0, float(channels_first))
        if task.words["direction"] != "wgrad":
            taken = s["c_in"] if task.words["direction"] == "fwd" else s["c_out"]
            taken = taken / s["groups"]
            k = k * np.ceil(taken / CHANNEL_BLOCK) * CHANNEL_BLOCK / taken
    return conv_parts(
        (m, n, k, batch),
        s["winograd"],
        repacked,
        traffic,
        task.element,
        device,
        coefficients,
    )
