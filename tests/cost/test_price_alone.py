"""An operator costs the same alone and among others."""

import numpy as np
import pytest

from perfmodel.cost.price import price
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import op_from_dict

CHIP = load_accelerator("h100-sxm5-80gb")
# Even and uneven channels, first layers, plain products of either: what forms are told apart by.
SHAPES = (
    (8, 64, 128, 3), (8, 3, 64, 7), (4, 65, 33, 1), (4, 64, 60, 1), (16, 48, 192, 1), (2, 30, 30, 5)
)  # fmt: skip


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("direction", ["fwd", "dgrad", "wgrad"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "tf32", "fp32"])
@pytest.mark.parametrize("groups", [1, 6])
def test_a_convolution_costs_the_same_alone_and_among_others(layout, direction, dtype, groups):
    words = {"op": "conv2d", "dtype": dtype, "pass": direction, "layout": layout}
    rows = [
        {"n": n, "c_in": c * groups, "c_out": o * groups, "h": 28, "w": 28, "kernel": r,
         "padding": r // 2, "groups": groups}
        for n, c, o, r in SHAPES
    ]  # fmt: skip
    together = price(op_from_dict(words | {key: [r[key] for r in rows] for key in rows[0]}), CHIP)
    alone = [price(op_from_dict(words | row), CHIP).seconds.item() for row in rows]
    np.testing.assert_allclose(alone, together.seconds, rtol=1e-5)
