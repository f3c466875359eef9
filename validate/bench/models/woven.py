"""A stream of steps with a small block of host work between every two.

The state of a shared host changes within milliseconds, so that probes around a stream of many steps
say little of the host that issued it. Here blocks run before each step, behind the forward pass of
a training step, and at both ends of the thread of its backward pass; none of their time counts as
the step's. The first block of a place finds nothing of itself in the caches, as a model's own code
does; the two behind it are the probe's as it is elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from validate.bench.models.inside import Training

Blocks = Callable[[int], float]
TOTAL_S, FEWEST, MOST = 0.3, 8, 40
"""Seconds of a stream, and how many steps it has at least and at most."""


@dataclass(slots=True)
class Place:
    """Blocks of one thread: seconds of the first of each place, of those behind it, and of all."""

    first: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    spent: float = 0.0

    def take(self, blocks: Blocks) -> None:
        """Three blocks."""
        begin = time.perf_counter()
        self.first.append(blocks(1))
        self.after.append(blocks(2))
        self.spent += time.perf_counter() - begin


def count_of(step_s: float, tiny: bool) -> int:
    """Steps of a stream whose step takes `step_s`."""
    if tiny:
        return 2
    return min(MOST, max(FEWEST, round(TOTAL_S / step_s)))


def woven(
    step: Callable[[], Any], blocks: Blocks, sync: Callable[[], None], count: int
) -> dict[str, Any]:
    """Columns: host seconds of each step, and of the blocks in either thread.

    Parameters
    ----------
    step : callable
        Issues a step without waiting; one that trains is taken apart.
    blocks : callable
        Runs some blocks and gives the seconds of one.
    sync : callable
        Waits for the device.
    count : int
        Steps, with nothing waited for between them. ``woven_lag_us`` is what the device takes
        longer than the host in the end: little where the host holds the stream up.
    """
    own, behind = Place(), Place()
    spent: list[float] = []
    forward: list[float] = []
    backward: list[float] = []
    sync()
    for _ in range(count):
        own.take(blocks)
        begin = time.perf_counter()
        if isinstance(step, Training):
            loss = step.forward()
            half = time.perf_counter()
            own.take(blocks)
            _watched(loss, behind, blocks)
            behind.spent = 0.0
            turn = time.perf_counter()
            loss.backward()
            done = time.perf_counter()
            del loss
            last = time.perf_counter()
            step.update()
            forward.append(half - begin)
            backward.append(done - turn - behind.spent)
            spent.append(forward[-1] + backward[-1] + time.perf_counter() - last)
        else:
            step()
            spent.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    sync()
    row: dict[str, Any] = {
        "woven_us": listed(spent),
        "woven_first_us": listed(own.first),
        "woven_block_us": listed(own.after),
        "woven_lag_us": (time.perf_counter() - begin) * 1e6,
    }
    if forward:
        row |= {
            "woven_forward_us": listed(forward),
            "woven_backward_us": listed(backward),
            "woven_backward_first_us": listed(behind.first),
            "woven_backward_block_us": listed(behind.after),
        }
    return row


def _watched(loss: Any, behind: Place, blocks: Blocks) -> None:
    """Blocks where the backward pass of `loss` begins and where it ends, in its own thread."""

    def take() -> None:
        with torch.no_grad():
            behind.take(blocks)

    def begun(_: Any) -> None:
        torch.autograd.Variable._execution_engine.queue_callback(take)
        take()

    loss.register_hook(begun)


def listed(seconds: list[float]) -> str:
    """Microseconds in one column."""
    return " ".join(f"{1e6 * one:.5g}" for one in seconds)
