"""Drive cases through child processes that may crash, hang or run out of time."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import connection
from pathlib import Path
from typing import Any

from validate.bench.models import files, worker
from validate.bench.models.cases import Case

CASE_LIMIT_S, START_LIMIT_S = 40.0, 90.0
ROUND_LIMIT_S = 150.0
MEMORY_GB = 74.0


class Child:
    """One measuring process and the pipe to it."""

    def __init__(self, context: Any, device: str, tiny: bool) -> None:
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=worker.serve, args=(theirs, device, tiny))
        self._process.start()
        theirs.close()
        self.started = False

    @property
    def pipe(self) -> Any:
        """What is readable once an answer is there."""
        return self._pipe

    def send(self, command: str, case: Case) -> None:
        """Ask without waiting."""
        self._pipe.send((command, case))

    def receive(self, limit_s: float) -> dict[str, Any]:
        """The next answer; an ``error`` that is fatal where none comes."""
        try:
            if not self._pipe.poll(max(0.1, limit_s)):
                return {"error": f"no answer in {limit_s:.0f} s", "fatal": True}
            answer: dict[str, Any] = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(2.0)
            code = self._process.exitcode
            answer = {"error": f"the process ended with code {code}", "fatal": True}
        return answer

    def start(self, limit_s: float) -> dict[str, Any]:
        """Wait for the greeting, once."""
        answer = {} if self.started else self.receive(limit_s)
        self.started = True
        return answer

    def stop(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._pipe.close()
        self._process.kill()
        self._process.join(10.0)


def context_for(device: str) -> Any:
    """Fork where a forked child can use the device (imports are shared), spawn where not."""
    forked = multiprocessing.get_context("fork")
    child = Child(forked, device, True)
    answer = child.start(START_LIMIT_S)
    child.stop()
    if "error" in answer:
        print(f"forked children cannot use the device ({answer['error']}): spawning", flush=True)
        return multiprocessing.get_context("spawn")
    return forked


def _record(out: Path, case: Case, answer: dict[str, Any]) -> None:
    rows, kineto = answer.pop("kernels", None), answer.pop("kineto", None)
    answer.pop("fatal", None)
    files.append_row(out, case, answer)
    if rows:
        files.append_kernels(out, case, rows)
    if kineto:
        files.append_kineto(out, case, kineto)
    shown = answer.get("error") or f"{answer.get('step_us', 0):.0f} us"
    print(f"{time.strftime('%H:%M:%S')} {answer.get('case_s', 0):5.1f} s {case.key}: {shown}",
          flush=True)  # fmt: skip


def serial(
    cases: list[Case], out: Path, left: Callable[[], float], device: str, tiny: bool, context: Any
) -> int:
    """One case after another in one process, which is replaced when it dies; cases done.

    Profiles are taken in a process apart: once attached, a profiler slows every later launch down.
    """
    children: dict[str, Child] = {}
    count = 0
    for case in cases:
        if left() < 3.0:
            break
        room = left()
        answer = _asked("run", case, children, room, device, tiny, context)
        if answer is None or (room < CASE_LIMIT_S and "no answer" in answer.get("error", "")):
            if answer is not None:
                _record(out, case, answer)
            break  # out of time, not too slow
        if case.profile and case.mode == "eager" and "error" not in answer and left() > 3.0:
            seen = _asked("profile", case, children, left(), device, tiny, context) or {}
            if "error" not in seen:
                answer |= {name: value for name, value in seen.items() if name != "case_s"}
        _record(out, case, answer)
        count += 1
    for child in children.values():
        child.stop()
    return count


def _asked(
    command: str, case: Case, children: dict[str, Child], room: float, device: str, tiny: bool,
    context: Any,
) -> dict[str, Any] | None:  # fmt: skip
    """The answer of the process that takes a command, started where there is none."""
    child = children.get(command)
    if child is None:
        child = Child(context, device, tiny)
        greeting = child.start(min(START_LIMIT_S, room))
        if "error" in greeting:
            print(f"no worker: {greeting['error']}", file=sys.stderr)
            return None
        children[command] = child
    child.send(command, case)
    answer = child.receive(min(CASE_LIMIT_S, room))
    if "fatal" in answer:
        child.stop()
        del children[command]
    return answer


def rounds(cases: list[Case]) -> list[list[Case]]:
    """Cases in order, as many a round as the device's memory holds."""
    table: list[list[Case]] = []
    used = 0.0
    for case in cases:
        if not table or used + case.gb > MEMORY_GB:
            table.append([])
            used = 0.0
        table[-1].append(case)
        used += case.gb
    return table


def parallel(
    cases: list[Case],
    out: Path,
    left: Callable[[], float],
    device: str,
    tiny: bool,
    context: Any,
    processes: int,
    need_s: float,
) -> int:
    """Rounds: all compile and warm, `processes` at a time, then each is measured alone; cases done.

    A process that is warm waits without work. What is longest to compile should stand first.
    """
    count = 0
    for members in rounds(cases):
        if left() < need_s:
            break
        begin = time.perf_counter()
        limit = min(ROUND_LIMIT_S, max(5.0, left() - 1.5 * len(members) - 3.0))
        ready = _prepared(members, context, device, tiny, processes, begin + limit)
        spent = time.perf_counter() - begin
        print(f"compiled {len(members)} cases in {spent:.0f} s", flush=True)
        for case in members:
            child, result = ready[case.key]
            if "error" not in result:
                if left() <= 2.0:
                    child.stop()
                    continue
                result = _measure(child, case, out, left, device)
                count += 1
            _record(out, case, result)
            child.stop()
    return count


def _prepared(
    members: list[Case], context: Any, device: str, tiny: bool, processes: int, until: float
) -> dict[str, tuple[Child, dict[str, Any]]]:
    """A warm process, or one with an error, for the key of each case; none works any more."""
    waiting, working = list(members), []
    ready: dict[str, tuple[Child, dict[str, Any]]] = {}
    while waiting or working:
        while waiting and len(working) < processes:
            case = waiting.pop(0)
            child = Child(context, device, tiny)
            child.send("prepare", case)
            working.append((case, child))
        room = until - time.perf_counter()
        pipes = {child.pipe for _, child in working}
        heard = set(connection.wait(list(pipes), max(0.1, room)))
        for case, child in list(working):
            if child.pipe not in heard and room > 0:
                continue
            answer = child.receive(1.0)
            if answer.pop("ready", False):
                continue
            if "error" in answer:
                child.stop()
            ready[case.key] = child, answer
            working.remove((case, child))
        if room <= 0:
            for case, child in working:
                child.stop()
                ready[case.key] = child, {"error": "no answer in time", "fatal": True}
            working = []
            for case in waiting:
                print(f"no time for {case.key}", flush=True)
                members.remove(case)
            waiting = []
    return ready


def _measure(
    child: Child, case: Case, out: Path, left: Callable[[], float], device: str
) -> dict[str, Any]:
    """The compiled case; the CUDA graph of it is recorded on the way."""
    child.send("run", case)
    answer = child.receive(min(CASE_LIMIT_S, left()))
    if device == "cuda" and case.kind != "train" and "error" not in answer and left() > 2.0:
        graph = replace(case, mode="compiled-graph", profile=False, kineto=False)
        child.send("run", graph)
        _record(out, graph, child.receive(min(CASE_LIMIT_S, left())))
    return answer
