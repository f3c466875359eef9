"""Norms, softmax, the loss, look-ups, routing and rotary embedding: work along rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from validate.bench.ops import DTYPE_BYTES, Op, traffic
from validate.bench.pool import TORCH_DTYPE, Pool
from validate.bench.timing import Call


def make_norm(op: Op, pool: Pool) -> list[Call]:
    """F.rms_norm, F.layer_norm (weight and bias) or torch.softmax over the last axis."""
    rows, cols, dtype = op["rows"], op["cols"], op["dtype"]
    weight, bias = pool.take(dtype, cols), pool.take(dtype, cols)
    calls: list[Call] = []
    for _ in range(pool.sets(traffic(op)[0])):
        x = pool.take(dtype, rows, cols)
        if op["op"] == "rmsnorm":
            calls.append(lambda x=x: F.rms_norm(x, (cols,), weight, 1e-6))
        elif op["op"] == "layernorm":
            calls.append(lambda x=x: F.layer_norm(x, (cols,), weight, bias, 1e-5))
        else:
            calls.append(lambda x=x: torch.softmax(x, -1))
    return calls


def make_embedding(op: Op, pool: Pool) -> list[Call]:
    """F.embedding with uniform random tokens; large tables are shared by the token sets."""
    table_bytes = op["vocab"] * op["dim"] * DTYPE_BYTES[op["dtype"]]
    sets, tables = pool.sets(traffic(op)[0]), []
    for _ in range(min(sets, pool.sets(table_bytes))):
        tables.append(pool.take(op["dtype"], op["vocab"], op["dim"]))
    calls: list[Call] = []
    for i in range(sets):
        index = torch.randint(0, op["vocab"], (op["tokens"],), device=pool.device)
        calls.append(lambda i=i, index=index: F.embedding(index, tables[i % len(tables)]))
    return calls


def make_cross_entropy(op: Op, pool: Pool) -> list[Call]:
    """Logits cast to fp32, then F.cross_entropy (mean)."""
    calls: list[Call] = []
    for _ in range(pool.sets(traffic(op)[0])):
        logits = pool.take(op["dtype"], op["tokens"], op["vocab"])
        target = torch.randint(0, op["vocab"], (op["tokens"],), device=pool.device)
        calls.append(lambda logits=logits, t=target: F.cross_entropy(logits.float(), t))
    return calls


def make_rope(op: Op, pool: Pool) -> list[Call]:
    """Rotate-half rotary embedding as eager PyTorch writes it (several kernels)."""
    t, d, dtype = op["tokens"], op["head_dim"], op["dtype"]
    cos, sin = pool.take(dtype, t, 1, d), pool.take(dtype, t, 1, d)

    def rope(x: torch.Tensor) -> torch.Tensor:
        half = torch.cat((-x[..., d // 2 :], x[..., : d // 2]), dim=-1)
        return x * cos + half * sin

    xs = [pool.take(dtype, t, op["heads"], d) for _ in range(pool.sets(traffic(op)[0]))]
    return [lambda x=x: rope(x) for x in xs]


def make_topk(op: Op, pool: Pool) -> list[Call]:
    """Router: softmax over experts, then torch.topk."""
    shape = (op["tokens"], op["experts"])
    xs = [pool.take(op["dtype"], *shape) for _ in range(pool.sets(traffic(op)[0]))]
    return [lambda x=x: torch.topk(torch.softmax(x, -1), op["top_k"], dim=-1) for x in xs]


def make_permute(op: Op, pool: Pool) -> list[Call]:
    """Token permutation: gather copies rows to experts, scatter adds them back."""
    tokens, dim, rows = op["tokens"], op["dim"], op["tokens"] * op["top_k"]
    calls: list[Call] = []
    for _ in range(pool.sets(traffic(op)[0])):
        index = torch.randperm(rows, device=pool.device) // op["top_k"]
        if op["kind"] == "gather":
            x = pool.take(op["dtype"], tokens, dim)
            calls.append(lambda x=x, index=index: x.index_select(0, index))
        else:
            y = pool.take(op["dtype"], rows, dim)
            out = torch.zeros(tokens, dim, dtype=TORCH_DTYPE[op["dtype"]], device=pool.device)
            calls.append(lambda y=y, out=out, index=index: out.index_add_(0, index, y))
    return calls


def make_scatter_add(op: Op, pool: Pool) -> list[Call]:
    """Rows added in place at random targets, by index_add_ or an expanded scatter_add_."""
    rows, cols, targets, dtype = op["rows"], op["cols"], op["targets"], op["dtype"]
    calls: list[Call] = []
    for _ in range(pool.sets(traffic(op)[0])):
        index = torch.randint(0, targets, (rows,), device=pool.device)
        y = pool.take(dtype, rows, cols)
        out = torch.zeros(targets, cols, dtype=TORCH_DTYPE[dtype], device=pool.device)
        if op["kind"] == "index_add":
            calls.append(lambda y=y, out=out, index=index: out.index_add_(0, index, y))
        else:
            wide = index.unsqueeze(-1).expand(rows, cols)
            calls.append(lambda y=y, out=out, wide=wide: out.scatter_add_(0, wide, y))
    return calls
