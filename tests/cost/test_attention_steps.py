"""Attention without a fused kernel: counted by hand, and beside the operators it is made of."""

import numpy as np
import pytest

from perfmodel.cost import price
from perfmodel.cost.attention_steps import steps_parts
from perfmodel.cost.device import Device
from perfmodel.cost.tasks import tasks_of
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import Attention, Elementwise, Gemm, Softmax

H100 = load_accelerator("h100-sxm5-80gb")
NAMES = ("batch", "q_heads", "kv_heads", "q_len", "kv_len", "head_dim", "causal")


def sizes(*values):
    return {name: np.array([float(value)]) for name, value in zip(NAMES, values, strict=True)}


COEFFICIENTS = {
    "compute_efficiency": 0.8,
    "bandwidth_efficiency": 0.9,
    "kernel_seconds": 2e-6,
}


def seconds(chip, *values, backward=False):
    return steps_parts(sizes(*values), chip, COEFFICIENTS, backward=backward).seconds[0]


def test_arithmetic_and_passes_by_hand():
    work = Device(peak=1e12, vector=1e12, bandwidth=1e30, cache=0.0, units=128, clock=1e9)
    # 16 heads: 32 tiles of scores and 8 of results each, no fewer than the 128 units
    found = seconds(work, 2, 8, 2, 512, 256, 64, 0)
    assert found == pytest.approx(4 * 16 * 512 * 256 * 64 / 0.8e12 + 10 * 2e-6)
    back = seconds(work, 2, 8, 2, 512, 256, 64, 0, backward=True)
    products = 8 * 16 * 512 * 256 * 64 + 2 * (128 - 64) * 2 * 64 * 64 * 512
    assert back == pytest.approx(products / 0.8e12 + 9 * 2e-6)
    moves = Device(peak=1e30, vector=1e30, bandwidth=1e12, cache=0.0, units=128, clock=1e9)
    masked, plain = (seconds(moves, 2, 8, 2, 512, 256, 64, causal) for causal in (1, 0))
    scores = 16 * 512 * 256
    assert masked - plain == pytest.approx(2 * 4 * scores / 0.9e12 + 6 * 2e-6)


def test_few_tiles_leave_units_idle():
    chip = Device(peak=1e12, vector=1e12, bandwidth=1e30, cache=0.0, units=128, clock=1e9)
    # two products of one head: a tile of scores and a tile of results on one unit of 128
    one = seconds(chip, 1, 2, 1, 64, 64, 64, 0) - 10 * 2e-6
    assert one == pytest.approx(2 * 128 * 2 * 64**3 / 0.8e12)


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
    assert float(whole.seconds) == pytest.approx(seconds, rel=0.35)
    alone = price(Attention(2, many, many, length, length, 128, False, dtype="fp32"), H100)
    assert whole.seconds > alone.seconds


def test_half_precision_stays_fused():
    assert price(Attention(2, 32, 4, 1024, 1024, 128, dtype="bf16"), H100).calibrated
    assert price(Attention(2, 32, 32, 512, 512, 128, dtype="fp32"), H100).calibrated
    _, (task,) = tasks_of(Attention(2, 32, 4, 512, 512, 128, dtype="fp32"))
    assert task.kernel == "attention_steps_fwd-fp32"


def test_a_mask_spares_no_key():
    def op(keys):
        return Attention(2, 32, 4, 128, keys, 64, causal=True, dtype="fp32", aligned="first")

    few, many = (float(price(op(keys), H100).mechanism) for keys in (128, 4096))
    assert many > 10 * few
