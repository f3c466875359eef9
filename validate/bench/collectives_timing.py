"""CUDA graphs, events and calls of one rank; nothing here talks to other ranks by itself."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from validate.bench.collectives_cases import COPY, GEMM, SHORT, UNEVEN

Call = Callable[[], Any]


def call(dist: Any, op: str, group: Any, members: tuple[int, ...], rank: int, buffers: Any) -> Call:
    """A callable that runs ``op`` once on ``buffers``, two equal flat tensors (in, out)."""
    full_in, full_out = buffers
    part = full_in.numel() // len(members)
    part_in, part_out = full_in[:part], full_out[:part]
    root, here = members[0], members.index(rank)
    if op in ("p2p", "p2p_bidir"):
        return _exchange(dist, op, group, members[1 - here], here, buffers)
    if op == UNEVEN:
        return _uneven(dist, group, len(members), here, buffers)
    into = list(full_out.split(part)) if op == "gather" and here == 0 else None
    pieces = list(full_in.split(part)) if op == "scatter" and here == 0 else None
    calls: dict[str, Call] = {
        "all_reduce": lambda: dist.all_reduce(full_in, group=group),
        "all_gather": lambda: dist.all_gather_into_tensor(full_out, part_in, group=group),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(part_out, full_in, group=group),
        "all_to_all": lambda: dist.all_to_all_single(full_out, full_in, group=group),
        "broadcast": lambda: dist.broadcast(full_in, src=root, group=group),
        "reduce": lambda: dist.reduce(full_in, dst=root, group=group),
        "gather": lambda: dist.gather(part_in, into, dst=root, group=group),
        "scatter": lambda: dist.scatter(part_out, pieces, src=root, group=group),
    }
    return calls[op]


def _exchange(dist: Any, op: str, group: Any, peer: int, here: int, buffers: Any) -> Call:
    send = dist.P2POp(dist.isend, buffers[0], peer, group)
    receive = dist.P2POp(dist.irecv, buffers[1], peer, group)
    both = [send, receive] if op == "p2p_bidir" else [send if here == 0 else receive]

    def exchange() -> None:
        for work in dist.batch_isend_irecv(both):
            work.wait()

    return exchange


def uneven_parts(elements: int, world: int) -> list[int]:
    """What every rank sends to each: as 1 : 2 : ..., so that the last receives ``elements``.

    Parts are multiples of 8 elements: blocks off 16-byte borders move at half the rate.
    """
    unit = elements // world**2 // 8 * 8
    return [unit * (j + 1) for j in range(world)]


def _uneven(dist: Any, group: Any, world: int, here: int, buffers: Any) -> Call:
    full_in, full_out = buffers
    sent = uneven_parts(full_in.numel(), world)
    received = [sent[here]] * world
    into, out = full_out[: sum(received)], full_in[: sum(sent)]
    return lambda: dist.all_to_all_single(into, out, received, sent, group=group)


def neighbour(torch: Any, name: str, device: Any) -> Call:
    """A call that keeps the device busy with something else."""
    if name in (GEMM, SHORT):
        m, n, k = map(int, name.split()[1].split("x"))
        a = torch.randn(m, k, dtype=torch.bfloat16, device=device)
        b = torch.randn(n, k, dtype=torch.bfloat16, device=device)
        c = torch.empty(m, n, dtype=torch.bfloat16, device=device)
        return lambda: torch.mm(a, b.t(), out=c)
    if name == COPY:
        source = torch.randn(2**28, dtype=torch.bfloat16, device=device)
        target = torch.empty_like(source)
        return lambda: target.copy_(source)
    raise ValueError(name)


def warm_up(calls: list[Call], synchronize: Call) -> float:
    """Run a few calls; seconds of one, host included."""
    for i in range(2):
        calls[i % len(calls)]()
    synchronize()
    begin = time.perf_counter()
    for i in range(3):
        calls[i % len(calls)]()
    synchronize()
    return (time.perf_counter() - begin) / 3


def capture(torch: Any, calls: list[Call], many: int, stream: Any) -> Any:
    """``many`` calls, one after another, as a CUDA graph."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        graph.capture_begin(capture_error_mode="thread_local")  # the watchdog may query events
        try:
            for i in range(many):
                calls[i % len(calls)]()
        finally:
            graph.capture_end()
    torch.cuda.synchronize()
    return graph


def time_graph(
    torch: Any, graph: Any, many: int, replays: int, stream: Any
) -> tuple[list[float], float]:
    """Seconds a call in every replay, and host seconds a replay.

    The first replay lines the ranks up and is dropped; the host gets ahead of the device during a
    sleep, so that launches do not show.
    """
    with torch.cuda.stream(stream):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(replays + 2)]
        graph.replay()
        torch.cuda.synchronize()
        torch.cuda._sleep(4_000_000)
        begin = time.perf_counter()
        events[0].record()
        for event in events[1:]:
            graph.replay()
            event.record()
        host = (time.perf_counter() - begin) / (replays + 1)
        torch.cuda.synchronize()
    return [a.elapsed_time(b) * 1e-3 / many for a, b in pairwise(events)][1:], host


def time_eager(
    torch: Any, calls: list[Call], many: int, replays: int, cuda: bool
) -> tuple[list[float], float]:
    """Seconds a call in every round, launches included, and the host's seconds a call."""
    spans, hosts = [], []
    for _ in range(replays + 1):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if cuda else []
        begin = time.perf_counter()
        if cuda:
            events[0].record()
        for i in range(many):
            calls[i % len(calls)]()
        hosts.append((time.perf_counter() - begin) / many)
        if cuda:
            events[1].record()
            torch.cuda.synchronize()
        whole = time.perf_counter() - begin
        spans.append((events[0].elapsed_time(events[1]) * 1e-3 if cuda else whole) / many)
    return spans[1:], statistics.median(hosts[1:])


def at_once(
    torch: Any, timed: Any, stream: Any, around: Any, rounds: int, other: Any
) -> tuple[float, int]:
    """Seconds of graph ``timed`` while ``around`` runs; 1 if ``around`` ended before it."""
    gate = torch.cuda.Event()
    begin, end, over = (torch.cuda.Event(enable_timing=True) for _ in range(3))
    with torch.cuda.stream(other):
        torch.cuda._sleep(2_000_000)
        gate.record()
        for _ in range(rounds):
            around.replay()
        over.record()
    with torch.cuda.stream(stream):
        stream.wait_event(gate)
        torch.cuda._sleep(200_000)  # a tenth of a millisecond into the neighbour's work
        begin.record()
        timed.replay()
        end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) * 1e-3, int(end.elapsed_time(over) < 0)


def quantiles(values: list[float]) -> tuple[float, float, float]:
    """10th percentile, median and 90th percentile, linear between order statistics."""
    ordered = sorted(values)

    def at(q: float) -> float:
        place = q * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    return at(0.1), at(0.5), at(0.9)
