"""One look for every figure: colour-blind safe colours, thin axes, direct labels, whole files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perfmodel.errors import FileError, nearest_name
from perfmodel.files import replacing

# Okabe and Ito, "Color Universal Design", 2008; then darker and lighter tones of the same.
COLOURS: Final = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#7F7F7F",
    "#F0E442",
    "#004466",
    "#8A3B00",
    "#A6DCC8",
    "#5C2A4A",
)

_SETTINGS: Final[dict[Any, Any]] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.prop_cycle": cycler(color=COLOURS),
    "font.size": 9,
    "legend.frameon": False,
    "svg.hashsalt": "perfmodel",
    "figure.dpi": 120,
}


@contextmanager
def figure(width: float = 7.0, height: float = 4.2) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one pair of axes in the house style [inches]; no global state is touched."""
    with mpl.rc_context(_SETTINGS):
        drawn = Figure(figsize=(width, height), layout="constrained")
        yield drawn, drawn.subplots()


def save(drawn: Figure, path: str | Path) -> Path:
    """Write the figure under a temporary name, then rename it; the suffix decides the format.

    Raises
    ------
    FileError
        If the suffix names no picture format, or the path cannot be written.
    """
    target = Path(path)
    known = sorted(f".{name}" for name in drawn.canvas.get_supported_filetypes())
    if target.suffix.lower() not in known:
        raise FileError(
            str(target),
            target.suffix or "<no suffix>",
            ", ".join(known),
            nearest=nearest_name(target.suffix, known),
            repair="end the name in one of the accepted suffixes, such as .svg",
        )
    # The salt among the settings makes two equal figures equal files.
    with replacing(target) as draft, mpl.rc_context(_SETTINGS):
        drawn.savefig(draft, metadata={"Date": None} if target.suffix == ".svg" else None)
    return target
