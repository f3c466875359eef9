"""Chains that sum along rows: steps counted by hand, rows held and gone over again, flat ones."""

import numpy as np
import pytest

from perfmodel.cost import load_coefficients, price
from perfmodel.cost.chains import chain_parts, loads
from perfmodel.cost.device import Device
from perfmodel.cost.tasks import tasks_of
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import Fused

CHIP = Device(peak=1e12, vector=1e12, bandwidth=1e30, cache=1e15, units=100, clock=1e9)
C = load_coefficients("hopper").of("elementwise_rows") | {
    "row_cycles": 100.0, "held_cycles": 700.0, "warp_cycles": 100.0, "operation_cycles": 80.0,
    "operation_work": 0.0, "single_cycles": 300.0, "split_seconds": 3e-6,
    "held_per_unit": 16384.0, "load_cycles": 600.0, "uneven_share": 3.0,
    "far_cycles": 400.0, "back_cycles": 500.0, "unit_room": 1e9, "start_cycles": 50.0,
    "work_cycles": 20.0, "rows_per_unit": 4.0, "wave_blur": 0.0, "floor_seconds": 0.0,
}  # fmt: skip


def clocks(rows, cols, device=CHIP, operations=4.0, **other):
    one = np.array([float(rows)])
    sizes = {"rows": one, "cols": one * 0.0 + cols, "read": one * cols * 4, "written": one * cols}
    sizes |= {"flops": one * cols * operations}
    parts = chain_parts(sizes, 2.0, device, C | other)
    return float(parts.compute[0] + parts.floor[0]) * 1e9


def test_a_long_row_waits_step_after_step_and_a_short_one_once():
    assert clocks(1, 8192) == pytest.approx(100 + 4 * 600, rel=1e-3)
    assert clocks(1, 8192, operations=10.0) == pytest.approx(100 + 4 * (600 + 6 * 80), rel=1e-3)
    assert clocks(1, 1024) == pytest.approx(700 + 2 * 100, rel=1e-3)
    assert clocks(1, 1024, operations=10.0) == pytest.approx(900 + 6 * 40, rel=1e-3)
    far = Device(peak=1e12, vector=1e12, bandwidth=1e30, cache=1.0, units=100, clock=1e9)
    assert clocks(1, 8192, far) == pytest.approx(100 + 400 + 4 * 600, rel=1e-3)
    assert clocks(1, 8191) == pytest.approx(100 + 4 * 900, rel=1e-3)  # loaded one by one
    assert clocks(1, 1024, far) == pytest.approx(1300, rel=1e-3)
    assert clocks(1, 8192, unit_room=1.0) == pytest.approx(100 + 4 * 1100, rel=1e-3)


def test_rows_take_turns_or_the_pace_of_their_unit():
    assert clocks(400, 8192) == pytest.approx(clocks(1, 8192), rel=0.1)  # four on each unit
    assert clocks(401, 8192) > 1.9 * clocks(1, 8192)
    few = {"start_cycles": 1.0, "work_cycles": 1.0}
    assert clocks(1600, 1024, **few) == pytest.approx(900, rel=1e-3)  # sixteen rows of 1,024
    assert clocks(1_000_000, 512) > 10_000 * (50 + 20)


def test_few_very_long_rows_are_cut_and_wait_for_no_step():
    assert clocks(199, 8193, work_cycles=1.0, uneven_share=0.0) == pytest.approx(3131, rel=0.01)
    assert clocks(200, 8193) > 100 + 5 * 900
    chip = load_accelerator("h100-sxm5-80gb")
    one = {"numel": 16384, "read": 4, "written": 2, "operations": 5, "dtype": "bf16"}
    price_of = [price(Fused("add+norm", rows=r, **one), chip).seconds for r in (1, 2)]
    assert price_of[0] > 1.5 * price_of[1]


def test_rows_that_start_anywhere_are_loaded_one_by_one():
    assert loads(np.array([2048.0, 2052.0, 2050.0, 2049.0]), 2.0).tolist() == [1.0, 2.0, 4.0, 8.0]
    assert loads(np.array([2048.0, 2049.0]), 4.0).tolist() == [1.0, 4.0]
    busy = {"load_cycles": 1.0, "row_cycles": 1.0, "start_cycles": 0.0}
    even, odd = (clocks(1_000_000, cols, **busy) for cols in (4096, 4097))
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
