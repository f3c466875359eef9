"""Measure convolutions with several processes: they plan together and have the device in turn.

The first call of a convolution under ``torch.backends.cudnn.benchmark`` builds about ten plans and
loads their kernels, which keeps one core busy far longer than the trials and the timing keep the
device. So every worker builds the plans of an operator of its own; the first of them that is
executed waits until the device is free (:mod:`validate.bench.turn_lock`), and the worker keeps the
device until its operator is timed. Each searches and times alone on the device, as a single worker
would, while others build.

Kernels that a process has loaded stay loaded. A worker therefore takes operators of the kinds that
it began with where some are near in the plan.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from validate.bench import ops, runner, turn_lock
from validate.bench.runner import Run, Worker

AHEAD = 400  # entries of the plan among which a worker looks for one of its kinds
OP_LIMIT_S = 60.0  # of an operator, the wait for its turn included

Entry = dict[str, Any]


def kind(op: ops.Op) -> str:
    """What operators that share kernels have in common."""
    return ops.strata(op)


class Deal:
    """Hands out a plan's entries to workers, to each those of its kinds first."""

    def __init__(self, state: Run, plan: list[Entry]) -> None:
        self.state, self.left = state, plan[::-1]
        self.owner: dict[str, int] = {}
        self.lock = threading.Lock()

    def take(self, worker: int) -> Entry | None:
        """The next entry for a worker; None when the plan is at its end."""
        with self.lock:
            while self.left and not self.state.wanted(self.left[-1]["op"]):
                self.left.pop()
                self.state.tally.skipped += 1
            if not self.left:
                return None
            at = self._choose(worker)
            entry = self.left.pop(at)
            self.owner.setdefault(kind(entry["op"]), worker)
            self.state.done.add(ops.key(entry["op"]))
            return entry

    def _choose(self, worker: int) -> int:
        """Index of the first of its kinds, else of a kind of nobody's if it has few, else next."""
        free, held = None, Counter(self.owner.values())
        fewest = held[worker] <= min(held.values(), default=0)
        for at in range(len(self.left) - 1, max(-1, len(self.left) - 1 - AHEAD), -1):
            op = self.left[at]["op"]
            owner = self.owner.get(kind(op))
            if owner == worker and self.state.wanted(op):
                return at
            if owner is None and free is None and self.state.wanted(op):
                free = at
        return free if free is not None and (fewest or held[worker] == 0) else len(self.left) - 1


def run(
    plan: list[Entry],
    out: Path,
    *,
    seconds: float,
    processes: int,
    device: str = "cuda",
    op_limit_s: float = OP_LIMIT_S,
    limit_bytes: float = runner.LIMIT_BYTES,
    worker_command: list[str] | None = None,
) -> runner.Tally:
    """Measure `plan` into `out`, skipping what `out` holds, for at most `seconds`.

    Raises
    ------
    ValueError
        When fewer than two processes are asked for.
    OSError
        When the library that makes processes wait cannot be built.
    """
    if processes < 2:
        raise ValueError(f"processes: {processes} is below 2; one process takes no turns")
    command = worker_command or runner.worker_command(device, processes)
    with tempfile.TemporaryDirectory(prefix="turns-") as name:
        folder = Path(name)
        variables = turn_lock.environment(turn_lock.build(folder), folder / "lock")
        workers = [
            Worker(device, out / f"worker-{i}.log", command=command, variables=variables)
            for i in range(processes)
        ]
        with runner.recorded(out, seconds, workers[0]) as state:
            state.op_limit_s, state.limit_bytes = max(op_limit_s, OP_LIMIT_S), limit_bytes
            with contextlib.ExitStack() as held, ThreadPoolExecutor(processes) as threads:
                for worker in workers:
                    held.enter_context(runner.working(worker))
                list(threads.map(Worker.start, workers))
                state.about |= {"processes": processes, "library": workers[0].facts}
                deal, noting = Deal(state, plan), threading.Lock()
                turns = [
                    threads.submit(_work, state, deal, i, worker, noting)
                    for i, worker in enumerate(workers)
                ]
                spent = [turn.result() for turn in turns]
                names = ("planning_s", "waiting_s", "in_turn_s")
                sums = [round(sum(column), 1) for column in zip(*spent, strict=True)]
                state.about |= dict(zip(names, sums, strict=True))
    return state.tally


def _work(
    state: Run, deal: Deal, at: int, worker: Worker, noting: threading.Lock
) -> tuple[float, float, float]:
    """Measure entry after entry; seconds of planning, of waiting for a turn, and in turn."""
    total, waited, kept = 0.0, 0.0, 0.0
    while state.left >= 1.0 and (entry := deal.take(at)):
        op = entry["op"]
        if sum(ops.traffic(op)) > state.limit_bytes:
            answer: dict[str, Any] | None = {
                "error": f"needs more than {state.limit_bytes:.3g} bytes"
            }
            took = 0.0
        else:
            begin = time.monotonic()
            answer = state.ask(worker, op, entry["power"])
            took = time.monotonic() - begin
        if answer is None:
            break
        total += took
        waited, kept = answer.get("turn", (waited, kept))
        with noting:
            state.note(worker, op, answer, took)
        if "fatal" in answer:
            worker.stop()
            worker.start()
    if state.left < 1.0:
        state.tally.out_of_time = True
    return total - waited - kept, waited, kept
