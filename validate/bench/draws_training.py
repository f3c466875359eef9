"""Products of training and serving: operands laid out as forward and backward passes have them."""

from __future__ import annotations

import random
from collections.abc import Callable

from validate.bench import known, ops
from validate.bench.draws_sizes import spread

_TOKENS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_TRANS = ("tn", "nn", "nt")


def _step(value: int, step: int) -> int:
    return max(step, round(value / step) * step)


def laid_gemm(dtypes: dict[str, int]) -> Callable[[list[float], random.Random], ops.Op]:
    """Forward (tn), input gradient (nn) and weight gradient (nt) of a linear layer."""
    shapes = known.linear_shapes()

    def draw(u: list[float], rng: random.Random) -> ops.Op:
        trans = rng.choices(_TRANS, (1, 2, 2))[0]
        if rng.random() < 0.5:
            out, inner = rng.choice(shapes)
        else:
            out, inner = (_step(spread(x, 64, 16384), rng.choice((8, 64, 64, 128))) for x in u[1:3])
        pick = rng.random()
        tokens = rng.choice(_TOKENS) if pick < 0.5 else spread(u[0], 16, 16384)
        if pick > 0.6:
            tokens = _step(tokens, 8)
        m, n, k = {"tn": (tokens, out, inner), "nn": (tokens, inner, out),
                   "nt": (out, inner, tokens)}[trans]  # fmt: skip
        dtype = rng.choices(list(dtypes), list(dtypes.values()))[0]
        op = {"op": "gemm", "m": m, "n": n, "k": k, "dtype": dtype}
        return op if trans == "tn" else op | {"trans": trans}

    return draw


def laid_batched(u: list[float], rng: random.Random) -> ops.Op:
    """Products of unfused attention and their gradients: every layout of torch.bmm."""
    batch = _step(spread(u[0], 2, 768), rng.choice((1, 2, 4, 8)))
    length = _step(spread(u[1], 32, 4096), rng.choice((8, 32, 64)))
    other = length if rng.random() < 0.7 else _step(spread(u[3], 32, 4096), 8)
    width = rng.choice((32, 64, 64, 80, 96, 128, 128, 256))
    m, n, k = (length, other, width) if rng.random() < 0.5 else (length, width, other)
    trans = rng.choice(("tn", "nn", "nt"))
    if trans == "nt" and rng.random() < 0.5:
        m, n = n, m
    dtype = rng.choices(("bf16", "fp16", "fp32", "tf32"), (6, 2, 2, 2))[0]
    op = {"op": "gemm", "m": m, "n": n, "k": k, "batch": max(2, batch), "dtype": dtype}
    return op if trans == "nn" else op | {"trans": trans}


def static_chain(u: list[float], rng: random.Random) -> ops.Op:
    """Element-wise chains compiled for their shape; each costs a compilation."""
    return {"op": "chain", "kind": ("silu_mul", "add_rmsnorm")[int(u[1] * 2)],
            "rows": spread(u[0], 16, 16384), "cols": rng.choice((768, 1024, 2048, 4096, 8192)),
            "dtype": rng.choice(("bf16", "bf16", "fp16", "fp32"))}  # fmt: skip
