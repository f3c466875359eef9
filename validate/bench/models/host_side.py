"""Where the host's time of an eager step goes: operators that Python calls, and gaps between them.

``python3 -m validate.bench.models.host_side --keys FILE --out FILE.json --seconds N``. Each case
has a process of its own, since a profiler slows every later launch of its process down: a stream
with blocks of the probe between its steps, the same under PyTorch's profiler of the host alone, and
the same once more. Blocks under the profiler tell what it adds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

BLOCK: Final = tuple(
    f"aten::{name}"
    for name in ("layer_norm", "linear", "gelu", "linear", "add", "view", "transpose", "chunk",
                 "cat", "mul")
)  # fmt: skip
"""Operators of the probe's block, as Python calls them."""
STEPS: Final = {"train": 3}
USUAL_STEPS: Final = 5
PLAIN_S: Final = 0.35
ANSWER_S: Final = 60.0


class Event(NamedTuple):
    """One recorded operator of a thread [ns]."""

    name: str
    begin: int
    seconds: int


class Outer(NamedTuple):
    """An operator that Python calls: the gap before it, its own time [ns], operators inside."""

    name: str
    gap: int
    seconds: int
    nested: int


def outermost(events: Sequence[Event]) -> list[Outer]:
    """Operators of one thread that lie in no other, in order.

    Examples
    --------
    >>> outermost([Event("a", 0, 10), Event("b", 2, 3), Event("c", 14, 1)])
    [Outer(name='a', gap=0, seconds=10, nested=1), Outer(name='c', gap=4, seconds=1, nested=0)]
    """
    found: list[Outer] = []
    end = None
    for event in sorted(events, key=lambda one: (one.begin, -one.seconds)):
        if end is not None and event.begin < end:
            found[-1] = found[-1]._replace(nested=found[-1].nested + 1)
            continue
        gap = 0 if end is None else event.begin - end
        found.append(Outer(event.name, gap, event.seconds, 0))
        end = event.begin + event.seconds
    return found


def between_blocks(found: Sequence[Outer]) -> list[list[Outer]]:
    """Runs of operators between the blocks of the probe: pieces of steps."""
    pieces: list[list[Outer]] = [[]]
    at = 0
    while at < len(found):
        if tuple(one.name for one in found[at : at + len(BLOCK)]) == BLOCK:
            if pieces[-1]:
                pieces.append([])
            at += len(BLOCK)
        else:
            pieces[-1].append(found[at])
            at += 1
    return [piece for piece in pieces if piece]


def summed(pieces: Sequence[Sequence[Outer]]) -> dict[str, Any]:
    """Of the longest pieces, the forward passes: operators and gaps of one, medians by operator."""
    longest = max(map(len, pieces), default=0)
    forward = [piece for piece in pieces if len(piece) > 0.6 * longest]
    names: dict[str, list[Outer]] = {}
    for piece in forward:
        for one in piece:
            names.setdefault(one.name, []).append(one)
    count = max(1, len(forward))
    return {
        "operators": sum(map(len, forward)) / count,
        "nested": sum(one.nested for piece in forward for one in piece) / count,
        "gaps_us": sum(one.gap for piece in forward for one in piece) / count / 1e3,
        "by_operator": {
            name: [
                len(ones) / count,
                statistics.median(one.gap for one in ones) / 1e3,
                statistics.median(one.seconds for one in ones) / 1e3,
            ]
            for name, ones in sorted(names.items())
        },
    }


def _middle(listed: str) -> float:
    return statistics.median(map(float, listed.split()))


def measured(case: Any, device: str, tiny: bool) -> dict[str, Any]:
    """A row of a case: steps and blocks without, under and after the profiler, and what it saw."""
    import torch

    from validate.bench.models import place, state, woven
    from validate.bench.models.session import Session

    kept = state.keep_memory()
    session = Session(device, tiny)
    step, own = session.prepare(case), session.device
    levels, _ = place.quietest(step, own.sync, tiny)
    begin = time.perf_counter()
    step()
    own.sync()
    usual = max(8, min(30, round(PLAIN_S / (time.perf_counter() - begin))))
    count, few = (2, 2) if tiny else (usual, STEPS.get(case.kind, USUAL_STEPS))

    def stream(steps: int) -> dict[str, Any]:
        return woven.woven(step, own.blocks, own.sync, steps)

    def taken() -> tuple[list[dict[str, Any]], Any]:
        plain = stream(count)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            under = stream(few)
        return [plain, under, stream(count)], seen

    streams, seen = place.deeper(levels, taken)
    threads: dict[int, list[Event]] = {}
    for event in seen.profiler.kineto_results.events():
        if not event.name().startswith("Optimizer."):
            one = Event(event.name(), event.start_ns(), event.duration_ns())
            threads.setdefault(event.start_thread_id(), []).append(one)
    pieces = [between_blocks(outermost(events)) for events in threads.values()]
    row = {"case": case.key, **summed(max(pieces, key=len))}  # the caller's has most blocks
    for name, found in zip(("plain", "profiled", "after"), streams, strict=True):
        row[f"{name}_us"] = _middle(found["woven_us"])
        row[f"{name}_block_us"] = _middle(found["woven_block_us"])
    del kept
    return row


def _answer(pipe: Any, case: Any, device: str, tiny: bool) -> None:
    pipe.send(measured(case, device, tiny))


def main(argv: list[str] | None = None) -> int:
    """Measure the cases of a list while the time lasts; 0 when at least one was."""
    parser = argparse.ArgumentParser(prog="python3 -m validate.bench.models.host_side")
    parser.add_argument("--keys", type=Path, required=True, help="keys of cases, a line each")
    parser.add_argument("--out", type=Path, required=True, help="a JSON file")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small models: a dry run")
    options = parser.parse_args(argv)
    from validate.bench.models import plans

    begin, known = time.monotonic(), {case.key: case for case in plans.every()}
    spawn = multiprocessing.get_context("spawn")
    rows: list[dict[str, Any]] = []
    for key in options.keys.read_text(encoding="utf-8").split():
        if time.monotonic() - begin > options.seconds:
            break
        ours, theirs = spawn.Pipe()
        child = spawn.Process(
            target=_answer, args=(theirs, known[key], options.device, options.tiny)
        )
        child.start()
        theirs.close()
        try:
            if ours.poll(ANSWER_S):
                rows.append(ours.recv())
                print(key, f"{rows[-1]['plain_us']:.0f} us", flush=True)
        except EOFError:
            print(key, "failed", flush=True)
        child.kill()
        child.join()
        options.out.write_text(json.dumps({"steps": rows}), encoding="utf-8")
    return 0 if rows else 1


if __name__ == "__main__":
    raise SystemExit(main())
