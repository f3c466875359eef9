"""Half-widths of intervals, and the rows that speak of a board's power."""

from dataclasses import replace

import numpy as np
import pytest

from perfmodel.calibrate.learn import spread_of
from perfmodel.calibrate.measurements import Row
from perfmodel.calibrate.power import power_rows
from perfmodel.hardware import load_accelerator

H100 = load_accelerator("h100-sxm5-80gb")


@pytest.mark.parametrize(("count", "share"), [(100, 0.90), (1000, 0.92)])
def test_intervals_hold_a_little_more_where_there_are_rows_enough_to_tell(count, share):
    error = np.linspace(0.0, 1.0, count)
    width = spread_of(error, np.full(count, 50e-6))
    assert width[1] == pytest.approx(share, abs=2.5 / count)
    assert np.mean(error <= width[1]) >= share


def test_few_rows_are_as_wide_as_the_largest_error():
    assert spread_of(np.array([0.1, 0.2, 0.5]), np.full(3, 50e-6)) == pytest.approx(np.full(4, 0.5))


def test_rows_that_wait_for_atomics_say_nothing_of_the_power_of_a_rate():
    record = {"op": "gemm", "dtype": "bf16", "m": 4096, "n": 4096, "k": 4096}
    row = Row(record, 2e-4, 2e-4, 2e-4, "graph", "a", "x.csv:2", power=600.0)
    sums = {"op": "scatter_add", "kind": "index_add", "dtype": "fp32", "rows": 4096, "cols": 64,
            "targets": 512}  # fmt: skip
    waiting = replace(row, record=sums, key="b", power=220.0)
    known = power_rows([row, waiting], H100)
    assert known.families == ("gemm",)
    assert known.share[0] == pytest.approx(600.0 / 700.0)
