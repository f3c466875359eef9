"""The measuring protocol: back-to-back calls in a CUDA graph, events around its replays."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from validate.bench.nvml import Board

Call = Callable[[], Any]

MIN_CALLS, MAX_CALLS = 10, 200
REPLAY_S = 4e-3  # length aimed at for one replay
MIN_REPLAYS, MIN_TOTAL_S = 5, 25e-3
LONG_REPLAY_S = 20e-3  # a replay is not stretched past this only to visit every input set


@dataclass(slots=True)
class Timing:
    """Latency of one call [us] over the replays, and how it was taken."""

    latency_us: float
    p10_us: float
    p90_us: float
    mode: str
    calls: int
    replays: int
    sets: int
    power_w: float | None = None
    clock_mhz: float | None = None
    temp_c: float | None = None
    note: str = ""


def call_count(seconds: float, sets: int) -> int:
    """Calls in one replay: about `REPLAY_S`, every input set where that stays short, 10..200."""
    seconds = max(seconds, 1e-7)
    every = min(sets, math.ceil(LONG_REPLAY_S / seconds))
    return int(min(MAX_CALLS, max(MIN_CALLS, every, math.ceil(REPLAY_S / seconds))))


def replay_count(replay_s: float, total_s: float = MIN_TOTAL_S) -> int:
    """Replays that make at least 5 and at least `total_s`."""
    return int(min(2000, max(MIN_REPLAYS, math.ceil(total_s / max(replay_s, 1e-6)))))


def summary(per_call_s: Sequence[float]) -> tuple[float, float, float]:
    """Median, 10th and 90th percentile [us]."""
    low, mid, high = np.percentile(np.asarray(per_call_s) * 1e6, [10, 50, 90])
    return float(mid), float(low), float(high)


@dataclass(slots=True)
class CpuClock:
    """perf_counter in place of events: a dry run of everything but the device."""

    device: str = "cpu"
    board: Board | None = None

    def spin_up(self) -> None:
        """A processor needs none here."""

    def current(self) -> contextlib.AbstractContextManager[Any]:
        """A processor has no streams."""
        return contextlib.nullcontext()

    def drop(self) -> None:
        """Nothing is held."""

    def measure(self, calls: list[Call], *, power: bool = False, graph: bool = True) -> Timing:
        """Time `calls` in turn with a host clock."""
        del power, graph
        calls[0]()
        begin = time.perf_counter()
        calls[-1]()
        count = 2 if time.perf_counter() - begin > 1e-3 else MIN_CALLS
        samples = []
        for _ in range(MIN_REPLAYS):
            begin = time.perf_counter()
            for i in range(count):
                calls[i % len(calls)]()
            samples.append((time.perf_counter() - begin) / count)
        return Timing(*summary(samples), "cpu", count, len(samples), len(calls))


@dataclass(slots=True)
class CudaClock:
    """Graph capture on one stream; graphs share one memory pool, kept alive by a first graph."""

    device: str = "cuda"
    board: Board | None = field(default_factory=Board)
    stream: Any = None
    _pool: Any = None
    _anchor: Any = None

    def __post_init__(self) -> None:
        self.stream = torch.cuda.Stream()
        torch.cuda.set_stream(self.stream)

    def spin_up(self) -> None:
        """Bring the clocks up with large matrix products (about a third of a second)."""
        a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
        b = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
        begin = time.perf_counter()
        while time.perf_counter() - begin < 0.35:
            for _ in range(10):
                a @ b
            torch.cuda.synchronize()

    def current(self) -> contextlib.AbstractContextManager[Any]:
        """Makes the measuring stream that of another thread, too."""
        switched: contextlib.AbstractContextManager[Any] = torch.cuda.stream(self.stream)
        return switched

    def drop(self) -> None:
        """Let the graphs' memory pool go; the next capture starts another."""
        self._pool = self._anchor = None

    def _capture(self, calls: list[Call], count: int) -> Any:
        """Capture `count` calls; the graph, or the exception that capture ended with."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
            scratch = torch.zeros(1024, device="cuda")
            torch.cuda.synchronize()
            self._anchor = torch.cuda.CUDAGraph()
            self._anchor.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            scratch + 1
            self._anchor.capture_end()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            for i in range(count):
                calls[i % len(calls)]()
        except Exception as error:
            with contextlib.suppress(RuntimeError):
                graph.capture_end()
            torch.cuda.synchronize()
            return error
        try:
            graph.capture_end()
        except RuntimeError as error:
            torch.cuda.synchronize()
            return error
        return graph

    def measure(self, calls: list[Call], *, power: bool = False, graph: bool = True) -> Timing:
        """Protocol of the measurements: see the module's summary.

        Parameters
        ----------
        calls
            One closure an input set, cycled through.
        power
            Keep replaying for at least 0.35 s so that board power settles.
        graph
            False for work that cannot be captured (pageable copies): mode is then ``eager``.
        """
        calls[0]()  # loads modules, chooses algorithms
        torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for i in range(3):
            calls[i % len(calls)]()
        end.record()
        end.synchronize()
        rough = start.elapsed_time(end) / 3e3
        # Three calls of a short kernel are launch-bound: assume it is shorter than it looks.
        count = call_count(rough / 2 if rough < 40e-6 else rough, len(calls))
        mode, note, captured = "graph", "", None
        if graph:
            captured = self._capture(calls, count)
            if isinstance(captured, Exception):
                note, captured = f"{type(captured).__name__}: {captured}"[:200], None
                self.drop()  # the shared pool may be left half open
        if captured is not None:
            replay: Call = captured.replay
        else:
            mode = "eager"

            def replay() -> None:
                for i in range(count):
                    calls[i % len(calls)]()

        return self._replay(replay, mode, count, len(calls), power, note)

    def _replay(
        self, replay: Call, mode: str, count: int, sets: int, power: bool, note: str
    ) -> Timing:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        replay()
        end.record()
        end.synchronize()
        replay_s = start.elapsed_time(end) / 1e3
        replays = replay_count(replay_s, 0.35 if power else MIN_TOTAL_S)
        # One more replay first, unsynchronised, keeps the queue ahead of the device.
        if replay_s < 20e-3:
            replay()
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(2 * replays)]
        watts, clocks = [], []
        begin = time.perf_counter()
        for i in range(replays):
            marks[2 * i].record()
            replay()
            marks[2 * i + 1].record()
        while not marks[-1].query():
            self._sample(watts if power else None, clocks, begin)
            time.sleep(0.001)
        torch.cuda.synchronize()
        samples = [
            marks[2 * i].elapsed_time(marks[2 * i + 1]) / 1e3 / count for i in range(replays)
        ]
        timing = Timing(*summary(samples), mode, count, replays, sets, note=note)
        settled = [w for at, w in watts if at > 0.12]
        timing.power_w = float(np.mean(settled)) if settled else None
        timing.clock_mhz = float(np.median(clocks)) if clocks else None
        timing.temp_c = self.board.temperature_c() if self.board and power else None
        return timing

    def _sample(self, watts: list[Any] | None, clocks: list[Any], begin: float) -> None:
        if self.board is None or (watts is None and clocks):
            return
        clock = self.board.clock_mhz()
        if clock is not None:
            clocks.append(clock)
        if watts is not None:
            value = self.board.power_w()
            if value is not None:
                watts.append((time.perf_counter() - begin, value))


def clock_for(device: str) -> CpuClock | CudaClock:
    """The clock of a device kind."""
    return CudaClock() if device == "cuda" else CpuClock()
