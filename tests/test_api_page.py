"""The page on the Python interface runs as it is written, and names every call."""

import doctest
from pathlib import Path

import pytest

import perfmodel as pm

PAGE = Path(__file__).parents[1] / "docs" / "api.md"


def test_examples_of_the_page():
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.failed == 0
    assert result.attempted > 12


def test_every_call_of_the_page_exists():
    text = PAGE.read_text()
    for name in pm.__all__:
        if name[0].islower() and name not in ("op_from_dict", "overlap", "total", "host_pace_of"):
            assert f"pm.{name}" in text or name == "estimate_program", name


@pytest.mark.torch
def test_the_example_of_a_module(monkeypatch, capsys):
    pytest.importorskip("torch")
    block = PAGE.read_text().split("## A module of one's own")[1].split("```python\n")[1]
    exec(block.split("```")[0], {})
    assert capsys.readouterr().out.count("\n") == 4
