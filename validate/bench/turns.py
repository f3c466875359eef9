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
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

from validate.bench import ops, runner
from validate.bench.runner import Run, Worker, WorkerDied

FIRST, EACH = 2, 8  # operators a worker takes in the first batch, and in others
WARM_LIMIT_S = 30.0  # of an operator; a search may try plans that take seconds

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
    size, warming, timing = FIRST * len(workers), 0.0, 0.0
    while not state.tally.out_of_time and (batch := _take(state, plan, size)):
        begin = time.monotonic()
        shared = deque(batch)
        parts = list(threads.map(_warm, repeat(state), workers, repeat(shared)))
        between = time.monotonic()
        for worker, part in zip(workers, [*parts[:-1], parts[-1] + list(shared)], strict=True):
            state.worker = worker
            if not all(_measure(state, entry) for entry in part):
                state.tally.out_of_time = True
                break
        end = time.monotonic()
        warming, timing = warming + between - begin, timing + end - between
        fits = int(max(state.left, 0.0) * len(batch) / (end - begin))
        size = max(1, min(EACH * len(workers), fits))
    print(f"together {warming:.1f} s, in turn {timing:.1f} s")


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


def _warm(state: Run, worker: Worker, shared: deque[Entry]) -> list[Entry]:
    """Load the kernels of one operator after another of those that are left; what was taken.

    A worker that dies of it is started again, and times what it took cold.
    """
    taken: list[Entry] = []
    while state.left >= 1.0:
        try:
            taken.append(shared.popleft())
        except IndexError:
            break
        if sum(ops.traffic(taken[-1]["op"])) > state.limit_bytes:
            continue  # refused before it is sent
        try:
            worker.request({"warm": taken[-1]["op"]}, min(WARM_LIMIT_S, state.left))
        except WorkerDied:
            worker.stop()
            state.tally.restarts += 1
            worker.start()
    return taken


def _measure(state: Run, entry: Entry) -> bool:
    if not state.wanted(entry["op"]):  # its stratum was given up within the batch
        state.tally.skipped += 1
        return True
    return state.left >= 1.0 and state.measure(entry["op"], entry["power"])
