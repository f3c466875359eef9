"""Phases of training steps tell what each of them costs the host."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from perfmodel.calibrate.programs import Measured, ModelRow, behind_pace, row_pace
from perfmodel.calibrate.programs.host import _with_reference, fit_host
from perfmodel.calibrate.programs.rows import Woven, middle, read_model_rows
from perfmodel.cost.program.coefficients import load_program_coefficients
from perfmodel.cost.program.host import column_seconds, pace_of_probe
from perfmodel.cost.program.step import prepare, step
from perfmodel.hardware import load_accelerator
from perfmodel.workload.lowering.kernel import HostCall, Kernel, Lowered, Resident
from perfmodel.workload.op import Elementwise

H100 = load_accelerator("h100-sxm5-80gb")
START = load_program_coefficients("h100-sxm5-80gb", "hopper", measured=False)
TRUTH = replace(
    START, scalars=dict(START.scalars) | {"gradient": 14e-6, "parameter": 6e-6, "autograd": 2e-6}
)


def trained(number, rng):
    """A training step whose host time is told by phase, each thread at a pace of its own."""
    layers, tensors = int(rng.integers(4, 40)), int(rng.integers(10, 300))
    phases = ["forward"] * layers + ["backward"] * 2 * layers + ["optimizer"] * 3
    kernels = tuple(
        Kernel("aten.relu", "pointwise", (Elementwise("relu", 64),), (), (), (), phase, "pointwise")
        for phase in phases
    )
    calls = tuple(HostCall("pointwise", -1, (k,), phase) for k, phase in enumerate(phases))
    resident = tuple(Resident(k, 64, "parameter") for k in range(tensors))
    lowered = Lowered(
        f"net{number}", "torch-eager", "eager", False, kernels, calls, (), resident, layers
    )
    prepared = prepare(lowered, H100)
    work = prepared.work
    own, behind = rng.uniform(0.8, 1.8, 2)
    last = np.array([phase == "optimizer" for phase in phases])
    parts = (~work.behind & ~last, work.behind, last)
    seconds = [
        float(pace * (work.counts[part] @ column_seconds(TRUTH)).sum())
        for part, pace in zip(parts, (own, behind, own), strict=True)
    ]
    seconds[0] += own * TRUTH["step_host"]
    block = TRUTH["probe_block"]
    row = ModelRow(
        f"train/net{number}", "train", f"net{number}", "eager", 1, 0, "bf16", sum(seconds),
        host_s=sum(seconds), probe_call_s=TRUTH["probe_call"] * own, probe_block_s=block * own,
        stream_call_s=TRUTH["probe_call"] * own, stream_block_s=block * own,
        phases_s=tuple(seconds), backward_block_s=block * behind,
        stream_backward_block_s=block * behind,
    )  # fmt: skip
    return Measured(row, prepared)


def test_phases_tell_the_optimizer_and_the_gradients_apart():
    rng = np.random.default_rng(3)
    rows = [trained(number, rng) for number in range(30)]
    fitted = fit_host(rows, START)
    # Costs are those of the median probe, which is slower than the reference of the truth.
    slower = fitted["probe_block"] / TRUTH["probe_block"]
    assert fitted["gradient"] == pytest.approx(slower * TRUTH["gradient"], rel=0.2)
    assert fitted["parameter"] == pytest.approx(slower * TRUTH["parameter"], rel=0.2)


def test_phases_are_read_from_a_table(tmp_path):
    names = ("case", "kind", "model", "mode", "batch", "seq", "dtype", "step_us",
             "forward_host_us", "backward_host_us", "optimizer_host_us",
             "backward_probe_block_us")  # fmt: skip
    rows = [
        ("train/a", "train", "a", "eager", 1, 0, "bf16", 90, 20, 50, 10, 140),
        ("infer/a", "infer", "a", "eager", 1, 0, "bf16", 90, "", "", "", ""),
    ]
    with (tmp_path / "cases.csv").open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([names, *rows])
    one, other = read_model_rows(tmp_path)
    assert one.phases_s == pytest.approx((20e-6, 50e-6, 10e-6))
    assert one.backward_block_s == pytest.approx(140e-6)
    assert other.phases_s is None
    assert other.backward_block_s is None
    assert one.stream_backward_block_s is None


def test_a_long_step_that_trains_has_the_mean_pace_of_its_spells_and_others_the_middle(tmp_path):
    names = ("case", "kind", "model", "mode", "batch", "seq", "dtype", "step_us",
             "stream_probe_block_us", "pieces_block_us", "pieces_backward_us")  # fmt: skip
    probes = "120 120 120 240 240 900 90"
    rows = [
        ("train/a", "train", "a", "eager", 1, 0, "bf16", 20_000, 120, probes, "150 130 170 110"),
        ("decode/a", "decode", "a", "eager", 1, 0, "bf16", 2_000, 120, probes, ""),
        ("decode/b", "decode", "b", "eager", 1, 0, "bf16", 2_000, 130, "", ""),
    ]
    with (tmp_path / "cases.csv").open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([names, *rows])
    found = read_model_rows(tmp_path)
    assert [one.stream_block_s for one in found] == pytest.approx([168e-6, 120e-6 * 2**0.4, 130e-6])
    assert found[0].stream_backward_block_s == pytest.approx(140e-6)
    assert behind_pace(found[0], START) == pytest.approx(140e-6 / START["probe_block"])
    assert behind_pace(found[1], START) is None


def test_the_backward_pass_goes_with_the_pace_of_its_own_thread():
    one = trained(1, np.random.default_rng(5))
    slow, fast = (step(one.prepared, TRUTH, pace=1.0, behind=behind) for behind in (2.0, 1.0))
    behind = one.prepared.work.behind
    assert slow.calls[behind].sum() == pytest.approx(2.0 * fast.calls[behind].sum())
    assert slow.calls[~behind].sum() == pytest.approx(fast.calls[~behind].sum())
    usual = step(one.prepared, TRUTH, pace=1.5)
    told = step(one.prepared, TRUTH, pace=1.5, behind=1.5 ** TRUTH["backward_pace"])
    assert usual.seconds == pytest.approx(told.seconds)


def test_two_streams_of_a_row_count_together(tmp_path):
    names = ("case", "kind", "model", "mode", "batch", "seq", "dtype", "step_us",
             "probe_call_us", "stream_probe_call_us", "stream_probe_block_us", "woven_us",
             "woven_block_us", "woven_lag_us", "woven_forward_us", "woven_backward_us",
             "woven_backward_block_us", "pieces_backward_us", "faults")  # fmt: skip
    woven = ("25000 16000 16000", "120 130 140", 900, "8000 5000 5000", "12000 8000 8000",
             "150 160 170", "100 100", 3)  # fmt: skip
    rows = [
        ("train/a", "train", "a", "eager", 1, 0, "bf16", 25_000, 7, 7, 110, *woven),
        ("train/b", "train", "b", "eager", 1, 0, "bf16", 25_000, 7, 7, 110, *woven[:2], 9_000,
         *woven[3:-1], 900),
    ]  # fmt: skip
    with (tmp_path / "cases.csv").open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([names, *rows])
    one, other = read_model_rows(tmp_path)
    assert one.step_s == pytest.approx(20e-3)  # the middle of 25 and 16
    assert one.woven.phases_s == pytest.approx((5e-3, 8e-3, 3e-3))
    first, second = pace_of_probe(7e-6, START, block=110e-6), 130e-6 / START["probe_woven"]
    assert row_pace(one, START) == pytest.approx((first * second) ** 0.5)
    first, second = 100e-6 / START["probe_block"], 160e-6 / START["probe_behind"]
    assert behind_pace(one, START) == pytest.approx((first * second) ** 0.5)
    assert not one.faulted
    assert other.woven is None  # the device was behind: it held the stream up
    assert other.step_s == pytest.approx(25e-3)
    assert other.faulted


def test_a_block_between_steps_is_told_apart_for_those_that_train():
    block, rows = 120e-6, []
    for kind, colder, longer in (("infer", 1.1, 1.05), ("train", 1.3, 1.0)):
        for k in range(8):
            pace, step_s = 0.8 + 0.1 * k, (4e-3 + 1e-3 * k) * (0.8 + 0.1 * k)
            woven = Woven(step_s * longer, block * pace * colder)
            rows.append(
                ModelRow(f"{kind}/{k}", kind, f"net{k}", "eager", 1, 0, "bf16",
                         step_s * longer**0.5, probe_call_s=6e-6 * pace,
                         probe_block_s=block * pace, stream_call_s=6e-6 * pace,
                         stream_block_s=block * pace, woven=woven)
            )  # fmt: skip
    c = _with_reference(rows, START)
    # Both streams then tell the same step: the one between blocks is 5 % longer, and so its pace.
    assert c["probe_between"] / c["probe_block"] == pytest.approx(1.1 / 1.05, rel=1e-3)
    assert c["probe_woven"] / c["probe_block"] == pytest.approx(1.3, rel=1e-3)
    told = [row.step_s / row_pace(row, c) for row in rows[:8]]
    assert told == pytest.approx(
        [row.step_s / 1.05**0.5 / (row.stream_block_s / c["probe_block"]) for row in rows[:8]]
    )


def test_a_stream_in_two_states_is_told_by_how_much_there_was_of_either():
    fast, slow = [1.0] * 14, [2.0] * 6
    assert middle([*fast, *slow]) == pytest.approx(2.0**0.25)  # two at each end are left out
    assert middle([1.0, 1.0, 8.0, 1.0, 1.0]) == 1.0
    assert middle([1.0, 4.0]) == pytest.approx(2.0)
