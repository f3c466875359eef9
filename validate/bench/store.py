"""Measured rows on disk: one wide CSV a run, a sidecar with its hash, and the split by family."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validate.bench import ops

if TYPE_CHECKING:  # a measuring machine may have no NumPy
    from numpy.typing import NDArray

RESULT_KEYS = (
    "device", "latency_us", "p10_us", "p90_us", "mode", "calls", "replays", "sets",
    "power_w", "clock_mhz", "temp_c", "note",
)  # fmt: skip
COLUMNS = ("family", *ops.OP_KEYS, *RESULT_KEYS)
_TEXT = {"op", "kind", "dtype", "pass", "layout", "trans"}
_FLAGS = {"causal", "pinned"}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())


def line(row: dict[str, Any], columns: tuple[str, ...] = COLUMNS) -> str:
    """One CSV line, newline included."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow([_cell(row.get(c)) for c in columns])
    return out.getvalue()


def append(path: Path, row: dict[str, Any]) -> None:
    """Append a row and flush it; a new file gets the header first."""
    new = not path.exists() or path.stat().st_size == 0
    with path.open("a", encoding="utf-8") as handle:
        if new:
            handle.write(",".join(COLUMNS) + "\n")
        handle.write(line(row))


def append_line(path: Path, row: dict[str, Any]) -> None:
    """Append a row as one JSON line."""
    with path.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(row, separators=(",", ":")) + "\n")


def op_of(cells: dict[str, str]) -> ops.Op:
    """The operator that a CSV row describes."""
    op: ops.Op = {}
    for name in ops.OP_KEYS:
        text = cells.get(name) or ""
        if not text:
            continue
        if name in _TEXT:
            op[name] = text
        elif name in _FLAGS:
            op[name] = text == "true"
        else:
            op[name] = float(text) if name == "density" else int(text)
    return op


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a run's CSV; a last line that was cut short by a kill is left out.

    Raises
    ------
    ValueError
        When the header is not this harness's.
    """
    text = path.read_text(encoding="utf-8")
    if not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
    rows = list(csv.reader(io.StringIO(text)))
    if not rows:
        return []
    if tuple(rows[0]) != COLUMNS:
        raise ValueError(f"{path}: header differs from the harness's columns")
    return [dict(zip(COLUMNS, r, strict=True)) for r in rows[1:] if len(r) == len(COLUMNS)]


def read_any(path: Path) -> list[dict[str, str]]:
    """Rows of any CSV of operators, packed or not, such as the tables that `unpack` writes."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", newline="") as handle:
        return [row for row in csv.DictReader(handle) if row.get("op")]


def trim(path: Path) -> None:
    """Drop a last line without newline, so that appending is safe."""
    if path.exists():
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            write_atomic(path, data[: data.rfind(b"\n") + 1])


def done_keys(folder: Path) -> set[str]:
    """Identities of the operators that `folder` already holds, measured, refused or failed."""
    keys: set[str] = set()
    for name in ("ops.csv", "refused.csv"):
        if (folder / name).exists():
            keys |= {ops.key(op_of(r)) for r in read(folder / name)}
    for name in ("failures.jsonl", "plan_times.jsonl"):
        if not (folder / name).exists():
            continue
        for text in (folder / name).read_text(encoding="utf-8").splitlines():
            try:
                keys.add(ops.key(json.loads(text)["op"]))
            except (ValueError, KeyError):
                continue  # a line cut short
    return keys


def write_atomic(path: Path, data: bytes) -> None:
    """Write beside, then replace; where that fails nothing is left."""
    beside = path.with_name(path.name + ".part")
    try:
        beside.write_bytes(data)
        os.replace(beside, path)  # noqa: PTH105
    finally:
        beside.unlink(missing_ok=True)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Write arrays as a packed npz under that very name; what it holds.

    Packed by LZMA: columns of whole numbers take three quarters of what ``savez_compressed`` needs.
    """
    import numpy as np

    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            about = zipfile.ZipInfo(f"{name}.npy")  # of no date: equal arrays give equal files
            about.compress_type = zipfile.ZIP_LZMA
            with archive.open(about, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
    write_atomic(path, held.getvalue())
    return held.getvalue()


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    return json.dumps(str(value))


def toml(tables: dict[str, Any]) -> str:
    """Flat TOML: scalars first, then one table a dictionary."""
    lines = [f"{k} = {_toml_value(v)}" for k, v in tables.items() if not isinstance(v, dict)]
    for name, table in tables.items():
        if isinstance(table, dict):
            lines += ["", f"[{name}]"]
            lines += [f"{json.dumps(str(k))} = {_toml_value(v)}" for k, v in table.items()]
    return "\n".join(lines) + "\n"


def sidecar(csv_path: Path, about: dict[str, Any], rows: int) -> Path:
    """Write a table's sidecar (same stem, .toml) with its sha256 and row count.

    What ``about`` says of a file itself (it may be another table's sidecar) is not taken over.
    """
    digest = hashlib.sha256(csv_path.read_bytes()).hexdigest()
    path = csv_path.with_name(csv_path.name.split(".")[0] + ".toml")
    head = {"file": csv_path.name, "rows": rows, "sha256": digest}
    write_atomic(path, toml(head | about | head).encode())
    return path


def unpack(run: Path, out: Path, slug: str | None = None, *, suffix: str = "") -> dict[str, int]:
    """Split a run into ``out/<device>/<family><suffix>.csv`` with a sidecar each; rows a family.

    Within the run the last measurement of an operator counts; columns that a family never fills are
    dropped. With a suffix, operators that other tables of the folder hold already go to tables in
    its folder ``again``, which show how far two runs differ.
    """
    import tomllib

    rows = read(run / "ops.csv")
    about = tomllib.loads((run / "ops.toml").read_text(encoding="utf-8"))
    latest = {ops.key(op_of(r)): r for r in rows}
    folder = out / (slug or device_slug(rows[0]["device"]))
    held: set[str] = set()
    if suffix:
        before = [p for p in folder.glob("*.csv") if not p.stem.endswith(suffix)]
        held = {ops.key(op_of(r)) for path in before for r in read_any(path)}
    counts = _tables(folder, [r for k, r in latest.items() if k not in held], about, suffix)
    twice = _tables(folder / "again", [r for k, r in latest.items() if k in held], about, suffix)
    return counts | {f"again/{name}": count for name, count in twice.items()}


def _tables(
    folder: Path, rows: list[dict[str, str]], about: dict[str, Any], suffix: str
) -> dict[str, int]:
    families: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        families.setdefault(row["family"], []).append(row)
    for name, members in sorted(families.items()):
        folder.mkdir(parents=True, exist_ok=True)
        keep = tuple(c for c in COLUMNS if c != "family" and any(r[c] for r in members))
        text = ",".join(keep) + "\n" + "".join(line(r, keep) for r in members)
        path = folder / f"{name}{suffix}.csv"
        write_atomic(path, text.encode())
        sidecar(path, about, len(members))
    return {name: len(members) for name, members in sorted(families.items())}


def device_slug(name: str) -> str:
    """Folder name of a device: ``NVIDIA H100 80GB HBM3`` gives ``h100-sxm5-80gb``."""
    for chip, slug in (("H100 80GB HBM3", "h100-sxm5-80gb"), ("H200", "h200-sxm-141gb")):
        if chip in name:
            return slug
    return "-".join(name.lower().replace("nvidia", "").split()) or "unknown"
