"""Transforms, sparse products and memory copies."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from validate.bench.ops import Op, traffic
from validate.bench.pool import TORCH_DTYPE, Pool
from validate.bench.timing import Call


def make_fft(op: Op, pool: Pool) -> list[Call]:
    """Batched single-precision transforms along the last axis, or (kinds with a 2) the last two."""
    n, rows, kind = op["n"], op.get("rows", 1), op["kind"]
    lines = (op["batch"], rows) if kind.endswith("2") else (op["batch"],)
    run: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "fft": torch.fft.fft,
        "rfft": torch.fft.rfft,
        "irfft": lambda x: torch.fft.irfft(x, n=n),
        "irfft_unscaled": lambda x: torch.fft.irfft(x, n=n, norm="forward"),
        "fft2": torch.fft.fft2,
        "rfft2": torch.fft.rfft2,
        "irfft2": lambda x: torch.fft.irfft2(x, s=(rows, n)),
    }
    width = n // 2 + 1 if kind.startswith("irfft") else n
    calls: list[Call] = []
    for _ in range(pool.sets(traffic(op)[0])):
        if kind.startswith("rfft"):
            x = pool.take("fp32", *lines, n)
        else:
            x = torch.view_as_complex(pool.take("fp32", *lines, width, 2))
        calls.append(lambda x=x: run[kind](x))
    return calls


def _csr(op: Op, pool: Pool) -> torch.Tensor:
    """Random CSR matrix with equally many sorted, distinct columns in each row."""
    m, k, device = op["m"], op["k"], pool.device
    per_row = max(1, round(op["density"] * k))
    width = k / per_row
    at = torch.arange(per_row, device=device) + torch.rand(m, per_row, device=device)
    columns = (at * width).long().clamp_(max=k - 1).reshape(-1).int()
    starts = (torch.arange(m + 1, device=device) * per_row).int()
    values = pool.take(op["dtype"], m * per_row)
    return torch.sparse_csr_tensor(starts, columns, values, (m, k), check_invariants=False)


def make_spmm(op: Op, pool: Pool) -> list[Call]:
    """Sparse m x k times dense k x n: CSR, or 2:4 semi-structured."""
    m, n, k, dtype = op["m"], op["n"], op["k"], op["dtype"]
    torch.backends.cuda.matmul.allow_tf32 = False
    calls: list[Call] = []
    for _ in range(min(8, pool.sets(traffic(op)[0]))):
        a: Any
        if op["kind"] == "csr":
            a, b = _csr(op, pool), pool.take(dtype, k, n)
        else:
            keep = torch.tensor([0, 0, 1, 1], device=pool.device, dtype=TORCH_DTYPE[dtype])
            dense = pool.take(dtype, m, k) * keep.tile(k // 4)
            a, b = torch.sparse.to_sparse_semi_structured(dense), pool.take(dtype, n, k).t()
        calls.append(lambda a=a, b=b: torch.mm(a, b))
    return calls


@functools.cache
def _host_buffer(size: int, pinned: bool) -> torch.Tensor:
    return (
        torch.randint(-128, 127, (size,), dtype=torch.int8).pin_memory()
        if pinned
        else (torch.randint(-128, 127, (size,), dtype=torch.int8))
    )


def make_memcpy(op: Op, pool: Pool) -> list[Call]:
    """copy_ of bytes: d2d, h2d or d2h; host buffers pinned or pageable."""
    size, kind, pinned = op["bytes"], op["kind"], bool(op.get("pinned", False))
    calls: list[Call] = []
    if kind == "d2d":
        for _ in range(pool.sets(size)):
            src = pool.take("int8", size)
            dst = torch.empty_like(src)
            calls.append(lambda s=src, d=dst: d.copy_(s))
        return calls
    buffer = _host_buffer(max(size, 256 << 20 if pool.device == "cuda" else 0), pinned)
    for i in range(max(1, min(8, buffer.numel() // size))):
        host = buffer[i * size : (i + 1) * size]
        card = pool.take("int8", size).clone()
        src, dst = (host, card) if kind == "h2d" else (card, host)
        calls.append(lambda s=src, d=dst: d.copy_(s, non_blocking=pinned))
    return calls
