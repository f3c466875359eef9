"""2:4 products: the mechanism, its fit on one half of measured rows, and what it says."""

from __future__ import annotations

import numpy as np
import pytest

from perfmodel.cost.structured import Structured, structured_coefficients, structured_product
from perfmodel.errors import CalibrationError, SpecError
from perfmodel.hardware import load_accelerator
from validate.sparse.__main__ import coefficients_file, document, fit, predicted, rows

CHIP = load_accelerator("h100-sxm5-80gb")
PLAIN = Structured(1e-6, 1.0, 0.0, 1.0)


def test_a_full_wave_takes_half_of_the_dense_time():
    units = int(CHIP.units)
    m, n, k = 128 * units, 256, 65536
    found = structured_product(m, n, k, "bf16", CHIP, coefficients=PLAIN)
    dense = 2.0 * m * n * k / CHIP.matrix_peak("bf16")
    moved = 2.0 * (m * k * 0.5625 + k * n + m * n) / CHIP.memory_bandwidth
    assert found == pytest.approx(1e-6 + np.hypot(dense / 2, moved))


def test_one_tile_more_is_a_wave_more():
    units = int(CHIP.units)
    assert units == 132
    m = 128 * 12 + np.array([0, 1])
    one, two = structured_product(m, 256 * 11, 65536, "bf16", CHIP, coefficients=PLAIN) - 1e-6
    assert 1.6 < two / one <= 2.0


def test_the_fit_finds_what_made_the_times():
    true = Structured(4e-6, 0.6, 1.5e-6, 0.5)
    table = rows()
    table["seconds"] = predicted(table, CHIP, true)
    found = fit(table, CHIP)
    assert predicted(table, CHIP, found) == pytest.approx(table.seconds.to_numpy(), rel=1e-3)


def test_unseen_rows_are_close_and_the_shipped_file_is_that_of_the_fit():
    table = rows()
    half = table[~table.tune]
    shipped = structured_coefficients()
    error = predicted(half, CHIP, shipped) / half.seconds - 1
    assert len(half) >= 10
    assert error.abs().mean() < 0.2
    found = fit(table[table.tune], CHIP)
    assert found.rate == pytest.approx(shipped.rate, rel=0.01)
    assert "| unseen, the other half | 13 |" in document(CHIP, shipped)


def test_bad_input(tmp_path):
    with pytest.raises(SpecError, match="Ampere"):
        structured_product(64, 64, 64, "fp16", load_accelerator("v100-sxm2-16gb"))
    damaged = tmp_path / "structured.toml"
    damaged.write_text(coefficients_file(PLAIN, "x").replace("rate_efficiency", "rate"))
    with pytest.raises(CalibrationError, match="fit"):
        structured_coefficients(damaged)
