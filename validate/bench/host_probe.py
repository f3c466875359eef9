"""How fast this host issues work now: ``python3 validate/bench/host_probe.py``, PyTorch alone.

Times one call of a tiny operator without waiting for the device, as the measurements of whole
models do beside each step, and prints JSON. ``probe_call_us`` goes into
``perfmodel graph --host-pace 8.9us`` or ``perfmodel.host_pace_of``; where perfmodel is installed
the pace itself is printed too. A host whose cores are shared changes from second to second: probe
beside the step that is to be compared, and look at the spread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

CALLS, ADDS = 150, 15_000


def call_seconds(tiny: Any, wait: Any) -> float:
    """Seconds of one ``add_`` on a tensor of one element, issued in a row."""
    tiny.add_(1)
    wait()
    begin = time.perf_counter()
    for _ in range(CALLS):
        tiny.add_(1)
    spent = time.perf_counter() - begin
    wait()
    return spent / CALLS


def add_seconds() -> float:
    """Seconds of one addition in Python."""
    begin, count = time.perf_counter(), 0
    while count < ADDS:
        count += 1
    return (time.perf_counter() - begin) / ADDS


def probe(device: str, rounds: int) -> dict[str, float]:
    """Medians, and the tenth and ninetieth percentile of the call."""
    import torch

    tiny = torch.zeros(1, device=device)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    calls = [call_seconds(tiny, wait) for _ in range(max(3, rounds))]
    adds = [add_seconds() for _ in range(max(3, rounds))]
    tenths = statistics.quantiles(calls, n=10)
    return {
        "probe_call_us": statistics.median(calls) * 1e6,
        "probe_call_p10_us": tenths[0] * 1e6,
        "probe_call_p90_us": tenths[-1] * 1e6,
        "probe_add_ns": statistics.median(adds) * 1e9,
    }


def main(argv: list[str] | None = None) -> int:
    """Print the probe; 0 when it was taken."""
    parser = argparse.ArgumentParser(prog="python3 validate/bench/host_probe.py")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rounds", type=int, default=100, help="probes of some milliseconds each")
    parser.add_argument("--on", default="h100-sxm5-80gb", help="the chip whose reference counts")
    options = parser.parse_args(argv)
    found = probe(options.device, options.rounds)
    try:
        from perfmodel import host_pace_of
    except ImportError:
        pass
    else:
        found["host_pace"] = host_pace_of(found["probe_call_us"] * 1e-6, options.on)
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
