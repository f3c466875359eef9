"""Scattered sums: rounds of a fixed grid, few rows, crowded targets."""

import numpy as np
import pytest

from perfmodel.cost import load_coefficients, price
from perfmodel.cost.mechanism import mechanism, task_device
from perfmodel.cost.scatter import alone_words, sectors_met
from perfmodel.cost.tasks import tasks_of
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import ScatterAdd

H100 = load_accelerator("h100-sxm5-80gb")
PLAIN = load_coefficients("hopper")


def parts(op):
    _, (task,) = tasks_of(op)
    return mechanism(task, task_device(task, H100), PLAIN.of(task.kernel))


def test_work_grows_by_whole_rounds_of_the_grid():
    # 132 units x 8 blocks x 128 threads; targets enough that no two requests meet
    rows = 1024 * H100.units // 32
    counts = np.array([rows - 1, rows, rows + 1, 2 * rows])
    work = parts(ScatterAdd(counts, 32, 10**6, "bf16")).compute
    assert work[0] == pytest.approx(work[1], rel=1e-3)
    assert work[2] > 1.7 * work[1]
    assert work[3] == pytest.approx(work[2], rel=0.05)


def test_sixteen_rows_follow_each_other_and_seventeen_do_not():
    one, sixteen, more = (
        float(price(ScatterAdd(rows, 64, 4), H100, efficiency=PLAIN).seconds)
        for rows in (1, 16, 17)
    )
    assert sixteen > 3 * one
    assert more < 0.5 * sixteen


@pytest.mark.parametrize("kind", ["index_add", "scatter_add"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_fewer_targets_are_never_faster_where_they_fit_the_cache(kind, dtype):
    targets = np.array([2, 8, 64, 512, 4096])
    times = price(ScatterAdd(100_000, 64, targets, dtype, kind), H100, efficiency=PLAIN).seconds
    assert np.all(np.diff(times) <= 1e-3 * times[1:])
    assert times[0] > 2 * times[-1]


def test_a_thread_waits_for_each_of_up_to_eight_values():
    floor = parts(ScatterAdd(np.array([1, 64, 65, 10**6]), 2, 10**6, "fp32", "scatter_add")).floor
    step = PLAIN.of("scatter_add_values")["value_seconds"]
    assert np.diff(floor) == pytest.approx([0.0, step, 6 * step])


def test_a_request_meets_the_sectors_of_its_rows():
    # 32 threads: one row of 128 bytes, eight rows of 16 bytes anywhere, eight onto two sectors
    cols, target = np.array([32.0, 4.0, 4.0]), np.array([1e9, 1e9, 48.0])
    met = sectors_met(cols, target, 4.0)
    assert met == pytest.approx([4.0, 8.0, 2.0 * (1.0 - 0.5**8)], rel=1e-6)


def test_single_columns_need_no_swaps():
    one, two = (
        float(price(op, H100, efficiency=PLAIN).seconds)
        for op in (ScatterAdd(40_000, cols, 4, "bf16", "scatter_add") for cols in (1, 2))
    )
    assert two > 20 * one


def test_only_what_has_no_neighbour_in_the_tensor_is_swapped_in():
    cols, targets = np.array([1.0, 1.0, 2.0, 5.0]), np.array([4.0, 5.0, 4.0, 4.0])
    assert alone_words(cols, targets).tolist() == [0.0, 1.0, 1.0, 2.0]
    times = price(ScatterAdd(2000, 1, np.array([10, 11, 12]), "bf16", "scatter_add"), H100,
                  efficiency=PLAIN).seconds  # fmt: skip
    assert times[1] > 8 * times[0]
    assert times[1] > 8 * times[2]


def test_swaps_of_two_byte_values_suffer_most_from_a_crowd():
    crowd = {
        dtype: float(
            price(ScatterAdd(40_000, 64, 4, dtype, "scatter_add"), H100, efficiency=PLAIN).seconds
        )
        for dtype in ("fp32", "bf16")
    }
    assert crowd["bf16"] > 20 * crowd["fp32"]
