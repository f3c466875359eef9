"""Dense, batched and grouped matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from validate.bench.ops import Op, traffic, usual_trans
from validate.bench.pool import Pool
from validate.bench.timing import Call


def _precision(dtype: str) -> None:
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"


def make(op: Op, pool: Pool) -> list[Call]:
    """F.linear, torch.bmm, torch._scaled_mm (fp8) or torch._int_mm, as the description says.

    With ``trans`` the product is torch.mm (bmm) of operands that lie so, as a backward pass has
    them.
    """
    m, n, k, dtype = op["m"], op["n"], op["k"], op["dtype"]
    batch = op.get("batch", 1)
    if op.get("trans", usual_trans(op)) != usual_trans(op):
        return _make_laid(op, pool)
    _precision(dtype)
    # A product of other kinds is cut without any work for the device.
    one = torch.ones((), device=pool.device) if dtype == "fp8_e4m3" else None
    calls: list[Call] = []
    for _ in range(pool.sets(traffic(op)[0])):
        if batch > 1:
            a, b = pool.take(dtype, batch, m, k), pool.take(dtype, batch, k, n)
            calls.append(lambda a=a, b=b: torch.bmm(a, b))
            continue
        x, w = pool.take(dtype, m, k), pool.take(dtype, n, k)
        if dtype == "fp8_e4m3":
            calls.append(
                lambda x=x, w=w: torch._scaled_mm(
                    x, w.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16
                )
            )
        elif dtype == "int8":
            calls.append(lambda x=x, w=w: torch._int_mm(x, w.t()))
        else:
            calls.append(lambda x=x, w=w: F.linear(x, w))
    return calls


def _make_laid(op: Op, pool: Pool) -> list[Call]:
    """torch.mm or torch.bmm of operands in another layout than the usual one."""
    m, n, k, dtype, trans = op["m"], op["n"], op["k"], op["dtype"], op["trans"]
    if dtype in {"fp8_e4m3", "int8"}:
        raise ValueError(f"gemm of {dtype} is measured as tn alone, not {trans}")
    _precision(dtype)
    batch = op.get("batch", 1)
    many = () if batch == 1 else (batch,)
    product = torch.mm if batch == 1 else torch.bmm
    calls: list[Call] = []
    for _ in range(pool.sets(traffic(op)[0])):
        a = pool.take(dtype, *many, *((m, k) if trans[1] == "n" else (k, m)))
        b = pool.take(dtype, *many, *((k, n) if trans[0] == "n" else (n, k)))
        a = a if trans[1] == "n" else a.transpose(-2, -1)
        b = b if trans[0] == "n" else b.transpose(-2, -1)
        calls.append(lambda a=a, b=b: product(a, b))
    return calls


def make_grouped(op: Op, pool: Pool) -> list[Call]:
    """torch._grouped_mm over equal groups of rows; one torch.mm a group where it is missing."""
    g, m, n, k, dtype = op["groups"], op["m"], op["n"], op["k"], op["dtype"]
    _precision(dtype)
    ends = torch.arange(1, g + 1, device=pool.device, dtype=torch.int32) * m
    calls: list[Call] = []
    for _ in range(pool.sets(traffic(op)[0])):
        x, w = pool.take(dtype, g * m, k), pool.take(dtype, g, n, k)
        if hasattr(torch, "_grouped_mm") and dtype == "bf16":
            calls.append(lambda x=x, w=w: torch._grouped_mm(x, w.transpose(-2, -1), offs=ends))
        else:
            parts = list(zip(x.split(m), w.unbind(0), strict=True))
            calls.append(lambda parts=parts: [F.linear(a, b) for a, b in parts])
    return calls
