"""Chains that sum along rows: steps counted by hand, rows held and gone over again, flat ones."""

import numpy as np
import pytest

from perfmodel.cost import load_coefficients, price
from perfmodel.cost.chains import chain_parts, layout, loads
from perfmodel.cost.device import Device
from perfmodel.cost.tasks import tasks_of
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import Fused

CHIP = Device(peak=1e12, vector=1e12, bandwidth=1e30, cache=1e15, units=100, clock=1e9)
C = load_coefficients("hopper").of("elementwise_rows") | {
    "row_cycles": 100.0, "load_cycles": 40.0, "row_sum_cycles": 300.0, "held_cycles": 700.0,
    "warp_cycles": 320.0, "sum_cycles": 200.0, "join_cycles": 30.0, "single_cycles": 64.0,
    "far_cycles": 400.0, "start_cycles": 0.0, "work_cycles": 0.1, "held_work": 0.1,
    "operation_share": 1.0, "single_work": 0.1, "rows_per_unit": 4.0, "wave_blur": 0.0,
    "split_seconds": 3e-6, "last_bytes_per_second": 1e30, "floor_seconds": 0.0,
}  # fmt: skip


def clocks(rows, cols, device=CHIP, operations=4.0, **other):
    one = np.array([float(rows)])
    sizes = {"rows": one, "cols": one * 0.0 + cols, "read": one * cols * 4, "written": one * cols}
    sizes |= {"flops": one * cols * operations}
    parts = chain_parts(sizes, 2.0, device, C | other)
    return float(parts.compute[0] + parts.floor[0]) * 1e9


def test_kernels_are_laid_out_by_powers_of_two():
    rows = np.array([1.0, 600.0, 600.0, 3.0, 64.0, 600.0, 600.0, 300.0, 3.0])
    cols = np.array([1024.0, 1000.0, 256.0, 300.0, 64.0, 64.0, 1500.0, 9000.0, 9000.0])
    of = layout(rows, cols, 132)
    assert of.held.tolist() == [True] * 6 + [False] * 3
    assert of.cut.tolist() == [False] * 8 + [True]
    assert of.warps.tolist() == [8, 1, 1, 4, 2, 2, 16, 32, 16]
    assert of.rows.tolist() == [1, 1, 4, 1, 8, 8, 2, 1, 1]
    assert of.elements.tolist() == [4, 32, 32, 4, 8, 8, 8, 16, 16]
    assert of.programs.tolist() == [1, 600, 150, 3, 8, 75, 300, 300, 6]
    assert of.done.tolist() == [1024, 1024, 1024, 512, 512, 512, 4096, 9216, 5120]


def test_a_program_waits_for_its_elements_and_joins_its_warps():
    assert clocks(1, 8192) == pytest.approx(100 + 4 * 40, rel=0.02)  # 16 elements a thread
    assert clocks(1, 8192, operations=10.0) == pytest.approx(100 + 4 * 40 + 300, rel=0.02)
    assert clocks(1, 1024) == pytest.approx(700 + 4 * 10 + 3 * 30, rel=0.02)  # eight warps
    assert clocks(1, 1024, operations=10.0) == pytest.approx(740 + 6 * 30 + 200, rel=0.02)
    far = Device(peak=1e12, vector=1e12, bandwidth=1e30, cache=1.0, units=100, clock=1e9)
    assert clocks(1, 8192, far) == pytest.approx(100 + 400 + 4 * 40, rel=0.02)
    assert clocks(1, 8191) == pytest.approx(100 + 4 * 40 + 16 * 2, rel=0.03)  # loaded one by one


def test_programs_take_turns_or_the_pace_of_their_unit():
    assert clocks(400, 8192) == pytest.approx(clocks(1, 8192), rel=0.1)  # four on each unit
    assert clocks(401, 8192) > 1.9 * clocks(1, 8192)
    assert clocks(1_000_000, 8192, work_cycles=20.0) > 9_990 * 16 * 20


def test_few_very_long_rows_are_cut_and_read_again_by_a_last_kernel():
    assert clocks(199, 8200) == pytest.approx(3000 + 100 + 4 * 40, rel=0.05)
    assert clocks(200, 8200) < 1000
    again = clocks(199, 8200, last_bytes_per_second=1e12) - clocks(199, 8200)
    assert again == pytest.approx(199 * 8200 * 5 / 1e3, rel=0.01)


def test_rows_that_start_anywhere_are_loaded_one_by_one():
    assert loads(np.array([2048.0, 2052.0, 2050.0, 2049.0]), 2.0).tolist() == [1.0, 2.0, 4.0, 8.0]
    assert loads(np.array([2048.0, 2049.0]), 4.0).tolist() == [1.0, 4.0]
    busy = {"work_cycles": 100.0, "single_work": 300.0}
    even, odd = (clocks(1_000_000, cols, **busy) for cols in (4096, 4095))
    assert odd == pytest.approx(4 * even, rel=0.01)


def test_a_chain_with_rows_is_priced_by_them_and_a_flat_one_is_not():
    chip = load_accelerator("h100-sxm5-80gb")
    few, many = (Fused("add+norm", 1 << 20, 4, 2, 5, "bf16", rows=rows) for rows in (32, 1024))
    assert price(few, chip).seconds > 1.3 * price(many, chip).seconds
    _, (flat,) = tasks_of(Fused("add", 1 << 20, 4, 2, 5, "bf16"))
    _, (summed,) = tasks_of(few)
    assert (flat.base, summed.base) == ("elementwise", "elementwise_rows")
    assert summed.sizes["cols"] == 1 << 15


def test_a_chip_without_the_law_takes_that_of_streams():
    chip = load_accelerator("a100-sxm4-80gb")
    flat = price(Fused("add", 1 << 24, 4, 2, 5, "bf16"), chip)
    rows = price(Fused("add", 1 << 24, 4, 2, 5, "bf16", rows=4096), chip)
    assert rows.seconds == pytest.approx(flat.seconds, rel=0.02)
