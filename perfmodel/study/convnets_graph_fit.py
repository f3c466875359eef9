"""Gap and factors of replayed networks from one half of those measured, errors on the other.

``python -m perfmodel.study.convnets_graph_fit [CHIP]`` reads ``validate/measurements/CHIP/models``,
writes ``hardware_specs/efficiency/convnets.toml`` and prints the errors; the name of a network
decides its half.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from perfmodel.calibrate.programs.rows import read_model_rows
from perfmodel.cost.efficiency import efficiency_folder
from perfmodel.files import write_text
from perfmodel.hardware import Accelerator, load_accelerator
from perfmodel.study.convnets import infer_convnet
from perfmodel.study.convnets_graph import FILE, Graph
from perfmodel.study.scores import TUNE, half

NETWORKS: Final = MappingProxyType(
    {
        "alexnet": "alexnet",
        "vgg16": "vgg16",
        "resnet18": "resnet18",
        "resnet50": "resnet50",
        "resnext50_32x4d": "resnext50-32x4d",
        "wide_resnet50_2": "wide-resnet50-2",
        "densenet121": "densenet121",
        "mobilenet_v2": "mobilenet-v2",
        "mobilenet_v3_large": "mobilenet-v3-large",
        "efficientnet_b0": "efficientnet-b0",
        "efficientnet_b2": "efficientnet-b2",
        "efficientnet_b4": "efficientnet-b4",
        "shufflenet_v2_x1_0": "shufflenet-v2-x1_0",
        "regnet_x_3_2gf": "regnet-x_3_2gf",
        "convnext_tiny": "convnext-tiny",
    }
)
"""Measured name -> bundled network of the same layers."""
RIDGE: Final = 0.1
"""Weight of a squared logarithm of a factor."""


@dataclass(frozen=True, slots=True)
class Replay:
    """One measured replay beside the kernels of the bundled network."""

    network: str
    batch: int
    measured: float
    kinds: tuple[tuple[str, float], ...]
    kernels: int

    @property
    def tune(self) -> bool:
        """Whether it may be fitted on."""
        return half(self.network) == TUNE


def replays(folder: Path, accelerator: Accelerator) -> list[Replay]:
    """Inference steps of known networks that were replayed from a graph."""
    found = []
    for row in read_model_rows(folder):
        if row.kind == "infer" and row.mode == "graph" and row.model in NETWORKS:
            layout = row.case.split("/")[6]
            step = infer_convnet(
                NETWORKS[row.model], accelerator, row.batch, dtype=row.dtype, layout=layout
            )
            found.append(Replay(row.model, row.batch, row.step_s, step.kinds, step.kernels))
    return found


def fit(rows: Sequence[Replay]) -> Graph:
    """Least squares in the logarithm, factors with a ridge towards 1."""
    kinds = sorted({kind for row in rows for kind, _ in row.kinds})
    parts = np.array([[dict(row.kinds).get(kind, 0.0) for kind in kinds] for row in rows])
    kernels = np.array([row.kernels for row in rows], dtype=float)
    measured = np.array([row.measured for row in rows])

    def residual(logs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        said = parts @ np.exp(logs[1:]) + np.exp(logs[0]) * 1e-6 * kernels
        return np.concatenate([np.log(said / measured), np.sqrt(RIDGE) * logs[1:]])

    solved: Any = least_squares(residual, np.zeros(1 + len(kinds)))
    values = np.exp(solved.x)
    return Graph(float(values[0]) * 1e-6, tuple(zip(kinds, values[1:].tolist(), strict=True)))


def errors(rows: Sequence[Replay], graph: Graph) -> npt.NDArray[np.float64]:
    """``predicted / measured - 1`` of every row."""
    return np.array([graph.seconds(row.kinds, row.kernels) / row.measured - 1 for row in rows])


def text(graph: Graph, architecture: str, chip: str) -> str:
    """The TOML."""
    lines = [
        "# Written by `python -m perfmodel.study.convnets_graph_fit`; do not edit.",
        f"# Inference steps measured on {chip}, half of the networks.",
        f"[graph.{architecture}]",
        f"gap_seconds = {graph.gap:.4g}",
        "",
        f"[graph.{architecture}.factors]",
        *(f'"{kind}" = {value:.4g}' for kind, value in graph.factors),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Fit one chip."""
    chip = arguments[0] if arguments else "h100-sxm5-80gb"
    root = Path(__file__).resolve().parents[2]
    accelerator = load_accelerator(chip)
    rows = replays(root / "validate" / "measurements" / chip / "models", accelerator)
    graph = fit([row for row in rows if row.tune])
    write_text(efficiency_folder() / FILE, text(graph, accelerator.family, chip))
    for name, tune in (("fitted on", True), ("unseen", False)):
        found = errors([row for row in rows if row.tune == tune], graph)
        sys.stdout.write(
            f"{name}: {len(found)} rows, mean error {np.abs(found).mean():.1%},"
            f" median {np.median(found):+.1%}, worst {np.abs(found).max():.0%}\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
