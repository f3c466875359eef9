"""What a file that extends another leaves to follow from what it changes.

Half the units at the same clock have half the peaks: who changes units or clocks and states no peak
means that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from perfmodel.errors import UnitError
from perfmodel.units import parse, whole

_SAME: Final = 1e-9
_TABLES: Final = {"matrix": "matrix", "vector": "vector", "matrix_sparse": "matrix"}
"""Tables of peaks, and those of what a clock does, by kind of unit."""


def following(child: Mapping[str, Any], parent: Mapping[str, Any]) -> dict[str, Any]:
    """Peaks and matrix clock of a chip, in proportion to the units and clocks that ``child`` has.

    Parameters
    ----------
    child, parent : mapping
        A file's own values, and all of what it extends.

    Returns
    -------
    dict
        Values of further fields, laid out as in a file; empty where nothing follows. What ``child``
        states itself is not among them, nor what does not follow from ``parent``'s values (which
        their own checks may complain of).
    """
    try:
        return _scaled(child, parent)
    except (UnitError, TypeError, ValueError, KeyError, AttributeError):
        return {}


def _scaled(child: Mapping[str, Any], parent: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    before, own = parent.get("clock", {}), child.get("clock", {})
    units = _units(child, parent) / _units(parent, parent)
    boost = _hertz(own.get("boost", before["boost"])) / _hertz(before["boost"])
    matrix = boost
    if "matrix" in before:
        usual = _hertz(before["matrix"])
        matrix = _hertz(own["matrix"]) / usual if "matrix" in own else boost
        if "matrix" not in own and abs(boost - 1.0) > _SAME:
            found["clock"] = {"matrix": f"{usual * boost:.10g} Hz"}
    for table, kind in _TABLES.items():
        peaks = parent.get("peak", {}).get(table, {})
        stated = child.get("peak", {}).get(table, {})
        for dtype, text in peaks.items():
            each = parent.get("per_clock", {}).get(kind, {}).get(dtype)
            if dtype in stated or each is None:
                continue
            mine = child.get("per_clock", {}).get(kind, {}).get(dtype, each)
            clock = matrix if kind == "matrix" and _behind_matrix(parent, dtype) else boost
            ratio = units * clock * mine / each
            if abs(ratio - 1.0) > _SAME:
                rate = parse(text, "operations per second") * ratio
                found.setdefault("peak", {}).setdefault(table, {})[dtype] = f"{rate:.10g} FLOP/s"
    return found


def _behind_matrix(parent: Mapping[str, Any], dtype: str) -> bool:
    """Whether the matrix clock, and not the boost clock, is behind a dense matrix peak."""
    clocks = parent["clock"]
    peak = parent["peak"]["matrix"].get(dtype)
    if "matrix" not in clocks or peak is None:
        return False
    rate = parse(peak, "operations per second")
    work = parent["units"] * parent["per_clock"]["matrix"][dtype]
    off: dict[str, float] = {
        name: abs(rate / (work * _hertz(clocks[name])) - 1.0) for name in ("matrix", "boost")
    }
    return off["matrix"] < off["boost"]


def _units(values: Mapping[str, Any], parent: Mapping[str, Any]) -> float:
    found = whole(values.get("units", parent["units"]))
    if found is None or found < 1:
        raise ValueError
    return float(found)


def _hertz(text: Any) -> float:
    value = parse(text, "hertz")
    if value <= 0.0:
        raise ValueError
    return value
