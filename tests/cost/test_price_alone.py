"""An operator costs the same alone and among others."""

import numpy as np
import pytest

from perfmodel.cost.price import price
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import op_from_dict

CHIP = load_accelerator("h100-sxm5-80gb")
RTOL = 5e-5  # what single precision leaves of weights of some hundreds
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
    _alone_as_among_others(words, rows)


ATTENTION = [
    {"batch": b, "q_heads": q, "kv_heads": kv, "q_len": n, "kv_len": n, "head_dim": head}
    for b, q, kv, n, head in (
        (1, 32, 8, 512, 128), (8, 16, 16, 1024, 64), (3, 12, 12, 197, 64), (2, 8, 1, 4096, 256),
        (64, 12, 12, 77, 64), (1, 40, 8, 16384, 128), (16, 32, 32, 2048, 128),
    )
]  # fmt: skip


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("asked", [{"pass": "fwd"}, {"pass": "bwd"}, {"q_len": 1}])
def test_attention_costs_the_same_alone_and_among_others(asked, dtype, causal):
    words = {"op": "attention", "dtype": dtype, "causal": causal and "q_len" not in asked}
    _alone_as_among_others(words, [row | asked for row in ATTENTION])


def _alone_as_among_others(words, rows):
    sizes = {
        key: value if isinstance(value, str) else [row[key] for row in rows]
        for key, value in rows[0].items()
    }
    together = price(op_from_dict(words | sizes), CHIP)
    alone = [price(op_from_dict(words | row), CHIP).seconds.item() for row in rows]
    np.testing.assert_allclose(alone, together.seconds, rtol=RTOL)
