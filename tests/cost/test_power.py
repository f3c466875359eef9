"""Board power: the formula, the shipped shares, and what a fit gives back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perfmodel.calibrate.measurements import load_measurements
from perfmodel.calibrate.power import fit_power, write_power
from perfmodel.cost.mechanism import task_device
from perfmodel.cost.power import PowerShares, draw, load_shares, power_share, rates, read_shares
from perfmodel.cost.tasks import tasks_of
from perfmodel.errors import CalibrationError, SpecError
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import Elementwise, Gemm

H100 = load_accelerator("h100-sxm5-80gb")
MEASURED = Path(__file__).parents[2] / "validate/measurements/h100-sxm5-80gb"


def test_share_grows_with_either_rate_and_ends_at_the_ceiling() -> None:
    shares = PowerShares(running=0.5, memory=0.3, arithmetic=0.6, ceiling=1.05)
    idle, memory, both = power_share(np.array([0.0, 0.0, 5.0]), np.array([0.0, 1.0, 1.0]), shares)
    assert 0.49 < idle <= 0.5
    assert idle < memory < both <= 1.05
    assert both == pytest.approx(1.05, rel=1e-2)


def test_rates_are_shares_of_the_peaks() -> None:
    op = Elementwise("add", np.array([1 << 28]))
    _, (task,) = tasks_of(op)
    moved = 3 * 2 * (1 << 28)
    _, memory = rates(task, task_device(task, H100), np.array([2 * moved / H100.memory_bandwidth]))
    assert memory[0] == pytest.approx(0.5)


def test_energy_is_power_times_time_in_the_shape_of_the_operator() -> None:
    found = draw(Gemm(np.array([64, 8192]), 8192, 8192), H100)
    assert found.watts.shape == (2,)
    assert found.calibrated.all()
    assert found.watts[0] < found.watts[1]
    given = draw(Elementwise("add", 1 << 28), H100, seconds=np.asarray(1e-3))
    assert given.joules == pytest.approx(given.watts * 1e-3)


def test_an_operator_shorter_than_any_that_was_read_is_said_to_be() -> None:
    assert not draw(Gemm(16, 64, 64), H100).calibrated


def test_a_chip_without_readings_uses_the_shares_of_another_and_says_so() -> None:
    other = draw(Gemm(4096, 4096, 4096), load_accelerator("a100-sxm4-80gb"))
    assert not other.calibrated
    assert 0.5 * 400 < other.watts < 1.2 * 400


def test_power_of_a_chip_of_unknown_design_power_is_an_error() -> None:
    bare = H100.model_copy(update={"package_tdp": None})
    with pytest.raises(SpecError, match="design power"):
        draw(Gemm(8, 8, 8), bare)


def test_held_out_readings_are_nearer_than_the_design_power(tmp_path: Path) -> None:
    fit = fit_power(load_measurements(MEASURED, "h100-sxm5-80gb").rows, H100)
    assert fit is not None
    error = np.abs(fit.held_out / fit.rows.share - 1.0).mean()
    assert error < np.abs(1.0 / fit.rows.share - 1.0).mean()
    write_power(tmp_path / "chip" / "power.toml", "chip", fit)
    shares, own = load_shares("chip", tmp_path)
    assert own
    assert shares.running == pytest.approx(fit.shares.running, rel=1e-3)
    assert shares.shortest == pytest.approx(fit.rows.seconds.min(), rel=1e-3)


def test_a_file_without_a_share_is_named(tmp_path: Path) -> None:
    (tmp_path / "power.toml").write_text("[shares]\nrunning = 0.5\n")
    with pytest.raises(CalibrationError, match=r"shares\.memory"):
        read_shares(tmp_path / "power.toml")
