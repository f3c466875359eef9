"""Fit what collectives and compute cost each other, from the harness's ``beside`` rows."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Final

import numpy as np

from perfmodel.errors import CalibrationError
from perfmodel.network.interference import Interference

LEAST_BYTES: Final = 2.0**28  # below, most of the time is the wait for the running kernel


def fit_beside(path: Path, source: str) -> tuple[Interference, dict[str, tuple[int, float]]]:
    """Factors, and (rows, spread of the log) behind each.

    A collective's time beside a kernel is ``wait + factor * alone``; the two follow from its times
    at the largest sizes by least squares, for matrix products and copies apart. Rows whose
    neighbour ended too soon are left out.
    """
    compute: list[tuple[str, float]] = []
    moved: dict[str, list[tuple[float, float]]] = {"gemm": [], "copy": []}
    kernel: dict[str, list[float]] = {"gemm": [], "copy": []}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if not row["beside"] or row["note"] or float(row["bytes"]) < LEAST_BYTES:
                continue
            alone, both = float(row["alone_us"]), float(row["latency_us"])
            kind = row["op"].split()[0]
            if kind in kernel:
                compute.append((kind, both / alone))
                kernel[kind].append(alone)
            else:
                moved[row["beside"].split()[0]].append((alone, both))
    if min(len(points) for points in moved.values()) < 2 or not compute:
        raise CalibrationError(
            str(path), "too few rows beside a matrix product or a copy", "at least two of each",
            repair="measure with all of the devices for longer",
        )  # fmt: skip
    factors, waits, counts = {}, [], {}
    for kind, points in moved.items():
        alone, both = np.array(points).T
        slope, constant = np.polyfit(alone, both, 1)
        factors[kind] = max(float(slope), 1.0)
        waits.append(float(constant) / float(np.median(kernel[kind])))
        misses = np.log((constant + slope * alone) / both)
        counts[f"collective_by_{kind}"] = (len(points), float(np.std(misses)))
    ratios = {kind: np.array([ratio for name, ratio in compute if name == kind]) for kind in kernel}
    for kind, values in ratios.items():
        counts[kind] = (len(values), float(np.std(np.log(values))))
    found = Interference(
        compute=float(np.median(ratios["gemm"])),
        memory=float(np.median(ratios["copy"])),
        collective_by_compute=factors["gemm"],
        collective_by_memory=factors["copy"],
        wait=float(np.mean(waits)),
        fitted=True,
        sources=(source,),
    )
    return found, counts


def write_beside(factors: Interference, path: Path) -> None:
    """Write the file that :func:`perfmodel.network.interference.interference` reads."""
    names = ("compute", "memory", "collective_by_compute", "collective_by_memory", "wait")
    lines = ["# Fitted by `python -m perfmodel.calibrate.network_score`; not written by hand."]
    lines += [f"{name} = {getattr(factors, name):.4g}" for name in names]
    lines.append("sources = [" + ", ".join(f'"{each}"' for each in factors.sources) + "]")
    part = path.with_suffix(".part")
    part.write_text("\n".join(lines) + "\n")
    part.replace(path)
