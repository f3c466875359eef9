"""Networks replayed from a CUDA graph: what lies between kernels, and kernels in company.

A kernel measured alone stands behind copies of itself, whose start hides in the end of the one
before, and finds its weights in cache. In a network each kernel waits for another: a gap for each,
and one factor for each kind of kernel, fitted on networks measured on the chip
(:mod:`perfmodel.study.convnets_graph_fit`). Chips of one architecture share them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from perfmodel.cost.efficiency import efficiency_folder
from perfmodel.errors import CalibrationError

FILE = "convnets.toml"


@dataclass(frozen=True, slots=True)
class Graph:
    """Gap between dependent kernels [s], and factors of kinds of kernels (1 where not named)."""

    gap: float
    factors: tuple[tuple[str, float], ...]

    def seconds(
        self, kinds: Iterable[tuple[str, float]], kernels: int, *, fused: bool = False
    ) -> float:
        """Replay of a network from its kernel times by kind and their number [s].

        A compiler's ``fused`` element-wise kernels are not those that factors were fitted on.
        """
        known = {k: f for k, f in self.factors if not (fused and k.startswith("stream"))}
        work = sum(known.get(kind, 1.0) * seconds for kind, seconds in kinds)
        return work + self.gap * kernels


@lru_cache(maxsize=16)
def graph_of(architecture: str, path: Path | None = None) -> Graph | None:
    """What was fitted for an architecture; ``None`` if nothing was.

    Raises
    ------
    CalibrationError
        If the file is damaged.
    """
    path = efficiency_folder() / FILE if path is None else path
    if not path.is_file():
        return None
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))["graph"].get(architecture)
        if table is None:
            return None
        factors = {str(kind): float(value) for kind, value in table["factors"].items()}
        return Graph(float(table["gap_seconds"]), tuple(sorted(factors.items())))
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CalibrationError(
            str(path),
            f"<{type(error).__name__}: {error}>",
            "tables [graph.<architecture>] with gap_seconds and factors",
            repair="run `python -m perfmodel.study.convnets_graph_fit`, or restore the file",
        ) from None
