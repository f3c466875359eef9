"""What an unmeasured chip owes to its datasheet, and a published table to how it was timed."""

from dataclasses import replace

import numpy as np
import pytest

from perfmodel.calibrate.transfer import leave_one_chip_out, read_published
from perfmodel.cost import load_coefficients, price
from perfmodel.cost.bound import lower_bound
from perfmodel.cost.cycle import CYCLE, from_memory, warmed
from perfmodel.cost.device import Device, device_of
from perfmodel.cost.mechanism import fed, issued, mechanism, task_device
from perfmodel.cost.memory_bound import memory_parts
from perfmodel.cost.tasks import Task, tasks_of
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import Elementwise, Embedding, Gemm, Permute, Spmm

BARE = Device(peak=100e12, vector=10e12, bandwidth=1e12, cache=40e6, units=100, clock=1e9)
FEED = {"operand_bytes_per_clock": 50.0}


def _task(op) -> Task:
    return tasks_of(op)[1][0]


def test_correction_bits_in_gddr_take_a_sixteenth_of_the_transfers():
    board = load_accelerator("t4-16gb")
    assert device_of(board, "fp16", matrix=True).bandwidth == pytest.approx(320e9 * 15 / 16)
    hbm = load_accelerator("a100-sxm4-80gb")
    assert device_of(hbm, "fp16", matrix=True).bandwidth == hbm.memory_bandwidth


def test_memory_delivers_what_its_maker_says_and_the_bound_is_the_peak():
    """V100: 95 % of 900 GB/s, 1.5 times a P100's (NVIDIA's white paper of 2017)."""
    op = Elementwise("add", 1 << 28, dtype="fp32")
    boards = [load_accelerator(name) for name in ("v100-pcie-32gb", "p100-pcie-16gb")]
    volta, pascal = (task_device(_task(op), board) for board in boards)
    assert volta.bandwidth / pascal.bandwidth == pytest.approx(1.5, rel=0.01)
    assert volta.bandwidth > volta.wires == 900e9
    assert pascal.bandwidth < pascal.wires == 732e9
    for board, device in zip(boards, (volta, pascal), strict=True):
        _, memory = lower_bound(_task(op), device)
        assert memory[0] == pytest.approx((op.bytes_moved - device.cache) / board.memory_bandwidth)


def test_a_cycle_that_fits_comes_from_the_cache_and_a_longer_one_from_memory():
    cycle = np.array([4e6, 40e6, 400e6])
    np.testing.assert_allclose(from_memory(cycle, BARE), [0.0, 0.5, 1.0], atol=1e-6)
    split = replace(BARE, cache_copies=2)
    np.testing.assert_allclose(from_memory(cycle / 2, split), [0.0, 0.5, 1.0], atol=1e-6)
    assert from_memory(cycle, replace(BARE, cache=0.0)).tolist() == [1.0, 1.0, 1.0]


def test_operators_without_a_cycle_are_left_alone():
    task = _task(Elementwise("add", 1 << 20, dtype="fp32"))
    assert warmed(task, BARE, {}) is task
    warm = replace(task, sizes=task.sizes | {CYCLE: task.sizes["read"]})
    c = load_coefficients("default").of("elementwise")
    cold = mechanism(task, BARE, c).seconds
    assert mechanism(warm, BARE, c).seconds[0] < cold[0]
    # The cache is no faster than what the units take in, and never slower than memory.
    slow = c | {"cache_bytes_per_clock": 1.0}
    assert mechanism(warm, BARE, slow).seconds[0] == pytest.approx(cold[0])


def test_units_that_multiply_faster_are_fed_faster():
    task = _task(Gemm(4096, 4096, 4096, dtype="bf16"))
    hopper = task_device(task, load_accelerator("h100-sxm5-80gb"))
    blackwell = task_device(task, load_accelerator("b200-sxm-180gb"))
    assert fed(task, hopper, FEED) is FEED
    rate = blackwell.peak / (blackwell.units * blackwell.clock)
    taken = fed(task, blackwell, FEED)["operand_bytes_per_clock"]
    assert taken == pytest.approx(50.0 * rate / 4096.0)


def test_only_units_without_free_issue_slots_lose_fp32_rate_to_other_instructions():
    task = _task(Gemm(4096, 4096, 4096, dtype="fp32"))
    half, full = (task_device(task, load_accelerator(name)) for name in ("v100-pcie-32gb", "l4"))
    c = {"issue_overhead": 0.15}
    assert issued(task, half, c) is half
    assert issued(task, full, c).peak == pytest.approx(full.peak / 1.15)
    assert issued(task, full, {}) is full
    narrow = _task(Gemm(4096, 4096, 4096, dtype="bf16"))
    assert issued(narrow, full, c) is full


def test_one_tile_serves_every_batched_fp32_product_of_an_a100():
    # 64 columns take as long as 128 where there is no narrower tile.
    chip, c = load_accelerator("a100-pcie-80gb"), load_coefficients("ampere")
    whole, half = (
        float(price(Gemm(4096, n, 4096, batch=64, dtype="fp32"), chip, efficiency=c).seconds)
        for n in (128, 64)
    )
    assert 0.85 * whole < half <= whole  # but for the power that half the numbers take
    turing, c = load_accelerator("t4"), load_coefficients("turing")
    whole, half = (
        float(price(Gemm(4096, n, 4096, batch=64, dtype="fp32"), turing, efficiency=c).seconds)
        for n in (128, 64)
    )
    assert half < 0.7 * whole


def test_a_second_pass_over_rows_comes_from_memory_when_the_cache_is_too_small():
    c = load_coefficients("default").of("layernorm") | {"row_cycles": 1.0, "overlap_exponent": 12.0}
    rows, row = np.full(2, 1e5), np.array([1e3, 1e6])
    times = memory_parts(rows * row / 2, rows * row / 2, rows, np.zeros(2), BARE, c).memory
    once = memory_parts(
        rows * row / 2, rows * row / 2, rows, np.zeros(2), BARE, c | {"again_passes": 0.0}
    ).memory
    np.testing.assert_allclose(times / once, [1.0, 1.5], rtol=1e-3)


def _table(tmp_path, slower: float):
    """Two chips, of which the second is so many times slower than its price."""
    rng = np.random.default_rng(0)
    lines = ["dataset,chip,timing,dtype,batch,m,n,k,time_us"]
    for chip, factor in (("a100-sxm4-80gb", 1.0), ("a40-48gb", slower)):
        for _ in range(40):
            m, n, k = (int(size) * 64 for size in rng.integers(4, 64, 3))
            op = Gemm(m, n, k, dtype="fp16")
            time = price(
                op, load_accelerator(chip), efficiency=load_coefficients("default")
            ).seconds
            lines.append(f"one,{chip},graph,fp16,1,{m},{n},{k},{float(time) * factor * 1e6:.6f}")
    path = tmp_path / "gemm.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def to_op(row):
        sizes = {key: int(row[key]) for key in ("m", "n", "k", "batch")}
        return {"op": "gemm", "dtype": row["dtype"]} | sizes

    start = {
        "gemm-half": load_coefficients("default").of("gemm-half"),
        "elementwise": load_coefficients("default").of("elementwise"),
    }
    return read_published(path, to_op, start), start


def test_the_times_of_the_chip_that_is_left_out_change_nothing_in_its_prediction(tmp_path):
    plain, slow = (
        {
            record.row: record.predicted_s
            for record in leave_one_chip_out(*_table(tmp_path, factor), only=("a40-48gb",))
        }
        for factor in (1.0, 1.7)
    )
    assert plain == slow
    assert len(plain) == 40


def test_rows_that_a_timer_of_the_host_cannot_see_are_left_out(tmp_path):
    path = tmp_path / "gemm.csv"
    path.write_text(
        "dataset,chip,timing,dtype,batch,m,n,k,time_us\n"
        "one,tpu-v5e,host,bf16,1,1024,1024,1024,119\n"
        "one,tpu-v5e,host,bf16,1,8192,8192,8192,6047\n",
        encoding="utf-8",
    )

    def to_op(row):
        return {"op": "gemm", "dtype": "bf16"} | {key: int(row[key]) for key in "mnk"}

    (table,) = read_published(path, to_op, {})
    (samples,) = table.samples.values()
    assert samples.seconds.tolist() == [pytest.approx(6047e-6)]


def test_nothing_bounds_a_read_but_the_wires():
    # DeepBench read 1 GB on a T4 at 307 GB/s: correction bits cost most kernels, not every one.
    task = _task(Gemm(1024, 8, 500_000, dtype="fp16"))
    arithmetic, memory = lower_bound(task, task_device(task, load_accelerator("t4-16gb")))
    assert max(arithmetic[0], memory[0]) < 3335e-6


def test_a_sparse_product_need_not_read_rows_that_nothing_meets():
    # 14 of 14,272 columns a row: an H100 took 27.5 us, all of the dense factor alone takes 35.
    sizes = {"m": 384, "n": 2048, "k": 14272, "dtype": "fp32"}
    device = device_of(load_accelerator("h100-sxm5-80gb"), "fp32", matrix=True)
    few, full = (lower_bound(_task(Spmm(nnz=nnz, **sizes)), device)[1][0]
                 for nnz in (14 * 384, 14272 * 384))  # fmt: skip
    assert few < 27.5e-6 < 35e-6 < full


def test_copies_end_at_the_units_of_a_chip_and_additions_at_its_memory():
    """2.4 and 2.7 TB/s were measured of copies on an H100 and an H200, 3.06 and 4.39 of sums."""
    c = load_coefficients("hopper").of("elementwise") | {"bandwidth_efficiency": 0.915}
    chips = [
        device_of(load_accelerator(name), "bf16", matrix=False)
        for name in ("h100-sxm5-80gb", "h200-sxm-141gb")
    ]
    moved = np.array([2.0**31])
    copied, added = (
        [
            float(
                memory_parts(
                    moved / 2, moved / 2, 0 * moved, 0 * moved, chip, c, copies=copies
                ).seconds.item()
            )
            for chip in chips
        ]
        for copies in (True, False)
    )
    assert 1.0 < copied[0] / copied[1] < 1.2
    assert added[0] / added[1] == pytest.approx(4.8 / 3.35, rel=0.01)
    assert copied[0] > added[0]


def test_what_passes_the_cache_gains_nothing_by_a_faster_memory():
    c = load_coefficients("hopper").of("embedding")
    chips = [load_accelerator(name) for name in ("h100-sxm5-80gb", "h200-sxm-141gb")]
    small, large = (
        [
            float(mechanism(task, task_device(task, chip), c).seconds.item())
            for chip in chips
            for task in [_task(Embedding(65536, vocab, 4096))]
        ]
        for vocab in (64, 256_000)
    )
    assert 1.25 < large[0] / large[1] < 1.43
    assert small[0] < 0.75 * large[0]


def test_rows_that_are_permuted_are_looked_up():
    permuted, looked = _task(Permute(4096, 512, source=1024)), _task(Embedding(4096, 1024, 512))
    assert permuted.kernel == looked.kernel == "embedding"
    assert permuted.sizes["distinct"].item() == 1024
    assert looked.sizes["distinct"].item() == pytest.approx(1024 * (1 - np.exp(-4)))
    assert _task(Permute(4096, 512)).sizes["distinct"].item() == 4096
    assert _task(Permute(16, 512)).kernel == "embedding_few"
