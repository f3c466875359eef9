"""Kinds of operators that the other draws meet too seldom to be learned well."""

from __future__ import annotations

import random
from collections.abc import Callable

from validate.bench import ops
from validate.bench.draws_sizes import pow2, snap, spread

_HEADS = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 40, 64, 96)
_HALF = ("bf16", "bf16", "fp16")
Draw = Callable[[list[float], random.Random], ops.Op]


def _heads(rng: random.Random) -> tuple[int, int]:
    """Query and key heads: of their own, shared in groups, or one for all."""
    q = rng.choice(_HEADS)
    shared = [kv for kv in (1, 2, 4, 8) if q % kv == 0 and kv < q]
    return q, rng.choice(shared) if shared and rng.random() < 0.5 else q


def _length(u: float, rng: random.Random, high: int) -> int:
    value = spread(u, 16, high)
    return max(16, pow2(value)) if rng.random() < 0.3 else snap(value, rng, 0.2, (16, 64, 128))


def attention_wide(direction: str) -> Draw:
    """Heads of 256, square or not."""

    def draw(u: list[float], rng: random.Random) -> ops.Op:
        q, kv = _heads(rng)
        length = _length(u[0], rng, 8192)
        uneven = rng.random() < 0.2
        op = {"op": "attention", "batch": spread(u[1], 1, 64), "q_heads": q, "kv_heads": kv,
              "q_len": length, "kv_len": _length(u[2], rng, 8192) if uneven else length,
              "head_dim": 256, "causal": not uneven and rng.random() < 0.5,
              "dtype": rng.choice(_HALF)}  # fmt: skip
        return op | ({"pass": "bwd"} if direction == "bwd" else {})

    return draw


def attention_uneven(direction: str) -> Draw:
    """A causal mask over queries and keys of different number, which few kernels take."""

    def draw(u: list[float], rng: random.Random) -> ops.Op:
        q, kv = _heads(rng)
        op = {"op": "attention", "batch": spread(u[1], 1, 64), "q_heads": q, "kv_heads": kv,
              "q_len": _length(u[0], rng, 8192), "kv_len": _length(u[2], rng, 8192),
              "head_dim": rng.choices((64, 128, 256), (4, 5, 2))[0], "causal": True,
              "dtype": rng.choice(_HALF)}  # fmt: skip
        return op | ({"pass": "bwd"} if direction == "bwd" else {})

    return draw


def attention_fp32(direction: str) -> Draw:
    """Full precision, which no fused kernel of matrix units takes."""

    def draw(u: list[float], rng: random.Random) -> ops.Op:
        q, length = rng.choice(_HEADS), _length(u[0], rng, 2048)
        uneven = rng.random() < 0.2
        op = {"op": "attention", "batch": spread(u[1], 1, 64), "q_heads": q, "kv_heads": q,
              "q_len": length, "kv_len": _length(u[2], rng, 2048) if uneven else length,
              "head_dim": rng.choices((64, 128, 256, 32, 80), (5, 5, 3, 1, 1))[0],
              "causal": not uneven and rng.random() < 0.5, "dtype": "fp32"}  # fmt: skip
        return op | ({"pass": "bwd"} if direction == "bwd" else {})

    return draw


def decode_wide(u: list[float], rng: random.Random) -> ops.Op:
    """Decoding with heads of 256."""
    q, kv = _heads(rng)
    return {"op": "attention", "batch": spread(u[1], 1, 256), "q_heads": q, "kv_heads": kv,
            "q_len": 1, "kv_len": snap(spread(u[0], 16, 65536), rng, 0.3, (16, 64, 256, 1024)),
            "head_dim": 256, "causal": False, "dtype": rng.choice(_HALF)}  # fmt: skip


def decode_fp32(u: list[float], rng: random.Random) -> ops.Op:
    """One query a sequence in full precision, which the kernels of prompts take."""
    q = rng.choice(_HEADS)
    return {"op": "attention", "batch": spread(u[1], 1, 128), "q_heads": q, "kv_heads": q,
            "q_len": 1, "kv_len": snap(spread(u[0], 16, 8192), rng, 0.3, (16, 64, 256)),
            "head_dim": rng.choice((64, 64, 128, 128, 256)), "causal": False,
            "dtype": "fp32"}  # fmt: skip


def attention_fp32_shared(u: list[float], rng: random.Random) -> ops.Op:
    """Full precision where queries share keys, which no fused kernel takes."""
    kv = rng.choice((1, 2, 4, 8))
    return attention_fp32("fwd")(u, rng) | {"q_heads": kv * rng.choice((2, 4, 8)), "kv_heads": kv}


def attention_fp32_shared_bwd(u: list[float], rng: random.Random) -> ops.Op:
    """Their gradients."""
    return attention_fp32_shared(u, rng) | {"pass": "bwd"}


def cross_entropy_fp32(u: list[float], rng: random.Random) -> ops.Op:
    """Logits that are in full precision already; classes of an image model among them."""
    vocab = rng.choice((10, 100, 1000)) if rng.random() < 0.15 else spread(u[1], 1000, 262144)
    return {"op": "cross_entropy", "tokens": spread(u[0], 1, 32768),
            "vocab": snap(vocab, rng, 0.4, (8, 64, 128)), "dtype": "fp32"}  # fmt: skip


def norms_fp32(u: list[float], rng: random.Random) -> ops.Op:
    """Norms and softmax in full precision, a third with rows that no vector fits."""
    name = rng.choice(("rmsnorm", "rmsnorm", "layernorm", "softmax"))
    cols = spread(u[1], 64, 65536 if name == "softmax" else 32768)
    return {"op": name, "rows": spread(u[0], 1, 65536),
            "cols": cols if rng.random() < 0.35 else snap(cols, rng, 0.0, (8, 64, 256)),
            "dtype": "fp32" if rng.random() < 0.7 else rng.choice(("bf16", "fp16"))}  # fmt: skip


def norms_odd(u: list[float], rng: random.Random) -> ops.Op:
    """Norms whose rows no vector fits, or that are a few elements short."""
    cols = spread(u[1], 1, 64) if rng.random() < 0.2 else spread(u[1], 64, 32768) // 4 * 4
    return {"op": rng.choice(("rmsnorm", "layernorm")), "rows": spread(u[0], 1, 65536),
            "cols": cols + rng.choice((1, 2, 3)) if cols >= 64 else cols,
            "dtype": rng.choice(("fp32", "fp32", "bf16", "fp16"))}  # fmt: skip


def activations(u: list[float], rng: random.Random) -> ops.Op:
    """GELU and SiLU, whose arithmetic takes part of the time."""
    return {"op": "elementwise", "kind": rng.choice(("gelu", "silu")),
            "numel": max(256, spread(u[0], 4096, 1 << 29) // 256 * 256),
            "dtype": rng.choice(("fp32", "fp32", "fp16", "bf16"))}  # fmt: skip


def routing_wide(u: list[float], rng: random.Random) -> ops.Op:
    """Top-k of any number of tokens, experts and picks."""
    experts = rng.choice((4, 8, 16, 32, 60, 64, 72, 128, 160, 256, 384, 512))
    return {"op": "topk", "tokens": spread(u[0], 1, 65536), "experts": experts,
            "top_k": min(experts, rng.choice((1, 2, 2, 4, 6, 8, 8, 10))),
            "dtype": rng.choice(("bf16", "fp32"))}  # fmt: skip


def choice_long(u: list[float], rng: random.Random) -> ops.Op:
    """The largest of rows as long as vocabularies and lists of candidates."""
    return {"op": "topk", "tokens": spread(u[0], 1, 4096),
            "experts": snap(spread(u[1], 512, 262144), rng, 0.4, (8, 64, 256)),
            "top_k": rng.choice((1, 2, 5, 8, 16, 40, 50, 64, 100, 256)),
            "dtype": rng.choice(("bf16", "fp32"))}  # fmt: skip


def scatter_values(u: list[float], rng: random.Random) -> ops.Op:
    """Sums into targets value by value, of any width."""
    targets = spread(u[0], 1, 1_000_000)
    return {"op": "scatter_add", "kind": "scatter_add",
            "rows": min(2_000_000, max(16, round(targets * 128 ** (2 * u[1] - 0.5)))),
            "cols": rng.choice((1, 2, 3, 4, 8, 16, 24, 32, 50, 64, 100, 128, 256, 512, 768)),
            "targets": targets,
            "dtype": rng.choice(("fp32", "fp32", "bf16", "fp16"))}  # fmt: skip


def sums_few(u: list[float], rng: random.Random) -> ops.Op:
    """Sums of rows or values into one target or a few, which wait for each other."""
    targets = rng.choice((1, 1, 2, 3, 4, 8, 10, 16, 20, 32, 64, 100, 128, 256))
    return {"op": "scatter_add", "kind": rng.choice(("index_add", "scatter_add")),
            "rows": spread(u[0], 8, 1_000_000), "cols": pow2(spread(u[1], 1, 1024))
            if rng.random() < 0.5 else spread(u[1], 1, 1024), "targets": targets,
            "dtype": rng.choice(("fp32", "fp32", "bf16", "fp16"))}  # fmt: skip


def transform_any(u: list[float], rng: random.Random) -> ops.Op:
    """Fourier transforms of any length: powers of two, even and odd ones, primes among them."""

    def length(x: float, high: int) -> int:
        n, pick = spread(x, 4, high), rng.random()
        return pow2(n) if pick < 0.3 else max(4, n // 8 * 8) if pick < 0.5 else n

    batch = spread(u[0], 1, 16384)
    batch = pow2(batch) if rng.random() < 0.3 else batch
    if rng.random() < 0.6:
        return {"op": "fft", "kind": rng.choice(("fft", "rfft", "irfft", "irfft_unscaled")),
                "batch": batch, "n": length(u[1], 1 << 20)}  # fmt: skip
    n = length(u[1], 2048)
    return {"op": "fft", "kind": rng.choice(("fft2", "rfft2", "irfft2")), "batch": batch,
            "rows": n if rng.random() < 0.4 else length(u[2], 2048), "n": n}  # fmt: skip


def stack_short(u: list[float], rng: random.Random) -> ops.Op:
    """Recurrent stacks of few steps, whose products and gates are those of long ones."""
    hidden = snap(spread(u[0], 32, 2048), rng, 0.15, (16, 32, 64, 128))
    batch = pow2(spread(u[1], 1, 512)) if rng.random() < 0.6 else spread(u[1], 1, 512)
    width = rng.choice((hidden, hidden, 32, 64, 80, 128, 256, 512, 1024))
    return {"op": "recurrent", "kind": rng.choices(("lstm", "gru", "rnn_tanh"), (5, 3, 2))[0],
            "steps": spread(u[2], 12, 48), "batch": batch, "width": width, "hidden": hidden,
            "layers": rng.choice((1, 1, 1, 2, 3)), "ways": rng.choice((1, 1, 2)),
            "pass": rng.choice(("fwd", "train", "bwd", "bwd")),
            "dtype": rng.choices(("fp32", "tf32", "fp16", "bf16"), (3, 3, 4, 2))[0]}  # fmt: skip


def chain_wide(u: list[float], rng: random.Random) -> ops.Op:
    """Compiled chains over rows of any width; each costs a compilation."""
    kinds = ("silu_mul", "bias_gelu", "add_rmsnorm", "add_layernorm")
    cols = spread(u[1], 64, 32768)
    return {"op": "chain", "kind": rng.choices(kinds, (2, 1, 4, 2))[0],
            "rows": spread(u[0], 1, 65536), "cols": cols // 64 * 64 if rng.random() < 0.8 else cols,
            "dtype": rng.choice(("bf16", "bf16", "fp16", "fp32"))}  # fmt: skip


def embedding_fp32(u: list[float], rng: random.Random) -> ops.Op:
    """Look-ups in full precision: tables of tokens, of categories, of positions."""
    return {"op": "embedding", "tokens": spread(u[0], 1, 131072), "vocab": spread(u[1], 16, 262144),
            "dim": snap(spread(u[2], 4, 12288), rng, 0.15, (4, 16, 64, 128)),
            "dtype": "fp32"}  # fmt: skip


def rope_wide(u: list[float], rng: random.Random) -> ops.Op:
    """Rotations of any number of heads."""
    return {"op": "rope", "tokens": spread(u[0], 1, 65536), "heads": rng.choice(_HEADS),
            "head_dim": rng.choice((64, 80, 96, 128, 128, 256)),
            "dtype": rng.choice(_HALF)}  # fmt: skip


def csr(u: list[float], rng: random.Random) -> ops.Op:
    """Sparse rows times dense columns, of any sizes and densities."""
    m, k = (32 * spread(x, 8, 1024) for x in (u[0], u[2]))
    return {"op": "spmm", "kind": "csr", "m": m, "k": k,
            "n": pow2(spread(u[1], 16, 8192)) if rng.random() < 0.5 else 8 * spread(u[1], 2, 1024),
            "density": rng.choice((0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)),
            "dtype": rng.choice(("fp32", "fp32", "bf16"))}  # fmt: skip


def experts(u: list[float], rng: random.Random) -> ops.Op:
    """Grouped products of any widths, few rows an expert as often as many."""
    n, k = (128 * spread(x, 2, 96) for x in u[1:3])
    return {"op": "grouped_gemm", "groups": rng.choice((2, 4, 8, 8, 16, 32, 60, 64, 128)),
            "m": spread(u[0], 1, 4096), "n": n, "k": k, "dtype": "bf16"}  # fmt: skip


#: Drawn only where they are asked for by name or count.
DRAWS: dict[str, Draw] = {
    "attention_wide_fwd": attention_wide("fwd"),
    "attention_wide_bwd": attention_wide("bwd"),
    "attention_uneven_fwd": attention_uneven("fwd"),
    "attention_uneven_bwd": attention_uneven("bwd"),
    "attention_fp32_fwd": attention_fp32("fwd"),
    "attention_fp32_bwd": attention_fp32("bwd"),
    "attention_fp32_shared": attention_fp32_shared,
    "decode_wide": decode_wide,
    "decode_fp32": decode_fp32,
    "attention_fp32_shared_bwd": attention_fp32_shared_bwd,
    "cross_entropy_fp32": cross_entropy_fp32,
    "norms_fp32": norms_fp32,
    "norms_odd": norms_odd,
    "activations": activations,
    "routing_wide": routing_wide,
    "choice_long": choice_long,
    "scatter_values": scatter_values,
    "sums_few": sums_few,
    "transform_any": transform_any,
    "stack_short": stack_short,
    "chain_wide": chain_wide,
    "embedding_fp32": embedding_fp32,
    "rope_wide": rope_wide,
    "csr": csr,
    "experts": experts,
}
