"""Convolutions of any shape: counted against a loop, and against torch where it is installed."""

from __future__ import annotations

from itertools import product as pairs

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.cost.conv_algorithms import algorithm, applicable
from perfmodel.cost.price import price
from perfmodel.errors import WorkloadError
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import Conv2d, Conv3d, op_from_dict
from perfmodel.workload.ops.conv import transposed
from perfmodel.workload.pruning import prune_connections, separable

PLAIN = Conv2d(2, 8, 17, 19, 16, 3, 1, 1)


def looped(length: int, kernel: int, stride: int, before: int, after: int, dilation: int) -> int:
    """Outputs along an axis, one by one."""
    starts = range(-before, length + after, stride)
    return sum(start + dilation * (kernel - 1) < length + after for start in starts)


axis = st.tuples(
    st.integers(9, 20), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2),
    st.integers(0, 2), st.integers(1, 2),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(axis, axis)
def test_outputs_taps_and_arithmetic_equal_a_loop(rows, columns):
    h, k, s, top, bottom, d = rows
    w, kw, sw, left, right, dw = columns
    op = Conv2d(
        3, 4, h, w, 6, k, s, top, 2, kernel_w=kw, stride_w=sw, padding_w=left, dilation=d,
        dilation_w=dw, padding_end=bottom, padding_end_w=right,
    )  # fmt: skip
    p, q = looped(*rows), looped(*columns)
    assert (op.h_out, op.w_out) == (p, q)
    assert op.flops == 2 * 3 * 6 * p * q * (4 // 2) * k * kw
    weight = 6 * 2 * k * kw
    assert op.bytes_read == 2 * (3 * 4 * h * w + weight)
    assert op.bytes_written == 2 * 3 * 6 * p * q
    assert op_from_dict(op.to_dict()) == op


def test_a_square_convolution_is_written_as_before():
    assert list(PLAIN.to_dict()) == [
        "op", "n", "c_in", "h", "w", "c_out", "kernel", "stride", "padding", "groups", "layout",
        "pass", "dtype",
    ]  # fmt: skip
    spelled = Conv2d(
        2, 8, 17, 19, 16, 3, 1, 1, kernel_w=3, stride_w=1, padding_w=1, dilation=1, padding_end=1
    )
    assert spelled.flops == PLAIN.flops
    assert spelled.bytes_moved == PLAIN.bytes_moved
    accelerator = load_accelerator("h100-sxm5-80gb")
    assert price(spelled, accelerator).seconds == price(PLAIN, accelerator).seconds
    usual = Conv2d(16, 64, 28, 28, 128, 3, 1, 1, kernel_w=3, stride_w=1, padding_w=1, padding_end=1)
    assert price(usual, accelerator).calibrated.all()


def test_padding_at_the_end_alone():
    # TensorFlow's "SAME" at step 2
    op = Conv2d(1, 3, 224, 224, 32, 3, 2, 0, padding_end=1)
    assert (op.h_out, op.w_out) == (112, 112)
    right_only = Conv2d(1, 3, 8, 8, 4, 2, 1, 0, padding_end_w=1)
    assert (right_only.h_out, right_only.w_out) == (7, 8)


def test_arrays_describe_many_shapes():
    kernel_w = np.array([1, 3, 7])
    op = Conv2d(1, 8, 17, 17, 8, 1, padding_w=kernel_w // 2, kernel_w=kernel_w)
    assert op.flops.tolist() == [
        Conv2d(1, 8, 17, 17, 8, 1, kernel_w=int(k), padding_w=int(k) // 2).flops for k in kernel_w
    ]


def test_three_dimensions_take_what_is_left_open_from_the_axis_before():
    op = Conv3d(1, 4, 8, 16, 20, 6, 1, kernel_h=3, padding_h=1)
    assert [axis.kernel for axis in op.axes] == [1, 3, 3]
    assert op.output_elements == 6 * 8 * 16 * 20
    assert op.flops == 2 * op.output_elements * 4 * 9
    dilated = Conv3d(1, 4, 9, 9, 9, 6, 3, dilation=2)
    assert dilated.output_elements == 6 * 5**3


def test_a_transposed_convolution_has_the_shape_that_frameworks_give_it():
    op = transposed(2, 64, 14, 10, 32, 4, 2, 1, output_padding=1)
    assert (op.h, op.w, op.c_in) == (29, 21, 32)  # (14 - 1) 2 - 2 + 4 + 1
    assert (op.h_out, op.w_out, op.c_out) == (14, 10, 64)
    assert op.flops == 2 * 2 * 64 * 14 * 10 * 32 * 16
    assert op.bytes_written == 2 * 2 * 32 * 29 * 21
    assert transposed(1, 8, 7, 7, 8, 3, direction="dgrad").direction == "fwd"
    with pytest.raises(WorkloadError, match="output_padding"):
        transposed(1, 8, 7, 7, 8, 3, stride=2, output_padding=2)


@pytest.mark.parametrize("record", [{"kernel_w": 30}, {"dilation": 12}, {"dilation": 0},
                                    {"padding_w": -1}, {"kernel_w": "3"}])  # fmt: skip
def test_bad_sizes_are_refused(record):
    with pytest.raises(WorkloadError, match=next(iter(record)).split("_")[0] + "|kernel"):
        op_from_dict(PLAIN.to_dict() | record)


def test_algorithms_for_squares_refuse_other_shapes_and_im2col_is_exact():
    op = Conv2d(2, 4, 9, 17, 6, 1, 1, 0, kernel_w=7, padding_w=3)
    assert applicable(op) == ("direct", "im2col")
    direct, patches = algorithm("direct", op), algorithm("im2col", op)
    assert direct.flops == patches.flops == op.flops
    assert patches.workspace == 2 * 2 * 9 * 17 * 4 * 7
    pointwise = Conv2d(2, 4, 9, 9, 6, 1)
    assert algorithm("im2col", pointwise).workspace == 0
    assert algorithm("im2col", Conv2d(2, 4, 3, 3, 6, 1, 2, 1)).workspace > 0
    dilated = Conv2d(2, 4, 9, 9, 6, 3, 1, 2, dilation=2)
    assert applicable(dilated) == ("direct", "im2col")


def test_prices_follow_the_taps_and_are_not_called_calibrated():
    accelerator = load_accelerator("h100-sxm5-80gb")
    square = price(Conv2d(32, 192, 17, 17, 192, 7, 1, 3), accelerator)
    row = price(Conv2d(32, 192, 17, 17, 192, 1, 1, 0, kernel_w=7, padding_w=3), accelerator)
    column = price(Conv2d(32, 192, 17, 17, 192, 7, 1, 3, kernel_w=1, padding_w=0), accelerator)
    assert row.seconds < square.seconds / 2
    assert row.seconds == column.seconds
    assert not row.calibrated.any()
    width = np.log(row.high / row.seconds)
    assert width >= np.log(square.high / square.seconds) * 0.99
    dilated = price(Conv2d(32, 192, 17, 17, 192, 3, 1, 2, dilation=2), accelerator)
    plain = price(Conv2d(32, 192, 17, 17, 192, 3, 1, 1), accelerator)
    assert dilated.seconds == pytest.approx(plain.seconds, rel=0.25)
    assert plain.calibrated.all()
    assert not dilated.calibrated.any()


def test_pruning_counts_the_taps_of_a_rectangle():
    op = Conv2d(1, 8, 9, 9, 16, 1, kernel_w=7, padding_w=3)
    assert prune_connections(op, 1).weights == 7
    depthwise, pointwise = separable(op)
    assert depthwise.taps == 7
    assert pointwise.taps == 1
    assert (pointwise.h_out, pointwise.w_out) == (9, 9)


@pytest.mark.torch
def test_shapes_and_arithmetic_equal_torch():
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    for (k, kw), (s, sw), (p, pw), (d, dw), g in pairs(
        ((3, 3), (1, 7), (5, 2)), ((1, 1), (2, 1)), ((0, 0), (2, 1)), ((1, 1), (2, 3)), (1, 4)
    ):
        x = torch.zeros(2, 8, 23, 25)
        layer = torch.nn.Conv2d(8, 12, (k, kw), (s, sw), (p, pw), (d, dw), g, bias=False)
        if min(23 + 2 * p - d * (k - 1), 25 + 2 * pw - dw * (kw - 1)) < 1:
            continue
        with FlopCounterMode(display=False) as counter:
            y = layer(x)
        op = Conv2d(
            2, 8, 23, 25, 12, k, s, p, g, kernel_w=kw, stride_w=sw, padding_w=pw, dilation=d,
            dilation_w=dw,
        )  # fmt: skip
        assert tuple(y.shape[2:]) == (op.h_out, op.w_out)
        assert layer.weight.numel() == op.weight_elements
        assert counter.get_total_flops() == op.flops
        if g == 1 and (d, dw) == (1, 1):
            back = torch.nn.ConvTranspose2d(8, 12, (k, kw), (s, sw), (p, pw), s - 1 and (1, 0))
            op = transposed(
                2, 8, 23, 25, 12, k, s, p, s - 1, kernel_w=kw, stride_w=sw, padding_w=pw,
                output_padding_w=0,
            )  # fmt: skip
            assert tuple(back(x).shape[2:]) == (op.h, op.w)
