"""The profiling process: reads lists of operators, answers the kernels that one call launched."""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
from bisect import bisect_right
from pathlib import Path
from typing import Any

import torch

from validate.bench import ops, search_log
from validate.bench.pool import Pool
from validate.bench.timing import Call
from validate.bench.worker import MAKERS, REPLY, facts

MARK = "operator "
NAME = 300  # characters of a kernel's name
_DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}
_LAUNCHES = {"cuda_runtime", "cuda_driver"}
_RESERVED_LIMIT = 30 << 30
# What these keep beside their operands, until they are profiled.
_HOLDING = {"attention", "adamw", "sgd", "spmm", "permute", "chain"}
_HELD_BYTES = 8e9


def serve(device: str) -> None:
    """Answer lists of operators from stdin until it closes; exit 3 after a sticky device error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    if device == "cpu":
        torch.set_num_threads(1)
    pool = Pool(device, 1.0, 1)
    log = search_log.SearchLog.from_environment()
    first: ops.Op = {"op": "elementwise", "kind": "add", "numel": 64, "dtype": "fp32"}
    kernels_of([first], pool, device, log)  # loads the tracer
    gc.collect()
    gc.freeze()
    _say(out, {"ready": facts(device)})
    for line in sys.stdin:
        try:
            answer = kernels_of(json.loads(line)["ops"], pool, device, log)
        except Exception as error:
            print(f"{type(error).__name__}: {error}"[:400], file=sys.stderr)
            os._exit(3)
        _say(out, answer)


def _say(stream: Any, message: dict[str, Any]) -> None:
    stream.write(REPLY + json.dumps(message) + "\n")
    stream.flush()


def kernels_of(
    chosen: list[ops.Op], pool: Pool, device: str, log: search_log.SearchLog
) -> dict[str, Any]:
    """The kernels of one call of each operator, in order of launch, or why it failed.

    Operands of all operators lie in the same memory: what a kernel is called does not depend on
    values, and only one set is needed at a time. An operator is called once before the profile; a
    convolution, whose library chooses by trial in the first call, inside it.
    """
    kernels: list[Any] = [[] for _ in chosen]
    plans: list[tuple[int, list[search_log.Plan]]] = []
    ready: list[tuple[int, Call]] = []
    held = 0.0
    for index, op in enumerate(chosen):
        try:
            ready.append((index, _made(op, pool)))
        except Exception as error:
            kernels[index] = _reason(error, device)
        held += sum(ops.traffic(op)) if op["op"] in _HOLDING else 0.0
        if held > _HELD_BYTES or index == len(chosen) - 1:
            profile(ready, chosen, kernels, plans, device, log)
            ready, held = [], 0.0
    if device == "cuda" and torch.cuda.memory_reserved() > _RESERVED_LIMIT:
        pool.clear()
        torch.cuda.empty_cache()
    return {"kernels": kernels, "plans": plans}


def _reason(error: Exception, device: str) -> str:
    if device == "cuda":
        torch.cuda.synchronize()  # raises again where the device is lost
    return f"{type(error).__name__}: {error}"[:400]


def _made(op: ops.Op, pool: Pool) -> Call:
    """A call of an operator under the switches that its maker set; made once already."""
    ops.check(op)
    pool.begin()
    call = MAKERS[op["op"]](op, pool)[0]
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    flags = products.allow_tf32, convolutions.allow_tf32
    if not _searches(op):
        call()

    def run() -> Any:
        products.allow_tf32, convolutions.allow_tf32 = flags
        return call()

    return run


def _searches(op: ops.Op) -> bool:
    return str(op["op"]).startswith("conv")


def profile(
    ready: list[tuple[int, Call]],
    chosen: list[ops.Op],
    kernels: list[Any],
    plans: list[tuple[int, list[search_log.Plan]]],
    device: str,
    log: search_log.SearchLog,
) -> None:
    """Profile the calls; what they launched goes to ``kernels``, searches to ``plans``."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        torch.cuda.synchronize()
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as recorded:
        for index, call in ready:
            try:
                if _searches(chosen[index]):
                    log.take()
                    with torch.profiler.record_function(f"{MARK}{index} search"):
                        call()
                    if tried := log.take():
                        plans.append((index, tried))
                with torch.profiler.record_function(f"{MARK}{index} call"):
                    call()
            except Exception as error:
                kernels[index] = _reason(error, device)
        if device == "cuda":
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(path))
        found = launched(json.loads(path.read_bytes())["traceEvents"], device)
    for mark, launches in found.items():
        at, name = mark.removeprefix(MARK).split()
        if not isinstance(kernels[int(at)], str):
            kernels[int(at)] += [{"call": name} | kernel for kernel in launches]


def launched(events: list[dict[str, Any]], device: str) -> dict[str, list[dict[str, Any]]]:
    """Kernels of a chrome trace by the mark during which the host launched them.

    On a processor, which launches nothing, the operators that ran stand in their place.
    """
    marks, launches, kernels = [], {}, []
    for event in events:
        kind = event.get("cat")
        if kind == "user_annotation" and str(event.get("name", "")).startswith(MARK):
            marks.append((event["ts"], event["ts"] + event.get("dur", 0.0), event["name"]))
        elif kind in _LAUNCHES:
            launches[event.get("args", {}).get("correlation")] = event["ts"]
        elif kind in _DEVICE or (device == "cpu" and kind == "cpu_op"):
            kernels.append(event)
    marks.sort()
    starts = [mark[0] for mark in marks]
    found: dict[str, list[dict[str, Any]]] = {name: [] for _, _, name in marks}
    for event in sorted(kernels, key=lambda e: e["ts"]):
        details = event.get("args", {})
        at = launches.get(details.get("correlation"), event["ts"] if device == "cpu" else None)
        place = bisect_right(starts, at) - 1 if at is not None else -1
        if place < 0 or at > marks[place][1]:
            continue
        found[marks[place][2]].append(
            {
                "name": str(event.get("name", ""))[:NAME],
                "grid": "x".join(map(str, details.get("grid", []))),
                "block": "x".join(map(str, details.get("block", []))),
                "registers": details.get("registers per thread"),
                "shared": details.get("shared memory"),
                "duration_us": round(float(event.get("dur", 0.0)), 3),
            }
        )
    return found
