"""The page on simulation says what the code does."""

import doctest
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "models" / "simulation.md"


def test_examples_of_the_page():
    assert doctest.testfile(str(PAGE), module_relative=False).failed == 0
