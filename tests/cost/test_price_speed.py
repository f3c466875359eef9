"""How long prices take: run with ``--benchmark-only`` (docs/models/kernels.md has the figures)."""

import numpy as np
import pytest

from perfmodel.cost.price import price
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import op_from_dict

COUNT = 20_000
RNG = np.random.default_rng(0)


def drawn(low, high, step=1):
    """Whole numbers, one an operator, their logarithms even."""
    return step * np.exp(RNG.uniform(np.log(low), np.log(high), COUNT)).astype(int)


M, N, K, ROWS = drawn(1, 2048, 8), drawn(2, 1024, 8), drawn(2, 1024, 8), drawn(1, 65536)
IMAGES, SIDE, C_IN, C_OUT = drawn(1, 256), drawn(7, 128), drawn(1, 96, 8), drawn(1, 96, 8)
TAPS = RNG.choice([1, 3, 3, 5, 7], COUNT)
STEP = RNG.choice([1, 1, 2], COUNT)
GROUPS = RNG.choice([2, 4, 8, 32], COUNT)
HEADS = 8 * RNG.integers(1, 5, COUNT)

PRODUCT = {"m": M, "n": N, "k": K}
MAPS = {"n": IMAGES, "h": SIDE, "w": SIDE, "kernel": TAPS, "stride": STEP, "padding": TAPS // 2}
DENSE = MAPS | {"c_in": C_IN, "c_out": C_OUT}
GROUPED = MAPS | {"c_in": C_IN * GROUPS, "c_out": C_OUT * GROUPS, "groups": GROUPS}
DEPTHWISE = MAPS | {"c_in": C_IN, "c_out": C_IN, "groups": C_IN}
VOLUME = DENSE | {"n": 1 + IMAGES % 8, "d": 1 + SIDE // 2}
HEAD = {"batch": 1 + ROWS % 32, "q_heads": HEADS, "kv_heads": 8, "head_dim": 128}

OPS = {
    **{f"gemm {t}": PRODUCT | {"op": "gemm", "dtype": t} for t in ("bf16", "tf32", "fp32")},
    "gemm fp8": PRODUCT | {"op": "gemm", "dtype": "fp8_e4m3"},
    "gemm odd": PRODUCT | {"op": "gemm", "n": N + 1},
    "gemm batched": PRODUCT | {"op": "gemm", "batch": 1 + ROWS % 64},
    **{
        f"{name} {way} {lies} {dtype}": sizes
        | {"op": "conv3d" if "d" in sizes else "conv2d", "pass": way, "layout": lies}
        | {"dtype": dtype}
        for name, sizes in (
            ("dense", DENSE), ("grouped", GROUPED), ("depthwise", DEPTHWISE), ("volume", VOLUME)
        )
        for way in ("fwd", "dgrad", "wgrad")
        for lies in ("nhwc", "nchw")
        for dtype in ("bf16", "tf32", "fp32")
    },
    **{
        f"attention {way}": HEAD
        | {"op": "attention", "pass": way, "q_len": K, "kv_len": K, "causal": True}
        for way in ("fwd", "bwd")
    },
    "attention decode": HEAD | {"op": "attention", "q_len": 1, "kv_len": M, "causal": False},
    **{
        f"{op} {way}": {"op": op, "rows": ROWS, "cols": K, "pass": way}
        for op in ("rmsnorm", "layernorm", "softmax")
        for way in ("fwd", "bwd")
    },
    "elementwise": {"op": "elementwise", "numel": ROWS * N, "kind": "add"},
    "embedding": {"op": "embedding", "tokens": ROWS, "vocab": M + 1000, "dim": K},
    "cross_entropy": {"op": "cross_entropy", "tokens": ROWS, "vocab": M + 1000},
    "rope": {"op": "rope", "tokens": ROWS, "heads": HEADS, "head_dim": 128},
    "topk": {"op": "topk", "rows": ROWS, "cols": K, "k": 8},
    "permute": {"op": "permute", "rows": ROWS, "cols": K},
    "scatter_add": {"op": "scatter_add", "kind": "index_add", "rows": ROWS, "cols": K,
                    "targets": M},
    "fft": {"op": "fft", "kind": "fft", "batch": IMAGES, "n": K, "rows": 1, "scaled": False},
    "adamw": {"op": "adamw", "numel": ROWS * N},
}  # fmt: skip


@pytest.mark.parametrize("name", OPS)
def test_speed_of_twenty_thousand_prices(benchmark, name):
    op = op_from_dict(OPS[name])
    priced = benchmark.pedantic(price, (op, load_accelerator("h100-sxm5-80gb")), rounds=3)
    assert priced.seconds.shape == (COUNT,)
    assert np.all(priced.low <= priced.seconds)
