"""Steady times of every plan that PyTorch's search of a convolution would try.

``torch.backends.cudnn.benchmark`` times each plan once, which for short kernels is a time of
launches, and keeps the least. Here the same plans (:mod:`validate.bench.proposals`), in the same
order, are captured in a CUDA graph of many calls over input sets that exceed the cache, as
operators are (:mod:`validate.bench.timing`), with shorter replays. Every tenth operator is also
timed as PyTorch runs it, search and all, by the protocol of operators: what the search keeps and
the least plan can then be compared. Operators that PyTorch gives to no cuDNN plan are timed so
alone.

``measure --only`` times one named plan of each operator instead, more shortly: what most operators
have of their own shows in any of their plans, and ten times as many fit into the same time.

A row of ``plan_times.jsonl`` is one operator: ``op``, ``sets`` of operands, ``clock_mhz``,
``plans``. A plan has its name; the median, least and most [us] of its replays; the calls of one;
its workspace [bytes]; and the kernels of a call (name, grid, block, dynamic shared memory [bytes]);
or why it was not timed.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import json
import math
import os
import statistics
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from validate.bench import ops, plan_rows, relay, runner, search_log, store
from validate.bench.families import conv
from validate.bench.plan_runs import Driver, Graph, Plan, Runs, shown
from validate.bench.proposals import Descriptor
from validate.bench.timing import CudaClock
from validate.bench.worker import Session, _say, answered, facts, measured

NAME: Final = runner.PLAN_TIMES
PROTOCOL: Final = (
    "each plan that cudnn.benchmark tries, in order: CUDA graph of back-to-back calls over input "
    "sets of about 400 MB (<= 48), random normal operands, events around each of 3 replays of "
    "about 0.8 ms after one that warms (plans above 1.6 times the least: 2 of 0.4 ms)"
)
EACH: Final = 10  # one operator of so many is timed as PyTorch runs it, too
REPLAY_S, SLOW_REPLAY_S = 0.8e-3, 0.4e-3
EVERY_S: Final = 2e-3  # a replay visits every input set where that stays short
ONLY_REPLAY_S, ONLY_EVERY_S = 0.3e-3, 1.2e-3  # where one plan is timed
ONLY_PROTOCOL: Final = (
    "one plan of an operator: CUDA graph of back-to-back calls over input sets of about 400 MB "
    "(<= 48, as many as 1.2 ms hold), random normal operands, events around one replay of 0.3 ms "
    "or more after one that warms"
)
SLOW: Final = 1.6
MOST_CALLS: Final = 200
ENDLESS_S: Final = 30e-3  # a first call above this is called no more
MOST_WORKSPACE: Final = 6 << 30  # bytes
EVERY_PLAN: Final[Mapping[str, str]] = MappingProxyType({})


def checked(op: ops.Op) -> bool:
    """Whether the operator is one of those that are timed as PyTorch runs them, too."""
    return int(hashlib.sha256(ops.key(op).encode()).hexdigest()[:8], 16) % EACH == 0


def calls_of(seconds: float, sets: int, slow: bool, only: bool = False) -> int:
    """Calls in one replay of a plan that takes so long: 2 at least, 200 at most.

    ``only``: of an operator whose other plans are not timed.
    """
    replay_s, every_s = (ONLY_REPLAY_S, ONLY_EVERY_S) if only else (REPLAY_S, EVERY_S)
    seconds = max(seconds, 1e-7)
    if slow:
        return int(min(MOST_CALLS, max(2, math.ceil(SLOW_REPLAY_S / seconds))))
    every = min(sets, math.ceil(every_s / seconds))
    least = 10 if seconds < EVERY_S / 10 else 2
    return int(min(MOST_CALLS, max(least, every, math.ceil(replay_s / seconds))))


@dataclass(slots=True)
class Timed:
    """A plan on its way to a time."""

    plan: Plan
    rough_s: float = 0.0
    why: str = ""
    slow: bool = False
    calls: int = 0
    graph: Graph | None = None
    kernels: list[Any] = field(default_factory=list)
    marks: list[Any] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """What is kept of it."""
        made: dict[str, Any] = {"name": self.plan.name, "ws": self.plan.workspace}
        if self.rough_s:
            made["rough_us"] = round(self.rough_s * 1e6, 3)
        if self.why:
            return made | {"error": self.why}
        if self.marks:
            us = [a.elapsed_time(b) * 1e3 / self.calls for a, b in self.marks]
            made |= {"us": round(statistics.median(us), 4), "low": round(min(us), 4)}
            made |= {"high": round(max(us), 4), "calls": self.calls}
        if self.kernels:
            made["kernels"] = self.kernels
        return made


class PlanSession(Session):
    """A measuring session that also times the plans of a convolution.

    ``only`` names one plan of each operator by its key; empty for all plans.
    """

    def __init__(
        self, device: str, processes: int, named: bool, only: Mapping[str, str] = EVERY_PLAN
    ) -> None:
        super().__init__(device, processes)
        self.only = only
        self.named, self.stream = named, 0
        self.driver: Driver | None = None
        if isinstance(self.clock, CudaClock):
            self.stream = int(self.clock.stream.cuda_stream)
            torch.zeros(8, device="cuda").sum().item()  # the context stands
            self.driver = Driver()
        self.runs = Runs(self.stream if self.driver else None)

    def backend(self, op: ops.Op, x: torch.Tensor, w: torch.Tensor) -> str:
        """Which library PyTorch gives a convolution to."""
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = op["dtype"] == "tf32"
        axes = x.dim() - 2
        try:
            chosen = torch._C._select_conv_backend(
                x, w, None, [op["stride"]] * axes, [op["padding"]] * axes, [1] * axes,
                False, [0] * axes, op.get("groups", 1), None,
            )  # fmt: skip
        except (AttributeError, TypeError, RuntimeError) as error:
            print(f"backend: {error}"[:300], file=sys.stderr)
            return "Cudnn"
        return str(chosen).rsplit(".", 1)[-1]

    def operands(self, op: ops.Op) -> list[tuple[torch.Tensor, ...]]:
        """Input sets of (input, filter, output gradient), as operators have them."""
        self.pool.begin()
        axes = ("h", "w") if op["op"] == "conv2d" else ("depth", "h", "w")
        count = self.pool.sets(ops.traffic(op)[0])
        return [conv._operands(op, self.pool, tuple(op[a] for a in axes)) for _ in range(count)]

    def plans(self, op: ops.Op) -> dict[str, Any] | None:
        """Times of an operator's plans; None where PyTorch does not ask cuDNN for any."""
        ops.check(op)
        given = self.operands(op)
        if self.driver is not None and not self.backend(op, *given[0][:2]).startswith("Cudnn"):
            return None
        built, failed = self.runs.built(op, only=self.only.get(ops.key(op)))
        timed = [Timed(plan) for plan in built]
        out, space = self._result(op, given[0]), self._workspace(timed)
        packs = [self._pack(op, part, out, space) for part in given]
        clock = self._times(timed, packs) if self.driver is not None else None
        rows = [t.row() for t in timed] + [{"name": n, "error": why} for n, why in failed]
        return {"op": op, "sets": len(given), "clock_mhz": clock, "plans": rows}

    def _result(self, op: ops.Op, given: tuple[torch.Tensor, ...]) -> torch.Tensor:
        x, w, y = given
        return torch.empty_like({"fwd": y, "dgrad": x, "wgrad": w}[op.get("pass") or "fwd"])

    def _workspace(self, timed: list[Timed]) -> torch.Tensor | None:
        for one in timed:
            if one.plan.workspace > MOST_WORKSPACE:
                one.why = "workspace"
        most = max((t.plan.workspace for t in timed if not t.why), default=0)
        try:
            return torch.empty(most, dtype=torch.uint8, device=self.device) if most else None
        except torch.OutOfMemoryError:
            for one in timed:
                one.why = one.why or ("workspace" if one.plan.workspace else "")
            return None

    def _pack(
        self,
        op: ops.Op,
        given: tuple[torch.Tensor, ...],
        out: torch.Tensor,
        space: torch.Tensor | None,
    ) -> Descriptor:
        x, w, y = (one.data_ptr() for one in given)
        at = out.data_ptr()
        which = op.get("pass") or "fwd"
        x, w, y = {"fwd": (x, w, at), "dgrad": (at, w, y), "wgrad": (x, at, y)}[which]
        return self.runs.operands(x, w, y, space.data_ptr() if space is not None else 0)

    def _times(self, timed: list[Timed], packs: list[Descriptor]) -> float | None:
        """Time what can be; the clock of the streaming multiprocessors meanwhile [MHz]."""
        self.turn.take()
        before = self.turn.executed
        for one in timed:
            if not one.why:
                self._first(one, packs)
        if self.turn.executed == before:  # else captured calls would take the turn themselves
            self.turn.release()
        least = max(min((t.rough_s for t in timed if not t.why), default=0.0), 30e-6)
        try:
            for one in timed:
                one.slow = one.rough_s > SLOW * least
                if not one.why:
                    self._capture(one, packs)
            self.turn.take()
            clock = self._replay([t for t in timed if t.graph is not None])
            self.turn.release()
        finally:
            torch.cuda.synchronize()
            for one in timed:
                if one.graph is not None:
                    one.graph.drop()
        return clock

    def _first(self, one: Timed, packs: list[Descriptor]) -> None:
        """Call it three times at most, which loads its kernels, for a rough time."""
        try:
            begin = time.perf_counter()
            self.runs.execute(one.plan, packs[0])
            torch.cuda.synchronize()
            one.rough_s = time.perf_counter() - begin
            if one.rough_s > ENDLESS_S:  # loading counts: once more
                begin = time.perf_counter()
                self.runs.execute(one.plan, packs[0])
                torch.cuda.synchronize()
                one.rough_s = time.perf_counter() - begin
                if one.rough_s > ENDLESS_S:
                    one.why = "above 30 ms"
                    return
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for i in range(2):
                self.runs.execute(one.plan, packs[(i + 1) % len(packs)])
            end.record()
            end.synchronize()
            one.rough_s = start.elapsed_time(end) / 2e3
        except OSError as error:
            one.why = str(error)[:200]
        except RuntimeError as error:  # the device is lost
            raise RuntimeError(f"plan {one.plan.name}: {error}") from error

    def _capture(self, one: Timed, packs: list[Descriptor]) -> None:
        # Calls of a short kernel are launch-bound: assume it is shorter than it looks.
        rough = one.rough_s / 2 if one.rough_s < 40e-6 else one.rough_s
        one.calls = calls_of(rough, len(packs), one.slow, bool(self.only))
        assert self.driver is not None
        try:
            one.graph = self.driver.capture(self.runs, self.stream, one.plan, packs, one.calls)
        except OSError as error:
            one.why = str(error)[:200]
            return
        with contextlib.suppress(OSError):
            one.kernels = shown(one.graph.kernels(one.calls)) if self.named else []

    def _replay(self, timed: list[Timed]) -> float | None:
        """Replay every graph behind the other, so that the device never waits."""
        waiting = [t for t in timed if t.graph is not None and not t.why]
        for one in waiting:
            assert one.graph is not None
            one.graph.launch(self.stream)
            for _ in range(1 if self.only else 2 if one.slow else 3):
                marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
                marks[0].record()
                one.graph.launch(self.stream)
                marks[1].record()
                one.marks.append(marks)
        board = None if self.only else self.clock.board  # reading it takes as long as a replay
        clock = board.clock_mhz() if waiting and board else None
        torch.cuda.synchronize()
        return clock


def answer_of(session: PlanSession, log: search_log.SearchLog, op: ops.Op) -> dict[str, Any]:
    """What the measuring process answers for an operator."""
    answer: dict[str, Any] = {}
    found = session.plans(op)
    if session.only:
        nothing = {"op": op, "sets": 0, "clock_mhz": None, "plans": []}
        return {"plan_times": nothing if found is None else found}
    if found is not None:
        answer["plan_times"] = found
    session.turn.release()
    if found is None or checked(op):
        log.take()
        answer |= measured(session, log, op, power=False)
    return answer


def serve(device: str, processes: int, named: bool, only: Mapping[str, str]) -> None:
    """Answer operators from stdin until it closes; exit 3 after a sticky device error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    session = PlanSession(device, processes, named, only)
    log = search_log.SearchLog.from_environment()
    session.start()
    gc.collect()
    gc.freeze()
    _say(out, {"ready": facts(device)})
    for line in sys.stdin:
        op = json.loads(line)["op"]
        answer = answered(session, device, partial(answer_of, session, log, op))
        if "fatal" in answer:
            answer.setdefault("error", answer["fatal"])
        _say(out, answer)
        if "fatal" in answer:
            os._exit(3)


def pack(out: Path, protocol: str = PROTOCOL) -> None:
    """Pack the rows of a run, and write their sidecar from the run's."""
    path, about = out / NAME, tomllib.loads((out / "ops.toml").read_text(encoding="utf-8"))
    data, count = plan_rows.packed(path.read_text(encoding="utf-8").splitlines())
    packed = out / f"{NAME}.gz"
    store.write_atomic(packed, data)
    store.sidecar(packed, about | {"protocol": protocol}, count)


# Operators on which every plan is compared with a reference, and the relative error allowed.
_CHECKS: Final[tuple[ops.Op, ...]] = (
    {"op": "conv2d", "n": 16, "c_in": 64, "h": 28, "w": 28, "c_out": 128, "kernel": 3,
     "stride": 1, "padding": 1, "groups": 1, "pass": "fwd", "layout": "nhwc", "dtype": "bf16"},
    {"op": "conv2d", "n": 8, "c_in": 48, "h": 30, "w": 34, "c_out": 96, "kernel": 3,
     "stride": 2, "padding": 1, "groups": 1, "pass": "dgrad", "layout": "nchw", "dtype": "fp32"},
    {"op": "conv2d", "n": 16, "c_in": 128, "h": 14, "w": 14, "c_out": 128, "kernel": 3,
     "stride": 1, "padding": 1, "groups": 4, "pass": "wgrad", "layout": "nhwc", "dtype": "fp16"},
    {"op": "conv3d", "n": 4, "c_in": 32, "depth": 8, "h": 14, "w": 14, "c_out": 64, "kernel": 3,
     "stride": 1, "padding": 1, "pass": "fwd", "layout": "nchw", "dtype": "tf32"},
)  # fmt: skip
_ALLOWED: Final = {"bf16": 5e-2, "fp16": 5e-2, "tf32": 1e-2, "fp32": 1e-3}


def _reference(op: ops.Op, given: tuple[torch.Tensor, ...]) -> torch.Tensor:
    x, w, y = (one.double() for one in given)
    axes = x.dim() - 2
    stride, padding, groups = [op["stride"]] * axes, [op["padding"]] * axes, op.get("groups", 1)
    if op["pass"] == "fwd":
        forward = torch.conv2d if axes == 2 else torch.conv3d
        return forward(x, w, None, stride, padding, [1] * axes, groups)
    mask = [op["pass"] == "dgrad", op["pass"] == "wgrad", False]
    gradients = torch.ops.aten.convolution_backward(
        y, x, w, None, stride, padding, [1] * axes, False, [0] * axes, groups, mask
    )
    found: torch.Tensor = gradients[0 if op["pass"] == "dgrad" else 1]
    return found


def check(device: str, named: bool) -> bool:
    """Compare every plan's result with double precision and its time with PyTorch's; print both."""
    torch.set_grad_enabled(False)
    session, good = PlanSession(device, 1, named), True
    for op in _CHECKS:
        given = session.operands(op)[0]
        words = [f"{op['pass']} {op['layout']} {op['dtype']}: {session.backend(op, *given[:2])}"]
        timed = [Timed(plan) for plan in session.runs.built(op)[0]]
        out, space = session._result(op, given), session._workspace(timed)
        operands, wrong = session._pack(op, given, out, space), len(timed) == 0
        if session.driver is not None:
            expected = _reference(op, given)
            for one in timed:
                out.fill_(float("nan"))
                torch.cuda.synchronize()
                try:
                    session.runs.execute(one.plan, operands)
                    torch.cuda.synchronize()
                except OSError as error:
                    words.append(f"  {one.plan.name}: {error}")
                    continue
                off = float((out.double() - expected).norm() / expected.norm())
                words.append(f"  {one.plan.name}: relative error {off:.2e}")
                wrong |= not off < _ALLOWED[op["dtype"]]
        rows = session.plans(op)
        timings = [p["us"] for p in rows["plans"] if "us" in p] if rows else []
        wrong |= session.driver is not None and not timings
        kept = session.measure(op, False).latency_us
        words += [f"  {json.dumps(p)[:400]}" for p in (rows or {"plans": []})["plans"]]
        words.append(f"  least {min(timings, default=0):.3f} us, as PyTorch runs it {kept:.3f} us")
        print("\n".join(words), flush=True)
        good &= not wrong
    print("self-check:", "good" if good else "BAD", flush=True)
    return good


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, check, or serve as a measuring process."""
    name = "python3 -m validate.bench.plan_times"
    parser = argparse.ArgumentParser(prog=name, description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("measure", "check", "worker"):
        made = commands.add_parser(command)
        made.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
        made.add_argument("--processes", type=int, default=2)
        made.add_argument("--unnamed", action="store_true", help="leave the kernels out")
        made.add_argument("--only", type=Path, help="JSON: key of an operator -> its one plan")
        if command == "measure":
            made.add_argument("--plan", type=Path, required=True, help="operators as JSON lines")
            made.add_argument("--out", type=Path, required=True)
            made.add_argument("--seconds", type=float, required=True)
    args = parser.parse_args(argv)
    if args.command == "check":
        return 0 if check(args.device, not args.unnamed) else 1
    if args.command == "worker":
        only = json.loads(args.only.read_text(encoding="utf-8")) if args.only else EVERY_PLAN
        serve(args.device, args.processes, not args.unnamed, only)
        return 0
    command = [sys.executable, "-m", "validate.bench.plan_times", "worker"]
    command += ["--device", args.device, "--processes", str(args.processes)]
    command += ["--only", str(args.only)] if args.only else []
    tally = relay.run(
        runner.load_plan(args.plan),
        args.out,
        seconds=args.seconds,
        processes=args.processes,
        device=args.device,
        worker_command=command + ["--unnamed"] * args.unnamed,
    )
    if (args.out / NAME).exists():
        pack(args.out, ONLY_PROTOCOL if args.only else PROTOCOL)
    return 0 if tally.measured else 1


if __name__ == "__main__":
    raise SystemExit(main())
