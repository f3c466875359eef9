"""Products of plain sizes that belong to no model: powers of two, and multiples of 8, 16 and 64."""

from __future__ import annotations

import random
from collections.abc import Callable

from validate.bench import ops
from validate.bench.draws_sizes import pow2, spread

_TRANS = ("tn", "tn", "tn", "nn", "nt")


def _size(u: float, rng: random.Random, low: int, high: int) -> int:
    """A power of two, a multiple of a small power of two, or one of three times it."""
    value, pick = spread(u, low, high), rng.random()
    if pick < 0.35:
        return max(low, pow2(value))
    if pick < 0.45:
        return max(low, 3 * pow2(value) // 4)
    step = rng.choice((8, 16, 64, 64, 128))
    return max(8, round(value / step) * step)


def plain_gemm(dtype: str) -> Callable[[list[float], random.Random], ops.Op]:
    """One product: 1 to 16,384 rows, a third of them free of any step."""

    def draw(u: list[float], rng: random.Random) -> ops.Op:
        trans = rng.choice(_TRANS)
        n, k = (_size(x, rng, 64, 16384) for x in u[1:3])
        m = spread(u[0], 1, 16384)
        if trans == "nt":
            m = max(8, m // 8 * 8)
        elif rng.random() < 0.65:
            m = _size(u[0], rng, 1, 16384)
        op = {"op": "gemm", "m": m, "n": n, "k": k, "dtype": dtype}
        return op if trans == "tn" else op | {"trans": trans}

    return draw


def plain_batched(u: list[float], rng: random.Random) -> ops.Op:
    """A batch of 2 to 512 products, mostly laid as ``torch.bmm`` gets them."""
    dtype = rng.choices(("bf16", "fp16", "fp32", "tf32"), (5, 2, 3, 3))[0]
    batch = pow2(spread(u[0], 2, 512)) if rng.random() < 0.6 else spread(u[0], 2, 512)
    m, n, k = (_size(x, rng, 16, 4096) for x in u[1:4])
    trans = rng.choice(("nn", "nn", "nn", "tn", "nt"))
    if rng.random() < 0.2 and trans != "nt":
        m = spread(u[1], 1, 4096)
    op = {"op": "gemm", "m": m, "n": n, "k": k, "batch": max(2, batch), "dtype": dtype}
    return op if trans == "nn" else op | {"trans": trans}


#: Drawn only where they are asked for by name or count.
DRAWS: dict[str, Callable[[list[float], random.Random], ops.Op]] = {
    f"plain_{dtype}": plain_gemm(dtype) for dtype in ("bf16", "fp16", "tf32", "fp32")
} | {"plain_batched": plain_batched}
