"""Products that end at the power limit against rates that their maker measured."""

import pytest

from perfmodel.cost import price
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import Gemm

M, K = 4096, 32896
# AMD, "Measuring Max-Achievable FLOPs, Part 2", table 1 [FLOP/s]; the MI325X taught nothing.
MEASURED = [
    ("mi300x", "bf16", 4864, 708e12),
    ("mi300x", "fp16", 4864, 654e12),
    ("mi300x", "fp8_e4m3", 3648, 1273e12),
    ("mi325x", "bf16", 4864, 843e12),
    ("mi325x", "fp16", 4864, 794e12),
    ("mi325x", "fp8_e4m3", 3648, 1519e12),
]


@pytest.mark.parametrize(("chip", "dtype", "n", "rate"), MEASURED)
def test_a_large_product_comes_to_what_the_power_allows(chip, dtype, n, rate):
    found = price(Gemm(M, n, K, dtype=dtype), load_accelerator(chip))
    assert 2.0 * M * n * K / float(found.seconds) == pytest.approx(rate, rel=0.08)
