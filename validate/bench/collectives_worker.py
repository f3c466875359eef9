"""One rank of the collectives measurement; :mod:`validate.bench.collectives` starts it.

Ranks talk through a store of their own (never through the library under test): they agree on how
often to call, compare times, and stop together. Every phase of a case ends in such an agreement, so
a rank that fails takes the others with it in order, and a hang is ended by the parent.
"""

from __future__ import annotations

import csv
import json
import math
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from validate.bench import collectives_timing as timing
from validate.bench.collectives_cases import MAIN_OPS, Case

COLUMNS = (
    *("op", "bytes", "world", "dtype", "mode", "beside", "group"),
    *("latency_us", "p10_us", "p90_us", "alone_us", "host_us"),
    *("calls", "replays", "sets", "note"),
)
CYCLE_BYTES = 400e6  # input sets together exceed the L2 cache several times
MAX_SETS = 48
LEAST_SECONDS = 0.025
LEAST_REPLAYS = 5
BESIDE_CALLS = 10


class Control:
    """What ranks say to each other outside the measured library."""

    def __init__(self, store: Any, rank: int, world: int) -> None:
        self.store, self.rank, self.world, self.turn = store, rank, world, 0

    def share(self, value: object) -> list[Any]:
        """Everybody's value, in rank order; also a barrier."""
        self.turn += 1
        self.store.set(f"{self.turn}/{self.rank}", json.dumps(value))
        return [json.loads(self.store.get(f"{self.turn}/{r}")) for r in range(self.world)]


class Failed(Exception):
    """Some rank could not do this phase; all ranks know."""


def run(rank: int, world: int, ports: tuple[int, int], job: dict[str, Any], beat: Any) -> NoReturn:
    """Measure ``job["cases"]`` from ``job["first"]`` on until the deadline, then exit."""
    try:
        _measure_all(rank, world, ports, job, beat)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(3)
    os._exit(0)  # communicators may take long to tear down, and nothing is left to lose


def _measure_all(
    rank: int, world: int, ports: tuple[int, int], job: dict[str, Any], beat: Any
) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    start = timedelta(seconds=90)
    control_store, store = (
        dist.TCPStore("127.0.0.1", port, world, rank == 0, timeout=start) for port in ports
    )
    cuda = job["backend"] == "nccl"
    if cuda:
        torch.cuda.set_device(rank)
    dist.init_process_group(
        job["backend"], store=store, rank=rank, world_size=world, timeout=timedelta(seconds=120)
    )
    control = Control(control_store, rank, world)
    bench = _Bench(torch, dist, control, job, cuda)
    if rank == 0:
        Path(job["info"]).write_text(json.dumps(_info(torch, cuda)))
    control.share("ready")
    control_store.set_timeout(timedelta(seconds=job["case_timeout"]))
    reached = len(job["cases"])
    for index in range(job["first"], len(job["cases"])):
        if rank == 0:
            beat[0], beat[1] = index, time.time()
        if any(control.share(time.time() > job["deadline"])):
            reached = index
            break
        case = Case(**job["cases"][index])
        rows: list[dict[str, Any]] = []
        try:
            rows = bench.measure(case)
        except Failed as failed:
            if rank == 0:
                print(f"skipped {case.op} {case.size} {case.label}: {failed}", flush=True)
        if rank == 0:
            _append(Path(job["drawn" if case.drawn else "csv"]), rows)
    if rank == 0:
        beat[0], beat[1], beat[2] = reached, time.time(), 1
    control.share("done")
    sys.stdout.flush()
    if rank == 0:
        time.sleep(1.0)  # it holds the store that the others are still reading


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("a", newline="") as file:
        csv.DictWriter(file, COLUMNS, restval="").writerows(rows)


class _Bench:
    def __init__(
        self, torch: Any, dist: Any, control: Control, job: dict[str, Any], cuda: bool
    ) -> None:
        self.torch, self.dist, self.control, self.cuda = torch, dist, control, cuda
        self.rank = control.rank
        self.device = torch.device("cuda", self.rank) if cuda else torch.device("cpu")
        self.dtype = torch.bfloat16 if cuda else torch.float32
        self.itemsize = 2 if cuda else 4
        self.no_graph = set(job["no_graph"])
        self.skip: set[tuple[str, str]] = set()
        largest = max(case["size"] for case in job["cases"])
        elements = max(int(CYCLE_BYTES) if cuda else 0, largest) // self.itemsize
        self.source = torch.randn(elements, dtype=self.dtype, device=self.device)
        self.target = torch.empty_like(self.source)
        self.neighbours: dict[str, timing.Call] = {}
        self.groups: dict[tuple[tuple[int, ...], str], Any] = {}
        for case in job["cases"]:  # the same order on every rank
            kinds = {"urgent" if case["mode"] == "urgent" else ""}
            kinds |= {"second"} if _is_collective(case["beside"]) else set()
            for key in [(tuple(m), kind) for m in case["groups"] for kind in sorted(kinds)]:
                if key not in self.groups:
                    self.groups[key] = self._group(*key)
        self.stream = self.other = self.urgent = None
        if cuda:
            self.stream, self.other = torch.cuda.Stream(), torch.cuda.Stream()
            self.urgent = torch.cuda.Stream(priority=-1)
            work = timing.neighbour(torch, timing.GEMM, self.device)
            for _ in range(200):  # spin the clocks up
                work()
        self._synchronize()

    def _group(self, members: tuple[int, ...], kind: str) -> Any:
        """A communicator; each kind has its own."""
        if kind != "urgent" or not self.cuda:
            return self.dist.new_group(list(members))
        options = self.dist.ProcessGroupNCCL.Options()
        options.is_high_priority_stream = True
        return self.dist.new_group(list(members), pg_options=options)

    def _synchronize(self) -> None:
        if self.cuda:
            self.torch.cuda.synchronize()

    def _phase(self, case: Case, work: Callable[[], Any], *, fatal: bool = True) -> Any:
        """Do ``work`` on every rank; if any fails, all know and (if fatal) give the case up."""
        result, problem = None, ""
        try:
            result = work()
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"[:200]
        problems = [p for p in self.control.share(problem) if p]
        if not problems:
            return result
        if fatal:
            self.skip.add((case.op, case.label))
        raise Failed(problems[0])

    def measure(self, case: Case) -> list[dict[str, Any]]:
        """Rows of one case; every rank gets the same."""
        if (case.op, case.label) in self.skip:
            return []
        members = next((m for m in map(tuple, case.groups) if self.rank in m), None)
        kind = "urgent" if case.mode == "urgent" else ""
        stream = self.urgent if kind else self.stream
        calls = self._phase(case, lambda: self._calls(case, members, kind) if members else [])
        first = self._phase(
            case, lambda: timing.warm_up(calls, self._synchronize) if calls else 0.0
        )
        guess = max(self.control.share(first))
        many = max(10, min(200, math.ceil(LEAST_SECONDS / 5 / max(guess, 1e-7))))
        if case.beside:
            many = BESIDE_CALLS
        graph, note = None, ""
        wanted = "graph" if kind else case.mode
        mode = "eager" if not self.cuda or case.op in self.no_graph else wanted
        if mode != wanted:
            note = "no graph"
        if mode == "graph":
            try:
                graph = self._phase(
                    case,
                    lambda: timing.capture(self.torch, calls, many, stream) if calls else None,
                    fatal=False,
                )
            except Failed as failed:
                self.no_graph.add(case.op)
                mode, note = "eager", f"capture failed: {failed}"
        if case.beside:
            return self._beside(case, calls, graph, many, stream) if mode == "graph" else []
        if mode == "graph":
            once = self._graph_times(graph, many, 1)[0]
            guess = max(times[0] for times in self.control.share(once) if times)
        replays = math.ceil(LEAST_SECONDS / (many * max(guess, 1e-7)))
        replays = max(LEAST_REPLAYS, min(replays, 60))
        if mode == "graph":
            times, host = self._graph_times(graph, many, replays)
        elif calls:
            times, host = timing.time_eager(self.torch, calls, many, replays, self.cuda)
        else:
            times, host = [], 0.0
        row = self._row(case, times, mode=mode, calls=many, replays=replays, sets=len(calls))
        host_us = max(self.control.share(host)) * 1e6
        return [row | {"host_us": round(host_us, 3), "note": note}]

    def _graph_times(self, graph: Any, many: int, replays: int) -> tuple[list[float], float]:
        if graph is None:
            return [], 0.0
        return timing.time_graph(self.torch, graph, many, replays, self.stream)

    def _calls(self, case: Case, members: tuple[int, ...], kind: str) -> list[timing.Call]:
        """One callable per input set."""
        whole = case.size // self.itemsize
        if whole * self.itemsize != case.size or whole % len(members):
            raise ValueError(f"{case.size} bytes do not divide among {len(members)}")
        stride = math.ceil(whole / 128) * 128
        sets = min(MAX_SETS, math.ceil(CYCLE_BYTES / case.size), self.source.numel() // stride)
        sets = max(1, sets) if self.cuda else 1
        self.source[: sets * stride].normal_()
        group = self.groups[members, kind]
        return [
            timing.call(
                self.dist,
                case.op,
                group,
                members,
                self.rank,
                (
                    self.source[i * stride : i * stride + whole],
                    self.target[i * stride : i * stride + whole],
                ),
            )
            for i in range(sets)
        ]

    def _row(self, case: Case, times: list[float], **more: object) -> dict[str, Any]:
        shared = [each for each in self.control.share(times) if each]
        slowest = [max(each) for each in zip(*shared, strict=True)]
        low, middle, high = timing.quantiles(slowest)
        return {
            "op": case.op,
            "bytes": case.size,
            "world": case.world,
            "dtype": "bf16" if self.cuda else "fp32",
            "beside": case.beside,
            "group": case.label,
            "latency_us": round(middle * 1e6, 4),
            "p10_us": round(low * 1e6, 4),
            "p90_us": round(high * 1e6, 4),
            **more,
        }

    def _beside(
        self, case: Case, calls: list[timing.Call], graph: Any, many: int, stream: Any
    ) -> list[dict[str, Any]]:
        """Each alone, then each while the other runs all around it."""
        torch = self.torch
        alone = self._phase(case, lambda: self._graph_times(graph, many, LEAST_REPLAYS)[0])
        blocks = self._phase(case, lambda: self._neighbour(case) if calls else None)
        one = max(self.control.share(statistics.median(blocks[1]) if blocks else 0.0))
        here = max(self.control.share(statistics.median(alone) * many if alone else 0.0))
        times = 10
        # Each call may have to wait for a whole kernel of the neighbour before it begins.
        rounds = max(1, math.ceil((3 * here + 2 * many * one) / (times * one)))
        squeezed: list[float] = []
        pressed: list[float] = []
        early = 0

        def squeeze() -> None:
            nonlocal early
            for _ in range(LEAST_REPLAYS):
                took, ended = timing.at_once(torch, graph, stream, blocks[0], rounds, self.other)
                squeezed.append(took / many)
                early += ended

        def press() -> None:
            nonlocal early
            for _ in range(LEAST_REPLAYS):
                took, ended = timing.at_once(torch, blocks[0], self.other, graph, turns, stream)
                pressed.append(took / times)
                early += ended

        self._phase(case, lambda: squeeze() if calls else None)
        # Beside the neighbour, the collective takes as long as just seen: so often around it.
        slow = min(self.control.share(min(squeezed) * many if squeezed else math.inf))
        turns = max(1, math.ceil(3 * times * one / max(here, slow)))
        self._phase(case, lambda: press() if calls else None)
        count = sum(self.control.share(early))
        more = {"mode": case.mode, "replays": LEAST_REPLAYS}
        more["note"] = f"neighbour ended first {count} times" if count else ""
        first = self._row(case, squeezed, calls=many, sets=len(calls), **more)
        first["alone_us"] = self._row(case, alone)["latency_us"]
        second = self._row(case, pressed, calls=times, sets=1, **more)
        second["alone_us"] = self._row(case, blocks[1] if blocks else [])["latency_us"]
        second |= {"op": case.beside, "beside": f"{case.op} {case.size}"}
        return [first, second]

    def _neighbour(self, case: Case) -> tuple[Any, list[float]]:
        """The neighbour as a graph of ten calls, and its times alone."""
        name = case.beside
        if _is_collective(name):
            op, size = name.split()
            other = Case(op, int(size), case.groups, case.label)
            members = next(m for m in map(tuple, case.groups) if self.rank in m)
            work = self._calls(other, members, "second")[0]
        else:
            if name not in self.neighbours:
                self.neighbours[name] = timing.neighbour(self.torch, name, self.device)
            work = self.neighbours[name]
        with self.torch.cuda.stream(self.other):
            timing.warm_up([work], self._synchronize)
        block = timing.capture(self.torch, [work], 10, self.other)
        return block, timing.time_graph(self.torch, block, 10, LEAST_REPLAYS, self.other)[0]


def _is_collective(name: str) -> bool:
    """Whether a neighbour is "OP BYTES" rather than a kernel."""
    return name.partition(" ")[0] in MAIN_OPS


def _info(torch: Any, cuda: bool) -> dict[str, Any]:
    info: dict[str, Any] = {"torch": torch.__version__, "python": sys.version.split()[0]}
    if cuda:
        properties = torch.cuda.get_device_properties(0)
        info |= {
            "device": properties.name,
            "devices": torch.cuda.device_count(),
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "nccl": ".".join(str(part) for part in torch.cuda.nccl.version()),
        }
    return info
