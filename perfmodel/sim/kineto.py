"""PyTorch-profiler (Kineto) traces: what a real step did, and that beside the simulated one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import ScenarioError
from perfmodel.sim.trace_file import read_json
from perfmodel.units import format_seconds

Floats = NDArray[np.float64]
DEVICE_CATEGORIES: Final = ("kernel", "gpu_memcpy", "gpu_memset")
COMMUNICATION: Final = ("nccl", "rccl", "all_reduce", "allreduce", "reduce_scatter", "all_gather")


@dataclass(frozen=True, slots=True)
class KinetoTrace:
    """What ran on the devices of one profiled process.

    Parameters
    ----------
    names : tuple of str
        Kernels and copies in order of start.
    device, stream : int arrays
        Where each ran.
    start, seconds : float arrays
        When and how long [s], from the first.
    communication, copy : bool arrays
        Collectives; memory copies and fills.
    steps : tuple of (name, start, end)
        Profiler steps, if the trace has any [s].
    """

    names: tuple[str, ...]
    device: NDArray[np.int64]
    stream: NDArray[np.int64]
    start: Floats
    seconds: Floats
    communication: NDArray[np.bool_]
    copy: NDArray[np.bool_]
    steps: tuple[tuple[str, float, float], ...]

    @property
    def span(self) -> float:
        """From the first start to the last end [s]."""
        return float((self.start + self.seconds).max()) if len(self.names) else 0.0

    def busy(self, chosen: NDArray[np.bool_]) -> float:
        """Time in which at least one of the chosen events ran [s]."""
        return union_length(self.start[chosen], self.seconds[chosen])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: how compute and communication share the time of the busiest device."""
        found: dict[str, Any] = {"span_s": self.span, "events": len(self.names), "devices": []}
        for device in np.unique(self.device):
            mine = self.device == device
            compute = mine & ~self.communication & ~self.copy
            either = self.busy(compute | (mine & self.communication))
            found["devices"].append(
                {
                    "device": int(device),
                    "compute_s": self.busy(compute),
                    "communication_s": self.busy(mine & self.communication),
                    "exposed_communication_s": either - self.busy(compute),
                    "copy_s": self.busy(mine & self.copy),
                    "idle_s": self.span - self.busy(mine),
                }
            )
        found["steps"] = [
            {"name": name, "start_s": start, "seconds": end - start}
            for name, start, end in self.steps
        ]
        return found

    def explain(self) -> str:
        """The summary as text."""
        lines = [f"profiled: {format_seconds(self.span)}, {len(self.names):,} device events"]
        for row in self.to_dict()["devices"]:
            lines.append(
                f"├─ device {row['device']}: compute {format_seconds(row['compute_s'])},"
                f" communication {format_seconds(row['communication_s'])}"
                f" ({format_seconds(row['exposed_communication_s'])} exposed),"
                f" idle {format_seconds(row['idle_s'])}"
            )
        return "\n".join(lines)


def union_length(start: Floats, seconds: Floats) -> float:
    """Length of the union of intervals [s]."""
    if not len(start):
        return 0.0
    order = np.argsort(start, kind="stable")
    begin, end = start[order], (start + seconds)[order]
    reach = np.maximum.accumulate(end)
    covered = np.concatenate([[begin[0]], reach[:-1]])
    return float(np.maximum(end - np.maximum(begin, covered), 0.0).sum())


def read_kineto(path: str | Path) -> KinetoTrace:
    """Read a profiler trace (``.json`` or ``.json.gz``).

    Raises
    ------
    ScenarioError
        If it is not a trace, or has nothing that ran on a device.
    """
    document = read_json(path, "profiler trace")
    events = document.get("traceEvents") if isinstance(document, dict) else document
    if not isinstance(events, list):
        raise ScenarioError(
            f"{path}: traceEvents", type(events).__name__, "a list of events",
            repair="export with torch.profiler's export_chrome_trace",
        )  # fmt: skip
    rows: list[tuple[float, float, int, int, str, bool, bool]] = []
    steps: list[tuple[str, float, float]] = []
    for index, event in enumerate(events):
        if not isinstance(event, dict) or event.get("ph") != "X":
            continue
        category = str(event.get("cat", "")).lower()
        name = str(event.get("name", ""))
        if category in DEVICE_CATEGORIES:
            start, seconds = _times(f"{path}: traceEvents[{index}]", event)
            given = event.get("args")
            args = given if isinstance(given, dict) else {}
            copy = category != "kernel"
            speaks = not copy and any(word in name.lower() for word in COMMUNICATION)
            place = _number(args.get("device"), event.get("pid"))
            stream = _number(args.get("stream"), event.get("tid"))
            rows.append((start, seconds, place, stream, name, speaks, copy))
        elif name.startswith("ProfilerStep"):
            start, seconds = _times(f"{path}: traceEvents[{index}]", event)
            steps.append((name, start, start + seconds))
    if not rows:
        raise ScenarioError(
            f"{path}: traceEvents",
            f"<{len(events)} events, none on a device>",
            f"complete events of category {', '.join(DEVICE_CATEGORIES)}",
            repair="profile with activities=[CPU, CUDA]",
        )
    rows.sort(key=lambda row: (row[0], row[2], row[3]))
    first = rows[0][0]
    return KinetoTrace(
        names=tuple(row[4] for row in rows),
        device=np.array([row[2] for row in rows], dtype=np.int64),
        stream=np.array([row[3] for row in rows], dtype=np.int64),
        start=np.array([row[0] - first for row in rows]),
        seconds=np.array([row[1] for row in rows]),
        communication=np.array([row[5] for row in rows], dtype=bool),
        copy=np.array([row[6] for row in rows], dtype=bool),
        steps=tuple(sorted({(n, a - first, b - first) for n, a, b in steps}, key=lambda s: s[1])),
    )


def beside(real: KinetoTrace, simulated: Mapping[str, Any]) -> dict[str, Any]:
    """One trace document with the real devices above the simulated ones, both starting at 0."""
    events: list[dict[str, Any]] = []
    shift = 1 + int(real.device.max())
    for device in np.unique(real.device).tolist():
        events.append(_meta("process_name", device, 0, f"measured: device {device}"))
        for stream in np.unique(real.stream[real.device == device]).tolist():
            events.append(_meta("thread_name", device, stream, f"stream {stream}"))
    for k, name in enumerate(real.names):
        kind = "communication" if real.communication[k] else "copy" if real.copy[k] else "kernel"
        events.append(
            {
                "name": name,
                "cat": kind,
                "ph": "X",
                "pid": int(real.device[k]),
                "tid": int(real.stream[k]),
                "ts": round(float(real.start[k]) * 1e6, 6),
                "dur": round(float(real.seconds[k]) * 1e6, 6),
            }
        )
    for event in simulated["traceEvents"]:
        moved = {**event, "pid": event["pid"] + shift}
        if event["ph"] == "M" and event["name"] == "process_name":
            moved["args"] = {"name": f"simulated: {event['args']['name']}"}
        events.append(moved)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"measured": real.to_dict()},
    }


def _meta(what: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}


def _times(where: str, event: Mapping[str, Any]) -> tuple[float, float]:
    """Start and duration [s]; some exporters write the microseconds as text."""
    try:
        start, length = float(event["ts"]) / 1e6, float(event["dur"]) / 1e6
    except (KeyError, TypeError, ValueError):
        start = length = float("nan")
    if not (np.isfinite(start) and np.isfinite(length) and length >= 0):
        raise ScenarioError(
            where,
            {key: event.get(key) for key in ("ts", "dur")},
            "ts and dur in microseconds, dur not negative",
            repair="export the trace again",
        )
    return start, length


def _number(*candidates: object) -> int:
    """The first that is a whole number; 0 if none is."""
    for value in candidates:
        if isinstance(value, int) or (isinstance(value, str) and value.isdigit()):
            return int(value)
    return 0
