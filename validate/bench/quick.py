"""Many operators timed in passing: a short graph each, for rows that teach and are never scored.

The protocol of :mod:`validate.bench.timing` takes 40 ms an operator; this one takes three. Calls
cycle through the same sets of operands in a graph, which is replayed once unheard and once
between events (a second time differs by 0.2 %). What the short burst does to clocks and caches is
smooth in an operator's sizes, and operators that were timed both ways tell it.

Half of an operator's time is the host's, which cuts operands and lets go of them. Several
processes do that at once; they have the device one at a time.

``python3 -m validate.bench.quick --plan plan.jsonl --out run --seconds 100 --processes 5``
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gzip
import json
import math
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from validate.bench import nvml, ops, runner, store
from validate.bench.pool import Pool
from validate.bench.timing import Call, CudaClock, clock_for
from validate.bench.worker import MAKERS, REPLY, facts

CHUNK = 16
CHUNK_LIMIT_S = 60.0
GRAPH_S, SETS_S, FEWEST, MOST = 0.4e-3, 2.5e-3, 2, 96
RESERVED_LIMIT, RESERVED_TOGETHER = 30 << 30, 66 << 30  # bytes of a process, of all
CUT = {"gemm", "attention", "fft", "softmax", "rmsnorm", "layernorm", "topk", "rope"}
"""Operators whose operands are cut from the pool, which the device does nothing for."""
TURN = "BENCH_QUICK_TURN"  # variable that names the file whose lock is the device
COLUMNS = (*ops.OP_KEYS, "latency_us", "calls", "sets")
PROTOCOL = (
    "CUDA graph of 2..96 back-to-back calls over input sets of about 400 MB (<= 48), one replay "
    "unheard and one between events"
)


class Turns:
    """The device, for one process at a time; without a file nobody shares it."""

    def __init__(self, path: str | None = None) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT) if path else None
        self._depth = 0

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the device, and give it back when it has done what was begun within."""
        if self._file is None:
            yield
            return
        if not self._depth:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def making(self, op: ops.Op) -> contextlib.AbstractContextManager[None]:
        """A turn, where cutting an operator's operands is work for the device."""
        cut = op["op"] in CUT and op.get("dtype") != "fp8_e4m3" and op.get("pass", "fwd") == "fwd"
        if cut:
            return contextlib.nullcontext()
        return self.turn()


def glance(clock: CudaClock, calls: list[Call], start: Any, end: Any, turns: Turns) -> list[float]:
    """Time of a call [us], calls of a replay, and sets of operands."""
    with turns.turn():  # a capture, too, begins with small kernels
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


def _timed(
    chosen: list[ops.Op], pool: Pool, clock: Any, marks: list[Any], turns: Turns, limit: int
) -> list[Any]:
    found: list[Any] = []
    for op in chosen:
        try:
            ops.check(op)
            pool.begin()
            with turns.making(op):
                calls = MAKERS[op["op"]](op, pool)
            if marks:
                found.append(glance(clock, calls, *marks, turns))
            else:
                timing = clock.measure(calls)
                found.append([timing.latency_us, timing.calls, len(calls)])
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}"[:300])
            if marks:
                torch.cuda.synchronize()
        if marks and torch.cuda.memory_reserved() > limit:
            pool.clear()
            clock.drop()
            torch.cuda.empty_cache()
    return found


def serve(device: str, processes: int = 1) -> None:
    """Answer lists of operators from stdin until it closes; exit 3 after a sticky device error."""
    turns = Turns(os.environ.get(TURN) if processes > 1 else None)
    limit = min(RESERVED_LIMIT, RESERVED_TOGETHER // processes)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    clock = clock_for(device)
    on_device = isinstance(clock, CudaClock)
    if on_device:
        pool = Pool(device, 400e6, filling=turns.turn)
    else:
        pool = Pool(device, 4e6, 4, filling=turns.turn)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if on_device else []
    with turns.turn():
        clock.spin_up()
    print(REPLY + json.dumps({"ready": facts(device)}), file=out, flush=True)
    for line in sys.stdin:
        try:
            answer = _timed(json.loads(line)["ops"], pool, clock, marks, turns, limit)
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
    processes: int = 1,
) -> dict[str, int]:
    """Time a plan in order into ``out/quick.csv.gz`` for at most ``seconds``.

    Operators of a chunk whose process dies are noted as failed, and the next chunk goes on.
    """
    begin = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    own = [sys.executable, "-m", "validate.bench.quick", "--worker", "--device", device]
    own += ["--processes", str(processes)]
    about: dict[str, Any] = dict(runner.about_run(seconds, PROTOCOL))
    state = _Run(plan, out, begin + seconds)
    with tempfile.TemporaryDirectory(prefix="turns-") as folder:
        variables = {TURN: str(Path(folder) / "turn")} if processes > 1 else {}
        workers = [
            runner.Worker(
                device,
                out / ("worker.log" if processes == 1 else f"worker-{i}.log"),
                command=worker_command or own,
                variables=variables,
            )
            for i in range(processes)
        ]
        with ThreadPoolExecutor(processes) as threads:
            list(threads.map(state.work, workers))
    about |= {"library": next((w.facts for w in workers if w.facts), {}), "processes": processes}
    about["wall_s"] = round(time.monotonic() - begin, 1)
    if board := nvml.board_facts():
        about["board"] = board
    packed = out / "quick.csv.gz"
    store.write_atomic(packed, gzip.compress("".join(state.lines).encode(), mtime=0))
    store.sidecar(packed, about, len(state.lines) - 1)
    tally = {name: state.tally[name] for name in ("timed", "failed", "restarts")}
    print(json.dumps({"quick": tally, "wall_s": about["wall_s"]}))
    return tally


class _Run:
    """A plan dealt out in chunks, and what came of it."""

    def __init__(self, plan: list[ops.Op], out: Path, end: float) -> None:
        self.plan, self.out, self.end, self.place = plan, out, end, 0
        self.lines = [",".join(COLUMNS) + "\n"]
        self.tally: Counter[str] = Counter()
        self.lock = threading.Lock()

    @property
    def left(self) -> float:
        """Seconds until the budget is spent."""
        return self.end - time.monotonic()

    def work(self, worker: runner.Worker) -> None:
        """Let one process time chunk after chunk while time is left."""
        with runner.working(worker, logged=False):
            worker.start()
            while self.left >= 1.0 and (chosen := self._next()):
                self._chunk(worker, chosen)

    def _next(self) -> list[ops.Op]:
        with self.lock:
            start, self.place = self.place, self.place + CHUNK
        return self.plan[start : start + CHUNK]

    def _chunk(self, worker: runner.Worker, chosen: list[ops.Op]) -> None:
        limit_s = min(self.left, CHUNK_LIMIT_S)
        died = False
        try:
            rows = worker.request({"ops": chosen}, limit_s)["rows"]
        except runner.WorkerDied as reason:
            rows, died = [f"WorkerDied: {reason}"] * len(chosen), True
        with self.lock:
            self._note(chosen, rows)
        if died:
            worker.stop()
            self.tally["restarts"] += 1
            if limit_s > 10.0:
                worker.start()

    def _note(self, chosen: list[ops.Op], rows: list[Any]) -> None:
        for op, row in zip(chosen, rows, strict=True):
            if isinstance(row, str):
                self.tally["failed"] += 1
                runner.note_failure(self.out, op, row)
            else:
                self.tally["timed"] += 1
                values = op | dict(zip(COLUMNS[-3:], row, strict=True))
                self.lines.append(store.line(values, COLUMNS))


def main(argv: list[str] | None = None) -> int:
    """Exit status 0, or 1 when nothing was timed."""
    parser = argparse.ArgumentParser(prog="python3 -m validate.bench.quick", description=__doc__)
    parser.add_argument("--plan", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=100.0, help="hard budget, start included")
    parser.add_argument("--processes", type=int, default=1, help="that have the device in turn")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--worker", action="store_true", help="started by the command itself")
    args = parser.parse_args(argv)
    if args.worker:
        serve(args.device, args.processes)
        return 0
    if args.plan is None or args.out is None:
        parser.error("--plan and --out are needed")
    plan = [entry["op"] for entry in runner.load_plan(args.plan)]
    tally = measure(plan, args.out, args.seconds, args.device, processes=args.processes)
    return 0 if tally["timed"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
