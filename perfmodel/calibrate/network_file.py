"""Write fitted coefficients as a TOML file that the network model reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from perfmodel.files import write_text
from perfmodel.network.coefficients import LinkCoefficients, to_dict

HEAD = """\
# Fitted by `python -m perfmodel.calibrate.network_score`; not written by hand. Times in seconds,
# shares of the datasheet's rate per direction. `correction` holds log(measured / mechanism) and its
# standard deviation on a grid of log2(bytes); rows are rank counts (domains, for a fabric).
"""


def write_links(links: Mapping[str, LinkCoefficients], folder: Path) -> list[Path]:
    """One file a link; written to a temporary name, then moved."""
    return [
        write_text(folder / f"{key}.toml", HEAD + "\n".join(_lines(to_dict(link), "")) + "\n")
        for key, link in links.items()
    ]


def _lines(table: Mapping[str, Any], name: str) -> Iterator[str]:
    """Plain values first, then the tables inside."""
    inner = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    if name and len(inner) < len(table):
        yield f"\n[{name}]"
    for key, value in table.items():
        if key not in inner:
            yield f"{key} = {_value(value)}"
    for key, value in inner.items():
        yield from _lines(value, f"{name}.{key}" if name else key)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        if value and isinstance(value[0], list | tuple):
            return "[\n" + "".join(f"    {_value(each)},\n" for each in value) + "]"
        return "[" + ", ".join(_value(each) for each in value) + "]"
    if isinstance(value, float):
        return repr(float(f"{value:.5g}"))
    return repr(value)
