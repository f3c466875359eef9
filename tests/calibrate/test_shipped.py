"""The fits that are shipped: made from the measurements beside them, honest in their intervals."""

import tomllib
from pathlib import Path

import numpy as np
import pytest

from perfmodel.calibrate import load_measurements, summary
from perfmodel.calibrate.store import HELD_OUT, read_records
from perfmodel.cost.efficiency import efficiency_folder

ROOT = Path(__file__).resolve().parents[2]
CHIPS = ["h100-sxm5-80gb", "h200-sxm-141gb"]


@pytest.mark.parametrize("chip", CHIPS)
def test_a_fit_names_the_measurements_it_came_from(chip):
    about = tomllib.loads((efficiency_folder() / chip / "device.toml").read_text())
    measured = load_measurements(ROOT / "validate" / "measurements" / chip, chip)
    assert about["measurements_sha256"] == measured.sha256
    assert about["rows"] == len(measured.rows)


@pytest.mark.parametrize("chip", CHIPS)
def test_held_out_rows_keep_the_promises(chip):
    records = read_records(efficiency_folder() / chip / HELD_OUT)
    scores = summary(records)
    assert scores["under_bound"] == 0
    assert 85 <= scores["covered"] <= 95
    for record in records:
        assert record.low_s <= record.predicted_s * (1 + 1e-5) <= record.high_s * (1 + 2e-5)
    plain = np.mean([abs(r.mechanism_s / r.measured_s - 1) for r in records])
    assert scores["mape"] < 100 * plain
