"""Many operators timed in passing: a short graph each, for rows that teach and are never scored.

The protocol of :mod:`validate.bench.timing` takes 40 ms an operator; this one takes three. Calls
cycle through the same sets of operands in a graph, which is replayed once unheard and once
between events (a second time differs by 0.2 %). What the short burst does to clocks and caches is
smooth in an operator's sizes, and operators that were timed both ways tell it.

``python3 -m validate.bench.quick --plan plan.jsonl --out run --seconds 100``
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from validate.bench import nvml, ops, runner, store
from validate.bench.pool import Pool
from validate.bench.timing import Call, CudaClock, clock_for
from validate.bench.worker import MAKERS, REPLY, facts

CHUNK = 64
CHUNK_LIMIT_S = 60.0
GRAPH_S, SETS_S, FEWEST, MOST = 0.4e-3, 2.5e-3, 2, 96
RESERVED_LIMIT = 30 << 30
COLUMNS = (*ops.OP_KEYS, "latency_us", "calls", "sets")
PROTOCOL = (
    "CUDA graph of 2..96 back-to-back calls over input sets of about 400 MB (<= 48), one replay "
    "unheard and one between events"
)


def glance(clock: CudaClock, calls: list[Call], start: Any, end: Any) -> list[float]:
    """Time of a call [us], calls of a replay, and sets of operands."""
    calls[0]()
    start.record()
    calls[-1]()
    end.record()
    end.synchronize()
    rough = start.elapsed_time(end) / 1e3
    rough = max(rough / 2 if rough < 40e-6 else rough, 2e-6)
    every = min(len(calls), math.ceil(SETS_S / rough))
    count = int(min(MOST, max(FEWEST, every, math.ceil(GRAPH_S / rough))))
    graph = clock._capture(calls, count)
    if isinstance(graph, Exception):
        clock.drop()
        raise graph
    graph.replay()
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return [start.elapsed_time(end) * 1e3 / count, count, len(calls)]


def _timed(chosen: list[ops.Op], pool: Pool, clock: Any, marks: list[Any]) -> list[Any]:
    found: list[Any] = []
    for op in chosen:
        try:
            ops.check(op)
            pool.begin()
            calls = MAKERS[op["op"]](op, pool)
            if marks:
                found.append(glance(clock, calls, *marks))
            else:
                timing = clock.measure(calls)
                found.append([timing.latency_us, timing.calls, len(calls)])
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}"[:300])
            if marks:
                torch.cuda.synchronize()
        if marks and torch.cuda.memory_reserved() > RESERVED_LIMIT:
            pool.clear()
            clock.drop()
            torch.cuda.empty_cache()
    return found


def serve(device: str) -> None:
    """Answer lists of operators from stdin until it closes; exit 3 after a sticky device error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    clock = clock_for(device)
    on_device = isinstance(clock, CudaClock)
    pool = Pool(device, 400e6) if on_device else Pool(device, 4e6, 4)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if on_device else []
    clock.spin_up()
    print(REPLY + json.dumps({"ready": facts(device)}), file=out, flush=True)
    for line in sys.stdin:
        try:
            answer = _timed(json.loads(line)["ops"], pool, clock, marks)
        except Exception as error:
            print(f"{type(error).__name__}: {error}"[:400], file=sys.stderr)
            os._exit(3)
        print(REPLY + json.dumps({"rows": answer}), file=out, flush=True)


def measure(
    plan: list[ops.Op],
    out: Path,
    seconds: float,
    device: str,
    worker_command: list[str] | None = None,
) -> dict[str, int]:
    """Time a plan in order into ``out/quick.csv.gz`` for at most ``seconds``.

    Operators of a chunk whose process dies are noted as failed, and the next chunk goes on.
    """
    begin = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    own = [sys.executable, "-m", "validate.bench.quick", "--worker", "--device", device]
    worker = runner.Worker(device, out / "worker.log", command=worker_command or own)
    about: dict[str, Any] = dict(runner.about_run(seconds, PROTOCOL))
    lines = [",".join(COLUMNS) + "\n"]
    tally = {"timed": 0, "failed": 0, "restarts": 0}
    with runner.working(worker, logged=False):
        worker.start()
        about["library"] = worker.facts
        for place in range(0, len(plan), CHUNK):
            left = begin + seconds - time.monotonic()
            if left < 1.0:
                break
            _chunk(worker, plan[place : place + CHUNK], min(left, CHUNK_LIMIT_S), out, lines, tally)
    about["wall_s"] = round(time.monotonic() - begin, 1)
    if board := nvml.board_facts():
        about["board"] = board
    packed = out / "quick.csv.gz"
    store.write_atomic(packed, gzip.compress("".join(lines).encode(), mtime=0))
    store.sidecar(packed, about, len(lines) - 1)
    print(json.dumps({"quick": tally, "wall_s": about["wall_s"]}))
    return tally


def _chunk(
    worker: runner.Worker,
    chosen: list[ops.Op],
    limit_s: float,
    out: Path,
    lines: list[str],
    tally: dict[str, int],
) -> None:
    try:
        rows = worker.request({"ops": chosen}, limit_s)["rows"]
    except runner.WorkerDied as died:
        rows = [f"WorkerDied: {died}"] * len(chosen)
        worker.stop()
        tally["restarts"] += 1
        if limit_s > 10.0:
            worker.start()
    for op, row in zip(chosen, rows, strict=True):
        if isinstance(row, str):
            tally["failed"] += 1
            runner.note_failure(out, op, row)
        else:
            tally["timed"] += 1
            lines.append(store.line(op | dict(zip(COLUMNS[-3:], row, strict=True)), COLUMNS))


def main(argv: list[str] | None = None) -> int:
    """Exit status 0, or 1 when nothing was timed."""
    parser = argparse.ArgumentParser(prog="python3 -m validate.bench.quick", description=__doc__)
    parser.add_argument("--plan", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=100.0, help="hard budget, start included")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--worker", action="store_true", help="started by the command itself")
    args = parser.parse_args(argv)
    if args.worker:
        serve(args.device)
        return 0
    if args.plan is None or args.out is None:
        parser.error("--plan and --out are needed")
    plan = [entry["op"] for entry in runner.load_plan(args.plan)]
    return 0 if measure(plan, args.out, args.seconds, args.device)["timed"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
