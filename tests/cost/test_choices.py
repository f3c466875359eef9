"""The largest values of rows: PyTorch's rule for many blocks, and the way of a row by hand."""

import numpy as np
import pytest

from perfmodel.cost import load_coefficients, price
from perfmodel.cost.choices import by_many_blocks, choice_parts
from perfmodel.cost.device import Device
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import TopK

PLAIN = load_coefficients("hopper")
C = PLAIN.of("topk")
CHIP = Device(peak=1e12, vector=1e12, bandwidth=1e30, cache=5e7, units=100, clock=1e9)


@pytest.mark.parametrize(
    ("rows", "cols", "shared"),
    [(20, 19_999, False), (20, 20_000, True), (21, 10_000, True), (80, 7_999, False),
     (199, 5_000, True), (200, 3_000, True), (4_000, 799, False), (4_001, 400, True)],
)  # fmt: skip
def test_rows_are_shared_out_by_pytorchs_rule(rows, cols, shared):
    assert by_many_blocks(np.array([float(rows)]), np.array([float(cols)]))[0] == shared


def parts(rows, cols, k, element=4.0):
    one = np.array([float(rows)])
    sizes = {"rows": one, "cols": one * 0 + cols, "k": one * 0 + k}
    moved = {"read": one * cols * element, "written": one * k * (element + 8.0)}
    return choice_parts(sizes | moved, element, CHIP, C)


def test_a_row_by_hand():
    found = parts(1000, 64, 4)
    each = C["row_cycles"] + 2 * C["warp_cycles"] + C["sort_cycles"]
    assert found.compute[0] == pytest.approx(10 * each * 1e-9)
    way = 2 / 16 * C["warp_seconds"] + 64 / 1024 * C["loop_seconds"]
    assert found.floor[0] == pytest.approx(C["floor_seconds"] + way)
    one = parts(1000, 64, 1)
    assert one.compute[0] < found.compute[0]
    assert one.floor[0] == pytest.approx(C["single_share"] * C["floor_seconds"] + way)


def test_a_format_of_half_the_bits_takes_half_the_passes():
    wide, narrow = (parts(1, 50_000, 8, element).floor[0] for element in (4.0, 2.0))
    assert wide - narrow == pytest.approx(2 * C["pass_seconds"])


def test_one_row_of_a_vocabulary_is_no_row_of_one_block():
    h100 = load_accelerator("h100-sxm5-80gb")
    one, many = (
        float(price(TopK(1, cols, 8), h100, efficiency=PLAIN).seconds) for cols in (19_999, 128_000)
    )
    assert many < 2 * one
