"""Tile-time coefficients from slot timers: duration = begin + sum(alpha) + steps * beta."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from perfmodel.optimize.grouped.tiles import TileTimes, variant_named


@dataclass(frozen=True)
class Observation:
    """Mean time of the slots of one launch that hold ``tiles`` tiles of one shape and depth."""

    variant: str
    residency: int
    shape: int
    tiles: int
    steps: int
    seconds: float


def fit(observations: Iterable[Observation], launches: dict[str, float]) -> list[TileTimes]:
    """One :class:`TileTimes` per variant and residency that was measured; relative least squares.

    ``begin`` is shared by the shapes of a variant, ``alpha`` and ``beta`` are its own.
    """
    grouped: dict[tuple[str, int], list[Observation]] = {}
    for one in observations:
        grouped.setdefault((one.variant, one.residency), []).append(one)
    fitted = []
    for (name, residency), members in grouped.items():
        variant = variant_named(name)
        width = len(variant.tiles)
        if len({one.shape for one in members}) < width:
            continue
        rows = np.zeros((len(members), 1 + 2 * width))
        time = np.array([one.seconds for one in members])
        for row, one in zip(rows, members, strict=True):
            row[0] = 1.0
            row[1 + one.shape] = one.tiles
            row[1 + width + one.shape] = one.tiles * one.steps
        found, _ = nnls(rows / time[:, None] * 1e-6, np.ones(len(time)))
        found = found * 1e-6
        fitted.append(
            TileTimes(
                variant,
                found[1 : 1 + width],
                np.maximum(found[1 + width :], 1e-10),
                residency,
                launches.get(name, 0.0),
                calibrated=True,
                begin=float(found[0]),
            )
        )
    return fitted


def relative_errors(observations: Iterable[Observation], fitted: list[TileTimes]) -> np.ndarray:
    """(predicted - measured) / measured of each observation that has coefficients."""
    table = {(times.variant.name, times.residency): times for times in fitted}
    found = []
    for one in observations:
        times = table.get((one.variant, one.residency))
        if times is None:
            continue
        tile = times.alpha[one.shape] + one.steps * times.beta[one.shape]
        found.append((times.begin + one.tiles * tile) / one.seconds - 1)
    return np.array(found)
