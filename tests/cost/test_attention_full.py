"""Attention in full precision: parts of the keys by PyTorch's rule, and blocks by hand."""

from dataclasses import replace

import numpy as np
import pytest

from perfmodel.cost import load_coefficients, price
from perfmodel.cost.attention_full import backward_seconds, forward_seconds, key_parts
from perfmodel.cost.device import Device
from perfmodel.cost.tasks import tasks_of
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import Attention

CHIP = Device(peak=128e12, vector=128e12, bandwidth=1e15, cache=0.0, units=128, clock=1e9)
IDEAL = {"compute_efficiency": 1.0, "block_overhead_cycles": 0.0, "step_overhead_cycles": 0.0,
         "wave_blur": 0.0, "single_rate": 0.5, "wide_efficiency": 1.0}  # fmt: skip
RATE = 1e12  # of a unit


def sizes(batch, heads, q, kv, d, causal=0.0):
    names = ("batch", "q_heads", "kv_heads", "q_len", "kv_len", "head_dim", "causal")
    values = (batch, heads, heads, q, kv, d, causal)
    return {name: np.array([float(value)]) for name, value in zip(names, values, strict=True)}


@pytest.mark.parametrize(
    ("heads", "keys", "width", "parts"),
    [
        (8, 1024, 64, 16),
        (300, 128, 64, 1),
        (300, 192, 64, 3),
        (50, 1024, 256, 4),
        (400, 512, 256, 1),
    ],
)
def test_parts_of_the_keys_by_hand(heads, keys, width, parts):
    one = np.ones(1)
    assert key_parts(heads * one, keys * one, width * one)[0] == parts


def test_one_block_walks_alone_along_all_keys():
    # one head, one tile of queries: 32 steps of 64 queries, 64 keys and 64 elements, two products
    found = forward_seconds(sizes(1, 1, 64, 2048, 64), CHIP, IDEAL)[0]
    assert found == pytest.approx(2 * 32 * 2 * 2 * 64**3 / RATE, rel=1e-3)


def test_three_blocks_share_a_unit():
    alone = forward_seconds(sizes(128, 1, 64, 640, 64), CHIP, IDEAL)[0]
    three = forward_seconds(sizes(128, 3, 64, 640, 64), CHIP, IDEAL)[0]
    assert three == pytest.approx(1.5 * alone, rel=0.01)
    waiting = IDEAL | {"single_rate": 0.25}
    assert forward_seconds(sizes(128, 3, 64, 640, 64), CHIP, waiting)[0] == pytest.approx(
        forward_seconds(sizes(128, 1, 64, 640, 64), CHIP, waiting)[0], rel=0.02
    )


def test_a_mask_halves_the_work_but_not_the_longest_block():
    whole = forward_seconds(sizes(64, 64, 4096, 4096, 64), CHIP, IDEAL)[0]
    masked = forward_seconds(sizes(64, 64, 4096, 4096, 64, 1.0), CHIP, IDEAL)[0]
    assert masked == pytest.approx(0.5 * whole, rel=0.03)
    few, longest = (
        forward_seconds(sizes(1, 1, 1024, 1024, 64, causal), CHIP, IDEAL)[0]
        for causal in (1.0, 0.0)
    )
    assert few == pytest.approx(longest)


def test_unlike_blocks_end_half_of_the_longest_apart():
    # 256 heads of 2 tiles, of one step and of two: 512 blocks, 4 a unit, three at once
    free = IDEAL | {"single_rate": 1.0}
    step = 2 * 2 * 64**3 / RATE
    found = forward_seconds(sizes(1, 256, 128, 128, 64, 1.0), CHIP, free)[0]
    assert found == pytest.approx(4 * 1.5 * step + 0.5 * 2 * step, rel=0.03)


def test_what_is_left_of_like_blocks_runs_by_itself():
    # 5 blocks a unit: three at once, then two
    free = IDEAL | {"single_rate": 1.0}
    one = 2 * 2 * 64**3 / RATE
    found = forward_seconds(sizes(1, 640, 64, 64, 64), CHIP, free)[0]
    assert found == pytest.approx(5 * one, rel=0.01)


def test_few_keys_leave_few_blocks_that_walk_along_many_queries():
    # 4 heads and two parts of 64 keys: 8 blocks on 128 units, 232 steps of five products
    found = backward_seconds(sizes(1, 4, 14848, 128, 64), CHIP, IDEAL)[0]
    assert found == pytest.approx(2 * 232 * 5 * 2 * 64**3 / RATE, rel=1e-3)


def test_one_query_in_full_precision_is_a_prompt_of_one():
    op = Attention(8, 16, 16, 1, 4096, 64, dtype="fp32")
    _, (task,) = tasks_of(op)
    assert task.kernel == "attention_fwd-fp32"
    _, (half,) = tasks_of(replace(op, dtype="bf16"))
    assert half.kernel == "attention_decode-half"
    plain = load_coefficients("hopper")
    found = price(op, load_accelerator("h100-sxm5-80gb"), efficiency=plain)
    assert 1e-5 < float(found.seconds) < 1e-2
