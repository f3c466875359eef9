"""Units at the edge, SI inside.

Files and command lines say ``"2039 GB/s"``; everything else holds floats in s, B, B/s, FLOP,
FLOP/s, W, J, Hz and USD. Decimal prefixes are powers of ten, binary ones (``GiB``) powers of two,
and a lower-case ``b`` is a bit. The table is closed: what it does not list is an error.
"""

from __future__ import annotations

import math
import re
from typing import Final, SupportsFloat, SupportsIndex

from perfmodel.errors import UnitError, nearest_name

_DECIMAL: Final = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY: Final = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
_SMALL: Final = {"n": 1e-9, "u": 1e-6, "µ": 1e-6, "m": 1e-3}


def _table() -> dict[str, tuple[str, float]]:
    """Unit text -> (dimension, factor to SI)."""
    table: dict[str, tuple[str, float]] = {}
    for prefix, factor in (_DECIMAL | _BINARY).items():
        table[f"{prefix}B"] = ("bytes", factor)
        table[f"{prefix}B/s"] = ("bytes per second", factor)
    for prefix, factor in _DECIMAL.items():
        for bit in ("b", "bit"):
            table[f"{prefix}{bit}"] = ("bytes", factor / 8)
            table[f"{prefix}{bit}/s"] = ("bytes per second", factor / 8)
        for operation in ("FLOP", "OP"):
            table[f"{prefix}{operation}"] = ("operations", factor)
            table[f"{prefix}{operation}/s"] = ("operations per second", factor)
        table[f"{prefix}Hz"] = ("hertz", factor)
        table[f"{prefix}W"] = ("watts", factor)
        table[f"{prefix}J"] = ("joules", factor)
    for prefix, factor in _SMALL.items():
        table[f"{prefix}s"] = ("seconds", factor)
        table[f"{prefix}W"] = ("watts", factor)
        table[f"{prefix}J"] = ("joules", factor)
    for name, seconds in {"s": 1.0, "min": 60.0, "h": 3600.0, "day": 86400.0}.items():
        table[name] = ("seconds", seconds)
    table["Wh"], table["kWh"] = ("joules", 3600.0), ("joules", 3.6e6)
    table["USD"], table["USD/h"] = ("dollars", 1.0), ("dollars per second", 1 / 3600.0)
    return table


UNITS: Final = _table()
DIMENSIONS: Final = sorted({dimension for dimension, _ in UNITS.values()})
_QUANTITY: Final = re.compile(
    r"\s*([-+]?\d[\d_]*\.?\d*(?:[eE][-+]?\d+)?|[-+]?\.\d+)\s*([^\s\d.]\S*)\s*"
)


def parse(text: str, dimension: str, *, where: str = "quantity") -> float:
    """Read a quantity such as ``"2039 GB/s"`` as a float in SI.

    Parameters
    ----------
    text : str
        A number and a unit.
    dimension : str
        What the unit must measure; one of :data:`DIMENSIONS`.
    where : str
        Named in the error.

    Raises
    ------
    UnitError
        If the text is not a finite, non-negative number with a known unit of that dimension.

    Examples
    --------
    >>> parse("2039 GB/s", "bytes per second")
    2039000000000.0
    >>> parse("400 Gbit/s", "bytes per second")
    50000000000.0
    """
    accepted = f'a number and a unit of {dimension}, such as "{_example(dimension)}"'
    match = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
    if match is None or _is_bare(text):
        raise UnitError(where, text, accepted, repair="write the number, a space and the unit")
    unit = match[2]
    if unit not in UNITS:
        known = [name for name, (kind, _) in UNITS.items() if kind == dimension]
        raise UnitError(
            where,
            text,
            accepted,
            nearest=nearest_name(unit, known),
            repair=f"replace the unit {unit!r} by one of {', '.join(known[:8])}",
        )
    kind, factor = UNITS[unit]
    if kind != dimension:
        raise UnitError(
            where, text, accepted, repair=f"{unit!r} measures {kind}; give {dimension} here"
        )
    value = float(match[1].replace("_", "")) * factor
    if not math.isfinite(value) or value < 0:
        raise UnitError(where, text, accepted, repair="give a finite number that is not negative")
    return value


def whole(value: object) -> int | None:
    """``value`` as an int where it is a whole number, NumPy's too; ``None`` where it is not.

    A truth value is no number, nor is ``64.0``.
    """
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    try:
        return value.__index__()
    except TypeError:  # an array of several, or of other than whole numbers
        return None


def number(value: object) -> float | None:
    """``value`` as a float where it is a finite number, NumPy's too; ``None`` where it is not."""
    if isinstance(value, bool | str | bytes) or not isinstance(value, SupportsFloat):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):  # an array of several; beyond a float
        return None
    return found if math.isfinite(found) else None


def _is_bare(text: str) -> bool:
    """Whether it is a number without a unit, whose last digits are none."""
    try:
        float(text.replace(" ", ""))
    except ValueError:
        return False
    return True


def _example(dimension: str) -> str:
    return {
        "bytes": "80 GiB",
        "bytes per second": "2039 GB/s",
        "operations": "1 GFLOP",
        "operations per second": "312 TFLOP/s",
        "hertz": "1410 MHz",
        "watts": "400 W",
        "joules": "1 J",
        "seconds": "2 us",
        "dollars": "10 USD",
        "dollars per second": "2.5 USD/h",
    }[dimension]


def _scaled(value: float, steps: list[tuple[float, str]], suffix: str = "") -> str:
    """``value`` in the largest step that leaves at least one whole unit."""
    for factor, name in steps:
        if abs(value) >= factor * 0.9995:
            return f"{value / factor:.4g} {name}{suffix}"
    factor, name = steps[-1]
    return f"{value / factor:.4g} {name}{suffix}"


def format_seconds(seconds: float) -> str:
    """``0.00123`` -> ``"1.23 ms"``."""
    steps = [(86400.0, "day"), (3600.0, "h"), (1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")]
    return _scaled(seconds, steps)


def format_bytes(size: float) -> str:
    """``2**31`` -> ``"2 GiB"``; capacities are binary."""
    return _scaled(
        size, [(2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")]
    )


def format_rate(rate: float, unit: str = "B/s") -> str:
    """``2.039e12`` -> ``"2.039 TB/s"``; decimal. ``unit``: B/s, FLOP/s, Hz, W or J."""
    steps = [(1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")]
    return _scaled(rate, steps, unit).replace("  ", " ")
