"""Board power, measured against predicted: ``python -m perfmodel.report.power FOLDER CHIP OUT``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from perfmodel.calibrate.measurements import load_measurements
from perfmodel.calibrate.power import PowerFit, fit_power
from perfmodel.errors import CalibrationError
from perfmodel.hardware import load_accelerator
from perfmodel.report.style import COLOURS, figure, save


def power_figure(fit: PowerFit, chip: str) -> Figure:
    """Rows with a power reading, predicted by fits that did not see them, a colour a family."""
    measured, predicted = fit.rows.share, fit.held_out
    error = 100.0 * np.abs(predicted / measured - 1.0)
    families = np.asarray(fit.rows.families)
    names, counts = np.unique(families, return_counts=True)
    ranked = [str(name) for name in names[np.argsort(-counts)]]
    with figure(6.4, 5.2) as (drawn, axes):
        for place, name in enumerate(ranked):
            chosen = families == name
            colour = COLOURS[min(place, 6)]
            label = name if place < 6 else ("others" if place == 6 else None)
            axes.scatter(measured[chosen], predicted[chosen], s=14, color=colour, label=label)
        ends = (0.95 * min(measured.min(), predicted.min()), 1.03 * measured.max())
        axes.plot(ends, ends, color="#333333", lw=0.8)
        axes.axhline(1.0, color="#7F7F7F", lw=0.8, ls=":")
        axes.set(
            xlabel="measured, share of the design power",
            ylabel="predicted by folds that did not see the row",
            title=f"{chip}: board power of {measured.size} operators\n"
            f"mean error {error.mean():.1f} %, median {np.median(error):.1f} %,"
            f" worst {error.max():.0f} %",
        )
        axes.legend(loc="lower right")
    return drawn


def main(arguments: list[str] | None = None) -> None:
    """Draw the figure of a folder of measurements.

    Raises
    ------
    CalibrationError
        If too few rows carry a reading.
    """
    parser = argparse.ArgumentParser(prog="perfmodel.report.power", description=__doc__)
    parser.add_argument("folder", type=Path, help="validate/measurements/CHIP")
    parser.add_argument("chip")
    parser.add_argument("out", type=Path, help="the picture")
    given = parser.parse_args(arguments)
    rows = load_measurements(given.folder, given.chip).rows
    fit = fit_power(rows, load_accelerator(given.chip))
    if fit is None:
        raise CalibrationError(
            str(given.folder),
            "<too few rows with a power_w>",
            "operators whose board power was read",
            repair="measure operators of the plan that ask for power",
        )
    save(power_figure(fit, given.chip), given.out)


if __name__ == "__main__":
    main()
