"""docs/importing.md: its example is a program that follows the schema; its code runs."""

import doctest
import json
import re
from pathlib import Path

import jsonschema

from perfmodel.study.own_model import estimate_program
from perfmodel.workload.program import Program
from perfmodel.workload.program_file import SCHEMA

PAGE = Path(__file__).parents[3] / "docs" / "importing.md"
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


def example():
    (text,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return json.loads(text)


def test_the_example_follows_the_schema_and_is_priced():
    jsonschema.validate(example(), json.loads(SCHEMA.read_text(encoding="utf-8")))
    program = Program.from_dict(example())
    assert program.parameters == 1024 * 1024 + 1024
    for tensor in program.tensors:
        assert tensor.bytes <= program.storages[tensor.storage]
    found = estimate_program(program, "h100-sxm5-80gb")
    assert found.unknown == ()
    assert len(found.kernels.kernels) == 2


def test_the_table_of_keys_is_the_schema():
    """Every key of a node or tensor that the page explains exists."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    parts = {"nodes": "NodeFile", "tensors": "TensorFile"}
    rows = re.findall(
        r"^\| `(\w+)(?:\[\]\.(\w+))?`", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(rows) >= 10
    for key, inner in rows:
        assert key in schema["properties"]
        assert not inner or inner in schema["$defs"][parts[key]]["properties"]


def test_the_page_runs_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testfile(str(PAGE), module_relative=False, optionflags=OPTIONS)
    assert result.attempted >= 7
    assert result.failed == 0
