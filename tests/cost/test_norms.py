"""Norms: steps of a loop counted by hand, rows alone and beside others."""

import numpy as np
import pytest

from perfmodel.cost import load_coefficients
from perfmodel.cost.device import Device
from perfmodel.cost.norms import loop_steps, norm_parts

CHIP = Device(peak=1e12, vector=1e12, bandwidth=1e30, cache=1e15, units=100, clock=1e9)
C = load_coefficients("hopper").of("rmsnorm") | {
    "row_cycles": 100.0, "first_cycles": 1000.0, "load_cycles": 600.0, "far_cycles": 400.0,
    "back_cycles": 500.0, "full_load_share": 0.5, "full_left_share": 0.75, "unit_room": 1e9,
    "start_cycles": 50.0, "work_cycles": 20.0, "rows_per_unit": 16.0, "wave_blur": 0.0,
    "floor_seconds": 0.0,
}  # fmt: skip


def rows_seconds(rows, cols, element=2.0, device=CHIP, **more):
    one = np.array([float(rows)])
    moved = one * cols * element
    sizes = {"rows": one, "cols": one * 0 + cols, "read": moved, "written": moved}
    return float(norm_parts(sizes, element, device, C, **more).compute[0])


@pytest.mark.parametrize(
    ("cols", "bound", "loose"),
    # 512 a step: four steps at once, what is left, and a warp of lanes with three and with four
    [(2048, 4, 0), (3072, 4, 2), (1600, 4, 3), (1792, 4, 0), (1280, 0, 3), (5632, 8, 3)],
)
def test_steps_of_a_loop_that_runs_four_at_once(cols, bound, loose):
    found = loop_steps(np.array([float(cols)]))
    assert [float(part[0]) for part in found] == [bound, loose]


def test_a_row_alone_waits_step_after_step():
    # operands that the cache holds: 8 steps of 512
    assert rows_seconds(1, 4096) == pytest.approx((100 + 8 * 600) * 1e-9, rel=1e-3)
    # in full precision 8 steps, four at once; 1,600 columns add three single ones
    assert rows_seconds(1, 4096, 4.0) == pytest.approx((100 + 8 * 300) * 1e-9, rel=1e-3)
    assert rows_seconds(1, 1600, 4.0) == pytest.approx((100 + 4 * 300 + 3 * 450) * 1e-9, rel=1e-3)


def test_operands_from_memory_take_longer_in_each_step_and_once():
    far = Device(peak=1e12, vector=1e12, bandwidth=1e30, cache=1.0, units=100, clock=1e9)
    found = rows_seconds(1, 4096, device=far)
    assert found == pytest.approx((100 + 1000 + 8 * 1000) * 1e-9, rel=1e-3)


def test_rows_take_turns_or_the_pace_of_their_unit():
    alone = rows_seconds(1, 4096)
    assert rows_seconds(1600, 4096) == pytest.approx(alone, rel=0.2)  # sixteen on each unit
    assert rows_seconds(1601, 4096) > 1.9 * alone
    many = rows_seconds(1_000_000, 64)
    assert many > 10_000 * (50 + 20 / 8) * 1e-9
    assert rows_seconds(2, 4097, odd=True) == pytest.approx((100 + 9 * 600) * 1e-9, rel=1e-3)
