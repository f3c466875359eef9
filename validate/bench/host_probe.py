"""How fast this host issues work now: ``python3 validate/bench/host_probe.py``, PyTorch alone.

Times one call of a tiny operator, and a small block of modules and operators, without waiting for
the device, as the measurements of whole models do beside each step, and prints JSON. The block
tells the pace best: with it, where perfmodel is installed, ``host_pace`` is printed, which goes
into ``perfmodel graph --host-pace 1.48`` as it is, and ``backward_pace``, that of the thread which
runs a backward pass, into ``--backward-pace``; elsewhere ``probe_call_us`` will do
(``--host-pace 8.9us``, ``perfmodel.host_pace_of``). A host whose cores are shared changes from
second to second: probe beside the step that is to be compared, and look at the spread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from validate.bench.models.state import in_backward

CALLS, ADDS, BLOCKS = 150, 15_000, 15


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


def block(device: str) -> Callable[[], Any]:
    """A transformer's block in small: twelve operators, five modules, views, new tensors."""
    import torch

    net = torch.nn.Sequential(
        torch.nn.LayerNorm(16),
        torch.nn.Linear(16, 64),
        torch.nn.GELU(),
        torch.nn.Linear(64, 16),
    ).to(device)
    values = torch.zeros(4, 16, device=device)

    @torch.no_grad()
    def step() -> Any:
        found = net(values) + values
        one, other = found.view(4, 2, 8).transpose(0, 1).chunk(2)
        return torch.cat([one, other], 0) * 0.5

    return step


def block_seconds(step: Callable[[], Any], wait: Any) -> float:
    """Seconds of one block, issued in a row."""
    step()
    wait()
    begin = time.perf_counter()
    for _ in range(BLOCKS):
        step()
    spent = time.perf_counter() - begin
    wait()
    return spent / BLOCKS


def probe(device: str, rounds: int) -> dict[str, float]:
    """Medians, and the tenth and ninetieth percentile of the call."""
    import torch

    tiny = torch.zeros(1, device=device)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    calls = [call_seconds(tiny, wait) for _ in range(max(3, rounds))]
    adds = [add_seconds() for _ in range(max(3, rounds))]
    small = block(device)
    blocks = [block_seconds(small, wait) for _ in range(max(3, rounds))]
    behind = [
        in_backward(lambda: block_seconds(small, wait), device) for _ in range(max(3, rounds))
    ]
    tenths = statistics.quantiles(calls, n=10)
    return {
        "probe_call_us": statistics.median(calls) * 1e6,
        "probe_call_p10_us": tenths[0] * 1e6,
        "probe_call_p90_us": tenths[-1] * 1e6,
        "probe_add_ns": statistics.median(adds) * 1e9,
        "probe_block_us": statistics.median(blocks) * 1e6,
        "probe_backward_block_us": statistics.median(behind) * 1e6,
    }


def main(argv: list[str] | None = None) -> int:
    """Print the probe; 0 when it was taken."""
    parser = argparse.ArgumentParser(prog="python3 validate/bench/host_probe.py")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rounds", type=int, default=100, help="probes of some milliseconds each")
    parser.add_argument("--on", default="h100-sxm5-80gb", help="the chip whose reference counts")
    options = parser.parse_args(argv)
    try:
        import torch
    except ImportError:
        parser.error("PyTorch is not installed here: pip install torch")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here; run it on the machine whose host you ask about")
    torch.set_num_threads(1)  # one thread issues; others would only be in its way
    found = probe(options.device, options.rounds)
    try:
        from perfmodel import host_pace_of
    except ImportError:
        pass
    else:
        call, block = found["probe_call_us"] * 1e-6, found["probe_block_us"] * 1e-6
        found["host_pace"] = host_pace_of(call, options.on, block=block)
        behind = found["probe_backward_block_us"] * 1e-6
        found["backward_pace"] = host_pace_of(call, options.on, block=behind, backward=True)
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
