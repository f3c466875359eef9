"""Time, host cost and memory of a step that a closure runs."""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from validate.bench.host_probe import block
from validate.bench.models import place, state, woven
from validate.bench.models.inside import Training
from validate.bench.nvml import Board

Step = Callable[[], Any]
Probed = Callable[[Callable[[int], float]], dict[str, float]]
"""A step with probes in it, as :func:`validate.bench.models.inside.phased` answers."""
GROUP_S, TOTAL_S, MAX_TOTAL_S = 6e-3, 0.25, 1.5
MIN_GROUPS, MAX_GROUPS = 7, 25
SINGLES = 7
PROBE_CALLS, PROBE_ADDS, PROBE_BLOCKS = 100, 10_000, 15
CHUNKS = 6
"""Pieces of a steady stream, with a probe of the host before each and after the last."""


def _spread(samples: list[float], name: str) -> dict[str, float]:
    low, mid, high = np.percentile(np.asarray(samples) * 1e6, [10, 50, 90])
    return {f"{name}_us": float(mid), f"{name}_p10_us": float(low), f"{name}_p90_us": float(high)}


def plan(step_s: float, tiny: bool) -> tuple[int, int]:
    """Groups, and steps a group, for a step of `step_s` seconds."""
    if tiny:
        return 1, 1
    per = max(1, math.ceil(GROUP_S / step_s))
    groups = math.ceil(TOTAL_S / (per * step_s))
    groups = min(MAX_GROUPS, max(MIN_GROUPS, groups))
    while groups > 3 and groups * per * step_s > MAX_TOTAL_S:
        groups -= 1
    return groups, per


def pieces(groups: int) -> list[int]:
    """Groups of a stream cut into :data:`CHUNKS` pieces of about one size; none is empty."""
    edges = np.linspace(0, groups, min(CHUNKS, groups) + 1).round().astype(int)
    return [int(size) for size in np.diff(edges)]


class CpuDevice:
    """perf_counter in place of events: a dry run of everything but the device."""

    cuda = False
    _block: Step | None = None

    def sync(self) -> None:
        """Nothing runs behind the host."""

    def clean(self) -> None:
        """Collect what nothing holds."""
        gc.collect()

    def memory(self) -> dict[str, int]:
        """No counters here."""
        return dict.fromkeys(("allocated", "reserved", "peak_allocated", "peak_reserved"), 0)

    def reset(self) -> None:
        """No counters here."""

    def stream(self, step: Step, groups: int, per: int) -> tuple[list[float], float]:
        """Seconds a step of each group, and host seconds a step of all."""
        samples = []
        for _ in range(groups):
            begin = time.perf_counter()
            for _ in range(per):
                step()
            samples.append((time.perf_counter() - begin) / per)
        return samples, float(np.mean(samples))

    def blocks(self, count: int) -> float:
        """Seconds of one of a few small blocks, issued from the calling thread."""
        if self._block is None:
            self._block = block("cuda" if self.cuda else "cpu")
        begin = time.perf_counter()
        for _ in range(count):
            self._block()
        return (time.perf_counter() - begin) / count

    def probe(self) -> tuple[float, float, float]:
        """Pace of this host now [s]: a tiny operator's call, a Python addition, a small block."""
        if self._block is None:
            self._block = block("cuda" if self.cuda else "cpu")
        tiny = torch.zeros(1, device="cuda" if self.cuda else "cpu")
        tiny.add_(1)
        self._block()
        self.sync()
        begin = time.perf_counter()
        for _ in range(PROBE_CALLS):
            tiny.add_(1)
        called = time.perf_counter() - begin
        self.sync()
        begin, count = time.perf_counter(), 0
        while count < PROBE_ADDS:
            count += 1
        added = time.perf_counter() - begin
        begin = time.perf_counter()
        for _ in range(PROBE_BLOCKS):
            self._block()
        mixed = time.perf_counter() - begin
        self.sync()
        return called / PROBE_CALLS, added / PROBE_ADDS, mixed / PROBE_BLOCKS

    def board(self) -> dict[str, Any]:
        """No board."""
        return {}


class CudaDevice(CpuDevice):
    """One CUDA device."""

    cuda = True

    def __init__(self) -> None:
        self._board = Board()

    def sync(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize()

    def clean(self) -> None:
        """Return cached memory to the device."""
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()

    def memory(self) -> dict[str, int]:
        """Allocator counters [bytes]."""
        return {
            "allocated": torch.cuda.memory_allocated(),
            "reserved": torch.cuda.memory_reserved(),
            "peak_allocated": torch.cuda.max_memory_allocated(),
            "peak_reserved": torch.cuda.max_memory_reserved(),
        }

    def reset(self) -> None:
        """Start the peaks again."""
        torch.cuda.reset_peak_memory_stats()

    def stream(self, step: Step, groups: int, per: int) -> tuple[list[float], float]:
        """Events between groups of steps, no synchronisation inside."""
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(groups + 1)]
        step()  # one step ahead, so that a device-bound stream starts full
        begin = time.perf_counter()
        marks[0].record()
        for i in range(groups):
            for _ in range(per):
                step()
            marks[i + 1].record()
        torch.cuda.synchronize()
        wall = (time.perf_counter() - begin) / (groups * per)
        return [marks[i].elapsed_time(marks[i + 1]) / 1e3 / per for i in range(groups)], wall

    def board(self) -> dict[str, Any]:
        """Clock, power and temperature at this moment."""
        return {"clock_mhz": self._board.clock_mhz(), "power_w": self._board.power_w(),
                "temp_c": self._board.temperature_c()}  # fmt: skip


def device_for(name: str) -> CpuDevice:
    """The device of a kind."""
    return CudaDevice() if name == "cuda" else CpuDevice()


def peaks(device: CpuDevice, step: Step) -> dict[str, Any]:
    """Memory before a step and at its peak, from an empty cache (two steps, state settled)."""
    first = device.memory()
    device.clean()
    device.reset()
    before = device.memory()
    step()
    step()
    device.sync()
    after = device.memory()
    return {
        "before_allocated": before["allocated"], "before_reserved": before["reserved"],
        "peak_allocated": after["peak_allocated"], "peak_reserved": after["peak_reserved"],
        "after_allocated": after["allocated"], "after_reserved": after["reserved"],
        "warmup_peak_reserved": first["peak_reserved"],
    }  # fmt: skip


def _singles(
    device: CpuDevice,
    step: Step,
    probed: Probed | None,
    tiny: bool,
) -> tuple[list[float], list[float], list[tuple[float, float, float]], list[dict[str, float]]]:
    """Host seconds and latencies of single steps, the probes before them, and what was inside."""
    begin = time.perf_counter()
    step()
    device.sync()
    rough = max(time.perf_counter() - begin, 1e-6)
    host, latency, pace = [], [], []
    inside: list[dict[str, float]] = []
    for _ in range(1 if tiny else (SINGLES if rough < 0.1 else 4)):
        pace.append(device.probe())
        device.sync()
        begin = time.perf_counter()
        if probed is None:
            step()
            host.append(time.perf_counter() - begin)
        else:
            inside.append(probed(device.blocks))
            host.append(sum(inside[-1][part] for part in PHASES))
            begin += inside[-1]["beside"] + 2.0 * inside[-1]["after_block"]
        device.sync()
        latency.append(time.perf_counter() - begin)
    return host, latency, pace, inside


def timing(
    device: CpuDevice, step: Step, tiny: bool = False, *, hosted: bool = True
) -> dict[str, Any]:
    """:func:`streams`, where `hosted` from the place in Python's stack that faults least."""
    if not hosted:
        return streams(device, step, tiny, hosted=False)
    levels, row = place.quietest(step, device.sync, tiny)
    found = place.deeper(levels, lambda: streams(device, step, tiny))
    for further in place.FURTHER:
        if not place.loud(found, row):
            break
        row["place"] = levels + further  # a stream's frames are not those of the trial
        found = place.deeper(row["place"], lambda: streams(device, step, tiny))
    return {**found, **row}


def streams(
    device: CpuDevice, step: Step, tiny: bool = False, *, hosted: bool = True
) -> dict[str, Any]:
    """Single steps, then a steady stream: device time, wall time, latency and host time of a step.

    Between the pieces of the stream the host is probed; then, where `hosted`, it is between every
    two steps of another stream.
    """
    probed = step.probed if isinstance(step, Training) else None
    kind = "cuda" if device.cuda else "cpu"
    host, latency, pace, inside = _singles(device, step, probed, tiny)
    groups, per = plan(float(np.median(latency)), tiny)
    walked = [state.walk()]
    around, behind, samples, walls = [device.probe()], [], [], []
    if probed is not None:
        behind.append(state.in_backward(device.probe, kind))
    medians: list[float] = []
    ran: dict[str, list[float]] = {}
    for size in pieces(groups):
        device.sync()
        first = state.counters()
        done, wall = device.stream(step, size, per)
        for name, value in state.between(first, state.counters(), size * per).items():
            ran.setdefault(name, []).append(value)
        samples += done
        medians.append(float(np.median(done)))
        walls += [wall] * size
        around.append(device.probe())
        if probed is not None:
            behind.append(state.in_backward(device.probe, kind))
    row: dict[str, Any] = {
        "groups": groups,
        "steps_per_group": per,
        "wall_us": float(np.mean(walls)) * 1e6,
    }
    if inside:
        row |= {
            f"{part}_host_us": float(np.median([one[part] for one in inside]) * 1e6)
            for part in PHASES
        }
        row |= _inside(inside, "singles")
    for name, probes in (("probe", pace), ("stream_probe", around), ("backward_probe", behind)):
        if not probes:
            continue
        called, added, mixed = np.median(np.asarray(probes), axis=0)
        row |= {
            f"{name}_call_us": float(called * 1e6),
            f"{name}_add_ns": float(added * 1e9),
            f"{name}_block_us": float(mixed * 1e6),
        }
    row["probe_first_block_us"], row["probe_last_block_us"] = pace[0][2] * 1e6, around[-1][2] * 1e6
    row |= {name: float(np.mean(values)) for name, values in ran.items()}
    walked.append(state.walk())
    row["walk_ns"], row["walk_last_ns"] = (1e9 * seconds for seconds in walked)
    row["pieces_us"] = woven.listed(medians)
    row["pieces_block_us"] = woven.listed([one[2] for one in around])
    row["pieces_backward_us"] = woven.listed([one[2] for one in behind])
    row["cores"] = len(set(ran["core"]))
    row["fault_us"] = 1e6 * state.fault_seconds()
    if hosted:
        count = woven.count_of(float(np.median(host)), tiny)
        row |= woven.woven(step, device.blocks, device.sync, count)
    row |= _spread(samples, "step") | _spread(latency, "latency") | _spread(host, "host")
    return row | device.board()


PHASES = ("forward", "backward", "optimizer")
BLOCKS = ("forward_block", "backward_block", "after_block")


def _inside(found: list[dict[str, float]], name: str) -> dict[str, Any]:
    """Phases of single training steps, and the blocks that ran in them."""
    return {
        f"{name}_{part}_us": woven.listed([one[part] for one in found])
        for part in (*PHASES, *BLOCKS)
    }


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def calls(step: Step) -> dict[str, int]:
    """Operators dispatched below autograd and modules called by one step; empty where it fails."""
    modules = [0]

    def hook(module: Any, inputs: Any) -> None:
        del module, inputs
        modules[0] += 1

    handle = torch.nn.modules.module.register_module_forward_pre_hook(hook)
    try:
        with contextlib.suppress(Exception), _Counter() as counter:
            step()
            return {"aten_calls": counter.calls, "module_calls": modules[0]}
    finally:
        handle.remove()
    return {}
