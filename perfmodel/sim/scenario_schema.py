"""JSON Schema of scenario files, for editors: ``python -m perfmodel.sim.scenario_schema``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from perfmodel.files import write_bytes
from perfmodel.sim.scenario_files import ADAPTER

PATH: Final = Path(__file__).parent / "schema" / "scenario.json"


def schema_text() -> str:
    """The schema, as the file holds it."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "perfmodel scenario",
        **ADAPTER.json_schema(),
    }
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    write_bytes(PATH, schema_text().encode())
