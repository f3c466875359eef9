"""Losses in full precision: rows of a warp and of a block by hand."""

import numpy as np
import pytest

from perfmodel.cost.device import Device
from perfmodel.cost.losses import loss_parts

CHIP = Device(peak=1e12, vector=1e12, bandwidth=1e30, cache=1e15, units=100, clock=1e9)
C = {
    "bandwidth_efficiency": 1.0, "write_in_cache": 0.5, "row_cycles": 700.0, "load_cycles": 1400.0,
    "far_cycles": 600.0, "back_cycles": 500.0, "short_cycles": 4000.0, "unit_room": 2e5,
    "work_cycles": 1.0, "reuse_room": 0.7, "again_passes": 2.0, "loss_seconds": 7e-7,
    "floor_seconds": 3e-6, "overlap_exponent": 2.0, "wave_blur": 0.0,
}  # fmt: skip


def parts(tokens, vocab, device=CHIP):
    one = np.array([float(tokens)])
    sizes = {"tokens": one, "vocab": one * 0 + vocab, "read": one * vocab * 4.0}
    return loss_parts(sizes, 4.0, device, C)


def test_a_block_goes_along_a_row_in_steps():
    # 12,000 columns stand in shared memory; three steps of 4,096
    assert parts(1, 12000).compute[0] == pytest.approx((700 + 3 * 1400) * 1e-9, rel=1e-3)
    # half as long rows of a warp take half of its clocks
    assert parts(1, 1024).compute[0] == pytest.approx((700 + 2000) * 1e-9, rel=1e-3)


def test_rows_that_leave_the_units_cache_come_back_slower():
    near, far = (parts(1, cols).compute[0] / np.ceil(cols / 4096) for cols in (24576, 409600))
    assert far > 1.2 * near
    # two blocks a unit at once: 200 rows are one turn, 201 two
    assert parts(201, 12000).compute[0] > 1.9 * parts(200, 12000).compute[0]


def test_losses_are_gathered_a_step_after_another():
    assert parts(32, 1000).floor[0] == pytest.approx(3e-6 + 7e-7)
    assert parts(320, 1000).floor[0] == pytest.approx(3e-6 + 10 * 7e-7)


def test_memory_sees_a_row_once_where_shared_memory_holds_it():
    chip = Device(peak=1e12, vector=1e12, bandwidth=1e12, cache=1.0, units=100, clock=1e9)
    held, lost = parts(10_000, 12000, chip).memory[0], parts(10_000, 12001, chip).memory[0]
    assert held == pytest.approx(2 * 10_000 * 12000 * 4e-12, rel=1e-2)
    assert lost == pytest.approx(2 * held, rel=1e-2)
