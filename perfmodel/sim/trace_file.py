"""Reading and writing trace files: whole or not at all."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any, Final

from perfmodel.errors import ScenarioError
from perfmodel.files import write_bytes

MOST_BYTES: Final = 1_500_000_000


def write_json(path: str | Path, document: Any) -> Path:
    """Write JSON (gzip if the name ends in ``.gz``); equal documents give equal bytes."""
    data = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    if str(path).endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    return write_bytes(path, data)


def read_bytes(path: str | Path, what: str) -> bytes:
    """The content of a file of reasonable size, unzipped if its name ends in ``.gz``."""
    source = Path(path)
    accepted = f"a readable {what} of at most {MOST_BYTES // 10**6:,} MB"
    try:
        if source.stat().st_size > MOST_BYTES:
            raise ScenarioError(
                str(path), f"<{source.stat().st_size:,} bytes>", accepted,
                repair="trace fewer steps",
            )  # fmt: skip
        data = source.read_bytes()
        if not source.name.endswith(".gz"):
            return data
        with gzip.open(source) as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ScenarioError(
            str(path), f"<{error}>", accepted, repair="check the path and the file"
        ) from None
    if len(data) > MOST_BYTES:
        raise ScenarioError(str(path), "<too large unzipped>", accepted, repair="trace fewer steps")
    return data


def read_json(path: str | Path, what: str) -> Any:
    """A JSON document."""
    data = read_bytes(path, what)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ScenarioError(
            str(path), f"<{error}>", f"a {what} in JSON", repair="export the trace again"
        ) from None
