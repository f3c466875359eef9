"""Drive a plan through a worker process that may crash, hang or run out of time."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from validate.bench import gate, nvml, ops, search_log, store

GIVE_UP = 8  # failures in a row of one stratum, after which the rest of it is skipped
START_LIMIT_S = 120.0
OP_LIMIT_S, LIMIT_BYTES = 25.0, 16e9  # of one operator
PLAN_TIMES = "plan_times.jsonl"
PROTOCOL = (
    "CUDA graph of 10..200 back-to-back calls over input sets of about 400 MB (<= 48), "
    "random normal operands, events around each replay, >= 5 replays and >= 25 ms"
)


def worker_command(device: str, processes: int = 1) -> list[str]:
    """Command line of a measuring process that shares the device with so many in all."""
    command = [sys.executable, "-m", "validate.bench", "worker", "--device", device]
    return command if processes == 1 else [*command, "--processes", str(processes)]


class WorkerDied(RuntimeError):
    """The worker ended, or answered nothing in time."""


@dataclass(slots=True)
class Worker:
    """One measuring process and the thread that reads its answers."""

    device: str
    log: Path
    process: Any = None
    facts: dict[str, Any] = field(default_factory=dict)
    command: list[str] | None = None
    searches: Path | None = None
    variables: dict[str, str] = field(default_factory=dict)
    _answers: Any = None

    def start(self) -> None:
        """Start the process and wait for its greeting."""
        command = self.command or worker_command(self.device)
        logs: dict[str, str] = {}
        if self.searches is not None:  # a folder of its own: a restart begins another log
            logs = search_log.environment(Path(tempfile.mkdtemp(dir=self.searches)))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | logs | self.variables,
            )
        answers: queue.Queue[str | None] = queue.Queue()
        self._answers = answers

        def listen(pipe: Any) -> None:
            for text in pipe:
                answers.put(text)
            answers.put(None)

        threading.Thread(target=listen, args=(self.process.stdout,), daemon=True).start()
        self.facts = self._receive(START_LIMIT_S)["ready"]

    def _receive(self, limit_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + limit_s
        while True:
            try:
                text = self._answers.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise WorkerDied(f"no answer in {limit_s:.0f} s") from None
            if text is None:
                raise WorkerDied(f"worker ended with code {self.process.wait()}")
            if text.startswith("@@"):
                answer: dict[str, Any] = json.loads(text[2:])
                return answer

    def ask(self, op: ops.Op, power: bool, limit_s: float) -> dict[str, Any]:
        """Measure one operator; the answer holds ``ok`` or ``error``."""
        return self.request({"op": op, "power": power}, limit_s)

    def request(self, message: dict[str, Any], limit_s: float) -> dict[str, Any]:
        """Send one line, and wait for the answer."""
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except OSError as error:
            raise WorkerDied(str(error)) from error
        return self._receive(limit_s)

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                try:
                    pipe.close()
                except (OSError, ValueError):
                    continue


@dataclass(slots=True)
class Tally:
    """What a run did."""

    measured: int = 0
    refused: int = 0
    failed: int = 0
    skipped: int = 0
    restarts: int = 0
    out_of_time: bool = False


def load_plan(path: Path) -> list[dict[str, Any]]:
    """Operators of a JSON-lines plan, checked before any is measured.

    Raises
    ------
    ValueError
        Naming the line.
    """
    plan = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not text.strip():
            continue
        try:
            entry = json.loads(text)
            if not isinstance(entry, dict):
                raise ValueError(f"{text[:40]} is no JSON object")
            power = bool(entry.pop("power", False))
            ops.check(entry)
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path}:{number}: {error}") from error
        plan.append({"op": entry, "power": power})
    return plan


@contextlib.contextmanager
def working(worker: Worker, *, logged: bool = True) -> Iterator[Worker]:
    """A worker that is ended whatever happens; one that cannot be started ends the block.

    ``logged`` gives its searches of convolution plans a folder.
    """
    with tempfile.TemporaryDirectory(prefix="searches-") as folder:
        worker.searches = Path(folder) if logged else None
        try:
            yield worker
        except WorkerDied as died:
            why = f"worker could not be started: {died}; {worker.log}: {_last_line(worker.log)}"
            print(why, file=sys.stderr)
        finally:
            worker.stop()


def _last_line(log: Path) -> str:
    """What a process said last, which is why it ended."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "empty")


@dataclass(slots=True)
class Run:
    """A plan on its way: what is done, what failed in a row, and the time that is left."""

    out: Path
    worker: Worker
    end: float
    done: set[str]
    about: dict[str, Any]
    op_limit_s: float = OP_LIMIT_S
    limit_bytes: float = LIMIT_BYTES
    tally: Tally = field(default_factory=Tally)
    streak: Counter[str] = field(default_factory=Counter)
    spent: Counter[str] = field(default_factory=Counter)

    @property
    def left(self) -> float:
        """Seconds until the budget is spent."""
        return self.end - time.monotonic()

    def wanted(self, op: ops.Op) -> bool:
        """Whether the operator is new, and not one of a stratum that fails throughout."""
        return ops.key(op) not in self.done and self.streak[ops.strata(op)] < GIVE_UP

    def measure(self, op: ops.Op, power: bool) -> bool:
        """Measure one operator, or note why not; False when the time ran out over it."""
        self.done.add(ops.key(op))
        if sum(ops.traffic(op)) > self.limit_bytes:
            _fail(self.out, op, f"needs more than {self.limit_bytes:.3g} bytes", self.tally)
            return True
        start = time.monotonic()
        answer = self.ask(self.worker, op, power)
        if answer is None:
            return False
        self.note(self.worker, op, answer, time.monotonic() - start)
        if "fatal" in answer:
            self.worker.stop()
            self.worker.start()
        return True

    def ask(self, worker: Worker, op: ops.Op, power: bool) -> dict[str, Any] | None:
        """What a worker answers, or how it died of it; None when the time ran out over it."""
        try:
            return worker.ask(op, power, min(self._limit(op), max(self.left, 1.0)))
        except WorkerDied as died:
            if self.left < 1.0:
                return None
            return {"error": f"WorkerDied: {died}", "fatal": True}

    def note(self, worker: Worker, op: ops.Op, answer: dict[str, Any], took: float) -> None:
        """Keep what was measured, or why it was not."""
        stratum = ops.strata(op)
        self.spent[stratum] += took
        if "plan_times" in answer:
            store.append_line(self.out / PLAN_TIMES, answer["plan_times"])
        if "ok" not in answer and "error" not in answer:
            self.streak[stratum] = 0
            self.tally.measured += 1
            return
        if "ok" in answer:
            self.streak[stratum] = 0
            _keep(self.out, op, answer, worker.facts["device"], self.tally)
            return
        self.streak[stratum] += 3 if "fatal" in answer else 1
        self.tally.restarts += "fatal" in answer
        _fail(self.out, op, answer["error"], self.tally)

    def _limit(self, op: ops.Op) -> float:
        compiled = op["op"] == "chain" or op.get("kind") == "compiled_chain"
        return max(self.op_limit_s, 90.0) if compiled else self.op_limit_s


def run(
    plan: list[dict[str, Any]],
    out: Path,
    *,
    seconds: float,
    device: str = "cuda",
    op_limit_s: float = OP_LIMIT_S,
    limit_bytes: float = LIMIT_BYTES,
    worker_command: list[str] | None = None,
) -> Tally:
    """Measure `plan` in order into `out`, skipping what `out` holds, for at most `seconds`."""
    worker = Worker(device, out / "worker.log", command=worker_command)
    hosts = any(entry["op"]["op"] == "host" for entry in plan)  # a log costs the host time
    with recorded(out, seconds, worker) as state:
        state.op_limit_s, state.limit_bytes = op_limit_s, limit_bytes
        with working(worker, logged=not hosts):
            worker.start()
            state.about["library"] = worker.facts
            for entry in plan:
                if not state.wanted(entry["op"]):
                    state.tally.skipped += 1
                elif state.left < 1.0 or not state.measure(entry["op"], entry["power"]):
                    state.tally.out_of_time = True
                    break
    return state.tally


@contextlib.contextmanager
def recorded(out: Path, seconds: float, worker: Worker) -> Iterator[Run]:
    """A run that takes up what ``out`` holds, and leaves a sidecar and a summary at its end."""
    begin = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    for name in ("ops.csv", "refused.csv", "failures.jsonl", search_log.NAME, PLAN_TIMES):
        store.trim(out / name)
    state = Run(out, worker, begin + seconds, store.done_keys(out), about_run(seconds))
    try:
        yield state
    finally:
        _finish(state, time.monotonic() - begin)


def _keep(out: Path, op: ops.Op, answer: dict[str, Any], device: str, tally: Tally) -> None:
    timing = answer["ok"]
    row = {"family": ops.family(op), **op, "device": device, **timing}
    if answer.get("plans"):
        search_log.append(out, op, answer["plans"])
    reason = gate.refusal(op, device, timing["latency_us"])
    if reason is None:
        store.append(out / "ops.csv", row)
        tally.measured += 1
    else:
        store.append(out / "refused.csv", row | {"note": reason})
        tally.refused += 1


def _fail(out: Path, op: ops.Op, reason: str, tally: Tally) -> None:
    tally.failed += 1
    note_failure(out, op, reason)


def note_failure(out: Path, op: ops.Op, reason: str) -> None:
    """Add one operator to ``failures.jsonl``."""
    with (out / "failures.jsonl").open("a", encoding="utf-8") as handle:
        handle.write(json.dumps({"op": op, "reason": reason}) + "\n")


def about_run(seconds: float, protocol: str = PROTOCOL) -> dict[str, Any]:
    """Date, command line and protocol of a run, for its sidecar."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python3", "-m", "validate.bench", *sys.argv[1:]]),
        "budget_s": seconds,
        "protocol": protocol,
    }


def _finish(state: Run, wall: float) -> None:
    """Sidecar, summary on stdout, and worker logs of bounded size."""
    rows, about = state.out / "ops.csv", state.about
    for log in state.out.glob("worker*.log"):
        store.write_atomic(log, log.read_bytes()[-200_000:])
    about["wall_s"] = round(wall, 1)
    board = nvml.board_facts()
    if board:
        about["board"] = board
    if rows.exists() or (state.out / PLAN_TIMES).exists():
        if not rows.exists():
            rows.write_text(",".join(store.COLUMNS) + "\n", encoding="utf-8")
        store.sidecar(rows, about, len(store.read(rows)))
    tally = {k: getattr(state.tally, k) for k in Tally.__slots__}
    print(json.dumps({"tally": tally, "wall_s": wall}))
    costly = ", ".join(f"{k} {v:.1f}" for k, v in state.spent.most_common(40))
    print(f"seconds by stratum: {costly}")
