"""The measuring process: reads one operator a line, answers one line; dies without harm."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from validate.bench import ops, search_log
from validate.bench.families import attention, conv, flat, gemm, host, misc, recurrent, rows
from validate.bench.pool import Pool
from validate.bench.timing import Call, CpuClock, CudaClock, Timing, clock_for
from validate.bench.turn_lock import Turn

MAKERS: dict[str, Callable[[ops.Op, Pool], list[Call]]] = {
    "gemm": gemm.make,
    "grouped_gemm": gemm.make_grouped,
    "attention": attention.make,
    "conv2d": conv.make,
    "conv3d": conv.make,
    "rmsnorm": rows.make_norm,
    "layernorm": rows.make_norm,
    "softmax": rows.make_norm,
    "elementwise": flat.make_elementwise,
    "chain": flat.make_chain,
    "embedding": rows.make_embedding,
    "cross_entropy": rows.make_cross_entropy,
    "adamw": flat.make_optimizer,
    "sgd": flat.make_optimizer,
    "rope": rows.make_rope,
    "topk": rows.make_topk,
    "permute": rows.make_permute,
    "scatter_add": rows.make_scatter_add,
    "fft": misc.make_fft,
    "recurrent": recurrent.make,
    "spmm": misc.make_spmm,
    "memcpy": misc.make_memcpy,
}
REPLY = "@@"
_RESERVED_LIMIT, _RESERVED_IN_TURN = 30 << 30, 36 << 30  # bytes of all processes together
_LEAST_FREE = 8 << 30  # a search leaves out plans whose workspace is more than is free


def facts(device: str) -> dict[str, Any]:
    """Device name and the versions of every library that decides a latency."""
    found: dict[str, Any] = {"torch": torch.__version__, "python": sys.version.split()[0]}
    if device != "cuda":
        return found | {"device": "cpu"}
    props = torch.cuda.get_device_properties(0)
    found |= {
        "device": props.name,
        "compute_capability": f"{props.major}.{props.minor}",
        "sm_count": props.multi_processor_count,
        "l2_bytes": getattr(props, "L2_cache_size", 0),
        "memory_bytes": props.total_memory,
        "cuda": torch.version.cuda,
        "cudnn": str(torch.backends.cudnn.version()),
    }
    try:
        found["nccl"] = ".".join(str(v) for v in torch.cuda.nccl.version())
    except Exception as error:
        found["nccl"] = f"unknown ({error})"
    from importlib.metadata import distributions

    wanted = ("cublas", "cusparselt", "cufft", "triton", "numpy")
    for dist in distributions():
        name = (dist.metadata["Name"] or "").lower()
        if any(w in name for w in wanted):
            found[name] = dist.version
    return found


class Session:
    """State that outlives an operator: clock, random pool, strata whose capture failed."""

    def __init__(self, device: str, processes: int = 1) -> None:
        self.device, self.turn = device, Turn()
        limit = _RESERVED_IN_TURN if self.turn.shared else _RESERVED_LIMIT
        self.reserved_limit = limit // processes
        self.side = ThreadPoolExecutor(1)  # one thread: PyTorch keeps plans by thread
        self.clock: CpuClock | CudaClock = clock_for(device)
        chunk = None if processes == 1 else 1 << 29
        if device == "cuda":
            self.pool = Pool(device, 400e6, chunk_bytes=chunk, filling=self._alone)
        else:
            self.pool = Pool(device, 4e6, 4)
        self.no_graph: Counter[str] = Counter()

    def measure(self, op: ops.Op, power: bool) -> Timing:
        """One operator: cut operands, time, let go."""
        ops.check(op)
        if op["op"] == "host":
            return host.measure(op, self.device)
        self.pool.begin()
        stratum = ops.strata(op)
        pageable = op["op"] == "memcpy" and op["kind"] != "d2d" and not op.get("pinned", False)
        calls = MAKERS[op["op"]](op, self.pool)
        graph = not pageable and self.no_graph[stratum] < 2
        if self.turn.shared:  # what a first call builds needs no device until it executes
            calls[0]()
            self.turn.take()
        timing = self.clock.measure(calls, power=power, graph=graph)
        if graph and timing.mode == "eager":
            self.no_graph[stratum] += 1
        return timing

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Work on the device that no other process's timing overlaps."""
        if not self.turn.shared:
            yield
            return
        self.turn.take()
        try:
            yield
            if self.device == "cuda":
                torch.cuda.synchronize()
        finally:
            self.turn.release()

    def start(self) -> None:
        """Bring the clocks up, and see that cuDNN's executions wait for their turn.

        Raises
        ------
        RuntimeError
            When they pass by the library.
        """
        with self._alone():
            self.clock.spin_up()
        if self.turn.shared and self.device == "cuda":
            image = torch.zeros(1, 8, 8, 8, device="cuda", dtype=torch.float16)
            torch.conv2d(image, torch.zeros(8, 8, 3, 3, device="cuda", dtype=torch.float16))
            torch.cuda.synchronize()
            self.turn.release()
            if not self.turn.executed:
                raise RuntimeError("cuDNN's executions do not pass through turn_lock.c")

    def warm(self, op: ops.Op) -> None:
        """Load the kernels that an operator's first call will try; none is kept or timed.

        The call runs in a thread of its own, so that the thread that measures searches anew. A
        lost device raises, which ends the process.
        """
        failed = False
        try:
            ops.check(op)
            self.pool.begin()
            call = MAKERS[op["op"]](op, self.pool)[0]
            self.side.submit(self._once, call).result()
        except Exception as error:  # told again where it is measured
            print(f"warming: {type(error).__name__}: {error}"[:300], file=sys.stderr)
            failed = True
        self.tidy(failed)

    def _once(self, call: Call) -> None:
        torch.set_grad_enabled(False)  # a thread's own
        with self.clock.current():
            call()
        if self.device == "cuda":
            torch.cuda.synchronize()

    def tidy(self, failed: bool) -> None:
        """Return cached memory before it crowds the card, at once after a failure."""
        if self.device != "cuda":
            return
        if failed:
            gc.collect()
        if failed or torch.cuda.memory_reserved() > self.reserved_limit:
            torch.cuda.synchronize()
            self.pool.clear()
            self.clock.drop()
            torch.cuda.empty_cache()
        if self.turn.shared and torch.cuda.mem_get_info()[0] < _LEAST_FREE:
            raise MemoryError("kernels of so many processes have filled the device")


def _say(stream: Any, message: dict[str, Any]) -> None:
    stream.write(REPLY + json.dumps(message) + "\n")
    stream.flush()


def answered(session: Session, device: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``work`` answers, or its error; the device is tidied behind it, and let go."""
    try:
        answer = work()
    except Exception as error:
        print(traceback.format_exc(limit=4), file=sys.stderr)
        answer = {"error": f"{type(error).__name__}: {error}"[:400]}
        if isinstance(error, torch.OutOfMemoryError) and session.turn.shared:
            answer["fatal"] = "a capture that ended so spoils those that follow"
    failed = "error" in answer
    try:
        session.tidy(failed)
        if failed and device == "cuda":
            torch.cuda.synchronize()
            (torch.ones(8, device="cuda") + 1).sum().item()
    except Exception as error:
        answer["fatal"] = f"{type(error).__name__}: {error}"[:200]
    session.turn.release()
    if session.turn.shared:
        answer["turn"] = session.turn.seconds()
    return answer


def measured(
    session: Session, log: search_log.SearchLog, op: ops.Op, power: bool
) -> dict[str, Any]:
    """The timing of an operator, and the plans that its search tried."""
    answer: dict[str, Any] = {"ok": asdict(session.measure(op, power))}
    plans = log.take()
    if plans:
        answer["plans"] = plans
    return answer


def serve(device: str, processes: int = 1) -> None:
    """Answer operators from stdin until it closes; exit 3 after a sticky device error."""
    out = os.fdopen(os.dup(1), "w")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    os.dup2(2, 1)  # what libraries print goes to the log, not between the answers
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    if device == "cpu":
        torch.set_num_threads(1)
    session, log = Session(device, processes), search_log.SearchLog.from_environment()
    session.start()
    gc.collect()
    gc.freeze()  # what is loaded by now need not be looked at again
    _say(out, {"ready": facts(device)})
    for count, line in enumerate(sys.stdin):
        request = json.loads(line)
        if "warm" in request:
            session.warm(request["warm"])
            _say(out, {"ok": None})
            continue
        log.take()  # what a failed operator left behind
        power = bool(request.get("power"))
        answer = answered(session, device, partial(measured, session, log, request["op"], power))
        _say(out, answer)
        if "fatal" in answer:
            os._exit(3)
        if count % 400 == 399:
            gc.collect()
