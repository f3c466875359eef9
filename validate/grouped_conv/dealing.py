"""Which SMs get their programs early: read off the SM that each sampled slot of a launch ran on."""

from __future__ import annotations

import numpy as np
import pandas as pd

from perfmodel.optimize.grouped.sharing import Dealing
from validate.grouped_conv.dataset import UNITS, Run, in_tune_half

ORDERS = 2
LEAST = 5
# turns of the early SMs are about three quarters of a turn of all apart
_TURN = 0.75 * UNITS


def dealing_of(run: Run) -> Dealing:
    """The order in which the measured chip deals programs, from launches of the tune half.

    The first slots of every launch lie on the same few SMs, in one of two orders, while the rest is
    permuted from launch to launch. Later turns of these SMs are where they turn up again in
    launches of several programs an SM.
    """
    slots = run.slots[[in_tune_half(layer) for layer in run.slots.layer]]
    programs = slots.variant.str.rsplit(" x").str[1].astype(int)
    group = _first_group(slots[programs == 1])
    if not group or len(group) > UNITS // 2:
        return Dealing()
    low = min(group)
    early = max(group) - low + 1 + (max(group) - low + 1) % 2
    found: dict[int, list[float]] = {}
    for _, launch in slots[programs > 1].groupby(["layer", "variant", "placement"]):
        first = launch.sm[launch.slot == 0]
        mine = launch[launch.sm.between(low, low + early - 1) & (launch.slot >= early)]
        if len(first):
            # a turn has the order of the first one
            start = mine.slot - (mine.sm - int(first.iloc[0])) % early
            for turn, rows in start.groupby((start / _TURN).round().astype(int)):
                found.setdefault(int(str(turn)), []).append(float(rows.median()))
    starts = [0]
    while len(found.get(len(starts), ())) >= LEAST:
        starts.append(round(float(np.median(found[len(starts)]))))
    return Dealing(early, tuple(starts))


def _first_group(slots: pd.DataFrame) -> set[int]:
    seen: set[int] = set()
    for _, rows in slots.groupby("slot"):
        if rows.sm.nunique() > ORDERS:
            break
        seen |= set(rows.sm)
    return seen
