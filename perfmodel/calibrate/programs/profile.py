"""Profiled kernels beside predicted ones: both sides summed under the same words.

A profiler knows the ATen operator that launched a kernel and the operator around it; a prediction
knows the recorded operator. Where PyTorch names the same work differently (``relu_`` runs
``clamp_min_``, a cast is a ``copy_``), both are put under one word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from perfmodel.calibrate.programs.rows import KernelRow
from perfmodel.cost.parts import Floats
from perfmodel.cost.program.price_kernels import LIBRARY
from perfmodel.cost.program.step import Prepared
from perfmodel.workload.lowering.kernel import Kernel

PRODUCTS: Final = ("mm", "addmm", "bmm", "baddbmm", "_grouped_mm", "_addmm_activation", "linear")
COPIES: Final = ("copy_", "_to_copy", "clone", "contiguous", "copy", "to")
REORDERING: Final = ("clone", "contiguous")
FLAT: Final = ("vectorized_", "unrolled_")
"""Kernels of PyTorch that read flat vectors; the others compute an offset for each element."""
SAME: Final = {
    "clamp_min_": "relu_", "clamp_min": "relu", "gather": "embedding",
    "masked_fill_": "masked_fill", "clamp_": "clamp", "add_": "add", "isneginf": "eq",
    "_safe_softmax": "_softmax", "zero_": "fill_", "fill": "fill_", "zeros": "fill_",
    "hardtanh": "clamp", "hardtanh_": "clamp",
}  # fmt: skip
WITHIN: Final = {
    "embedding": "embedding", "index_select": "index_select", "constant_pad_nd": "constant_pad_nd",
    "pad": "constant_pad_nd",
}  # fmt: skip
"""Operators whose kernels bear other names, and their words."""
PARTS: Final = {
    ("where", "_safe_softmax"): "_safe_softmax: where",
    ("where", "scaled_dot_product_attention"): "_safe_softmax: where",
    ("sum", "convolution_backward"): "convolution_backward",
}
"""Kernels of other operators inside one, by both names."""
APART: Final = (
    "_safe_softmax: where",
    "native_batch_norm: cast", "native_batch_norm: root", "convolution: bias",
    "convolution: reorder",
)  # fmt: skip


def measured_word(row: KernelRow) -> str:  # noqa: PLR0911
    """The word for a profiled kernel."""
    op, outer = row.op.removeprefix("aten::"), row.outer.removeprefix("aten::")
    if op.startswith("triton_"):
        return "triton pointwise" if op.startswith(("triton_poi", "triton_for")) else "triton rows"
    if (op, outer) in PARTS:
        return PARTS[op, outer]
    if "attention" in op:
        return "attention backward" if "backward" in op else "attention"
    if op in PRODUCTS:
        return "gemm"
    if op.startswith(("_fused_", "_foreach_")) and "norm" not in op:
        return "optimizer"
    if op == "add_" and outer.startswith("conv"):
        return "convolution: bias"
    flat = "elementwise_kernel" not in row.kernel or any(word in row.kernel for word in FLAT)
    if op in COPIES and not flat and outer.startswith(("conv", "_conv")):
        return "convolution: reorder"
    if "conv" in op or (op in COPIES and outer.startswith(("conv", "_conv"))):
        return "conv backward" if "backward" in op else "conv"
    if outer == "batch_norm" and op in COPIES:
        return "native_batch_norm: cast"
    if op == "native_batch_norm" and "invstd" in row.kernel:
        return "native_batch_norm: root"
    if outer in WITHIN:
        return WITHIN[outer]
    if op in COPIES:
        return "copies" if flat else "copies strided"
    return SAME.get(op, op)


def predicted_word(kernel: Kernel, base: str) -> str:
    """The word for a predicted kernel, whose first operator is priced as ``base``."""
    if kernel.host == "triton":
        return "triton pointwise" if kernel.kind == "pointwise" else "triton rows"
    if kernel.kind == "optimizer":
        return "optimizer"
    backward = " backward" if kernel.phase == "backward" else ""
    if base.startswith(LIBRARY):
        word = next(one for one in LIBRARY if base.startswith(one))
        return word + (backward if word in ("attention", "conv") else "")
    name = SAME.get(kernel.name, kernel.name).split(":")[0]
    if kernel.name in APART:
        name = kernel.name
    elif name in COPIES:
        name = "copies strided" if kernel.note or name in REORDERING else "copies"
    elif kernel.kind == "copy" and name == "masked_fill":
        name = "copies"
    elif kernel.kind == "fill":
        name = "fill_"
    elif name == "convolution":
        name = "conv" + backward
    return name


def kernel_words(prepared: Prepared) -> tuple[str, ...]:
    """The word of each kernel of a program."""
    kernels, ops = prepared.lowered.kernels, prepared.priced.ops
    bases: dict[int, str] = {}
    for kernel, place in zip(ops.kernel.tolist(), ops.pace.tolist(), strict=True):
        bases.setdefault(kernel, ops.classes[place][0])
    return tuple(predicted_word(one, bases.get(k, "")) for k, one in enumerate(kernels))


def profiled_sums(rows: Iterable[KernelRow]) -> dict[str, float]:
    """Seconds of the kernels of one profiled step by word [s]."""
    found: dict[str, float] = {}
    for row in rows:
        word = measured_word(row)
        found[word] = found.get(word, 0.0) + row.total_s
    return found


def word_sums(words: Sequence[str], seconds: Floats, chosen: Mapping[str, int]) -> Floats:
    """Predicted seconds of each chosen word, in its place [s]."""
    places = np.array([chosen.get(word, len(chosen)) for word in words], dtype=np.intp)
    return np.bincount(places, seconds, len(chosen) + 1)[: len(chosen)].astype(float)
