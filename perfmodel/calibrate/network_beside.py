"""Fit what collectives and compute cost each other, from the harness's ``beside`` rows."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from perfmodel.errors import CalibrationError
from perfmodel.files import write_text
from perfmodel.network.interference import Interference, among_kernels

Floats = NDArray[np.float64]
LONG: Final = 2.0**28  # collectives of so many bytes run all the time beside a kernel
KINDS: Final = ("gemm", "copy")


@dataclass(frozen=True, slots=True)
class Beside:
    """Rows of one thing among others; columns of equal length.

    Parameters
    ----------
    op : array
        The collective.
    kind : array
        What kernel was beside it, ``gemm`` or ``copy``.
    size : array
        Bytes of the collective.
    kernel : array
        That kernel alone [s].
    alone, both : array
        What the row is about (collective or kernel) alone and beside the other [s].
    """

    op: NDArray[np.str_]
    kind: NDArray[np.str_]
    size: Floats
    kernel: Floats
    alone: Floats
    both: Floats

    def __len__(self) -> int:
        return len(self.op)

    def where(self, mask: NDArray[np.bool_]) -> Beside:
        """The rows that a mask selects."""
        return Beside(
            self.op[mask], self.kind[mask], self.size[mask], self.kernel[mask], self.alone[mask],
            self.both[mask],
        )  # fmt: skip


def beside_rows(paths: Iterable[Path]) -> tuple[Beside, Beside]:
    """(collectives among kernels, kernels among collectives) of the harness's tables.

    Rows whose neighbour ended too soon, of urgent streams, and of two collectives are left out.
    """
    collectives: list[tuple[str, str, float, float, float, float]] = []
    kernels: list[tuple[str, str, float, float, float, float]] = []
    for path in paths:
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if _usable(row)]
        alone: dict[str, list[float]] = {}
        for row in rows:
            if row["op"].split()[0] in KINDS:
                alone.setdefault(row["op"], []).append(float(row["alone_us"]) * 1e-6)
        for row in rows:
            mine = row["op"] in alone
            name = row["op"] if mine else row["beside"]
            if name not in alone:
                continue
            here, there = float(row["alone_us"]) * 1e-6, float(row["latency_us"]) * 1e-6
            op = row["beside"].split()[0] if mine else row["op"]
            kernel = float(np.median(alone[name]))
            kept = (op, name.split()[0], float(row["bytes"]), kernel, here, there)
            (kernels if mine else collectives).append(kept)
    return _columns(collectives), _columns(kernels)


def _usable(row: dict[str, str]) -> bool:
    names = (row["op"].split()[0], row["beside"].split()[0] if row["beside"] else "")
    return row["mode"] == "graph" and not row["note"] and bool(set(names) & set(KINDS))


def _columns(rows: Sequence[tuple[str, str, float, float, float, float]]) -> Beside:
    names, kinds, *numbers = zip(*rows, strict=True) if rows else ([],) * 6
    return Beside(
        np.array(names, dtype=np.str_),
        np.array(kinds, dtype=np.str_),
        *(np.array(column, dtype=np.float64) for column in numbers),
    )


def fit_beside(
    paths: Sequence[Path], sources: tuple[str, ...]
) -> tuple[Interference, dict[str, tuple[int, float]]]:
    """Factors, and (rows, spread of the log) behind each.

    Raises
    ------
    CalibrationError
        If there are too few rows of either kind.
    """
    collectives, kernels = beside_rows(paths)
    steady = kernels.where(kernels.size >= LONG)
    for kind in KINDS:
        if (collectives.kind == kind).sum() < 2 or not (steady.kind == kind).any():
            raise CalibrationError(
                ", ".join(map(str, paths)), f"too few rows beside {kind}", "at least two",
                repair="measure with all of the devices for longer",
            )  # fmt: skip
    found: dict[str, Floats] = {}
    counts: dict[str, tuple[int, float]] = {}
    for kind in KINDS:
        mine = collectives.where(collectives.kind == kind)
        found[f"collective {kind}"] = _log_fit(mine.kernel, mine.alone, mine.both, (0.8, 1.1))
        wait, factor = found[f"collective {kind}"]
        spread = np.std(np.log((wait * mine.kernel + factor * mine.alone) / mine.both))
        counts[f"collective_by_{kind}"] = (len(mine), float(spread))
        mine = steady.where(steady.kind == kind)
        ones = np.full(len(mine), 1e-6 if np.ptp(mine.kernel) > 0.2 * mine.kernel.min() else 0.0)
        found[kind] = _log_fit(mine.alone, ones, mine.both, (1.1, 10.0))
        if not ones.any():
            found[kind][1] = 0.0
        slowed = found[kind][0] * mine.alone + found[kind][1] * ones
        counts[kind] = (len(mine), float(np.std(np.log(slowed / mine.both))))
    factors = Interference(
        compute=float(found["gemm"][0]),
        memory=float(found["copy"][0]),
        collective_by_compute=float(found["collective gemm"][1]),
        collective_by_memory=float(found["collective copy"][1]),
        wait=float(found["collective gemm"][0]),
        fitted=True,
        sources=sources,
        wait_memory=float(found["collective copy"][0]),
        entry=float(found["gemm"][1]) * 1e-6,
    )
    return factors, counts


def _log_fit(a: Floats, b: Floats, measured: Floats, start: tuple[float, float]) -> Floats:
    """(p, q) of ``p a + q b``, least squares of the logs, outliers counting less."""

    def misses(theta: Floats) -> Floats:
        return np.asarray(np.log((theta[0] * a + theta[1] * b) / measured), dtype=np.float64)

    found = least_squares(
        misses, np.array(start), bounds=(1e-6, np.inf), loss="soft_l1", f_scale=0.1
    )
    return np.array(found.x, dtype=np.float64)


def predict_beside(rows: Beside, factors: Interference) -> Floats:
    """Seconds of collectives among kernels."""
    memory = (rows.kind == "copy").astype(np.float64)
    return among_kernels(rows.alone, rows.kernel, factors, memory_bound=memory)[0]


def write_beside(factors: Interference, path: Path) -> None:
    """Write the file that :func:`perfmodel.network.interference.interference` reads."""
    names = ("compute", "memory", "collective_by_compute", "collective_by_memory", "wait",
             "wait_memory")  # fmt: skip
    lines = ["# Fitted by `python -m perfmodel.calibrate.network_score`; not written by hand."]
    lines += [f"{name} = {getattr(factors, name):.4g}" for name in names]
    lines.append(f"entry_s = {factors.entry:.4g}")
    lines.append("sources = [" + ", ".join(f'"{each}"' for each in factors.sources) + "]")
    write_text(path, "\n".join(lines) + "\n")
