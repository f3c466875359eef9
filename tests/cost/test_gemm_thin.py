"""Products of few rows: kernels without tiles, and where they run."""

from dataclasses import replace

import numpy as np
import pytest

from perfmodel.cost.device import device_of
from perfmodel.cost.gemm import PRODUCT_SPLITS, gemm_parts
from perfmodel.cost.gemm_thin import (
    is_shared,
    is_thin,
    is_thin_batch,
    is_thin_single,
    queued_parts,
    thin_times,
)
from perfmodel.hardware import load_accelerator

H100 = load_accelerator("h100-sxm5-80gb")
FP32 = device_of(H100, "fp32", matrix=True)
BF16 = device_of(H100, "bf16", matrix=True)
TILED = {
    "compute_efficiency": 0.9, "tile_half_intensity": 6.0, "tile_overhead_cycles": 1000.0,
    "operand_bytes_per_clock": 64.0, "bandwidth_efficiency": 0.8, "joules_per_flop": 8e-12,
    "joules_per_byte": 3e-11, "energy_halving_years": 4.0, "split_overhead_seconds": 3e-6,
    "floor_seconds": 2.5e-6, "overlap_exponent": 3.0, "latency_seconds": 0.0,
}  # fmt: skip
THIN = {
    "thin_floor_seconds": 2e-6, "thin_wait_cycles": 9.0, "thin_step_cycles": 3.0,
    "thin_rows": 4.0, "thin_turn_seconds": 2e-7, "thin_bandwidth_efficiency": 0.9,
}  # fmt: skip


def _parts(device, m, n, k, coefficients, **words):
    sizes = (np.array([float(value)]) for value in (m, n, k, 1))
    return gemm_parts(*sizes, 4.0, 4.0, device, coefficients, splits=PRODUCT_SPLITS, **words)


def _column(*values):
    return tuple(np.array([float(value)]) for value in values)


def test_one_block_alone_waits_for_every_step_of_the_sum():
    short, long = (_parts(FP32, 2, 640, k, TILED | THIN).seconds[0] for k in (2000, 4000))
    assert long - short == pytest.approx(2000 * 9.0 / FP32.clock, rel=0.05)
    assert short > _parts(FP32, 2, 640, 2000, TILED).seconds[0]


BLOCKS = {"thin_block_cycles": 60.0, "thin_block_turn_cycles": 9.0}


@pytest.mark.parametrize(
    ("m", "n", "k", "batch", "trans", "thin"),
    [(2, 640, 896, 4, "nn", True), (8, 64, 2336, 20, "nn", True), (4, 64, 512, 8, "nn", False),
     (6, 1024, 64, 32, "nn", False), (2, 4096, 512, 512, "nn", False),
     (4, 640, 896, 4, "nt", False),
     (3, 512, 960, 2, "tn", True), (6, 1152, 124, 16, "tn", False), (9, 640, 896, 4, "nn", False)],
)  # fmt: skip
def test_batches_of_few_rows_leave_their_tiles_where_they_were_seen_to(m, n, k, batch, trans, thin):
    sizes, even = _column(m, n, k, batch), np.array([64.0])
    assert is_thin_batch(*sizes, even, trans, "fp32")[0] == thin
    assert not is_thin_batch(*sizes, even, trans, "bf16")[0]
    assert not is_thin_batch(*sizes, even, trans, "tf32")[0]


def test_uneven_rows_in_tf32_leave_the_matrix_units():
    assert is_thin_batch(*_column(2, 193, 128, 512), np.array([1.0]), "nn", "tf32")[0]


@pytest.mark.parametrize(
    ("m", "n", "k", "batch", "dtype", "thin"),
    [(12, 577, 576, 8, "bf16", True), (4, 255, 1025, 200, "bf16", False),
     (8, 255, 1025, 150, "bf16", False), (8, 577, 129, 32, "fp16", False)],
)  # fmt: skip
def test_rows_of_single_elements_leave_the_matrix_units_in_half_precision(
    m, n, k, batch, dtype, thin
):
    sizes = _column(m, n, k, batch)
    assert is_thin_batch(*sizes, np.array([1.0]), "nn", dtype)[0] == thin
    assert not is_thin_batch(*sizes, np.array([2.0]), "nn", dtype)[0]


def test_a_thread_of_a_block_of_64_columns_walks_all_of_the_sum():
    # Of an H100: 33 us, and 104 us of 2,880 steps.
    for (m, n, k, batch), taken in (((2, 640, 896, 4), 32.8e-6), ((3, 704, 2880, 8), 104.4e-6)):
        sizes = (np.array([float(value)]) for value in (m, n, k, batch))
        parts = gemm_parts(
            *sizes, 4.0, 4.0, FP32, TILED | THIN | BLOCKS, splits=PRODUCT_SPLITS, dtype="fp32",
            trans="nn",
        )  # fmt: skip
        blocks = np.ceil(n / 64) * batch / FP32.units
        assert parts.compute[0] == pytest.approx(k * (60.0 + 9.0 * blocks) / FP32.clock)
        assert parts.seconds[0] == pytest.approx(taken, rel=0.1)


def test_more_threads_in_a_block_wait_half_as_long():
    sizes = _column(8, 192, 640, 16, 1.0)
    few = THIN | TILED | BLOCKS | {"thin_block_turn_cycles": 0.0}
    compute = thin_times(*sizes, FP32, few, np.zeros(1), np.array([True]))[1]
    assert compute[0] == pytest.approx(640 * 30.0 / FP32.clock)


def test_many_blocks_share_a_unit():
    sizes = _column(4, 24576, 4096, 1, 1.0)
    _, compute, memory, _ = thin_times(*sizes, FP32, TILED | THIN, np.zeros(1))
    assert compute[0] == pytest.approx(4096 * (24576 / 8 / FP32.units) * 3.0 / FP32.clock)
    assert memory[0] == pytest.approx(1.0 / (FP32.bandwidth * 0.9))


def test_a_vector_waits_for_memory_alone():
    parts = _parts(FP32, 1, 8192, 8192, TILED | THIN)
    moved = 4.0 * (8192 * 8192 + 2 * 8192)
    assert parts.compute[0] == 0.0
    assert parts.seconds[0] == pytest.approx(2e-6 + moved / (0.9 * FP32.bandwidth))


@pytest.mark.parametrize(
    ("m", "n", "k", "thin"),
    [(2, 640, 3696, True), (8, 6848, 3072, True), (3, 128, 64, True), (9, 4096, 1024, False),
     (4, 256, 1024, False), (8, 1024, 4096, False), (4, 24576, 12288, False)],
)  # fmt: skip
def test_the_library_leaves_its_tiles_where_it_was_seen_to(m, n, k, thin):
    assert is_thin(*_column(m, n, k, 1), FP32)[0] == thin
    assert not is_thin(*_column(m, n, k, 1), BF16)[0]


@pytest.mark.parametrize(
    ("m", "n", "k", "thin"),
    [(2, 257, 625, True), (8, 8192, 5867, True), (4, 2037, 2560, True), (2, 784, 129, False),
     (8, 1329, 14071, False), (4, 400, 2001, False), (16, 2001, 118, False)],
)  # fmt: skip
def test_few_rows_of_single_elements_leave_the_tiles_too(m, n, k, thin):
    assert is_thin_single(*_column(m, n, k, 1))[0] == thin
    sizes = _column(m, n, k, 1)
    parts = gemm_parts(*sizes, 2.0, 2.0, BF16, TILED | THIN, even=1.0, dtype="bf16")
    others = gemm_parts(*sizes, 2.0, 2.0, BF16, TILED | THIN, even=1.0, dtype="fp16")
    assert (parts.choice[0] != others.choice[0]) == thin


@pytest.mark.parametrize(
    ("m", "n", "k", "shared"),
    [(8, 12288, 4608, True), (4, 24576, 12288, True), (2, 7168, 12224, True),
     (5, 1024, 256, True), (6, 2304, 10672, False), (2, 4096, 4096, False),
     (8, 640, 512, False), (9, 12288, 4608, False)],
)  # fmt: skip
def test_large_products_of_few_rows_are_told_apart(m, n, k, shared):
    assert is_shared(*_column(m, n, k, 1), FP32)[0] == shared
    assert not is_shared(*_column(m, n, k, 1), BF16)[0]
    assert not (is_thin(*_column(m, n, k, 1), FP32)[0] and shared)
    assert (_parts(FP32, m, n, k, TILED | THIN).choice[0] == 18) == shared


@pytest.mark.parametrize(
    ("m", "n", "k", "parts", "other"),
    [(16, 192, 256, 264, 264), (8, 384, 256, 132, 0), (13, 608, 192, 66, 0), (16, 1024, 256, 0, 0),
     (6, 128, 256, 0, 0), (17, 192, 256, 0, 0), (8, 432, 576, 66, 0), (10, 160, 1296, 264, 264),
     (8, 152, 1856, 0, 0), (9, 64, 112, 0, 0), (16, 96, 96, 264, 264), (16, 80, 488, 0, 88),
     (13, 128, 577, 264, 264), (16, 256, 511, 132, 0), (24, 160, 312, 88, 0),
     (16, 256, 512, 0, 0), (16, 512, 256, 0, 0), (8, 832, 288, 33, 33), (14, 1024, 128, 16.5, 16.5),
     (82, 176, 128, 44, 0), (32, 128, 256, 0, 0), (29, 192, 128, 0, 0)],
)  # fmt: skip
def test_small_products_wait_in_a_queue_of_parts(m, n, k, parts, other):
    assert queued_parts(*_column(m, n, k, 1), FP32)[0] == parts
    assert queued_parts(*_column(m, n, k, 1), BF16)[0] == 0
    assert queued_parts(*_column(m, n, k, 1), FP32, along_k=False)[0] == other
    extra = _parts(FP32, m, n, k, TILED | THIN).seconds - _parts(FP32, m, n, k, TILED).seconds
    assert extra[0] == pytest.approx(parts * 2e-7) or parts == 0


def test_tables_without_these_terms_keep_their_tiles():
    plain = _parts(FP32, 4, 4096, 1024, TILED)
    assert plain.choice[0] < 16
    assert _parts(FP32, 4, 4096, 1024, TILED | THIN).choice[0] == 16


def test_rows_on_single_elements_run_at_a_lower_rate():
    slow = TILED | {"single_rate": 0.5, "joules_per_flop": 0.0, "overlap_exponent": 12.0}
    fast = slow | {"single_rate": 1.0}
    endless = replace(BF16, bandwidth=1e18)
    odd, even, whole = (
        _parts(endless, 8192, 8192, 8192, table, even=power).compute[0]
        for table, power in ((slow, 1.0), (slow, 2.0), (fast, 1.0))
    )
    assert even == whole
    assert odd == pytest.approx(2.0 * even, rel=0.02)
