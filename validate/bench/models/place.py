"""Where in Python's stack of frames a step is issued.

CPython keeps the frames of a thread in chunks of 16 KB, which it maps and gives back one by one. A
function whose frame ends just before the end of a chunk has each call out of it map a chunk, touch
it and unmap it again: some 15 us where 0.1 us are usual. The function that the compiler generates
holds hundreds to thousands of locals and calls each kernel, so compiled steps are hit often, by the
size of that frame or by the chance of how deep their caller stands. Here a step is tried at places
one after another through a chunk, and measured where it faults least.
"""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable
from typing import Any

from validate.bench.models.woven import listed

PLACES, LEVELS = 16, 8
"""Places that are tried, and frames of :func:`deeper` between two: about a chunk in all."""
FURTHER = (2 * LEVELS, 5 * LEVELS)
"""Frames further down, for a stream that faults where its trial did not: loud is one place."""
LONG_S = 0.06
"""Of longer steps every other place is tried."""
LOUD = 12.0
"""More faults a step than the quietest place by which a place is left for another."""


def deeper(levels: int, run: Callable[[], Any]) -> Any:
    """What `run` gives from so many frames further down."""
    return run() if levels <= 0 else deeper(levels - 1, run)


def faults() -> tuple[int, int]:
    """Page faults of the calling thread and of all threads, so far."""
    own = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    return own, resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def tried(step: Callable[[], Any], sync: Callable[[], None], places: list[int]) -> dict[str, Any]:
    """Columns: levels, host seconds, faults of the thread and of all threads, a step each."""
    spent, own, every = [], [], []

    def once() -> tuple[float, int, int]:
        begin = time.perf_counter()
        first = faults()
        step()
        last = faults()
        return time.perf_counter() - begin, last[0] - first[0], last[1] - first[1]

    for levels in places:
        sync()
        second, mine, all_of = deeper(levels, once)
        spent.append(second)
        own.append(mine)
        every.append(all_of)
    sync()
    return {"levels": places, "spent": spent, "own": own, "all": every}


def quietest(
    step: Callable[[], Any], sync: Callable[[], None], tiny: bool
) -> tuple[int, dict[str, Any]]:
    """Levels at which a step faults least, and columns of what was tried.

    The place as it is counts unless another one, with its neighbours, is quieter by :data:`LOUD`.
    """
    begin = time.perf_counter()
    step()
    sync()
    stride = 1 if time.perf_counter() - begin < LONG_S else 2
    places = [LEVELS * k for k in range(0, 2 if tiny else PLACES, stride)]
    found = tried(step, sync, places)
    count = len(places)
    around = [max(found["all"][(k + d) % count] for d in (-1, 0, 1)) for k in range(count)]
    best = min(range(count), key=lambda k: (around[k], k))
    chosen = 0 if around[0] <= around[best] + LOUD else best
    row = {
        "place": places[chosen],
        "place_levels": " ".join(map(str, places)),
        "place_us": listed(found["spent"]),
        "place_own_faults": " ".join(map(str, found["own"])),
        "place_faults": " ".join(map(str, found["all"])),
    }
    return places[chosen], row


def loud(found: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether a stream faulted more than the quietest of the places that were tried."""
    return float(found["all_faults"]) > LOUD + min(map(int, row["place_faults"].split()))


def generated_frames() -> dict[str, Any]:
    """Column: words of the frame of each function that the compiler generated, in order."""
    words: list[int] = []
    with contextlib.suppress(Exception):
        from torch._inductor.codecache import PyCodeCache

        for module in PyCodeCache.modules:
            call = getattr(module, "call", None)
            code = getattr(getattr(call, "__func__", call), "__code__", None)
            if code is not None:
                words.append(
                    code.co_nlocals + len(code.co_cellvars) + len(code.co_freevars)
                    + code.co_stacksize
                )  # fmt: skip
    return {"call_words": " ".join(map(str, words))}
