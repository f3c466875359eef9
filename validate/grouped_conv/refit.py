"""Coefficients from solo shapes and one half of the layers; the other half stays unseen.

One non-negative least-squares problem per variant and residency. Rows are slot times

    t = begin + sum over tiles (alpha + steps beta + filled gamma)

and layer times ``t(fullest slot) + launch``; each is divided by what was measured, so that errors
are relative. Which slot is the fullest depends on the coefficients, so layers enter again after
every solution, three times.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from perfmodel.optimize.grouped.tiles import TileTimes, variant_named
from validate.grouped_conv.dataset import Run, Scheduled, in_tune_half
from validate.grouped_conv.plans import Held

Floats = npt.NDArray[np.float64]
LAYER_WEIGHT = 2.0
ROUNDS = 3


def columns(load: Held) -> Floats:
    """(slots, 10): begin, then tiles, steps and filled steps by shape."""
    return np.column_stack([load.busy, load.tiles, load.steps, load.filled]).astype(float)


def refit(run: Run) -> list[TileTimes]:
    """One :class:`TileTimes` per variant and residency that the layers used."""
    names = sorted({one.name for one in run.schedules})
    return [_one(run, name) for name in names]


def coefficients_by_name(fitted: Sequence[TileTimes]) -> dict[str, TileTimes]:
    """Coefficients under the name that tables use: ``"small-flat-8 x2"``."""
    return {times.name: times for times in fitted}


def slot_seconds(times: TileTimes, load: Held) -> Floats:
    """Time of each slot [s]."""
    return np.asarray(columns(load) @ _vector(times))


def _vector(times: TileTimes) -> Floats:
    return np.concatenate([[times.begin], times.alpha, times.beta, times.fill])


def _one(run: Run, name: str) -> TileTimes:
    mine = [s for s in run.schedules if s.name == name and in_tune_half(s.conv.name)]
    variant_name, residency = name.rsplit(" x", 1)
    blocks = [_solo_rows(run, variant_name, int(residency)), *_slot_rows(run, mine)]
    found = np.concatenate([np.zeros(4), np.ones(3), np.zeros(4)])  # first guess: steps decide
    for _ in range(ROUNDS):
        every = [*blocks, *(_layer_row(one, found[:-1]) for one in mine)]
        rows = np.concatenate([block[0] for block in every])
        time = np.concatenate([block[1] for block in every])
        weight = np.concatenate([block[2] for block in every])
        found, _ = nnls(rows / time[:, None] * weight[:, None], weight)
    seconds = found * 1e-6
    return TileTimes(
        variant_named(variant_name),
        seconds[1:4],
        seconds[4:7],
        int(residency),
        float(seconds[10]),
        calibrated=True,
        begin=float(seconds[0]),
        gamma=seconds[7:10],
    )


Block = tuple[Floats, Floats, Floats]


def _solo_rows(run: Run, variant_name: str, residency: int) -> Block:
    """Slots of the solo shapes; microseconds keep the problem well scaled."""
    variant = variant_named(variant_name)
    table = run.solo[(run.solo.variant == variant_name) & (run.solo.residency == residency)]
    rows = np.zeros((len(table), 11))
    for row, one in zip(rows, table.to_dict("records"), strict=True):
        shape, tiles = int(one["shape"]), int(one["tiles"])
        channels = int(str(one["layer"]).split("-c")[1].split("-")[0])
        row[0] = 1.0
        row[1 + shape] = tiles
        row[4 + shape] = tiles * int(one["steps"])
        row[7 + shape] = tiles * float(variant.filled(np.array([channels]), 3)[0, shape])
    return rows, table.slot_s.to_numpy() * 1e6, np.ones(len(table))


def _slot_rows(run: Run, mine: list[Scheduled]) -> list[Block]:
    """Sampled slots of layers; a layer weighs as four slots however many were sampled."""
    found = []
    for one in mine:
        table = run.slots[
            (run.slots.layer == one.conv.name)
            & (run.slots.variant == one.name)
            & (run.slots.placement == one.placement)
        ]
        if len(table):
            rows = np.pad(columns(one.load)[table.slot.to_numpy()], ((0, 0), (0, 1)))
            weight = np.full(len(table), 2 / np.sqrt(len(table)))
            found.append((rows, table.measured_s.to_numpy() * 1e6, weight))
    return found


def _layer_row(one: Scheduled, coefficients: Floats) -> Block:
    every = columns(one.load)
    fullest = every[int((every @ coefficients).argmax())]
    return (
        np.append(fullest, 1.0)[None],
        np.array([one.measured_s * 1e6]),
        np.array([LAYER_WEIGHT]),
    )
