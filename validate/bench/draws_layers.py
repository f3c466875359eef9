"""Products of layers that users run: widths of many published models, their shards and passes.

Sizes come from lists of what public configurations hold (hidden, intermediate and vocabulary sizes,
heads) combined at random, so that a plan holds far more layers than the models that are bundled.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from validate.bench import ops
from validate.bench.draws_sizes import spread

HIDDEN = (
    96, 128, 192, 256, 288, 312, 320, 384, 432, 480, 512, 576, 640, 768, 832, 896, 960, 1024, 1152,
    1280, 1408, 1472, 1536, 1600, 1664, 1792, 2048, 2304, 2560, 2688, 2880, 3072, 3200, 3328, 3584,
    3840, 4096, 4544, 4608, 5120, 5376, 6144, 6656, 7168, 8192, 9216, 12288,
)  # fmt: skip
RATIOS = (1.0, 1.33, 2.0, 2.667, 2.69, 3.0, 3.5, 4.0, 4.0, 4.0, 5.3, 8.0)
HEAD_DIMS = (32, 64, 64, 72, 80, 96, 128, 128, 128, 192, 256)
EVEN_VOCABS = (
    8000, 16384, 30528, 32000, 32768, 49152, 50304, 50432, 51200, 64000, 65024, 65536, 100352,
    102400, 128256, 131072, 151936, 152064, 200064, 250880, 256000, 262144,
)  # fmt: skip
ODD_VOCABS = (
    21128, 28996, 29794, 30522, 31002, 32001, 32003, 40478, 49408, 50257, 50265, 51865, 51866,
    92544, 119547, 129280, 151669, 250002, 256206, 262145,
)  # fmt: skip
CLASSES = (
    1,
    2,
    3,
    5,
    9,
    10,
    17,
    21,
    37,
    80,
    81,
    91,
    100,
    151,
    257,
    324,
    397,
    601,
    1000,
    1001,
    1203,
)
# Sequences (with class tokens of image models), and how many of them run at once.
LENGTHS = (50, 77, 128, 197, 256, 257, 384, 512, 577, 730, 1024, 1370, 1500, 2048, 4096)
MLPS = (13, 16, 26, 32, 64, 100, 128, 200, 256, 367, 400, 479, 512, 784, 1024, 1433, 2000, 3072)
_EIGHT = 8


def _tokens(u: float, rng: random.Random, high: int) -> int:
    """Rows of a step: decoding a batch, some sequences at once, or any number."""
    pick = rng.random()
    if pick < 0.3:
        few = spread(u, 1, 256)
        return few if rng.random() < 0.6 else 2 ** (few.bit_length() - 1)
    if pick < 0.65:
        length, batch = rng.choice(LENGTHS), 2 ** rng.randrange(8)
        if rng.random() < 0.25:
            batch = rng.randrange(1, 65)
        return min(high, length * batch)
    if pick < 0.85:
        return spread(u, 1, high)
    return min(high, max(_EIGHT, spread(u, _EIGHT, high) // _EIGHT * _EIGHT))


def _layer(rng: random.Random) -> tuple[int, int]:
    """Output and input width of a linear layer, as one rank of a tensor-parallel group holds it."""
    hidden, tp = rng.choice(HIDDEN), rng.choices((1, 2, 4, 8, 16), (8, 3, 3, 3, 1))[0]
    kind = rng.choices(("mlp", "head", "low", "down", "up", "attention"), (2, 1, 1, 4, 4, 7))[0]
    wide = max(64, round(hidden * rng.choice(RATIOS) / 64) * 64)
    rank = rng.choice((8, 16, 32, 64, 128, 256, 512, 576, 1536))  # adapters, compressed keys
    found = {
        "mlp": (rng.choice(MLPS), rng.choice(MLPS)),
        "head": (rng.choice(EVEN_VOCABS) // tp, hidden),
        "low": (rank, hidden) if rng.random() < 0.5 else (hidden, rank),
        "down": (hidden, max(16, wide // tp)),
        "up": (max(16, wide * rng.choice((1, 2)) // tp), hidden),
    }
    return found[kind] if kind in found else _attention(hidden, tp, rng)


def _attention(hidden: int, tp: int, rng: random.Random) -> tuple[int, int]:
    """Projection to queries, keys and values, or back."""
    dim = rng.choice(HEAD_DIMS)
    heads = max(1, hidden // dim)
    if rng.random() < 0.43:
        return hidden, max(dim, heads // tp * dim)
    groups = rng.choice((heads, heads, max(1, heads // 4), 8, 4, 1))
    return (max(1, heads // tp) + 2 * max(1, min(heads, groups) // tp)) * dim, hidden


def _passed(trans: str, tokens: int, out: int, inner: int) -> tuple[int, int, int]:
    """Sizes m, n, k of a layer's product: forward (tn), input gradient (nn), weights' (nt)."""
    return {"tn": (tokens, out, inner), "nn": (tokens, inner, out), "nt": (out, inner, tokens)}[
        trans
    ]


def layer_gemm(
    dtypes: dict[str, int], *, passes: tuple[int, int, int] = (1, 0, 0), high: int = 16384
) -> Callable[[list[float], random.Random], ops.Op]:
    """Layers of many models; ``passes`` weighs forward, input and weight gradient."""

    def draw(u: list[float], rng: random.Random) -> ops.Op:
        dtype = rng.choices(list(dtypes), list(dtypes.values()))[0]
        trans = rng.choices(("tn", "nn", "nt"), passes)[0]
        out, inner = _layer(rng)
        if rng.random() < 0.3:
            out, inner = (max(8, spread(x, 32, 16384) // 8 * 8) for x in u[1:3])
        least = 16 if dtype in {"fp8_e4m3", "int8"} else 1
        out, inner = (max(least, x // least * least) for x in (out, inner))
        tokens = _tokens(u[0], rng, high)
        if trans != "tn":
            tokens = max(16, tokens)
        if dtype == "int8":
            tokens = max(17, tokens)
        m, n, k = _passed(trans, tokens, out, inner)
        op = {"op": "gemm", "m": m, "n": n, "k": k, "dtype": dtype}
        return op if trans == "tn" else op | {"trans": trans}

    return draw


def odd_layer(u: list[float], rng: random.Random) -> ops.Op:
    """Layers whose rows do not start on 16 bytes: vocabularies, classes, features; any pass."""
    dtype = rng.choices(("bf16", "fp16", "fp32", "tf32"), (5, 3, 3, 3))[0]
    trans = rng.choices(("tn", "nn", "nt"), (5, 2, 2))[0]
    hidden = rng.choice(HIDDEN)
    pick = rng.random()
    if pick < 0.3:
        out, inner = rng.choice(ODD_VOCABS) // rng.choice((1, 1, 2, 4, 8)), hidden
    elif pick < 0.55:
        out, inner = rng.choice(CLASSES), hidden
    elif pick < 0.75:
        out, inner = rng.choice(MLPS), rng.choice(MLPS)
        inner += rng.randrange(1, 8)
    else:
        out, inner = (spread(x, 16, 8192) for x in u[1:3])
    if rng.random() < 0.15:
        out, inner = inner, out
    tokens = _tokens(u[0], rng, 16384)
    m, n, k = _passed(trans, tokens if trans == "tn" else max(16, tokens), out, inner)
    op = {"op": "gemm", "m": m, "n": n, "k": k, "dtype": dtype}
    return op if trans == "tn" else op | {"trans": trans}


def layer_batched(
    dtypes: dict[str, int], *, odd: bool = False
) -> Callable[[list[float], random.Random], ops.Op]:
    """Attention by products, decoding included, and experts that hold equally many tokens."""

    def draw(u: list[float], rng: random.Random) -> ops.Op:
        dtype = rng.choices(list(dtypes), list(dtypes.values()))[0]
        if rng.random() < 0.6:
            heads, width = rng.choice((1, 2, 4, 6, 8, 12, 16, 20, 32)), rng.choice(HEAD_DIMS)
            batch = heads * 2 ** rng.randrange(7)
            length = rng.choice(LENGTHS) if rng.random() < 0.6 else spread(u[1], 16, 4096)
            rows = 1 if rng.random() < 0.15 else length
            if rng.random() < 0.2:
                rows = spread(u[2], 1, 2048)
            m, n, k = (rows, length, width) if rng.random() < 0.5 else (rows, width, length)
            trans = rng.choice(("tn", "nn", "nn", "nt"))
        else:
            batch = rng.choice((2, 4, 8, 8, 16, 32, 64, 128))
            hidden = rng.choice(HIDDEN)
            wide = max(64, round(hidden * rng.choice((0.25, 0.375, 1.0, 2.0, 3.5)) / 64) * 64)
            n, k = rng.choice(((wide, hidden), (2 * wide, hidden), (hidden, wide)))
            m, trans = spread(u[1], 1, 4096), rng.choice(("nn", "nn", "tn", "nt"))
        if odd:
            shift = rng.choice((1, 2, 3, 4, 5, 6, 7))
            side = rng.random()
            n = n // 8 * 8 + shift if side < 0.6 else n
            k = k // 8 * 8 + shift if side > 0.4 else k
        else:
            n, k = (max(8, x // 8 * 8) for x in (n, k))
            m = m if trans[1] == "n" else max(8, m // 8 * 8)
        op = {"op": "gemm", "m": m, "n": n, "k": k, "batch": max(2, batch), "dtype": dtype}
        return op if trans == "nn" else op | {"trans": trans}

    return draw


#: Drawn only where they are asked for by name or count.
DRAWS: dict[str, Callable[[list[float], random.Random], ops.Op]] = {
    "layer_fp32": layer_gemm({"fp32": 1}, high=8192),
    "layer_fp32_back": layer_gemm({"fp32": 1}, passes=(0, 1, 1), high=8192),
    "layer_tf32": layer_gemm({"tf32": 1}),
    "layer_tf32_back": layer_gemm({"tf32": 1}, passes=(0, 1, 1)),
    "layer_fp8": layer_gemm({"fp8_e4m3": 1}),
    "layer_int8": layer_gemm({"int8": 1}),
    "layer_bf16": layer_gemm({"bf16": 1}),
    "layer_bf16_back": layer_gemm({"bf16": 1}, passes=(0, 1, 1)),
    "layer_fp16": layer_gemm({"fp16": 1}, passes=(2, 1, 1)),
    "layer_odd": odd_layer,
    "layer_batched_half": layer_batched({"bf16": 2, "fp16": 1}),
    "layer_batched_full": layer_batched({"fp32": 1, "tf32": 1}),
    "layer_batched_odd": layer_batched({"bf16": 3, "fp16": 2, "fp32": 2, "tf32": 2}, odd=True),
}
