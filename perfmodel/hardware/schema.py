"""JSON Schema of the spec files, for editors: ``python -m perfmodel.hardware.schema [FOLDER]``.

Generated from the pydantic models, so the two cannot drift apart; a test compares the committed
files with what is generated here. A file that ``extends`` another may leave out any field, in any
table, so only the top level says what is required; the loader checks the rest.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from perfmodel.hardware.describe import spec_models
from perfmodel.hardware.load import spec_folders


def schemas() -> dict[str, str]:
    """File name -> text of the schema of each kind of spec."""
    texts = {}
    for name, model in spec_models().items():
        schema: dict[str, Any] = model.model_json_schema(by_alias=True, mode="validation")
        schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
        schema["title"] = f"perfmodel {name}"
        schema["properties"]["extends"] = {
            "type": "string",
            "description": "name or path of the spec whose fields hold where this file is silent",
        }
        required = schema.pop("required", [])
        for table in schema.get("$defs", {}).values():
            table.pop("required", None)
        schema["anyOf"] = [{"required": ["extends"]}, {"required": required}]
        texts[f"{name}.json"] = json.dumps(schema, indent=2, sort_keys=True) + "\n"
    return texts


def main(folder: Path) -> None:
    """Write the schemas into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in schemas().items():
        part = folder / f".{name}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(folder / name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python3 -m perfmodel.hardware.schema")
    parser.add_argument("folder", nargs="?", type=Path, default=spec_folders()[-1] / "schema")
    main(parser.parse_args().folder)
