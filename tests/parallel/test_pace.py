"""A stack's pace stretches kernels, never the bound, and the tree still adds up."""

import math
from dataclasses import replace

import numpy as np
import pytest

from perfmodel.hardware import load_cluster
from perfmodel.parallel import Plan
from perfmodel.parallel import pricer as pricing
from perfmodel.parallel.pace import pace, paced
from perfmodel.parallel.training import train
from perfmodel.study.training_fit import fit_pace
from perfmodel.study.training_report import Record
from perfmodel.workload.model import load_model


def test_what_was_not_fitted_keeps_its_pace():
    assert pace("megatron-2022", "ampere") == 1.0
    assert pace("no-such-stack", "hopper") == 1.0


def test_the_lower_bound_does_not_move():
    class Price:
        seconds, lower, low, high = (np.array([x]) for x in (2.0, 1.9, 1.95, 2.5))

    seconds, lower, low, high = paced(Price(), 0.5)  # type: ignore[arg-type]
    assert (seconds, lower, low) == (1.9, 1.9, 1.9)
    assert high == 1.9


def test_a_slower_pace_makes_a_longer_step_by_its_kernels(monkeypatch):
    model, cluster = load_model("llama-3-8b"), load_cluster("dgx-h100")
    plan = Plan(tp=2, dp=4, zero=1)
    plain = train(model, cluster, plan, 64, 2048)
    monkeypatch.setattr(pricing, "pace", lambda stack, architecture: 1.5)
    slow = train(model, cluster, plan, 64, 2048)
    assert math.isclose(slow.parts["forward"], 1.5 * plain.parts["forward"], rel_tol=1e-9)
    assert slow.step.lower == pytest.approx(plain.step.lower, rel=0.02)


def row(measured, **changes):
    record = Record(
        row_id="a", line=1, split="tune", quality="A", stack="megatron", measured_s=measured,
        step_time_s=10.0, ratio=10.0 / measured, parts={"forward": 3.0, "backward": 6.0},
    )  # fmt: skip
    return replace(record, **changes)


def test_the_fit_takes_the_median_of_rows_that_agree():
    rows = [row(10.0 + 9 * extra) for extra in (0.4, 0.5, 0.6, 0.5)]
    found = fit_pace(rows, {"a": "cdna"})
    assert found == {"megatron": {"cdna": (pytest.approx(1.5), 4)}}


def test_no_pace_from_rows_that_disagree_are_few_or_are_for_the_report():
    disagreeing = [row(measured) for measured in (6.0, 8.0, 12.0, 14.0)]
    assert fit_pace(disagreeing, {"a": "cdna"}) == {}
    assert fit_pace([row(15.0)] * 3, {"a": "cdna"}) == {}
    assert fit_pace([row(15.0, split="report")] * 9, {"a": "cdna"}) == {}
    assert fit_pace([row(15.0)] * 9, {}) == {}
