r"""Two queues: the host issues kernels, the device runs them in order.

Kernel ``i`` is launched when the host has done everything up to it, at :math:`h_i`, can begin
:math:`\lambda` later, and needs the kernel before it to have ended; the host stalls while
:math:`K` launches are pending:

.. math::

    h_i = \max(h_{i-1} + c_i,\ s_{i-K}), \qquad
    s_i = \max(s_{i-1} + d_{i-1},\ h_i + \lambda).

Both are recursions in (max, +) that a cumulative maximum solves,
:math:`s_i + d_i = D_i + \max_{j \le i} (h_j + \lambda - D_{j-1})` with :math:`D_i = \sum_{j \le i}
d_j`, block by block of :math:`K` launches; a call that waits for the device ends a block. Steps
that follow each other without waiting settle at a period, mostly the longer of the host's and the
device's work; a step that begins on an idle device and is waited for takes its last kernel's end.

Reference
---------
Baccelli, Cohen, Olsder, Quadrat, "Synchronization and Linearity", 1992, chapter 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.parts import Floats

QUEUE_DEPTH: Final = 1024
"""Launches that a stream takes before the host has to wait."""
_STEPS: Final = 6


@dataclass(frozen=True, slots=True)
class Timeline:
    """When the kernels of one step run, from the beginning of its host work.

    Parameters
    ----------
    issued, start, seconds : array, shape (N,)
        When the host has launched a kernel, when it begins, how long it runs [s].
    host_end : float
        When the host has issued the whole step [s].
    """

    issued: Floats
    start: Floats
    seconds: Floats
    host_end: float

    @property
    def device_end(self) -> float:
        """When the last kernel ends [s]."""
        return float(self.start[-1] + self.seconds[-1]) if self.start.size else 0.0

    @property
    def end(self) -> float:
        """When both are done [s]."""
        return max(self.host_end, self.device_end)

    @property
    def waits(self) -> Floats:
        """Device time without work before each kernel but the first, shape (N,) [s]."""
        if not self.start.size:
            return np.zeros(0)
        before = np.concatenate([self.start[:1], (self.start + self.seconds)[:-1]])
        return np.asarray(np.maximum(self.start - before, 0.0))


def run_device(issued: Floats, seconds: Floats, latency: float, free: float = 0.0) -> Floats:
    """Start times of kernels that one stream runs in order, shape (N,) [s].

    Parameters
    ----------
    issued : array, shape (N,)
        When the host launches each; not decreasing [s].
    seconds : array, shape (N,)
        How long each runs [s].
    latency : float
        From a launch on the host to the beginning on an idle device [s].
    free : float
        When the device is done with what came before [s].

    Examples
    --------
    >>> run_device(np.array([1.0, 2.0, 3.0]), np.array([2.5, 0.5, 0.5]), 0.5).tolist()
    [1.5, 4.0, 4.5]
    """
    before = np.cumsum(seconds) - seconds
    behind = np.maximum.accumulate(issued + latency - before)
    return np.asarray(before + np.maximum(behind, free))


def run_step(
    host: Floats,
    seconds: Floats,
    latency: float,
    *,
    tail: float = 0.0,
    waits_before: NDArray[np.bool_] | None = None,
    depth: int = QUEUE_DEPTH,
) -> Timeline:
    """One step on an idle device, shape (N,) kernels.

    Parameters
    ----------
    host : array, shape (N,)
        Host work between the launch before and this one [s].
    seconds, latency
        As for :func:`run_device`.
    tail : float
        Host work after the last launch [s].
    waits_before : bool array, shape (N,), optional
        Where the host waits for the device before it goes on to this kernel.
    depth : int
        Launches that may be pending.
    """
    return _play(host, seconds, latency, tail, waits_before, depth, 1)[0]


def repeat_step(
    host: Floats,
    seconds: Floats,
    latency: float,
    *,
    tail: float = 0.0,
    waits_before: NDArray[np.bool_] | None = None,
    depth: int = QUEUE_DEPTH,
) -> tuple[float, Timeline]:
    """Period of a step that repeats without waiting, and one such step [s].

    Parameters are those of :func:`run_step`.

    Examples
    --------
    >>> period, _ = repeat_step(np.full(4, 5e-6), np.full(4, 2e-6), 3e-6, tail=1e-6)
    >>> round(period * 1e6, 6)
    21.0
    """
    steps = _play(host, seconds, latency, tail, waits_before, depth, _STEPS)
    if waits_before is None or not bool(np.any(waits_before)):
        floor = max(float(np.sum(host)) + tail, float(np.sum(seconds)))
    else:
        floor = 0.0
    first, last = steps[_STEPS // 2 - 1], steps[-1]
    grown = (last.end - first.end) / (_STEPS - _STEPS // 2)
    return max(floor, grown), last


def _play(
    host: Floats,
    seconds: Floats,
    latency: float,
    tail: float,
    waits_before: NDArray[np.bool_] | None,
    depth: int,
    steps: int,
) -> list[Timeline]:
    """Steps one after another, each with times of its own clock kept absolute."""
    count = seconds.size
    breaks = _block_edges(count, waits_before, depth)
    clock = free = 0.0
    started = np.full(depth, -np.inf)
    found = []
    for _ in range(steps):
        issued, start = np.empty(count), np.empty(count)
        for low, high in breaks:
            if waits_before is not None and low < count and waits_before[low]:
                clock = max(clock, free)
            size = high - low
            spent = np.cumsum(host[low:high])
            slots = started[:size]
            launched = spent + np.maximum(np.maximum.accumulate(slots - spent), clock)
            begun = run_device(launched, seconds[low:high], latency, free)
            issued[low:high], start[low:high] = launched, begun
            started = np.concatenate([started[size:], begun])
            clock, free = float(launched[-1]), float(begun[-1] + seconds[high - 1])
        clock += tail
        found.append(Timeline(issued, start, seconds, clock))
    return found


def _block_edges(
    count: int, waits_before: NDArray[np.bool_] | None, depth: int
) -> list[tuple[int, int]]:
    """Runs of at most ``depth`` launches that no wait interrupts."""
    cuts = {0, count}
    if waits_before is not None:
        cuts |= {int(place) for place in np.flatnonzero(waits_before)}
    ordered = sorted(cuts)
    edges = []
    for low, high in pairwise(ordered):
        edges += [(at, min(at + depth, high)) for at in range(low, high, depth)]
    return edges
