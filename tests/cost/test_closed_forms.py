"""Parts of mechanisms by hand, on a chip of round numbers: one term alone, the others free."""

import numpy as np
import pytest

from perfmodel.cost import load_coefficients
from perfmodel.cost.attention import BACKWARD, DECODE, FORWARD, attention_parts
from perfmodel.cost.device import Device
from perfmodel.cost.fourier import fourier_parts
from perfmodel.cost.gemm_grouped import grouped_parts
from perfmodel.cost.mechanism import found_again
from perfmodel.cost.memory_bound import memory_parts
from perfmodel.cost.recurrent import recurrent_parts
from perfmodel.cost.scatter import scatter_parts
from perfmodel.cost.tasks import tasks_of
from perfmodel.workload.op import Embedding, op_from_dict

DEVICE = Device(peak=100e12, vector=10e12, bandwidth=1e12, cache=0.0, units=100, clock=1e9)
PLAIN = load_coefficients("hopper")
FREE = {
    "compute_efficiency": 1.0, "bandwidth_efficiency": 1.0, "joules_per_flop": 0.0,
    "joules_per_byte": 0.0, "energy_halving_years": 4.0, "floor_seconds": 0.0,
    "overlap_exponent": 1e3, "wave_blur": 0.0, "block_overhead_cycles": 0.0,
    "step_overhead_cycles": 0.0, "head_padding": 1.0, "write_in_cache": 0.0,
}  # fmt: skip


def _attention(kernel, free, **sizes):
    op = op_from_dict({"op": "attention", "head_dim": 128, "causal": False, "dtype": "bf16",
                       "pass": "bwd" if kernel == BACKWARD else "fwd", **sizes})  # fmt: skip
    _, (task,) = tasks_of(op)
    return attention_parts(kernel, task.sizes, DEVICE, FREE | free), task.sizes


def test_full_blocks_of_queries_run_at_the_peak_and_their_steps_add_clocks():
    sizes = {"batch": 10, "q_heads": 10, "kv_heads": 10, "q_len": 256, "kv_len": 1280}
    parts, s = _attention(FORWARD, {}, **sizes)
    assert parts.compute[0] == pytest.approx(s["flops"][0] / DEVICE.peak)
    stepped, _ = _attention(FORWARD, {"step_overhead_cycles": 500.0}, **sizes)
    # two waves of ten steps
    assert stepped.compute[0] - parts.compute[0] == pytest.approx(2 * 10 * 500 / DEVICE.clock)


def test_gradients_of_queries_pass_memory_in_fp32():
    sizes = {"batch": 10, "q_heads": 10, "kv_heads": 10, "q_len": 256, "kv_len": 1280}
    plain, s = _attention(BACKWARD, {"query_passes": 0.0}, **sizes)
    summed, _ = _attention(BACKWARD, {"query_passes": 3.0}, **sizes)
    assert plain.memory[0] == pytest.approx((s["read"] + s["written"])[0] / DEVICE.bandwidth)
    passed = 3 * 4 * 100 * 256 * 128
    assert summed.memory[0] - plain.memory[0] == pytest.approx(passed / DEVICE.bandwidth)


def test_a_block_of_decoding_takes_its_tiles_one_after_another():
    free = {"head_cycles": 700.0, "block_overhead_cycles": 1000.0, "blocks_per_unit": 1.0,
            "step_overhead_cycles": 50.0, "unit_bytes_per_clock": 1e9}  # fmt: skip
    parts, _ = _attention(DECODE, free, batch=10, q_heads=160, kv_heads=10, q_len=1, kv_len=1280)
    assert parts.compute[0] == pytest.approx((1000 + 10 * 750) / DEVICE.clock)


def test_rows_beyond_what_the_units_hold_take_turns():
    one = np.ones(1)
    c = FREE | {"extra_passes": 0.0, "row_cycles": 1000.0, "row_bytes_per_clock": 2.0,
                "rows_per_unit": 4.0}  # fmt: skip
    parts = memory_parts(one, one, 4000 * one, 0 * one, DEVICE, c, row_bytes=600.0)
    assert parts.compute[0] == pytest.approx(10 * (1000 + 300) / DEVICE.clock)


def test_a_transform_passes_the_units_once():
    op = op_from_dict({"op": "fft", "batch": 4000, "n": 4096})
    _, (task,) = tasks_of(op)
    c = PLAIN.of(task.kernel) | FREE
    c |= {"row_cycles": 0.0, "row_bytes_per_clock": 1e12, "pass_bytes_per_clock": 20.0}
    parts = fourier_parts("fft", task.sizes, DEVICE, c)
    moved = 2 * 8 * 4000 * 4096
    assert parts.compute[0] == pytest.approx(moved / (100 * 20 * DEVICE.clock))


def _scattered(base, **sizes):
    _, (task,) = tasks_of(op_from_dict({"op": "scatter_add", **sizes}))
    least = {"row_cycles": 0.0, "line_cycles": 0.0, "word_cycles": 0.0, "sectors_per_clock": 1e12}
    least |= {"full_round_share": 1.0}
    return lambda **terms: scatter_parts(base, 4.0, task.sizes, DEVICE, FREE | least | terms)


def test_few_rows_follow_each_other_and_many_queue_at_their_lines():
    few = _scattered("scatter_add_few", rows=7, cols=64, targets=10)
    assert few(row_cycles=500.0).compute[0] == pytest.approx(7 * 500 / DEVICE.clock)
    many = _scattered("scatter_add_rows", rows=10**6, cols=64, targets=4)
    # the four sectors of requests of 32 values, to the eight lines of 4 x 64 values
    assert many(line_cycles=3.0).compute[0] == pytest.approx(4 * 2e6 / 8 * 3 / DEVICE.clock)
    one = _scattered("scatter_add_rows", rows=10**6, cols=1, targets=1)
    assert one(word_cycles=3.0).compute[0] == pytest.approx(10**6 * 3 / DEVICE.clock)
    spread = many(sectors_per_clock=0.5).compute[0]
    assert spread == pytest.approx(10**6 * 8 / (0.5 * 100 * DEVICE.clock))


def test_busy_units_draw_what_groups_move():
    one = np.ones(1)
    c = PLAIN.of("gemm_grouped-half") | FREE | {
        "through_bytes_per_clock": 10.0, "cluster_rows": 1.0, "tile_overhead_cycles": 0.0,
        "operand_bytes_per_clock": 1e12, "tile_half_intensity": 0.0,
    }  # fmt: skip
    device = Device(1e18, 1e18, 1e18, 0.0, 100, 1e9)
    parts = grouped_parts(
        4096 * one, 4096 * one, 4096 * one, 25 * one, 2.0, 2.0, device, c, traffic=1e12 * one
    )
    turns = np.ceil(32 * 16 * 25 / 100) / (32 * 16 * 25 / 100)
    assert parts.compute[0] == pytest.approx(turns * 1e12 / (100 * 10 * 1e9), rel=1e-3)


def test_rows_looked_up_again_come_from_the_cache_that_has_room():
    device = Device(100e12, 10e12, 1e12, 50e6, 100, 1e9)
    _, (task,) = tasks_of(Embedding(np.array([10_000]), 100, 64))
    again = found_again(task, device, {"reuse_room": 1.0})
    assert again[0] == pytest.approx((10_000 - 100) * 128, rel=1e-3)


def test_steps_of_a_layer_add_up():
    op = op_from_dict({"op": "recurrent", "steps": 50, "batch": 8, "width": 512, "hidden": 512})
    _, (task,) = tasks_of(op)
    c = PLAIN.of(task.kernel)
    args = task.sizes, task.words, task.dtype, 4.0, DEVICE
    one = recurrent_parts(*args, c).seconds[0]
    more = recurrent_parts(*args, c | {"step_seconds": c["step_seconds"] + 1e-4}).seconds[0]
    assert more - one == pytest.approx(50 * 1e-4)
