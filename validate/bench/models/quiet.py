"""The quietest cores for the threads that issue a step.

A core whose other half, or whose machine's other tenant, is busy issues the same calls in up to
twice the time, in spells of seconds. Before a step is timed the thread that issues it, and the one
that runs its backward pass, try every core with a few small blocks and stay on the fastest; where
none is faster than moving freely, or the system does not let a thread choose, they stay free.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

from validate.bench.models import state

TRIED, ROUNDS = 3, 3
"""Blocks on a core, and how often each core is tried."""
FREE = -1


def _cores() -> list[int]:
    """Cores that this process may run on, as it began."""
    return sorted(_ALL)


def _all() -> set[int]:
    with contextlib.suppress(AttributeError, OSError):
        return set(os.sched_getaffinity(0))
    return set()


_ALL = _all()


def stay(core: int) -> bool:
    """Keep the calling thread on a core, or let it move; whether the system allowed it."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        os.sched_setaffinity(0, _ALL if core == FREE else {core})
        return True
    return False


def tried(blocks: Callable[[int], float], wait: Callable[[], None]) -> dict[int, float]:
    """Core -> seconds of a block there, the middle one of its rounds; and :data:`FREE` of none."""
    found: dict[int, list[float]] = {core: [] for core in (FREE, *_cores())}
    for _ in range(ROUNDS):
        for core, seen in found.items():
            if stay(core):
                blocks(1)
                seen.append(blocks(TRIED))
                wait()
    stay(FREE)
    return {core: sorted(seen)[len(seen) // 2] for core, seen in found.items() if seen}


def choose(seconds: dict[int, float]) -> int:
    """The fastest core; free where that is as fast."""
    best = min(seconds, key=lambda core: seconds[core], default=FREE)
    return best if seconds.get(best, 0.0) < seconds.get(FREE, 0.0) else FREE


def settle(
    blocks: Callable[[int], float], wait: Callable[[], None], device: str, trains: bool
) -> dict[str, Any]:
    """Take both threads to their cores; columns that say which, and what others would give."""
    row: dict[str, Any] = {}

    def here() -> dict[int, float]:
        found = tried(blocks, wait)
        stay(choose(found))
        return found

    for name, used in (("caller", True), ("behind", trains)):
        if not used:
            continue
        found = here() if name == "caller" else state.in_backward(here, device)
        row[f"{name}_core"] = choose(found)
        row[f"{name}_cores_us"] = " ".join(f"{1e6 * one:.4g}" for one in found.values())
    return row


def release(device: str, trains: bool) -> None:
    """Let both threads move again."""
    stay(FREE)
    if trains:
        state.in_backward(lambda: stay(FREE), device)
