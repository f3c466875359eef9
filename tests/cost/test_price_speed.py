"""How long prices take: run with ``--benchmark-only`` (docs/models/kernels.md has the figures)."""

import numpy as np
import pytest

from perfmodel.cost.price import price
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import Attention, Gemm, RmsNorm

COUNT = 20_000
RNG = np.random.default_rng(0)
M, N, K, ROWS = (RNG.integers(1, 1024, COUNT) for _ in range(4))
OPS = {
    "gemm": Gemm(8 * M, 8 * N, 8 * K),
    "attention": Attention(M % 32 + 1, 8 * (N % 4 + 1), 8, 4 * K, 4 * K, 128, True),
    "rmsnorm": RmsNorm(64 * ROWS, 8 * N),
}


@pytest.mark.parametrize("name", OPS)
def test_speed_of_twenty_thousand_prices(benchmark, name):
    priced = benchmark.pedantic(price, (OPS[name], load_accelerator("h100-sxm5-80gb")), rounds=3)
    assert priced.seconds.shape == (COUNT,)
    assert np.all(priced.low <= priced.seconds)
