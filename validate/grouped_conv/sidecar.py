"""Provenance beside the numbers: device, driver, clocks, versions, command, date, hash."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from perfmodel.files import write_text
from perfmodel.optimize.grouped.forms import Packing
from perfmodel.optimize.grouped.library import Library
from perfmodel.optimize.grouped.tiles import TileTimes


class Written(Protocol):
    """A finished CSV."""

    path: Path
    rows: int


def environment() -> dict[str, dict[str, Any]]:
    """What the numbers depend on; absent where it cannot be read."""
    import numpy
    import torch

    library: dict[str, Any] = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "cuda": torch.version.cuda or "",
        "cudnn": str(torch.backends.cudnn.version() or ""),
    }
    try:
        import triton

        library["triton"] = triton.__version__
    except ImportError:
        pass
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        library["device"] = properties.name
        library["compute_capability"] = f"{properties.major}.{properties.minor}"
        library["sm_count"] = properties.multi_processor_count
    board: dict[str, Any] = {}
    try:
        from validate.bench.nvml import board_facts

        board = dict(board_facts())
    except Exception as error:
        board = {"unread": repr(error)[:120]}
    return {"library": library, "board": board}


def _value(value: Any) -> str:
    return repr(value) if isinstance(value, (int, float)) else json.dumps(str(value))


def write_sidecars(
    out: Path,
    written: Sequence[Written],
    facts: dict[str, dict[str, Any]],
    date: str,
    budget_s: float,
    wall_s: float,
    *,
    verb: str = "measure",
) -> None:
    """One TOML beside each CSV; ``verb`` is the command that ran."""
    for one in written:
        digest = hashlib.sha256(one.path.read_bytes()).hexdigest()
        lines = [
            f"file = {_value(one.path.name)}",
            f"rows = {one.rows}",
            f'sha256 = "{digest}"',
            f"date = {_value(date)}",
            f'command = "python3 -m validate.grouped_conv {verb} --out OUT --seconds {budget_s:g}"',
            f"budget_s = {budget_s}",
            f"wall_s = {wall_s:.1f}",
            'protocol = "CUDA graph of one call per input set (4..48 sets, about 150 MB in all), '
            "random normal operands, events around each replay, >= 5 replays and >= 4 ms; slot "
            'times by the device clock (globaltimer), median of 3 launches by the slowest slot"',
        ]
        for section, values in facts.items():
            lines += ["", f"[{section}]"]
            lines += [f"{json.dumps(str(k))} = {_value(v)}" for k, v in values.items()]
        write_text(out / (one.path.stem + ".toml"), "\n".join(lines) + "\n")


def write_coefficients(
    path: Path,
    fitted: Sequence[TileTimes],
    packing: Packing | None = None,
    library: Library | None = None,
) -> None:
    """Tile-time coefficients as the scheduler reads them."""
    lines = [
        "# Written by `python3 -m validate.grouped_conv`.",
        "# A tile takes alpha + steps * beta + filled steps * gamma [s].",
    ]
    dealing = fitted[0].dealing
    if dealing.early:
        lines += [
            "",
            "[dealing]",
            f"early_units = {dealing.early}",
            f"early_slots = {list(dealing.starts)}",
        ]
    if packing is not None:
        lines += [
            "",
            "[packing]",
            f"start_s = {packing.start:.6g}",
            f"bytes_per_s = {packing.rate:.6g}",
        ]
    if library is not None:
        lines += [
            "",
            "# Measured over priced time, of irregular and of regular channels.",
            "[library]",
        ]
        for name in sorted({name for name, _, _ in library.factors}):
            pair = ", ".join(f"{library.factor(name, fits):.6g}" for fits in (False, True))
            lines.append(f"{name} = [{pair}]")
    for times in fitted:
        lines += [
            "",
            "[[times]]",
            f'variant = "{times.variant.name}"',
            f"residency = {times.residency}",
            f"begin_s = {times.begin:.6g}",
            f"launch_s = {times.launch:.6g}",
            f"spread = {times.spread:.6g}",
            "alpha_s = [" + ", ".join(f"{v:.6g}" for v in times.alpha) + "]",
            "beta_s = [" + ", ".join(f"{v:.6g}" for v in times.beta) + "]",
            "gamma_s = [" + ", ".join(f"{v:.6g}" for v in times.fill) + "]",
        ]
    write_text(path, "\n".join(lines) + "\n")
