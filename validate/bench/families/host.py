"""Host side: what issuing work costs, whatever the device does with it [us a call]."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from validate.bench.families import flat
from validate.bench.ops import Op
from validate.bench.timing import Timing, summary


class _Empty(torch.nn.Module):
    """A module that does nothing: the cost of nn.Module.__call__ alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def _sync(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _graph(nodes: int) -> Callable[[], Any]:
    x = torch.zeros(256, device="cuda")
    x.add_(1.0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    graph.capture_begin()
    for _ in range(nodes):
        x.add_(1.0)
    graph.capture_end()
    return graph.replay


def _subject(op: Op, device: str) -> tuple[Callable[[], Any], int, bool]:  # noqa: PLR0911
    """What to call, how often between synchronisations, and whether each call synchronises."""
    kind = op["kind"]
    half = torch.bfloat16
    x = torch.randn(1024, device=device)
    a = torch.randn(16, 64, device=device, dtype=half)
    w = torch.randn(64, 64, device=device, dtype=half)
    ln = torch.randn(64, device=device, dtype=half)
    q = torch.randn(1, 2, 16, 64, device=device, dtype=half)
    image = torch.randn(1, 8, 8, 8, device=device, dtype=half)
    taps = torch.randn(8, 8, 3, 3, device=device, dtype=half)
    empty, layer = _Empty(), torch.nn.Linear(64, 64, device=device, dtype=half)
    p = torch.randn(1024, device=device, requires_grad=True)
    p.grad = torch.randn(1024, device=device)
    simple: dict[str, Callable[[], Any]] = {
        "eager_add": lambda: torch.add(x, x),
        "eager_add_inplace": lambda: x.mul_(1.0),
        "eager_linear": lambda: F.linear(a, w),
        "eager_layernorm": lambda: F.layer_norm(a, (64,), ln, ln),
        "eager_softmax": lambda: torch.softmax(a, -1),
        "eager_sdpa": lambda: F.scaled_dot_product_attention(q, q, q),
        "eager_conv": lambda: F.conv2d(image, taps, padding=1),
        "eager_view": lambda: x.view(32, 32),
        "eager_empty": lambda: torch.empty(1024, device=device),
        "module_call": lambda: empty(x),
        "module_linear": lambda: layer(a),
        "python_call": lambda: None,
    }
    if kind in simple:
        return simple[kind], 200, False
    if kind == "optimizer_step":
        opt = torch.optim.AdamW([p], fused=True)
        return opt.step, 50, False
    if kind == "autograd_step":

        def step() -> None:
            with torch.enable_grad():
                (p * p).sum().backward()

        return step, 50, False
    if kind == "compiled_chain":
        f = flat._compiled("silu_mul")
        y = torch.randn(64, 1024, device=device, dtype=half)
        return (lambda: f(y, y)), 100, False
    if kind == "item":
        return (x[0].item), 50, True
    if kind == "graph_replay":
        return _graph(op["nodes"]), max(1, min(50, 5000 // op["nodes"])), False
    if kind == "graph_replay_sync":
        replay = _graph(op["nodes"])

        def once() -> None:
            replay()
            torch.cuda.synchronize()

        return once, 20, True
    raise ValueError(f"host kind {kind!r} is not known")


def measure(op: Op, device: str) -> Timing:
    """Median host time of one call; the device queue is drained between the repeats."""
    call, count, _ = _subject(op, device)
    for _ in range(max(5, count // 10)):
        call()
    _sync(device)
    samples: list[float] = []
    begin = time.perf_counter()
    while len(samples) < 15 or (time.perf_counter() - begin < 0.06 and len(samples) < 200):
        start = time.perf_counter()
        for _ in range(count):
            call()
        samples.append((time.perf_counter() - start) / count)
        _sync(device)
    return Timing(*summary(samples), "host", count, len(samples), 1)
