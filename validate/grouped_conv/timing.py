"""Times of calls in a captured graph, of eager calls, and of slots by the device's own clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch


@dataclass(frozen=True)
class Timed:
    """Median and spread of one call [us], and how many calls stood in the graph."""

    us: float
    p10: float
    p90: float
    calls: int


def capture(calls: Sequence[Callable[[], object]]) -> tuple[torch.cuda.CUDAGraph, list[object]]:
    """The calls, one after another, as a graph; what they return is kept alive."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    kept: list[object] = []
    with torch.cuda.stream(side):
        for call in calls[:2]:
            call()
        side.synchronize()
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            kept += [call() for call in calls]
        finally:
            graph.capture_end()
    torch.cuda.current_stream().wait_stream(side)
    return graph, kept


def in_graph(
    calls: Sequence[Callable[[], object]], *, least_ms: float = 4.0, replays: int = 5
) -> Timed:
    """Time of one call: a graph of all of them, replayed between events."""
    graph, kept = capture(calls)
    for _ in range(2):
        graph.replay()
    torch.cuda.synchronize()
    taken: list[float] = []
    while len(taken) < replays or sum(taken) < least_ms:
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(replays + 1)]
        for mark in marks[:-1]:
            mark.record()
            graph.replay()
        marks[-1].record()
        torch.cuda.synchronize()
        taken += [a.elapsed_time(b) for a, b in pairwise(marks)]
        if len(taken) > 400:
            break
    del graph, kept
    us = np.array(taken) * 1e3 / len(calls)
    return Timed(float(np.median(us)), *(float(v) for v in np.percentile(us, (10, 90))), len(calls))


def eager(call: Callable[[], object], repeats: int = 5) -> float:
    """Wall-clock time of one eager call with its launches, device idle before and after [us]."""
    call()
    torch.cuda.synchronize()
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - begin)
    return float(np.median(taken)) * 1e6


def slots(run: Callable[[int], torch.Tensor], repeats: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Slot times of the launch whose slowest slot is the median [s], and the SM of each slot.

    ``run(i)`` launches on input set i and returns the (slots, 3) timer buffer.
    """
    found = []
    for index in range(repeats):
        timer = run(index)
        torch.cuda.synchronize()
        read = timer.cpu().numpy()
        found.append(((read[:, 1] - read[:, 0]) * 1e-9, read[:, 2].copy(), read.copy()))
    order = np.argsort([one[0].max() for one in found])
    chosen = found[order[len(order) // 2]]
    return chosen[0], chosen[1]
