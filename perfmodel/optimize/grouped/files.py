"""Reading: a layer from JSON, tile-time coefficients of a chip from its data file."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel.errors import CalibrationError, WorkloadError, nearest_name
from perfmodel.files import fitted_table, unique_keys
from perfmodel.optimize.grouped.forms import Packing
from perfmodel.optimize.grouped.library import Library
from perfmodel.optimize.grouped.problem import Group, GroupedConv, equal_groups
from perfmodel.optimize.grouped.sharing import Dealing
from perfmodel.optimize.grouped.tiles import TileTimes, linked, variant_named

_INTEGERS = ("batch", "height", "width", "in_channels", "kernel", "stride", "padding", "dilation")
_REQUIRED = ("batch", "height", "width", "in_channels", "groups")
KEYS = (*_INTEGERS, "groups", "out_channels", "dtype", "name")


def groups_from_json(path: str | Path) -> GroupedConv:
    """A layer from a JSON file.

    ``{"batch", "height", "width", "in_channels", "groups", ...}``; ``groups`` is a list of
    ``{"channels": [indices] or {"start", "count"}, "outputs": n}``, or a number (equal groups, with
    ``out_channels``). ``kernel`` 3, ``stride`` 1, ``padding`` kernel // 2, ``dilation`` 1 and
    ``dtype`` bf16 are the defaults.

    Raises
    ------
    WorkloadError
        With where, what came, what is accepted, the nearest name and the repair.
    """
    where = Path(path)
    try:
        text = where.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise WorkloadError(
            str(path),
            f"<{getattr(error, 'strerror', None) or 'not UTF-8 text'}>",
            "a readable JSON file in UTF-8",
            repair="check the path",
        ) from error
    try:
        data = json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise WorkloadError(
            str(path), f"<{error}>", "one JSON object, every key once", repair="correct the syntax"
        ) from error
    return grouped_conv_from_dict(data, where=where.name)


def grouped_conv_from_dict(data: Any, *, where: str = "groups") -> GroupedConv:
    """The layer that a JSON object describes; see :func:`groups_from_json`."""
    if not isinstance(data, dict):
        raise WorkloadError(where, data, "a JSON object", repair="wrap the layer in {...}")
    for key in data:
        if key not in KEYS:
            raise WorkloadError(
                f"{where}: {key}",
                key,
                ", ".join(KEYS),
                nearest=nearest_name(key, KEYS),
                repair="rename or drop the key",
            )
    for key in _REQUIRED:
        if key not in data:
            raise WorkloadError(
                f"{where}: {key}", "<missing>", "a value", repair=f'add "{key}" to the object'
            )
    sizes = {key: _integer(data[key], f"{where}: {key}") for key in _INTEGERS if key in data}
    sizes.setdefault("kernel", 3)
    sizes.setdefault("padding", sizes["kernel"] // 2)
    for key in ("dtype", "name"):
        if key in data and not isinstance(data[key], str):
            raise WorkloadError(f"{where}: {key}", data[key], "a string", repair="put it in quotes")
    groups = _groups(data, sizes["in_channels"], where)
    dtype, name = data.get("dtype", "bf16"), data.get("name", "")
    return GroupedConv(groups=groups, dtype=dtype, name=name, **sizes)


def _groups(data: dict[str, Any], in_channels: int, where: str) -> tuple[Group, ...]:
    given = data["groups"]
    if isinstance(given, int) and not isinstance(given, bool):
        if "out_channels" not in data:
            raise WorkloadError(
                f"{where}: out_channels",
                "<missing>",
                "a number, when groups is a number",
                repair='add "out_channels"',
            )
        return equal_groups(
            in_channels, _integer(data["out_channels"], f"{where}: out_channels"), given
        )
    if not isinstance(given, list) or not given:
        raise WorkloadError(
            f"{where}: groups",
            given,
            'a number, or a list of {"channels": [...], "outputs": n}',
            repair="list the groups",
        )
    found = []
    for place, one in enumerate(given):
        spot = f"{where}: groups[{place}]"
        if not isinstance(one, dict) or set(one) != {"channels", "outputs"}:
            raise WorkloadError(
                spot, one, '{"channels": [...], "outputs": n}', repair="use exactly these two keys"
            )
        channels = one["channels"]
        if isinstance(channels, dict) and set(channels) == {"start", "count"}:
            start = _integer(channels["start"], f"{spot}.channels.start")
            count = _integer(channels["count"], f"{spot}.channels.count")
            if start < 0 or count < 1 or start + count > in_channels:
                raise WorkloadError(
                    f"{spot}.channels",
                    channels,
                    f"a run inside 0..{in_channels - 1}",
                    repair="correct start and count",
                )
            picked = tuple(range(start, start + count))
        elif isinstance(channels, list):
            picked = tuple(_integer(c, f"{spot}.channels") for c in channels)
        else:
            raise WorkloadError(
                f"{spot}.channels",
                channels,
                'a list of indices or {"start": c, "count": n}',
                repair="list the channels",
            )
        found.append(Group(picked, _integer(one["outputs"], f"{spot}.outputs")))
    return tuple(found)


def _integer(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 2**31 - 1:
        raise WorkloadError(where, value, "a whole number below 2^31", repair="write an integer")
    return value


def read_packing(path: Path) -> Packing | None:
    """The packing kernel of a chip, from the same file; ``None`` if it was not measured."""
    row = fitted_table(path).get("packing")
    if row is None:
        return None
    return Packing(float(row["start_s"]), float(row["bytes_per_s"]), calibrated=True)


def read_library(path: Path) -> Library:
    """Measured over priced time of the library's calls on a chip; all 1 if it was not measured.

    Raises
    ------
    CalibrationError
        If a call has not the two factors, of irregular and of regular channels.
    """
    table = fitted_table(path).get("library", {})
    try:
        pairs = [(name, *map(float, pair)) for name, pair in table.items()]
        found = [
            (name, fits, factor)
            for name, odd, even in pairs
            for fits, factor in ((False, odd), (True, even))
        ]
    except (TypeError, ValueError) as error:
        raise CalibrationError(
            f"{path.name}: library",
            f"<{type(error).__name__}: {error}>",
            "two factors a call",
            repair="fit again, or remove the table",
        ) from error
    return Library(tuple(found))


def read_times(path: Path) -> tuple[TileTimes, ...]:
    """Fitted coefficients of a chip.

    Raises
    ------
    CalibrationError
        If the file is not what the measuring script writes.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        dealt = data.get("dealing", {})
        dealing = Dealing(
            int(dealt.get("early_units", 0)), tuple(map(int, dealt.get("early_slots", ())))
        )
        times = tuple(
            TileTimes(
                variant_named(row["variant"]),
                np.array(row["alpha_s"], dtype=float),
                np.array(row["beta_s"], dtype=float),
                int(row["residency"]),
                float(row["launch_s"]),
                calibrated=True,
                begin=float(row["begin_s"]),
                gamma=np.array(row["gamma_s"], dtype=float) if "gamma_s" in row else None,
                spread=float(row.get("spread", 0.0)),
            )
            for row in data["times"]
        )
        return linked(times, dealing)
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise CalibrationError(
            path.name,
            f"<{type(error).__name__}: {error}>",
            "[[times]] tables with variant, residency, begin_s, launch_s, alpha_s, beta_s",
            repair="measure again, or remove the file to fall back on the datasheet",
        ) from error
