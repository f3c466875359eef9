"""What may tell why a process issues its steps at another pace than its probes do.

All of it is cheap: counters of the kernel and of Python's collector around a stream of steps, the
time of the guards of a compiled function.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import inspect
import mmap
import random
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

GUARD_CHECKS = 30
KEPT_BYTES, KEPT_SIZE = 64 * 2**20, 400
"""Memory that a process keeps for its small objects, and the size of what is laid out in it."""
PAGES = 512
"""Touched to time a page fault."""
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)
WALKED = 200_000
"""Objects of a walk: some 6 MB, more than the caches of one core hold beside the step's own."""


@dataclass(frozen=True, slots=True)
class Counters:
    """Running totals of this process."""

    wall: float
    own: float
    all_threads: float
    waits: int
    preempted: int
    faults: int
    all_faults: int
    moves: int
    collections: tuple[int, ...]


def counters() -> Counters:
    """Totals now: seconds, switches of the calling thread, collections by generation."""
    used = resource.getrusage(resource.RUSAGE_THREAD)
    return Counters(
        time.perf_counter(), time.thread_time(), time.process_time(), used.ru_nvcsw,
        used.ru_nivcsw, used.ru_minflt,
        resource.getrusage(resource.RUSAGE_SELF).ru_minflt, _moves(),
        tuple(one["collections"] for one in gc.get_stats()),
    )  # fmt: skip


def _moves() -> int:
    """How often the scheduler moved this thread to another core; 0 where it does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/thread-self/sched").read_text(encoding="utf-8").splitlines():
            if line.startswith("se.nr_migrations"):
                return int(line.split()[-1])
    return 0


def core() -> int:
    """The core that runs this thread now; -1 where the kernel does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = Path("/proc/thread-self/stat").read_text(encoding="utf-8")
        return int(text.rsplit(")", 1)[1].split()[36])
    return -1


def between(first: Counters, last: Counters, steps: int) -> dict[str, Any]:
    """Columns: what a step of a stream took of the process."""
    wall = max(last.wall - first.wall, 1e-9)
    young, middle, old = (
        b - a for a, b in zip(first.collections, last.collections, strict=True)
    )  # fmt: skip
    return {
        "cpu_own": (last.own - first.own) / wall,
        "cpu_all": (last.all_threads - first.all_threads) / wall,
        "waits": (last.waits - first.waits) / steps,
        "preempted": (last.preempted - first.preempted) / steps,
        "faults": (last.faults - first.faults) / steps,
        "all_faults": (last.all_faults - first.all_faults) / steps,
        "moves": last.moves - first.moves,
        "gc_young": young / steps,
        "gc_middle": middle / steps,
        "gc_old": old / steps,
        "core": core(),
    }


def keep_memory() -> list[bytes]:
    """Let this process keep what it frees; hold the answer as long as that is wanted.

    Where the working set of a step ends just beyond an arena of Python's or of the C library's,
    each step gives a megabyte back and faults it in again, page by page, which in a sandbox's
    kernel takes milliseconds. One small object in each arena keeps it. Frames of Python's stack are
    kept elsewhere: :mod:`validate.bench.models.place`.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_TRIM_THRESHOLD, 2**30)
        library.mallopt(_MMAP_MAX, 0)
    laid = [bytes(KEPT_SIZE) for _ in range(KEPT_BYTES // KEPT_SIZE)]
    return laid[::500]


def fault_seconds() -> float:
    """Seconds of a page that is touched for the first time."""
    with mmap.mmap(-1, PAGES * mmap.PAGESIZE) as fresh:
        begin = time.perf_counter()
        for page in range(PAGES):
            fresh[page * mmap.PAGESIZE] = 1
        return (time.perf_counter() - begin) / PAGES


@lru_cache(maxsize=1)
def _scattered() -> list[float]:
    made = [float(k) + 0.5 for k in range(WALKED)]
    random.Random(1).shuffle(made)
    return made


def walk() -> float:
    """Seconds an object of a walk over many that lie scattered in memory.

    The probes of the host's pace stay in the caches of their core; a step of many modules does not.
    """
    made = _scattered()
    begin = time.perf_counter()
    sum(made)
    return (time.perf_counter() - begin) / WALKED


def guards(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Compiled entries of a module, their guards, and seconds to check those of the first call."""
    found: dict[str, Any] = {}
    with contextlib.suppress(Exception):
        from torch._dynamo.convert_frame import input_codes
        from torch._dynamo.eval_frame import _debug_get_cache_entry_list

        codes = [code() for code in input_codes.seen]
        entries = [e for code in codes if code for e in _debug_get_cache_entry_list(code)]
        found["graphs"] = len(entries)
        own = _debug_get_cache_entry_list(inspect.unwrap(type(model).forward).__code__)
        bound = inspect.signature(inspect.unwrap(type(model).forward)).bind(model, *args, **kwargs)
        bound.apply_defaults()
        local = dict(bound.arguments)
        for entry in own:
            manager = entry.guard_manager
            if manager.check(local):
                begin = time.perf_counter()
                for _ in range(GUARD_CHECKS):
                    manager.check(local)
                found["guard_us"] = (time.perf_counter() - begin) / GUARD_CHECKS * 1e6
                break
    return found


def in_backward(probe: Callable[[], Any], device: str) -> Any:
    """What `probe` finds in the thread in which the backward pass of a device runs."""
    import torch

    class Probed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Any) -> Any:
            return value * 1

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            with torch.no_grad():
                found.append(probe())
            return gradient

    found: list[tuple[float, float, float]] = []
    start = torch.zeros(1, device=device, requires_grad=True)
    Probed.apply(start).sum().backward()
    return found[0]
