"""Pictures of collectives: curves of bus bandwidth, generations left out, work at once.

``python -m perfmodel.report.collectives FOLDER`` draws them from ``validate/`` and the shipped
coefficients.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from perfmodel.calibrate.network_beside import beside_rows, predict_beside
from perfmodel.calibrate.network_measured import KEY, measured_rows, predict_measured
from perfmodel.calibrate.network_published import CARDS, GENERATIONS, TARGETS
from perfmodel.calibrate.network_rows import published_rows
from perfmodel.calibrate.network_score import curves, left_out_rows, predict_published
from perfmodel.network.coefficients import LinkCoefficients, fitted
from perfmodel.network.interference import interference
from perfmodel.report.style import COLOURS, figure, save

Floats = NDArray[np.float64]
Curve = Mapping[str, Floats]
# What is shown of the published table: (hardware, operation, ranks) and a title.
PANELS: Final = (
    (("A100-SXM4-80GB", "all_reduce", 8), "A100 x 8, all-reduce"),
    (("H100-SXM5-80GB", "all_reduce", 8), "H100 x 8, all-reduce (NVLS)"),
    (("H100-SXM5-80GB", "all_to_all", 8), "H100 x 8, all-to-all"),
    (("H200-SXM", "reduce_scatter", 8), "H200 x 8, reduce-scatter"),
    (("B200-SXM (second site)", "all_reduce", 8), "B200 x 8, another site, all-reduce"),
    (("B200-SXM (second site)", "all_gather", 8), "B200 x 8, another site, all-gather"),
    (("H100-SXM5 (NDR400)", "all_reduce", 16), "2 x 8 H100, NDR InfiniBand, all-reduce"),
    (("H100-SXM5 (NDR400)", "all_reduce", 32), "4 x 8 H100, NDR InfiniBand, all-reduce"),
    (("H100-SXM5 (NDR400, second site)", "all_reduce", 64), "8 x 8 H100, another site"),
    (("B200-SXM (NDR400, second site)", "all_gather", 16), "2 x 8 B200, NDR, all-gather"),
    (("B200-SXM (NDR400, second site)", "all_to_all", 16), "2 x 8 B200, NDR, all-to-all"),
    (("A100-SXM4-80GB (HDR200, Azure)", "all_reduce", 16), "2 x 8 A100, HDR, Azure"),
)


def bandwidth_curves(title: str, panels: Sequence[tuple[str, Curve]]) -> Figure:
    """Bus bandwidth against size: measured points (hollow where no fit saw them), predicted lines.

    Parameters
    ----------
    title : str
        Of the whole.
    panels : sequence of (title, curve)
        Curves as :func:`perfmodel.calibrate.network_score.curves` gives them.
    """
    columns = 3
    rows = -(-len(panels) // columns)
    with figure(10.0, 2.3 * rows + 0.5) as (drawn, first):
        first.remove()
        grid = drawn.subplots(rows, columns, squeeze=False).ravel()
        for axes, (name, curve) in zip(grid, panels, strict=False):
            _curve(axes, name, curve)
        for axes in grid[len(panels) :]:
            axes.remove()
        grid[0].legend(fontsize=7, loc="lower right")
        drawn.suptitle(title, x=0.01, ha="left", fontsize=11)
    return drawn


def _curve(axes: Axes, name: str, curve: Curve) -> None:
    seen = curve["held"] < 0.5
    measured = curve["busbw"] / 1e9
    axes.loglog(
        curve["size"], curve["predicted_busbw"] / 1e9, color=COLOURS[1], lw=1.4, label="predicted"
    )
    axes.plot(
        curve["size"][~seen], measured[~seen], "o", ms=3.5, mfc="none", color=COLOURS[0],
        label="measured, unseen",
    )  # fmt: skip
    axes.plot(
        curve["size"][seen], measured[seen], "o", ms=3.5, color=COLOURS[0], label="measured, fitted"
    )
    axes.set_title(name, fontsize=8)
    axes.set_xlabel("bytes", fontsize=7)
    axes.set_ylabel("bus bandwidth [GB/s]", fontsize=7)
    axes.tick_params(labelsize=7)
    axes.yaxis.set_minor_formatter(NullFormatter())


def ratios(title: str, series: Mapping[str, tuple[Floats, Floats]], xlabel: str) -> Figure:
    """Predicted over measured against something, one colour a series; bands at 25 %.

    Parameters
    ----------
    series : mapping of str to (x, ratio)
        Points.
    """
    with figure(8.0, 4.0) as (drawn, axes):
        for colour, (name, (x, ratio)) in zip(COLOURS, series.items(), strict=False):
            axes.plot(x, ratio, "o", ms=3, alpha=0.6, color=colour, label=name)
        axes.axhline(1.0, color="#444444", lw=0.8)
        for edge in (0.75, 1.25):
            axes.axhline(edge, color="#444444", lw=0.6, ls=":")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_yticks([0.5, 0.75, 1.0, 1.25, 1.5, 2.0], ["0.5", "0.75", "1", "1.25", "1.5", "2"])
        axes.set_yticks([], minor=True)
        axes.set_xlabel(xlabel)
        axes.set_ylabel("predicted / measured")
        axes.set_title(title)
        axes.legend(ncols=3, fontsize=8)
    return drawn


def among(title: str, series: Mapping[str, tuple[Floats, Floats, Floats]]) -> Figure:
    """A collective's time among kernels against its time alone, measured and predicted [us]."""
    with figure(8.0, 4.0) as (drawn, axes):
        for colour, (name, (alone, both, there)) in zip(COLOURS, series.items(), strict=False):
            order = np.argsort(alone)
            axes.loglog(alone[order] * 1e6, there[order] * 1e6, color=colour, lw=1.2)
            axes.plot(alone * 1e6, both * 1e6, "o", ms=4, mfc="none", color=colour, label=name)
        low, high = axes.get_xlim()
        axes.plot([low, high], [low, high], color="#444444", lw=0.8, ls=":")
        axes.set_xlabel("collective alone [us]")
        axes.set_ylabel("collective among kernels [us]")
        axes.set_title(title)
        axes.legend(fontsize=8)
    return drawn


def draw(validate: Path, folder: Path) -> list[Path]:
    """All pictures of the accuracy page; returns the paths.

    Parameters
    ----------
    validate : Path
        The folder with ``published`` and ``measurements``.
    folder : Path
        Where the pictures go.
    """
    links = {target.key: _shipped(target.key) for target in TARGETS}
    rows, _ = published_rows(validate / "published" / "collectives.csv")
    found = dict(curves(rows, predict_published(rows, links)))
    published = [(title, found[key]) for key, title in PANELS if key in found]
    drawn = {"curves": bandwidth_curves("Published collectives", published)}

    own = measured_rows(validate / "measurements" / "h200-sxm-141gb-x4" / "collectives.csv")
    mine = dict(curves(own, predict_measured(own, _shipped(KEY))))
    wanted = [(op, ranks) for op in ("all_reduce", "all_gather", "all_to_all") for ranks in (2, 4)]
    shown = [
        (f"{op.replace('_', '-')}, {ranks} H200", mine["h200-sxm-141gb-x4", op, ranks])
        for op, ranks in wanted
    ]
    drawn["own"] = bandwidth_curves("Measured on H200, CUDA graphs, no in-network reduction", shown)

    cards = {key: _shipped(key) for key in CARDS}
    generations = {}
    for generation in GENERATIONS:
        part, there = left_out_rows(rows, cards, generation)
        generations[generation] = (part.size, there / part.seconds)
    drawn["generations"] = ratios(
        "A generation predicted from the others alone", generations, "bytes"
    )

    table = validate / "measurements" / "h200-sxm-141gb-x2" / "collectives-drawn.csv"
    beside, _ = beside_rows([table])
    predicted = predict_beside(beside, interference("nccl-nvlink4"))
    series = {}
    for kernel in np.unique(beside.kernel):
        mask = beside.kernel == kernel
        name = f"among {beside.kind[mask][0]} kernels of {kernel * 1e6:.0f} us"
        series[name] = (beside.alone[mask], beside.both[mask], predicted[mask])
    drawn["beside"] = among("Two H200s, sizes drawn later: no fit saw a point", series)
    return [save(each, folder / f"{name}.svg") for name, each in drawn.items()]


def _shipped(key: str) -> LinkCoefficients:
    found = fitted(key)
    if found is None:
        raise FileNotFoundError(key)
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="perfmodel.report.collectives", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--validate", type=Path, default=Path("validate"))
    options = parser.parse_args(arguments)
    for path in draw(options.validate, options.folder):
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
