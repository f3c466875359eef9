"""A whole run from one step."""

import pytest

from perfmodel.errors import PlanError
from perfmodel.hardware import load_cluster
from perfmodel.parallel import Plan
from perfmodel.parallel.budget import budget, rent_of
from perfmodel.parallel.training import train
from perfmodel.workload.model import load_model


@pytest.fixture(scope="module")
def step():
    return train(load_model("gpt2"), load_cluster("dgx-h100"), Plan(dp=8), 64, 1024)


def test_a_run_is_its_steps_one_after_the_other(step):
    steps = 1000
    run = budget(step, steps * 64 * 1024, rent=2.0 / 3600)
    assert run.seconds == pytest.approx(steps * step.step_time_s)
    assert run.device_hours == pytest.approx(8 * run.seconds / 3600)
    assert run.energy_kwh == pytest.approx(steps * step.energy_j / 3.6e6)
    assert run.cost_usd == pytest.approx(2.0 * run.device_hours)
    assert "USD" in run.explain()


def test_what_is_unknown_is_absent(step):
    run = budget(step, 1e9)
    assert run.cost_usd is None
    assert "USD" not in run.explain()
    assert rent_of(load_cluster("dgx-h100")) is None


def test_the_price_of_a_node_is_shared_by_the_devices_in_use():
    whole, half = load_cluster("aws-g5"), load_cluster("aws-g5", gpus_per_node=4)
    assert rent_of(half) == pytest.approx(2 * rent_of(whole))
    assert rent_of(load_cluster("tpu-v4-pod", nodes=1)) == pytest.approx(3.22 / 3600)


@pytest.mark.parametrize("tokens", [0, -1, float("nan"), float("inf")])
def test_a_run_needs_tokens(step, tokens):
    with pytest.raises(PlanError, match="at least 1"):
        budget(step, tokens)
    with pytest.raises(PlanError, match="negative"):
        budget(step, 1e9, rent=-1.0)
