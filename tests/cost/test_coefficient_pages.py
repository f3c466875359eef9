"""Every coefficient that a mechanism has is explained, in the words of the code."""

import tomllib
from pathlib import Path

import pytest

from perfmodel.cost import attention, fourier, memory_bound, recurrent, scatter

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "models" / "kernels_coefficients.md"


@pytest.mark.parametrize("module", [attention, fourier, memory_bound, recurrent, scatter])
def test_the_page_says_what_the_code_says(module):
    rows = PAGE.read_text().splitlines()
    for name, meaning in module.COEFFICIENTS.items():
        assert f"| {name} | {meaning} |" in rows


def test_no_coefficient_is_without_a_word():
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "models").glob("*.md"))
    default = (ROOT / "hardware_specs" / "efficiency" / "default.toml").read_text()
    tables = [value for value in tomllib.loads(default).values() if isinstance(value, dict)]
    names = {name for table in tables for name in table}
    assert sorted(name for name in names if name not in pages) == []
