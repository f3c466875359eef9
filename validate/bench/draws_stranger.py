"""Operators as somebody draws them who reads the list of keys alone: sizes free of any model.

They judge; what teaches is drawn by the other modules.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from validate.bench import ops
from validate.bench.draws_sizes import pow2, spread

_HALF = ("bf16", "bf16", "fp16")
Draw = Callable[[list[float], random.Random], ops.Op]


def _size(u: float, rng: random.Random, low: int, high: int) -> int:
    """A power of two, a multiple of 8 or 64, or any integer."""
    value, pick = spread(u, low, high), rng.random()
    if pick < 0.4:
        return min(high, max(low, pow2(value)))
    step = 64 if pick < 0.6 else 8 if pick < 0.85 else 1
    return max(low, value // step * step)


def _attention(u: list[float], rng: random.Random, **more: object) -> ops.Op:
    kv = rng.choice((1, 2, 4, 8, 16, 32))
    return {"op": "attention", "batch": pow2(spread(u[1], 1, 64)),
            "q_heads": kv * rng.choice((1, 1, 2, 4, 8)), "kv_heads": kv,
            "head_dim": rng.choice((64, 128, 256)), "dtype": rng.choice(_HALF), **more}  # fmt: skip


def forward(u: list[float], rng: random.Random) -> ops.Op:
    """Attention of a prompt, masked or not, lengths equal or not."""
    length = _size(u[0], rng, 64, 16384)
    keys = length if rng.random() < 0.7 else _size(u[2], rng, 64, 16384)
    return _attention(u, rng, q_len=length, kv_len=keys, causal=rng.random() < 0.5)


def backward(u: list[float], rng: random.Random) -> ops.Op:
    """Its gradients."""
    return forward(u, rng) | {"pass": "bwd"}


def decode(u: list[float], rng: random.Random) -> ops.Op:
    """One query a sequence."""
    keys = _size(u[0], rng, 64, 65536)
    return _attention(u, rng, q_len=1, kv_len=keys, causal=False)


def rows(u: list[float], rng: random.Random) -> ops.Op:
    """Norms and softmax."""
    return {"op": rng.choice(("rmsnorm", "layernorm", "softmax")),
            "rows": _size(u[0], rng, 1, 131072), "cols": _size(u[1], rng, 64, 32768),
            "dtype": rng.choice((*_HALF, "fp32"))}  # fmt: skip


def flat(u: list[float], rng: random.Random) -> ops.Op:
    """Element-wise work."""
    return {"op": "elementwise", "kind": rng.choice(ops.ELEMENTWISE_KINDS),
            "numel": _size(u[0], rng, 1024, 1 << 29),
            "dtype": rng.choice((*_HALF, "fp32"))}  # fmt: skip


def vocabulary(u: list[float], rng: random.Random) -> ops.Op:
    """Look-ups and losses."""
    tokens, vocab = _size(u[0], rng, 1, 32768), _size(u[1], rng, 1000, 262144)
    op: ops.Op = {"tokens": tokens, "vocab": vocab, "dtype": rng.choice((*_HALF, "fp32"))}
    if rng.random() < 0.5:
        return {"op": "cross_entropy"} | op
    return {"op": "embedding", "dim": _size(u[2], rng, 64, 12288)} | op


def optimizer(u: list[float], rng: random.Random) -> ops.Op:
    """Fused AdamW."""
    return {"op": "adamw", "numel": _size(u[0], rng, 1000, 300_000_000)}


def product(u: list[float], rng: random.Random) -> ops.Op:
    """Products and batches of them, in every format."""
    dtype = rng.choice(("bf16", "bf16", "bf16", "fp16", "tf32", "fp32", "fp8_e4m3"))
    n, k = (_size(x, rng, 64, 16384) for x in u[1:3])
    op = {"op": "gemm", "m": _size(u[0], rng, 1, 16384), "n": n, "k": k, "dtype": dtype}
    if dtype == "fp8_e4m3":
        return op | {"n": max(16, n // 16 * 16), "k": max(16, k // 16 * 16)}
    if rng.random() < 0.35:
        m, n, k = (_size(x, rng, 16, 4096) for x in u[:3])
        return op | {"m": m, "n": n, "k": k, "batch": max(2, _size(u[3], rng, 2, 512))}
    return op


def full(u: list[float], rng: random.Random) -> ops.Op:
    """Attention in full precision: prompts, their gradients and single queries."""
    which = rng.choices((forward, backward, decode), (5, 3, 2))[0]
    return which(u, rng) | {"dtype": "fp32"}


def full_rows(u: list[float], rng: random.Random) -> ops.Op:
    """Norms and softmax in full precision, from rows of one element on."""
    op = rows(u, rng)
    short = {"cols": spread(u[1], 1, 64)} if rng.random() < 0.15 else {}
    return op | short | {"dtype": "fp32"}


def full_vocabulary(u: list[float], rng: random.Random) -> ops.Op:
    """Look-ups and losses in full precision."""
    return vocabulary(u, rng) | {"dtype": "fp32"}


def choice(u: list[float], rng: random.Random) -> ops.Op:
    """The largest values of each row: of few experts, or of a vocabulary."""
    wide = _size(u[1], rng, 4, 131072)
    return {"op": "topk", "tokens": _size(u[0], rng, 1, 32768), "experts": wide,
            "top_k": min(wide, _size(u[2], rng, 1, 128)),
            "dtype": rng.choice(("bf16", "fp32"))}  # fmt: skip


def sums(u: list[float], rng: random.Random) -> ops.Op:
    """Scattered sums of rows or values."""
    return {"op": "scatter_add", "kind": rng.choice(("index_add", "scatter_add")),
            "rows": _size(u[0], rng, 16, 1_000_000), "cols": _size(u[1], rng, 1, 1024),
            "targets": _size(u[2], rng, 1, 1_000_000),
            "dtype": rng.choice((*_HALF, "fp32", "fp32"))}  # fmt: skip


def transform(u: list[float], rng: random.Random) -> ops.Op:
    """Fourier transforms over one axis or two."""
    if rng.random() < 0.5:
        return {"op": "fft", "kind": rng.choice(("fft", "rfft", "irfft")),
                "batch": _size(u[0], rng, 1, 8192), "n": _size(u[1], rng, 8, 262144)}  # fmt: skip
    return {"op": "fft", "kind": rng.choice(("fft2", "rfft2", "irfft2")),
            "batch": _size(u[0], rng, 1, 512), "rows": _size(u[2], rng, 8, 1024),
            "n": _size(u[1], rng, 8, 1024)}  # fmt: skip


def sparse(u: list[float], rng: random.Random) -> ops.Op:
    """Sparse rows times dense columns."""
    m, n, k = (_size(x, rng, 16, 16384) for x in u[:3])
    return {"op": "spmm", "kind": "csr", "m": m, "n": n, "k": k,
            "density": rng.choice((0.001, 0.01, 0.05, 0.1)),
            "dtype": rng.choice(("fp32", "bf16"))}  # fmt: skip


#: Drawn only where they are asked for by name or count.
DRAWS: dict[str, Draw] = {
    "stranger_forward": forward,
    "stranger_backward": backward,
    "stranger_decode": decode,
    "stranger_rows": rows,
    "stranger_flat": flat,
    "stranger_vocabulary": vocabulary,
    "stranger_optimizer": optimizer,
    "stranger_product": product,
    "stranger_full": full,
    "stranger_full_rows": full_rows,
    "stranger_full_vocabulary": full_vocabulary,
    "stranger_choice": choice,
    "stranger_sums": sums,
    "stranger_transform": transform,
    "stranger_sparse": sparse,
}
