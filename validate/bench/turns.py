"""Measure convolutions with several processes: they load kernels together and time one by one.

The first call of a convolution under ``torch.backends.cudnn.benchmark`` builds about ten plans and
loads their kernels, which keeps one core busy far longer than the timing keeps the device. So a
batch of operators is dealt out to several workers. Together they first call each operator once in
a thread of its own, whose plans are thrown away (PyTorch keeps plans by thread): all that remains
is that kernels are loaded. Then, one worker at a time and with nothing else on the device, each
searches again and times its operators as a single worker would.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from validate.bench import ops, runner
from validate.bench.runner import Run, Worker, WorkerDied

FIRST, EACH = 2, 8  # operators a worker takes in the first batch, and in others
WARM_LIMIT_S = 60.0  # of a part; a search may try plans that take seconds

Entry = dict[str, Any]


def run(
    plan: list[Entry],
    out: Path,
    *,
    seconds: float,
    processes: int,
    device: str = "cuda",
    op_limit_s: float = runner.OP_LIMIT_S,
    limit_bytes: float = runner.LIMIT_BYTES,
    worker_command: list[str] | None = None,
) -> runner.Tally:
    """Measure `plan` in batches into `out`, skipping what `out` holds, for at most `seconds`.

    Raises
    ------
    ValueError
        When fewer than two processes are asked for.
    """
    if processes < 2:
        raise ValueError(f"processes: {processes} is below 2; one process takes no turns")
    command = worker_command or runner.worker_command(device, processes)
    workers = [Worker(device, out / f"worker-{i}.log", command=command) for i in range(processes)]
    with runner.recorded(out, seconds, workers[0]) as state:
        state.op_limit_s, state.limit_bytes = op_limit_s, limit_bytes
        with contextlib.ExitStack() as held, ThreadPoolExecutor(processes) as threads:
            for worker in workers:
                held.enter_context(runner.working(worker))
            list(threads.map(Worker.start, workers))
            state.about |= {"processes": processes, "library": workers[0].facts}
            _batches(state, workers, iter(plan), threads)
    return state.tally


def _batches(
    state: Run, workers: list[Worker], plan: Iterator[Entry], threads: ThreadPoolExecutor
) -> None:
    """Warm and measure batch after batch until the plan or the time is over."""
    size, pace = FIRST * len(workers), 0.0
    while batch := _take(state, plan, size):
        begin = time.monotonic()
        parts = [batch[i :: len(workers)] for i in range(len(workers))]
        list(threads.map(lambda pair: _warm(state, *pair), zip(workers, parts, strict=True)))
        for worker, part in zip(workers, parts, strict=True):
            state.worker = worker
            if not all(_measure(state, entry) for entry in part):
                state.tally.out_of_time = True
                return
        pace = (time.monotonic() - begin) / len(batch)
        fits = int(max(state.left, 0.0) / max(pace, 1e-3))
        size = max(1, min(EACH * len(workers), fits))


def _take(state: Run, plan: Iterator[Entry], size: int) -> list[Entry]:
    """The next operators that are wanted."""
    batch: list[Entry] = []
    for entry in plan:
        if not state.wanted(entry["op"]):
            state.tally.skipped += 1
            continue
        batch.append(entry)
        if len(batch) >= size:
            break
    return batch


def _warm(state: Run, worker: Worker, part: list[Entry]) -> None:
    """Load the kernels of a part; a worker that dies of it is started again, and times it cold."""
    chosen = [e["op"] for e in part if sum(ops.traffic(e["op"])) <= state.limit_bytes]
    if not chosen or state.left < 1.0:
        return
    try:
        worker.request({"warm": chosen}, min(WARM_LIMIT_S, state.left))
    except WorkerDied:
        worker.stop()
        state.tally.restarts += 1
        worker.start()


def _measure(state: Run, entry: Entry) -> bool:
    if not state.wanted(entry["op"]):  # its stratum was given up within the batch
        state.tally.skipped += 1
        return True
    return state.left >= 1.0 and state.measure(entry["op"], entry["power"])
