"""scaled_dot_product_attention, forward and backward, on PyTorch's default backend."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from validate.bench.ops import Op, traffic
from validate.bench.pool import Pool
from validate.bench.timing import Call


def _forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, gqa: bool
) -> torch.Tensor:
    if gqa:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def make(op: Op, pool: Pool) -> list[Call]:
    """Operands are (batch, heads, length, head_dim) contiguous; backward excludes the forward."""
    b, d, dtype = op["batch"], op["head_dim"], op["dtype"]
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    causal, gqa = bool(op["causal"]), op["q_heads"] != op["kv_heads"]
    backward = op.get("pass", "fwd") == "bwd"
    calls: list[Call] = []
    for _ in range(pool.sets(traffic(op)[0])):
        q = pool.take(dtype, b, op["q_heads"], op["q_len"], d)
        k = pool.take(dtype, b, op["kv_heads"], op["kv_len"], d)
        v = pool.take(dtype, b, op["kv_heads"], op["kv_len"], d)
        if not backward:
            calls.append(lambda q=q, k=k, v=v: _forward(q, k, v, causal, gqa))
            continue
        leaves = tuple(t.detach().requires_grad_() for t in (q, k, v))
        with torch.enable_grad():
            out = _forward(*leaves, causal, gqa)
        grad = pool.take(dtype, b, op["q_heads"], op["q_len"], d)
        calls.append(
            lambda out=out, leaves=leaves, grad=grad: torch.autograd.grad(
                out, leaves, grad, retain_graph=True
            )
        )
    return calls
