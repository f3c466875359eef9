"""Memory over time: what each device of a pipeline holds while a step runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel.sim.table import BACKWARD, FORWARD, WEIGHT, Schedule

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MemoryTrace:
    """A step function of time.

    Parameters
    ----------
    times : float array
        When the amount changes [s], ascending.
    held : float array
        Amount from each of these times on [B].
    """

    times: Floats
    held: Floats

    @property
    def peak(self) -> float:
        """The largest amount [B]."""
        return float(self.held.max())


def activation_traces(
    schedule: Schedule, start: Floats, end: Floats, activation: Floats, static: Floats
) -> tuple[MemoryTrace, ...]:
    """Memory of each device: its static bytes, and one activation per micro-batch in flight.

    A forward allocates when it starts; a whole backward, or the weight-gradient part of a split
    one, frees when it ends. What is freed at an instant is gone before what is allocated then.

    Parameters
    ----------
    start, end : float arrays
        Of each row, shape ``[rows]`` [s].
    activation, static : float arrays
        Per stage, shape ``[stages]`` [B].
    """
    holder = np.asarray(schedule.stage_device)
    traces = []
    whole = max(float(end.max()), 1e-300)
    gives = (schedule.work == BACKWARD) | (schedule.work == WEIGHT)
    for device in range(schedule.devices):
        mine = schedule.device == device
        takes = mine & (schedule.work == FORWARD)
        frees = mine & gives
        times = np.concatenate([end[frees], start[takes]])
        change = np.concatenate(
            [-activation[schedule.stage[frees]], activation[schedule.stage[takes]]]
        )
        order = np.argsort(times, kind="stable")
        # Back-to-back rows share an instant but for rounding; a free then comes first.
        order = order[np.lexsort((change[order], np.round(times[order] / whole, 12)))]
        held = float(static[holder == device].sum()) + np.concatenate(
            [[0.0], np.cumsum(change[order])]
        )
        traces.append(MemoryTrace(np.concatenate([[0.0], times[order]]), held))
    return tuple(traces)
