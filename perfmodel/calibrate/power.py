"""Shares of the design power, fitted on operators whose board power was read while they ran."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from perfmodel.calibrate.measurements import Row
from perfmodel.calibrate.samples import FOLDS
from perfmodel.cost.mechanism import task_device
from perfmodel.cost.parts import Floats
from perfmodel.cost.power import SHARES, PowerShares, power_share, rates
from perfmodel.cost.tasks import tasks_of
from perfmodel.files import write_text
from perfmodel.hardware import Accelerator
from perfmodel.workload.op import op_from_dict

WAITING = ("scatter_add",)
"""Operators whose threads wait for each other: their rates say little of what a board draws."""
FEWEST_POWER_ROWS = 20
_START = (0.5, 0.3, 0.5, 1.1)
_LEAST, _MOST = (0.01, 0.0, 0.0, 0.5), (1.0, 1.0, 3.0, 1.3)
_TOLERANCE = 0.05  # beyond this relative error a row counts less


@dataclass(frozen=True, slots=True)
class PowerRows:
    """Rows with a power reading, arrays of shape (N,).

    Parameters
    ----------
    arithmetic, memory : array
        Achieved over peak rates.
    share : array
        Board power over design power.
    seconds : array
        Time of the operator [s].
    fold : array of int
        Part of the split.
    families : tuple of str
        The operators' names.
    """

    arithmetic: Floats
    memory: Floats
    share: Floats
    seconds: Floats
    fold: np.ndarray[tuple[int], np.dtype[np.intp]]
    families: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PowerFit:
    """Shares fitted on all rows, and each row's prediction by a fit that did not see it."""

    shares: PowerShares
    rows: PowerRows
    held_out: Floats


def power_rows(rows: Sequence[Row], accelerator: Accelerator) -> PowerRows:
    """The rows whose power was read; none where the design power is unknown."""
    arithmetic, memory, share, seconds, fold, families = [], [], [], [], [], []
    for row in rows:
        if row.power is None or accelerator.tdp is None or row.record["op"] in WAITING:
            continue
        _, (task, *_) = tasks_of(op_from_dict(row.record))
        achieved = rates(task, task_device(task, accelerator), row.seconds)
        arithmetic.append(float(achieved[0][0]))
        memory.append(float(achieved[1][0]))
        share.append(row.power / accelerator.tdp)
        seconds.append(row.seconds)
        fold.append(row.fold(FOLDS))
        families.append(str(row.record["op"]))
    return PowerRows(
        np.asarray(arithmetic), np.asarray(memory), np.asarray(share), np.asarray(seconds),
        np.asarray(fold, dtype=np.intp), tuple(families),
    )  # fmt: skip


def fit_power(rows: Sequence[Row], accelerator: Accelerator) -> PowerFit | None:
    """Fit the shares; None where fewer than :data:`FEWEST_POWER_ROWS` rows carry a reading."""
    known = power_rows(rows, accelerator)
    if known.share.size < FEWEST_POWER_ROWS:
        return None
    held_out = np.zeros(known.share.size)
    for part in range(FOLDS):
        away = known.fold == part
        if away.any():
            shares = _fit(known, ~away)
            held_out[away] = power_share(known.arithmetic[away], known.memory[away], shares)
    shares = _fit(known, np.full(known.share.size, True))
    return PowerFit(replace(shares, shortest=float(known.seconds.min())), known, held_out)


def _fit(rows: PowerRows, chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> PowerShares:
    arithmetic, memory, share = (a[chosen] for a in (rows.arithmetic, rows.memory, rows.share))

    def residual(values: Floats) -> Floats:
        return np.asarray(np.log(power_share(arithmetic, memory, PowerShares(*values)) / share))

    found = least_squares(
        residual, _START, bounds=(_LEAST, _MOST), loss="soft_l1", f_scale=_TOLERANCE
    ).x
    return PowerShares(*(float(value) for value in found))


def write_power(path: Path, device: str, fit: PowerFit) -> None:
    """Write the shares with their held-out error."""
    error = 100.0 * np.abs(fit.held_out / fit.rows.share - 1.0)
    lines = [
        "# Written by `perfmodel calibrate`; do not edit. Meanings: docs/models/power.md",
        f'device = "{device}"',
        f"rows = {fit.rows.share.size}",
        "",
        "[shares]  # of the design power",
        *(f"{name} = {getattr(fit.shares, name):.4g}" for name in SHARES),
        "",
        "[range]  # shortest operator whose power was read [s]",
        f"shortest_s = {fit.shares.shortest:.4g}",
        "",
        f"[held_out]  # {FOLDS} folds by a hash of the operator",
        f"mape = {error.mean():.3g}",
        f"median = {np.median(error):.3g}",
        f"worst = {error.max():.3g}",
    ]
    write_text(path, "\n".join(lines) + "\n")
