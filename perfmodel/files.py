"""Files that are there whole or not at all: written under another name, then renamed.

And one rule of reading: a JSON object that names a key twice is no answer to which value is meant.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from perfmodel.errors import CalibrationError, FileError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; it becomes ``path`` at the end of the block.

    Where the block fails nothing is left, and what ``path`` held stays. The suffix is kept; missing
    folders are made.

    Raises
    ------
    FileError
        If the file or its folder cannot be written.
    """
    # A folder such as ".." has no name to put a draft beside.
    target = Path(path).resolve() if Path(path).name in ("", "..") else Path(path)
    draft = target.parent / f".{target.stem}.{os.getpid()}{target.suffix}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        draft.replace(target)
    except OSError as error:
        raise FileError(
            str(path),
            f"<{error.strerror or error}>",
            "a path that can be written, its folders included",
            repair="name a file in a folder of your own, and see that the disk has room",
        ) from None
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text; missing folders are made."""
    return write_bytes(path, text.encode())


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write bytes; missing folders are made."""
    target = Path(path)
    with replacing(target) as draft:
        draft.write_bytes(data)
    return target


def fitted_table(path: Path) -> dict[str, Any]:
    """What a TOML file of fitted values holds.

    Raises
    ------
    CalibrationError
        If the file cannot be read or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CalibrationError(
            str(path), f"<{error}>", "a TOML file of fitted values", repair="restore the file"
        ) from None


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An ``object_pairs_hook`` for :mod:`json` that refuses a key given twice.

    Raises
    ------
    ValueError
        Which names the keys; :func:`json.loads` raises nothing else for bad text.
    """
    record = dict(pairs)
    if len(record) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        message = f"duplicate keys {', '.join(twice)}"
        raise ValueError(message)
    return record
