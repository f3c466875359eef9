"""Every coefficient that a mechanism has is explained, in the words of the code."""

import tomllib
from pathlib import Path

import pytest

from perfmodel.cost import (
    attention,
    chains,
    choices,
    conv,
    conv_forms,
    conv_groups,
    conv_search,
    conv_spectra,
    fourier,
    gemm,
    gemm_thin,
    losses,
    memory_bound,
    norms,
    recurrent,
    scatter,
)

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "docs" / "models"
HOME = MODELS / "kernels.md"
CONVOLUTIONS = MODELS / "kernels_convolutions.md"
SECTIONS = {
    gemm: (HOME, "Matrix products"),
    gemm_thin: (HOME, "Products of few rows"),
    conv: (CONVOLUTIONS, "Coefficients"),
    conv_forms: (CONVOLUTIONS, "Coefficients"),
    conv_groups: (CONVOLUTIONS, "Coefficients"),
    conv_search: (CONVOLUTIONS, "Coefficients"),
    conv_spectra: (CONVOLUTIONS, "Coefficients"),
    attention: (HOME, "Attention"),
    memory_bound: (HOME, "Rows and streams"),
    norms: (HOME, "Norms"),
    chains: (HOME, "Chains that sum along rows"),
    losses: (HOME, "Losses in full precision"),
    choices: (HOME, "Choices of the largest values"),
    scatter: (HOME, "Scattered sums"),
    recurrent: (HOME, "Recurrent layers"),
    fourier: (HOME, "Fourier transforms"),
}


def told(page: Path, section: str) -> dict[str, str]:
    """First cell -> last cell of the table lines of one section."""
    text = page.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return {row[0].strip(): row[-1].strip() for row in rows}


@pytest.mark.parametrize("module", SECTIONS, ids=lambda module: module.__name__)
def test_the_page_says_what_the_code_says(module):
    page = told(*SECTIONS[module])
    assert {name: page.get(name) for name in module.COEFFICIENTS} == dict(module.COEFFICIENTS)


def test_no_coefficient_is_without_a_word():
    pages = "".join(path.read_text() for path in MODELS.glob("*.md"))
    default = (ROOT / "hardware_specs" / "efficiency" / "default.toml").read_text()
    tables = [value for value in tomllib.loads(default).values() if isinstance(value, dict)]
    names = {name for table in tables for name in table}
    assert sorted(name for name in names if name not in pages) == []
