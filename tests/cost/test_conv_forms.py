"""Convolutions that run as something else: plain products, emulated groups, trials of a search."""

import numpy as np
import pytest

from perfmodel.cost.conv_forms import direct_parts, fastest, has_kernel, later, times
from perfmodel.cost.conv_point import point_sizes
from perfmodel.cost.conv_search import searched
from perfmodel.cost.efficiency import load_coefficients
from perfmodel.cost.mechanism import mechanism, task_device
from perfmodel.cost.parts import combine
from perfmodel.cost.tasks import tasks_of
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import op_from_dict

H100 = load_accelerator("h100-sxm5-80gb")
POINT = {"op": "conv2d", "n": 4, "c_in": 64, "h": 28, "w": 14, "c_out": 128, "kernel": 1,
         "stride": 1, "padding": 0, "groups": 1, "layout": "nhwc", "dtype": "bf16"}  # fmt: skip
GROUPED = POINT | {"kernel": 3, "padding": 1, "c_in": 256, "c_out": 256, "groups": 8}
DEPTHWISE = GROUPED | {"groups": 256}


def priced(record, **more):
    _, (task,) = tasks_of(op_from_dict(record))
    device = task_device(task, H100)
    return mechanism(task, device, load_coefficients("hopper").of(task.kernel) | more)


@pytest.mark.parametrize(
    ("layout", "direction", "expected"),
    [
        ("nhwc", "fwd", (4 * 28 * 14, 128, 64, 1)),
        ("nhwc", "dgrad", (4 * 28 * 14, 64, 128, 1)),
        ("nhwc", "wgrad", (128, 64, 4 * 28 * 14, 1)),
        ("nchw", "fwd", (128, 28 * 14, 64, 4)),
        ("nchw", "dgrad", (64, 28 * 14, 128, 4)),
        ("nchw", "wgrad", (128, 64, 4 * 28 * 14, 1)),
    ],
)
def test_a_point_convolution_is_a_product_of_the_same_arithmetic(layout, direction, expected):
    op = op_from_dict(POINT | {"layout": layout, "pass": direction})
    _, (task,) = tasks_of(op)
    m, n, k, batch = (float(task.sizes[key][0]) for key in ("m", "n", "k", "batch"))
    assert (m, n, k, batch) == expected
    assert 2 * m * n * k * batch == op.flops
    assert set(task.sizes) == {"m", "n", "k", "batch", "flops", "read", "written"}


def test_point_sizes_take_arrays():
    sizes = {key: np.array([2.0, 3.0]) for key in ("n", "c_in", "c_out", "inputs")}
    sizes |= {key: np.ones(2) for key in ("flops", "read", "written")}
    assert point_sizes(sizes, "wgrad", "nchw")["k"].tolist() == [4.0, 9.0]


def test_groups_of_equal_powers_of_two_have_a_kernel():
    c_in = np.array([256.0, 256.0, 240.0, 384.0, 16.0, 4096.0])
    c_out = np.array([256.0, 512.0, 240.0, 384.0, 16.0, 4096.0])
    groups = np.array([8.0, 8.0, 5.0, 8.0, 8.0, 16.0])
    assert has_kernel(c_in, c_out, groups).tolist() == [True, False, False, False, False, False]


def test_other_groups_are_emulated_at_the_cost_of_copies():
    even = priced(GROUPED).seconds[0]
    uneven = GROUPED | {"c_in": 240, "c_out": 240, "groups": 5}
    assert priced(uneven).seconds[0] > 2.0 * even
    cheap = priced(uneven, expand_floor_seconds=1e-6).seconds[0]
    assert cheap < priced(uneven).seconds[0]


def test_the_fastest_form_that_serves_counts():
    slow = combine(*(np.array([v, v]) for v in (4.0, 0.0, 0.0, 1.0)), 2.0)
    fast = times(later(combine(*(np.array([v, v]) for v in (1.0, 0.0, 0.0, 0.0)), 2.0), 0.5), 2.0)
    chosen = fastest(((slow, True), (fast, np.array([True, False]))))
    assert chosen.seconds.tolist() == [3.0, 5.0]
    assert chosen.floor.tolist() == [1.0, 1.0]
    assert (chosen.choice // 100).tolist() == [1.0, 0.0]


def test_a_direct_convolution_takes_its_steps_however_few_outputs_there_are():
    _, (task,) = tasks_of(op_from_dict(GROUPED))
    device = task_device(task, H100)
    values = {"direct_step_cycles": 100.0, "bandwidth_efficiency": 1.0, "floor_seconds": 0.0,
              "overlap_exponent": 4.0}  # fmt: skip
    one, few, many = (
        direct_parts(
            (np.array([m]), np.array([64.0]), np.array([512.0]), np.ones(1)),
            np.zeros(1), device, values,
        ).seconds[0]
        for m in (1.0, 64.0, 64.0 * 2 * device.units)
    )  # fmt: skip
    assert one == few == pytest.approx(512 * 100.0 / device.clock)
    assert many == pytest.approx(2 * few)


def test_a_search_keeps_the_better_kernel_unless_both_are_short():
    _, (task,) = tasks_of(op_from_dict(DEPTHWISE))
    device = task_device(task, H100)
    c = {"floor_seconds": 2e-6, "generic_efficiency": 0.005, "search_lead_seconds": 3e-6,
         "search_spread_seconds": 1e-6}  # fmt: skip
    rate = device.vector * c["generic_efficiency"]
    special = combine(*(np.full(3, v) for v in (0.0, 0.0, 0.0, 4e-6)), 2.0)
    flops = np.array([5e-6, 1e-3, 5e-6]) * rate  # generic: 7 us, 1 ms, 7 us
    found = searched(special, np.array([True, True, False]), flops, device, c)
    assert found.choice[0] == pytest.approx(0.5)
    assert found.seconds[0] == pytest.approx((4e-6 * 7e-6) ** 0.5)
    assert found.seconds[1] == pytest.approx(4e-6)
    assert found.seconds[2] == pytest.approx(7e-6)
    np.testing.assert_allclose(found.floor, found.seconds)


def test_few_channels_are_quicker_in_fp16():
    first = POINT | {"c_in": 3, "h": 224, "w": 224, "kernel": 3, "stride": 2, "n": 64, "c_out": 32}
    assert priced(first | {"dtype": "fp16"}).seconds[0] < 0.8 * priced(first).seconds[0]
