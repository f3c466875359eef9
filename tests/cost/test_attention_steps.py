"""Attention without a fused kernel: counted by hand, and beside the operators it is made of."""

import numpy as np
import pytest

from perfmodel.cost import price
from perfmodel.cost.attention_steps import steps_seconds
from perfmodel.cost.device import Device
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import Attention, Elementwise, Gemm, Softmax

H100 = load_accelerator("h100-sxm5-80gb")
NAMES = ("batch", "q_heads", "kv_heads", "q_len", "kv_len", "head_dim", "causal")


def sizes(*values):
    return {name: np.array([float(value)]) for name, value in zip(NAMES, values, strict=True)}


def test_arithmetic_and_passes_by_hand():
    work = Device(peak=1e12, vector=1e12, bandwidth=1e30, cache=0.0, units=128, clock=1e9)
    found = steps_seconds(sizes(2, 8, 2, 512, 256, 64, 0), work, backward=False)[0]
    assert found == pytest.approx(4 * 16 * 512 * 256 * 64 / 0.8e12 + 10 * 1.7e-6)
    back = steps_seconds(sizes(2, 8, 2, 512, 256, 64, 0), work, backward=True)[0]
    assert back == pytest.approx(8 * 16 * 512 * 256 * 64 / 0.8e12 + 9 * 1.7e-6)
    moves = Device(peak=1e30, vector=1e30, bandwidth=1e12, cache=0.0, units=128, clock=1e9)
    masked, plain = (
        steps_seconds(sizes(2, 8, 2, 512, 256, 64, causal), moves, backward=False)[0]
        for causal in (1, 0)
    )
    scores = 16 * 512 * 256
    assert masked - plain == pytest.approx(2 * 4 * scores / 0.91e12 + 6 * 1.7e-6)


@pytest.mark.parametrize("heads", [(32, 4), (32, 16)])
@pytest.mark.parametrize("length", [512, 2048])
def test_it_costs_what_its_operators_cost(heads, length):
    many, few = heads
    whole = price(Attention(2, many, few, length, length, 128, False, dtype="fp32"), H100)
    batch, scores = 2 * many, 2 * many * length**2
    parts = (
        Gemm(length, length, 128, batch=batch, dtype="fp32"),
        Gemm(length, 128, length, batch=batch, dtype="fp32"),
        Softmax(2 * many * length, length, dtype="fp32"),
        Elementwise("copy", scores, dtype="fp32"),
        Elementwise("copy", 2 * many * length * 128 * 4, dtype="fp32"),
    )
    seconds = sum(float(price(part, H100).seconds) for part in parts)
    assert float(whole.seconds) == pytest.approx(seconds, rel=0.25)
    assert not whole.calibrated
    alone = price(Attention(2, many, many, length, length, 128, False, dtype="fp32"), H100)
    assert whole.seconds > alone.seconds


def test_half_precision_stays_fused():
    assert price(Attention(2, 32, 4, 1024, 1024, 128, dtype="bf16"), H100).calibrated
    assert price(Attention(2, 32, 32, 512, 512, 128, dtype="fp32"), H100).calibrated
    assert not price(Attention(2, 32, 4, 512, 512, 128, dtype="fp32"), H100).calibrated
