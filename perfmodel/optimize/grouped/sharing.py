"""Programs that share an SM: how fast each runs while how many of the others still work.

A launch has more slots than SMs. A tile takes its full time only while all programs of its SM are
busy; where they are idle or have finished, it runs as it would in a launch of fewer programs an SM.
Between two finishes every program of an SM advances at the pace of so many neighbours, so the
finish of every slot follows from at most as many steps as programs share an SM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from perfmodel.optimize.grouped.problem import Floats, Integers


@dataclass(frozen=True, slots=True)
class Dealing:
    """How a device deals the programs of a launch to its SMs.

    Programs go to the SMs one each, then a second each, and so on; except that the first ``early``
    SMs have turns of their own, which begin at the slots ``starts``: with 8 SMs and starts
    ``(0, 88)`` slot 88 is the second program of the SM of slot 0, long before others get a second.
    """

    early: int = 0
    starts: tuple[int, ...] = ()

    def places(self, units: int, residency: int) -> Integers:
        """For each slot ``turn * units + unit``; a permutation of the slots."""
        slots = np.arange(units * residency)
        if self.early == 0 or residency == 1:
            return slots
        place = np.full(len(slots), -1)
        for turn, start in enumerate(self.starts[:residency]):
            if start + self.early <= len(slots):
                place[start : start + self.early] = turn * units + np.arange(self.early)
        free = np.flatnonzero(place < 0)
        places = np.setdiff1d(slots, place)  # in the order of turns, then units
        place[free] = places
        return place


PLAIN = Dealing()
"""One each, then a second each."""


def finish(work: Floats, dealing: Dealing, units: int) -> tuple[Floats, Floats]:
    """When each slot has done its work, and how much of it at which company.

    Parameters
    ----------
    work : (slots, residency) array
        Time of each slot's work if 1, 2, ... programs of its SM are busy throughout [s]; 0 for an
        idle slot.
    units : int
        SMs; slots are ``units * residency``.

    Returns
    -------
    seconds : (slots,) array
        Finish of each slot [s].
    shares : (slots, residency) array
        The part of its work that a slot did with so many busy programs; rows of busy slots sum
        to 1, so that ``seconds = (shares * work).sum(axis=1)``.
    """
    slots, residency = work.shape
    place = dealing.places(units, residency)
    by_unit = np.empty_like(work)
    by_unit[place] = work
    pace = by_unit.reshape(residency, units, residency)
    left = (pace[:, :, 0] > 0).astype(float)
    seconds = np.zeros((residency, units))
    shares = np.zeros((residency, units, residency))
    for _ in range(residency):
        busy = left > 0
        company = np.maximum(busy.sum(axis=0) - 1, 0)
        at = np.broadcast_to(company[None, :, None], (residency, units, 1))
        now = np.take_along_axis(pace, at, 2)[:, :, 0]
        need = np.where(busy, left * now, np.inf)
        step = need.min(axis=0)
        step = np.where(np.isfinite(step), step, 0.0)
        done = np.where(busy, np.minimum(left, step / np.where(busy, now, 1.0)), 0.0)
        done = np.where(busy & (need <= step * (1 + 1e-12)), left, done)
        seconds += np.where(busy, step, 0.0)
        np.put_along_axis(shares, at, np.take_along_axis(shares, at, 2) + done[:, :, None], 2)
        left = left - done
    return seconds.reshape(-1)[place], shares.reshape(slots, residency)[place]


NEAR = 0.9


def lateness(seconds: Floats) -> float:
    r"""How much later than planned the last slot is, for a spread of 1 [s].

    Slots vary. The last of ``n`` slots that finish within a tenth of the latest comes about
    :math:`\sqrt{2 \ln(1 + n)}` standard deviations after their mean.
    """
    latest = float(seconds.max())
    near = int((seconds >= NEAR * latest).sum())
    return latest * math.sqrt(2.0 * math.log1p(near))
