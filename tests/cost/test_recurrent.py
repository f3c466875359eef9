"""Recurrent stacks: which kernels run, and what their times must obey."""

import numpy as np
import pytest

from perfmodel.cost import load_coefficients, price
from perfmodel.cost.mechanism import mechanism, task_device
from perfmodel.cost.recurrent import COEFFICIENTS, persistent
from perfmodel.cost.tasks import tasks_of
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import Recurrent

H100 = load_accelerator("h100-sxm5-80gb")


def _seconds(**sizes):
    op = Recurrent(**({"steps": 64, "batch": 16, "width": 256, "hidden": 256} | sizes))
    _, (task,) = tasks_of(op)
    coefficients = load_coefficients("hopper").of(task.kernel)
    return mechanism(task, task_device(task, H100), coefficients).seconds


# Names of the kernels on an H100 (cuDNN 9.19): RNN_blockPersist_*, or a product a step.
@pytest.mark.parametrize(
    ("kind", "direction", "hidden", "dtype", "one"),
    [("lstm", "train", 128, "fp32", True), ("lstm", "train", 224, "fp32", False),
     ("lstm", "bwd", 128, "tf32", True), ("lstm", "bwd", 192, "fp32", False),
     ("gru", "train", 192, "tf32", True), ("gru", "fwd", 198, "fp32", False),
     ("rnn", "train", 384, "fp16", True), ("rnn", "bwd", 896, "fp32", False),
     ("rnn", "bwd", 128, "bf16", False), ("gru", "fwd", 224, "fp16", False),
     ("rnn", "bwd", 256, "fp32", True), ("rnn", "bwd", 320, "fp16", False),
     ("gru", "bwd", 160, "fp32", False)],
)  # fmt: skip
def test_small_cells_stay_in_one_kernel(kind, direction, hidden, dtype, one):
    assert persistent(kind, direction, np.array([float(hidden)]), dtype)[0] == one


def test_every_coefficient_has_a_value():
    values = load_coefficients("hopper").of("recurrent_bwd")
    assert set(COEFFICIENTS) <= set(values)


@pytest.mark.parametrize("hidden", [128, 1024])
def test_twice_the_steps_take_twice_the_time_but_for_the_start(hidden):
    one, two, four = (_seconds(steps=n, hidden=hidden)[0] for n in (100, 200, 400))
    assert four - two == pytest.approx(2.0 * (two - one), rel=0.02)


def test_layers_beside_each_other_save_time_where_steps_are_kernels_of_their_own():
    one, two = (_seconds(hidden=1024, layers=n, width=1024)[0] for n in (1, 2))
    assert one < two < 2.0 * one


def test_sequences_fill_the_chip_before_they_wait_for_each_other():
    few, full, more = (_seconds(batch=n, hidden=64, steps=512, width=64)[0] for n in (33, 132, 133))
    assert full < 1.5 * few
    assert more > 1.5 * full


def test_a_backward_pass_takes_longer_and_nothing_beats_the_bound():
    for hidden in (64, 512, 2048):
        forward = price(Recurrent(50, 64, 512, hidden, 2, 2, "bf16", "lstm", "train"), H100)
        backward = price(Recurrent(50, 64, 512, hidden, 2, 2, "bf16", "lstm", "bwd"), H100)
        assert forward.seconds < backward.seconds
        assert forward.lower <= forward.seconds


def test_persistent_kernels_hold_cells_in_whole_rows():
    small, odd, full = (
        _seconds(hidden=n, steps=512, width=64, dtype="tf32")[0] for n in (128, 129, 160)
    )
    assert odd > 1.2 * small
    assert odd == pytest.approx(full, rel=0.05)


def test_rows_off_16_bytes_wait_on_matrix_units_alone():
    for dtype, least in (("bf16", 1.1), ("tf32", 1.1), ("fp32", 0.95)):
        even, odd = (_seconds(hidden=n, steps=512, width=64, dtype=dtype)[0] for n in (512, 513))
        assert odd > least * even
        if dtype == "fp32":
            assert odd < 1.05 * even


def test_one_even_layer_in_fp16_is_spread_over_all_units():
    even = {"steps": 512, "hidden": 896, "width": 1024, "batch": 16, "dtype": "fp16"}
    spread = _seconds(**even)[0]
    for other in (
        {"dtype": "bf16"}, {"hidden": 904}, {"width": 1016}, {"batch": 12}, {"layers": 2},
        {"kind": "gru"},
    ):  # fmt: skip
        sizes = even | other
        assert _seconds(**sizes)[0] > 1.5 * spread, other
