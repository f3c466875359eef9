"""The examples of docs/hardware.md and of the docstrings run as written."""

import doctest
import importlib
from pathlib import Path

import pytest

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


def test_the_page_runs_as_written():
    page = Path(__file__).parents[2] / "docs" / "hardware.md"
    result = doctest.testfile(str(page), module_relative=False, optionflags=OPTIONS)
    assert result.attempted >= 6
    assert result.failed == 0


@pytest.mark.parametrize("name", ["load", "cluster", "sources"])
def test_docstrings_run_as_written(name):
    module = importlib.import_module(f"perfmodel.hardware.{name}")
    result = doctest.testmod(module, optionflags=OPTIONS)
    assert result.attempted > 0
    assert result.failed == 0
