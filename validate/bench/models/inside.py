"""Parts of a training step, with small blocks of host work in its threads.

A shared host changes its pace within milliseconds; what lies around a part of a step says little of
what lies inside. Here a small block runs before and behind the forward pass, in the thread of the
backward pass where that begins, and behind the optimizer; none of it counts as the step's time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Training:
    """A training step, which runs as it is when called, or with probes in it.

    Attributes
    ----------
    forward, update : callable
        Give the loss; step the optimizer.
    """

    forward: Callable[[], Any]
    update: Callable[[], None]

    def __call__(self) -> None:
        """The step without probes."""
        self.forward().backward()
        self.update()

    def probed(self, blocks: Callable[[int], float]) -> dict[str, float]:
        """Host seconds by part, as :func:`phased` answers."""
        return phased(self.forward, self.update, blocks)


def phased(
    forward: Callable[[], Any],
    update: Callable[[], None],
    blocks: Callable[[int], float],
) -> dict[str, float]:
    """Host seconds of forward pass, backward pass and optimizer, and of a block in each.

    Parameters
    ----------
    forward, update : callable
        Give the loss; step the optimizer.
    blocks : callable
        Runs some blocks and gives the seconds of one.
    """
    behind: list[float] = []
    beside: list[float] = []

    def took(_: Any) -> None:
        begin = time.perf_counter()
        behind.append(blocks(1))
        beside.append(time.perf_counter() - begin)

    before = blocks(1)
    clock = [time.perf_counter()]
    loss = forward()
    clock.append(time.perf_counter())
    half = blocks(1)
    loss.register_hook(took)
    clock.append(time.perf_counter())
    loss.backward()
    clock.append(time.perf_counter())
    update()
    clock.append(time.perf_counter())
    after = blocks(2)
    return {
        "forward": clock[1] - clock[0],
        "backward": clock[3] - clock[2] - sum(beside),
        "optimizer": clock[4] - clock[3],
        "forward_block": 0.5 * (before + half),
        "backward_block": sum(behind),
        "after_block": after,
        "beside": clock[2] - clock[1] + sum(beside) + before,
    }
