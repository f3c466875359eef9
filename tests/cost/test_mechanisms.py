"""Closed forms that the mechanisms must meet."""

import numpy as np
import pytest

from perfmodel.cost.attention import BACKWARD, DECODE, FORWARD, attention_parts, splits_of
from perfmodel.cost.conv import implicit_gemm
from perfmodel.cost.correction import Smooth, Trees
from perfmodel.cost.device import Device, energy_scale
from perfmodel.cost.efficiency import load_coefficients
from perfmodel.cost.gemm import PRODUCT_SPLITS, gemm_parts
from perfmodel.cost.memory_bound import cached_writes, copy_parts, loss_steps, memory_parts
from perfmodel.cost.parts import soft_max
from perfmodel.workload.op import Conv2d

DEVICE = Device(peak=100e12, vector=10e12, bandwidth=1e12, cache=0.0, units=100, clock=1e9)
PERFECT = {
    "compute_efficiency": 1.0, "tile_half_intensity": 0.0, "tile_overhead_cycles": 0.0,
    "operand_bytes_per_clock": 1e9, "bandwidth_efficiency": 1.0, "joules_per_flop": 0.0,
    "joules_per_byte": 0.0, "energy_halving_years": 4.0, "split_overhead_seconds": 0.0,
    "floor_seconds": 0.0, "overlap_exponent": 1e3,
}  # fmt: skip


def test_a_perfect_chip_runs_full_waves_at_its_peak():
    m = np.array([256.0 * 100])
    parts = gemm_parts(m, 128.0, 4096.0, 1.0, 2.0, 2.0, DEVICE, PERFECT)
    assert parts.compute[0] == pytest.approx(2 * m[0] * 128 * 4096 / DEVICE.peak)


def test_one_tile_more_than_a_wave_costs_another_wave():
    c = PERFECT | {"split_overhead_seconds": 1.0, "tile_half_intensity": 1e4}
    full = gemm_parts(np.array([25600.0]), 128.0, 64.0, 1.0, 2.0, 2.0, DEVICE, c)
    over = gemm_parts(np.array([25601.0]), 128.0, 64.0, 1.0, 2.0, 2.0, DEVICE, c)
    assert over.compute[0] > 1.2 * full.compute[0]


def test_a_power_limit_stretches_the_product():
    c = PERFECT | {"joules_per_flop": 1e-12}
    limited = Device(100e12, 10e12, 1e12, 0.0, 100, 1e9, power=50.0, year=2020.0)
    parts = gemm_parts(np.array([25600.0]), 12800.0, 4096.0, 1.0, 2.0, 2.0, limited, c)
    assert parts.seconds[0] == pytest.approx(2 * 25600.0 * 12800 * 4096 * 1e-12 / 50, rel=1e-2)
    assert energy_scale(limited, 4.0) == 1.0


def test_implicit_product_conserves_the_arithmetic():
    for direction in ("fwd", "dgrad", "wgrad"):
        op = Conv2d(4, 32, 28, 28, 64, 3, 1, 1, 2, direction=direction)
        sizes = implicit_gemm(*(np.array([float(v)]) for v in (4, 32, 784, 784, 64, 9, 1, 2)),
                              direction)  # fmt: skip
        assert 2 * np.prod(sizes) == pytest.approx(op.flops)


def test_streams_run_at_the_memory_rate():
    c = load_coefficients("default").of("elementwise") | {"write_in_cache": 0.0}
    read = np.array([1e12])
    parts = memory_parts(read, read, np.zeros(1), np.zeros(1), DEVICE, c)
    assert parts.seconds[0] == pytest.approx(2.0 / c["bandwidth_efficiency"], rel=1e-3)


def test_small_outputs_stay_in_the_cache_and_large_ones_do_not():
    kept = cached_writes(np.array([1e5, 1e9]), 1e7, 0.5)
    assert kept[0] == pytest.approx(1e5, rel=1e-3)
    assert kept[1] < 1e6


def _attention(kernel, dtype="half", **sizes):
    one = np.ones(1)
    s = {"batch": 8.0, "q_heads": 16.0, "kv_heads": 16.0, "q_len": 2048.0, "kv_len": 2048.0,
         "head_dim": 128.0} | sizes  # fmt: skip
    pairs = s["q_len"] * s["kv_len"] * s.pop("seen", 1.0)
    products = 5.0 if kernel == BACKWARD else 2.0
    s["flops"] = 2.0 * products * s["batch"] * s["q_heads"] * pairs * s["head_dim"]
    keys = 4.0 * s["batch"] * s["kv_heads"] * s["kv_len"] * s["head_dim"]
    queries = 4.0 * s["batch"] * s["q_heads"] * s["q_len"] * s["head_dim"]
    s |= {"read": keys + queries, "written": queries}
    c = load_coefficients("hopper").of(f"{kernel}-{dtype}")
    return attention_parts(kernel, {k: v * one for k, v in s.items()}, DEVICE, c)


def test_decoding_is_bound_by_the_cache():
    parts = _attention(DECODE, batch=64.0, q_heads=32.0, kv_heads=8.0, q_len=1.0, kv_len=8192.0)
    assert parts.memory[0] > parts.compute[0]


def test_of_few_causal_blocks_the_longest_decides():
    whole, causal = (_attention(FORWARD, batch=1.0, q_heads=1.0, seen=s) for s in (1.0, 0.5))
    assert causal.compute[0] == whole.compute[0]
    whole, causal = (_attention(FORWARD, batch=64.0, seen=s) for s in (1.0, 0.5))
    assert causal.compute[0] < 0.7 * whole.compute[0]


def test_backward_runs_a_block_of_keys_at_a_time():
    # One block of keys that walks along many queries, or many that walk along few.
    tall = _attention(BACKWARD, batch=1.0, q_len=16384.0, kv_len=128.0)
    wide = _attention(BACKWARD, batch=1.0, q_len=128.0, kv_len=16384.0)
    assert tall.compute[0] > 5.0 * wide.compute[0]
    shared = _attention(BACKWARD, kv_heads=1.0)
    assert shared.floor[0] > _attention(BACKWARD).floor[0]


def test_keys_of_a_decoding_step_are_cut_as_the_library_cuts_them():
    blocks = np.array([40.0, 64.0, 72.0, 1.0, 11.0, 16.0, 4.0, 326.0, 2.0])
    keys = np.array([1024.0, 4096.0, 20992.0, 9472.0, 496.0, 8192.0, 6144.0, 6400.0, 29504.0])
    seen = [4.0, 4.0, 1.0, 64.0, 1.0, 16.0, 32.0, 1.0, 64.0]
    assert splits_of(blocks, keys, 132.0).tolist() == seen


def test_soft_max_lies_between_the_maximum_and_the_sum():
    a, b = np.array([1.0, 2.0, 0.0]), np.array([1.0, 0.5, 0.0])
    for exponent in (1.0, 2.0, 8.0):
        value = soft_max((a, b), exponent)
        assert np.all(value >= np.maximum(a, b) - 1e-12)
        assert np.all(value <= a + b + 1e-12)


def test_trees_follow_their_questions():
    trees = Trees(
        np.array([[0, 1]], dtype=np.int32),
        np.array([[0.5, 0.5]], dtype=np.float32),
        np.array([[1.0, 2.0, 3.0, 4.0]], dtype=np.float32),
        np.array([10.0], dtype=np.float32),
    )
    x = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    assert trees(x).tolist() == [11.0, 12.0, 13.0, 14.0]


def test_the_smooth_learner_returns_to_its_mean_far_away():
    smooth = Smooth(
        np.array([0], dtype=np.int32),
        np.zeros((1, 1), np.float32),
        np.array([2.0], np.float32),
        np.ones(1, np.float32),
        np.array([5.0], np.float32),
    )
    assert smooth(np.array([[0.0]]))[0] == pytest.approx(7.0)
    assert smooth(np.array([[1e3]]))[0] == pytest.approx(5.0)


def test_waves_blur_into_even_shares():
    c = PERFECT | {"split_overhead_seconds": 1.0, "tile_half_intensity": 1e4}
    sizes = np.array([25601.0]), 128.0, 64.0, 1.0, 2.0, 2.0
    whole = gemm_parts(*sizes, DEVICE, c).compute
    even = gemm_parts(*sizes, DEVICE, c | {"wave_blur": 1.0}).compute
    assert 0.4 < even[0] / whole[0] < 0.6


def test_first_operands_are_waited_for_only_where_the_cache_has_lost_them():
    cached = Device(100e12, 10e12, 1e12, 50e6, 100, 1e9)
    c = PERFECT | {"latency_seconds": 1e-6, "reuse_room": 1.0, "split_overhead_seconds": 1.0}
    size = np.array([64.0, 4096.0])
    floor = gemm_parts(size, size, size, 1.0, 2.0, 2.0, cached, c).floor
    assert floor == pytest.approx([0.0, 1e-6], abs=1e-9)


def test_a_long_sum_is_cut_into_as_many_parts_as_fill_the_chip():
    sizes = np.array([256.0]), 128.0, 5120.0, 1.0, 2.0, 2.0
    c = PERFECT | {"tile_half_intensity": 1e4}
    one = gemm_parts(*sizes, DEVICE, c, splits=(1,))
    filled = gemm_parts(*sizes, DEVICE, c, splits=PRODUCT_SPLITS)
    # Twenty parts of 256; uncut, smaller tiles make up for some of it.
    assert one.compute[0] / filled.compute[0] > 5.0
    dear = gemm_parts(*sizes, DEVICE, c | {"split_overhead_seconds": 1.0}, splits=PRODUCT_SPLITS)
    assert dear.seconds[0] == pytest.approx(one.seconds[0])


def test_tiles_beyond_the_units_wait_in_a_queue_once():
    c = PERFECT | {"queue_seconds": 1e-6, "split_overhead_seconds": 1.0}
    size = np.array([64.0, 51201.0])
    floor = gemm_parts(size, 128.0, 64.0, 1.0, 2.0, 2.0, DEVICE, c).floor
    assert floor == pytest.approx([0.0, 1e-6])


def test_copies_start_later_off_four_bytes_and_stream_both_ways():
    table = load_coefficients("default").of("copy")
    device = Device(peak=1e12, vector=1e12, bandwidth=1e12, cache=50e6, units=100, clock=1e9)
    even, odd, large = copy_parts(np.array([4096.0, 4097.0, 1e9]), device, table).seconds
    assert odd == pytest.approx(even * table["odd_start"], rel=0.01)
    assert large == pytest.approx(2e9 / (1e12 * table["bandwidth_efficiency"]), rel=0.01)


def test_copies_of_whole_pages_stream_and_others_pass_the_units_word_by_word():
    c = {"floor_seconds": 0.0, "bandwidth_efficiency": 1.0, "overlap_exponent": 12.0}
    chip = Device(peak=1e15, vector=1e12, bandwidth=1e12, cache=1.0, units=100, clock=1e9)
    pages = np.array([4096e4, 4096e4 + 2048.0])
    whole, words = copy_parts(pages, chip, c | {"copy_bytes_per_clock": 5.0}).seconds
    assert whole == pytest.approx(2 * 4096e4 / 1e12)
    assert words == pytest.approx(2 * pages[1] / (5.0 * 100 * 1e9), rel=0.01)


def test_losses_are_gathered_by_so_many_threads_as_pytorch_starts():
    found = loss_steps(np.array([1.0, 18.0, 376.0, 1302.0, 1666.0, 12331.0, 30660.0]))
    assert found.tolist() == [1, 1, 12, 21, 14, 13, 30]


def test_a_block_that_sums_losses_adds_its_steps():
    one, c = np.ones(1), PERFECT | {
        "loss_seconds": 1e-6, "extra_passes": 0.0, "write_in_cache": 0.0, "row_cycles": 0.0,
        "row_bytes_per_clock": 1e9, "rows_per_unit": 1.0,
    }  # fmt: skip
    alone = memory_parts(1e6 * one, one, 512 * one, one, DEVICE, c)
    summed = memory_parts(1e6 * one, one, 512 * one, one, DEVICE, c, losses=512 * one)
    assert (summed.seconds - alone.seconds)[0] == pytest.approx(16e-6)
