"""Profiled and predicted kernels meet under the same words."""

import numpy as np
import pytest

from perfmodel.calibrate.programs.profile import (
    measured_word,
    predicted_word,
    profiled_sums,
    word_sums,
)
from perfmodel.calibrate.programs.rows import KernelRow
from perfmodel.workload.lowering.kernel import Kernel
from perfmodel.workload.op import Elementwise, Gemm


def profiled(op, outer="", kernel="k", seconds=1e-6):
    return KernelRow("case", 0, kernel, op, outer or op, "", 1, seconds)


def predicted(name, kind="pointwise", phase="forward", host="pointwise", note=""):
    op = Gemm(8, 8, 8) if kind == "gemm" else Elementwise("relu", 8)
    return Kernel(name, kind, (op,), (), (), (0,), phase, host, note=note)


@pytest.mark.parametrize(
    ("row", "kernel", "base"),
    [
        (profiled("aten::addmm", "aten::linear"), predicted("addmm", "gemm"), "gemm"),
        (profiled("aten::clamp_min_", "aten::relu_"), predicted("relu_"), "pointwise"),
        (
            profiled("aten::convolution_backward"),
            predicted("convolution_backward: input", "conv", "backward"),
            "conv_dgrad",
        ),
        (
            profiled("aten::cudnn_convolution", "aten::conv2d"),
            predicted("convolution", "conv"),
            "conv_fwd",
        ),
        (
            profiled("aten::add_", "aten::conv2d"),
            predicted("convolution: bias"),
            "pointwise broadcast",
        ),
        (
            profiled("aten::_cudnn_attention_backward"),
            predicted("_scaled_dot_product_cudnn_attention_backward", "attention", "backward"),
            "attention_bwd",
        ),
        (
            profiled("triton_poi_fused_add_3"),
            predicted("add+mul", host="triton"),
            "triton pointwise",
        ),
        (
            profiled("triton_per_fused_norm_1"),
            predicted("moments", "reduction", host="triton"),
            "triton reduction",
        ),
        (
            profiled("aten::copy_", "aten::to", "void vectorized_elementwise_kernel<4"),
            predicted("_to_copy", "copy"),
            "copy",
        ),
        (
            profiled("aten::copy_", "aten::contiguous", "void elementwise_kernel<128, 4"),
            predicted("clone", "copy", note="reorders elements"),
            "copy strided",
        ),
        (
            profiled("aten::native_batch_norm", "aten::batch_norm", "batch_norm_calc_invstd"),
            predicted("native_batch_norm: root"),
            "pointwise",
        ),
        (
            profiled("aten::_fused_adamw_"),
            predicted("_fused_adamw_", "optimizer", "optimizer"),
            "adamw",
        ),
    ],
)
def test_the_same_work_has_the_same_word(row, kernel, base):
    assert measured_word(row) == predicted_word(kernel, base)


def test_sums_keep_every_second():
    rows = [profiled("aten::mm"), profiled("aten::bmm", seconds=2e-6), profiled("aten::add")]
    assert profiled_sums(rows) == pytest.approx({"gemm": 3e-6, "add": 1e-6})
    sums = word_sums(["gemm", "add", "gemm", "mul"], np.array([1.0, 2.0, 3.0, 4.0]),
                     {"add": 0, "gemm": 1})  # fmt: skip
    assert sums.tolist() == [2.0, 4.0]
