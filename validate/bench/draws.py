"""One draw a family: a point of the unit cube and a random generator give an operator."""

from __future__ import annotations

import random
from collections.abc import Callable

from validate.bench import draws_layers as layers
from validate.bench import draws_plain as plain
from validate.bench import draws_science as science
from validate.bench import draws_stranger as stranger
from validate.bench import draws_thin as thin
from validate.bench import known, ops
from validate.bench.draws_sizes import pow2, snap, spread
from validate.bench.draws_training import laid_batched, laid_gemm, static_chain


def _rows(u: float, rng: random.Random, high: int = 16384) -> int:
    m = spread(u, 1, high)
    pick = rng.random()
    if pick < 0.35:
        return pow2(m)
    return max(1, round(m / 8) * 8) if pick < 0.65 and m > 8 else m


Draw = Callable[[list[float], random.Random], ops.Op]


def _gemm(dtype: str) -> Draw:
    shapes = known.linear_shapes()

    def draw(u: list[float], rng: random.Random) -> ops.Op:
        if rng.random() < 0.35:
            n, k = rng.choice(shapes)
            m = rng.choice(known.TOKENS) if rng.random() < 0.7 else spread(u[0], 1, 16384)
        else:
            m = _rows(u[0], rng)
            odd = 0.15 if dtype in {"bf16", "fp16"} else 0.1
            n = snap(spread(u[1], 64, 32768), rng, odd, (8, 16, 64, 64, 128, 256))
            k = snap(spread(u[2], 64, 32768), rng, odd, (8, 16, 64, 64, 128, 256))
        if dtype in {"fp8_e4m3", "int8"}:  # the libraries' alignment
            n, k = max(16, n // 16 * 16), max(16, k // 16 * 16)
            m = max(m, 17) if dtype == "int8" else m
        return {"op": "gemm", "m": m, "n": n, "k": k, "dtype": dtype}

    return draw


def _batched(u: list[float], rng: random.Random) -> ops.Op:
    dtype = rng.choices(("bf16", "fp16", "fp32", "tf32"), (6, 2, 1, 1))[0]
    batch = snap(spread(u[0], 2, 1024), rng, 0.3, (2, 4, 8, 16))
    if rng.random() < 0.35:  # attention written as two products
        s, d = pow2(spread(u[1], 32, 4096)), rng.choice((64, 80, 96, 128, 256))
        m, n, k = (s, s, d) if rng.random() < 0.5 else (s, d, s)
    else:
        m = _rows(u[1], rng, 8192)
        n = snap(spread(u[2], 16, 8192), rng, 0.15, (8, 16, 64, 128))
        k = snap(spread(u[3], 16, 8192), rng, 0.15, (8, 16, 64, 128))
    return {"op": "gemm", "m": m, "n": n, "k": k, "batch": max(2, batch), "dtype": dtype}


def _grouped(u: list[float], rng: random.Random) -> ops.Op:
    groups = rng.choice((2, 4, 8, 8, 16, 32, 64, 128))
    if rng.random() < 0.5:
        t = rng.choice([t for t in known.TRANSFORMERS.values() if t.experts])
        n, k = rng.choice(((2 * t.ffn, t.hidden), (t.hidden, t.ffn)))
    else:
        n = snap(spread(u[1], 256, 16384), rng, 0.0, (64, 128))
        k = snap(spread(u[2], 256, 16384), rng, 0.0, (64, 128))
    return {"op": "grouped_gemm", "groups": groups, "m": _rows(u[0], rng, 4096), "n": n, "k": k,
            "dtype": "bf16"}  # fmt: skip


def _heads(rng: random.Random) -> tuple[int, int]:
    style = rng.random()
    q = rng.choice((1, 2, 4, 5, 8, 12, 16, 20, 24, 32, 40, 48, 64, 96))
    if style < 0.45:
        return q, q
    if style < 0.85:
        kv = rng.choice((1, 2, 4, 8, 8))
        return kv * rng.choice((2, 3, 4, 7, 8)), kv
    return q, 1


def _attention(direction: str) -> Draw:
    def draw(u: list[float], rng: random.Random) -> ops.Op:
        q, kv = _heads(rng)
        dtype = rng.choices(("bf16", "fp16", "fp32"), (8, 3, 0.6))[0]
        if dtype == "fp32":
            kv = q
        head_dim = rng.choices((64, 128, 256, 80, 96, 32), (35, 45, 10, 4, 4, 2))[0]
        length = snap(spread(u[0], 16, 16384), rng, 0.15, (16, 64, 128, 256))
        kv_len, causal = length, rng.random() < 0.55
        if not causal and rng.random() < 0.35:
            kv_len = snap(spread(u[2], 16, 16384), rng, 0.15, (16, 64, 128))
        if length == 1:
            length = kv_len = 16
        op = {"op": "attention", "batch": spread(u[1], 1, 64), "q_heads": q, "kv_heads": kv,
              "q_len": length, "kv_len": kv_len, "head_dim": head_dim, "causal": causal,
              "dtype": dtype}  # fmt: skip
        return op | ({"pass": "bwd"} if direction == "bwd" else {})

    return draw


def _decode(u: list[float], rng: random.Random) -> ops.Op:
    q, kv = _heads(rng)
    kv_len = snap(spread(u[0], 16, 131072), rng, 0.3, (16, 64, 256, 1024))
    return {"op": "attention", "batch": spread(u[1], 1, 512), "q_heads": q, "kv_heads": kv,
            "q_len": 1, "kv_len": kv_len,
            "head_dim": rng.choices((64, 128, 256, 80), (30, 58, 9, 3))[0],
            "causal": False, "dtype": rng.choices(("bf16", "fp16"), (8, 3))[0]}  # fmt: skip


def _conv(kind: str, direction: str = "") -> Draw:
    layers = [
        layer
        for layer in known.conv_layers()
        if {"dense": layer[5] == 1, "depthwise": layer[5] == layer[0] > 1,
            "grouped": 1 < layer[5] < layer[0]}[kind]
    ]  # fmt: skip

    def draw(u: list[float], rng: random.Random) -> ops.Op:
        which = direction or rng.choices(("fwd", "dgrad", "wgrad"), (4, 3, 3))[0]
        n = pow2(spread(u[0], 1, 256)) if rng.random() < 0.6 else spread(u[0], 1, 256)
        if rng.random() < 0.4:
            c_in, c_out, size, kernel, stride, groups = rng.choice(layers)
            h = w = size
        else:
            h = snap(spread(u[1], 4, 256), rng, 0.5, (7, 8, 14, 16))
            w = h if rng.random() < 0.8 else max(4, round(h * rng.uniform(0.5, 2.0)))
            kernel = rng.choices((1, 3, 5, 7, 2, 4), (38, 42, 7, 6, 4, 3))[0]
            stride = rng.choices((1, 2), (75, 25))[0] if kernel not in {2, 4} else kernel
            groups = 1
            c_in = snap(spread(u[2], 16, 2048), rng, 0.08, (8, 16, 32, 64))
            c_out = snap(spread(u[3], 16, 2048), rng, 0.08, (8, 16, 32, 64))
            if rng.random() < 0.06:
                c_in = rng.choice((3, 4))
            if kind == "depthwise":
                kernel = rng.choices((3, 5, 7), (55, 25, 20))[0]
                groups = c_out = c_in = snap(spread(u[2], 16, 2048), rng, 0.1, (8, 16, 32))
            elif kind == "grouped":
                groups = rng.choice((2, 4, 8, 16, 32, 32, 64))
                c_in = groups * rng.choice((4, 8, 16, 32, 64))
                c_out = c_in * rng.choices((1, 2), (80, 20))[0]
                kernel = rng.choices((1, 3, 5), (15, 75, 10))[0]
        kernel = min(kernel, h, w)
        padding = (kernel - 1) // 2 if kernel % 2 and rng.random() < 0.93 else 0
        dtype = rng.choices(("bf16", "fp16", "fp32", "tf32"), (45, 25, 12, 18))[0]
        nhwc = rng.random() < 0.65
        return {"op": "conv2d", "n": n, "c_in": c_in, "h": h, "w": w, "c_out": c_out,
                "kernel": kernel, "stride": stride, "padding": padding, "groups": groups,
                "layout": "nhwc" if nhwc else "nchw", "pass": which, "dtype": dtype}  # fmt: skip

    return draw


def _network_conv(kind: str, direction: str = "") -> Draw:
    """Layers of the bundled networks at batches of 1 to 256, a third of them jittered."""
    layers = [
        layer
        for layer in known.network_layers()
        if {"dense": layer.groups == 1, "depthwise": layer.groups == layer.c_in > 1,
            "grouped": 1 < layer.groups < layer.c_in}[kind]
    ]  # fmt: skip
    weights = [layer.networks**0.5 for layer in layers]

    def draw(u: list[float], rng: random.Random) -> ops.Op:
        which = direction or rng.choices(("fwd", "dgrad", "wgrad"), (4, 3, 3))[0]
        c_in, c_out, h, w, kernel, stride, padding, groups, _ = rng.choices(layers, weights)[0]
        n = pow2(spread(u[0], 1, 256)) if rng.random() < 0.75 else spread(u[0], 1, 256)
        if rng.random() < 0.35:  # a relative of the layer: other width, other resolution
            scale = rng.choice((0.5, 0.75, 1.25, 1.5, 2.0))
            h, w = (max(kernel, round(side * rng.choice((0.5, 0.75, 1, 1.25)))) for side in (h, w))
            if kind == "dense" and c_in > 4:
                c_in, c_out = (max(8, round(c * scale / 8) * 8) for c in (c_in, c_out))
            elif kind == "depthwise":
                groups = c_in = c_out = max(8, round(c_in * scale / 8) * 8)
        dtype = rng.choices(("bf16", "fp16", "fp32", "tf32"), (40, 20, 18, 22))[0]
        nhwc = rng.random() < 0.6
        return {"op": "conv2d", "n": n, "c_in": c_in, "h": h, "w": w, "c_out": c_out,
                "kernel": kernel, "stride": stride, "padding": padding, "groups": groups,
                "layout": "nhwc" if nhwc else "nchw", "pass": which, "dtype": dtype}  # fmt: skip

    return draw


def _gemm_odd(u: list[float], rng: random.Random) -> ops.Op:
    """Rows that do not start on 16 bytes, which the other draws meet now and then only."""
    dtype = rng.choices(("bf16", "fp16", "fp32", "tf32"), (5, 2, 2, 2))[0]
    n, k = (spread(x, 64, 16384) for x in u[1:3])
    shift = rng.choice((1, 2, 3, 4, 5, 6, 7))
    if rng.random() < 0.5:
        n = n // 8 * 8 + shift
    else:
        k = k // 8 * 8 + shift
    return {"op": "gemm", "m": _rows(u[0], rng), "n": n, "k": k, "dtype": dtype}


def _gemm_thin(u: list[float], rng: random.Random) -> ops.Op:
    """Few rows, where a library leaves its tiled kernels for others."""
    dtype = rng.choices(("bf16", "fp16", "fp32", "tf32"), (3, 1, 5, 2))[0]
    n, k = (snap(spread(x, 64, 32768), rng, 0.0, (8, 64, 128)) for x in u[1:3])
    return {"op": "gemm", "m": spread(u[0], 1, 96), "n": n, "k": k, "dtype": dtype}


def _small_rows(u: list[float], rng: random.Random) -> ops.Op:
    """Norms and softmax with short, odd or few rows, where the floor and the schedule decide."""
    name = rng.choice(("rmsnorm", "layernorm", "softmax"))
    cols = spread(u[1], 32 if name == "softmax" else 64, 65536 if name == "softmax" else 32768)
    if rng.random() < 0.6:
        cols = snap(cols, rng, 0.0, (2, 4, 8, 64))
    rows = spread(u[0], 1, 65536)
    dtype = rng.choices(("bf16", "fp16", "fp32"), (4, 2, 4))[0]
    return {"op": name, "rows": rows, "cols": cols, "dtype": dtype}


def _conv3d(u: list[float], rng: random.Random) -> ops.Op:
    size, kernel = spread(u[1], 8, 64), rng.choice((1, 3, 3))
    return {"op": "conv3d", "n": spread(u[0], 1, 8), "c_in": 16 * spread(u[2], 1, 16),
            "depth": rng.choice((8, 16, size)), "h": size, "w": size,
            "c_out": 16 * spread(u[3], 1, 16), "kernel": kernel, "stride": rng.choice((1, 1, 2)),
            "padding": kernel // 2, "layout": rng.choice(("nhwc", "nchw")),
            "pass": rng.choice(("fwd", "fwd", "dgrad", "wgrad")),
            "dtype": rng.choice(("bf16", "fp16", "tf32"))}  # fmt: skip


def _norm(name: str) -> Draw:
    def draw(u: list[float], rng: random.Random) -> ops.Op:
        top = 131072 if name == "softmax" else 32768
        cols = snap(
            spread(u[1], 32 if name == "softmax" else 64, top), rng, 0.12, (8, 64, 128, 256)
        )
        if rng.random() < 0.3:
            cols = rng.choice([t.hidden for t in known.TRANSFORMERS.values()])
        rows = spread(u[0], 1, 262144) if rng.random() < 0.6 else pow2(spread(u[0], 1, 262144))
        dtype = rng.choices(("bf16", "fp16", "fp32"), (6, 2, 2))[0]
        return {"op": name, "rows": rows, "cols": cols, "dtype": dtype}

    return draw


def _elementwise(u: list[float], rng: random.Random) -> ops.Op:
    numel = spread(u[0], 256, 1 << 30)
    numel = numel if rng.random() < 0.3 else max(256, numel // 256 * 256)
    return {"op": "elementwise", "kind": ops.ELEMENTWISE_KINDS[int(u[1] * 6)], "numel": numel,
            "dtype": rng.choices(("bf16", "fp16", "fp32"), (5, 2, 3))[0]}  # fmt: skip


def _chain(u: list[float], rng: random.Random) -> ops.Op:
    return {"op": "chain", "kind": ("silu_mul", "add_rmsnorm")[int(u[1] * 2)],
            "rows": spread(u[0], 16, 16384), "cols": rng.choice((2048, 4096, 8192, 14336)),
            "dtype": "bf16"}  # fmt: skip


def _embedding(u: list[float], rng: random.Random) -> ops.Op:
    t = rng.choice(list(known.TRANSFORMERS.values()))
    vocab, dim = t.vocab, t.hidden
    if rng.random() >= 0.5:
        vocab, dim = (
            spread(u[1], 1000, 262144),
            snap(spread(u[2], 64, 12288), rng, 0.1, (8, 64, 128)),
        )
    return {"op": "embedding", "tokens": spread(u[0], 1, 65536), "vocab": vocab, "dim": dim,
            "dtype": rng.choices(("bf16", "fp16", "fp32"), (6, 2, 2))[0]}  # fmt: skip


def _cross_entropy(u: list[float], rng: random.Random) -> ops.Op:
    vocab = snap(spread(u[1], 1000, 262144), rng, 0.3, (8, 64, 128))
    if rng.random() < 0.5:
        vocab = rng.choice([t.vocab for t in known.TRANSFORMERS.values()])
    return {"op": "cross_entropy", "tokens": spread(u[0], 1, 32768), "vocab": vocab,
            "dtype": rng.choices(("bf16", "fp16", "fp32"), (6, 2, 2))[0]}  # fmt: skip


def _optimizer(name: str) -> Draw:
    return lambda u, rng: {"op": name, "numel": spread(u[0], 1024, 4e8)}


def _rope(u: list[float], rng: random.Random) -> ops.Op:
    return {"op": "rope", "tokens": spread(u[0], 1, 32768),
            "heads": rng.choice((1, 4, 8, 16, 32, 64)), "head_dim": rng.choice((64, 128, 256)),
            "dtype": rng.choice(("bf16", "bf16", "fp16"))}  # fmt: skip


def _routing(u: list[float], rng: random.Random) -> ops.Op:
    tokens, top_k = spread(u[0], 1, 32768), rng.choice((1, 2, 4, 6, 8))
    kind = int(u[1] * 3)
    if kind == 0:
        return {"op": "topk", "tokens": tokens, "experts": rng.choice((8, 16, 64, 128, 256)),
                "top_k": top_k, "dtype": rng.choice(("bf16", "fp32"))}  # fmt: skip
    return {"op": "permute", "kind": ("gather", "scatter")[kind - 1], "tokens": tokens,
            "dim": rng.choice((1024, 2048, 4096, 6144, 7168)), "top_k": top_k,
            "dtype": "bf16"}  # fmt: skip


def _fft(u: list[float], rng: random.Random) -> ops.Op:
    n = spread(u[1], 16, 1 << 20)
    n = pow2(n) if rng.random() < 0.6 else n // 2 * 2
    kind = rng.choice(("fft", "rfft", "irfft"))
    return {"op": "fft", "kind": kind, "batch": spread(u[0], 1, 4096), "n": n}


def _spmm(u: list[float], rng: random.Random) -> ops.Op:
    m, n, k = (128 * spread(x, 1, 96) for x in u[:3])
    if rng.random() < 0.5:
        return {"op": "spmm", "kind": "2:4", "m": m, "n": n, "k": k, "density": 0.5,
                "dtype": rng.choice(("bf16", "fp16"))}  # fmt: skip
    density = rng.choice((0.001, 0.005, 0.01, 0.05, 0.1))
    return {"op": "spmm", "kind": "csr", "m": m, "n": n, "k": k, "density": density,
            "dtype": rng.choice(("fp32", "fp32", "bf16"))}  # fmt: skip


def _memcpy(u: list[float], rng: random.Random) -> ops.Op:
    kind = ("d2d", "h2d", "d2h")[int(u[1] * 3)]
    if kind == "d2d":
        return {"op": "memcpy", "kind": kind, "bytes": spread(u[0], 1024, 1 << 31)}
    pinned = rng.random() < 0.6
    return {"op": "memcpy", "kind": kind, "pinned": pinned,
            "bytes": spread(u[0], 1024, (1 << 27) if pinned else (1 << 25))}  # fmt: skip


def host_ops() -> list[ops.Op]:
    """Every host-side quantity once."""
    kinds = [
        "eager_add",
        "eager_add_inplace",
        "eager_linear",
        "eager_layernorm",
        "eager_softmax",
        "eager_sdpa",
        "eager_conv",
        "eager_view",
        "eager_empty",
        "module_call",
        "module_linear",
        "python_call",
        "optimizer_step",
        "autograd_step",
        "compiled_chain",
        "item",
    ]
    out: list[ops.Op] = [{"op": "host", "kind": kind} for kind in kinds]
    for nodes in (1, 10, 30, 100, 300, 1000, 3000):
        out += [{"op": "host", "kind": f"graph_replay{s}", "nodes": nodes} for s in ("", "_sync")]
    return out


#: family: (points on the H100, on the H200, draw)
FAMILIES: dict[str, tuple[int, int, Draw]] = {
    "gemm_bf16": (1100, 420, _gemm("bf16")),
    "gemm_fp16": (350, 120, _gemm("fp16")),
    "gemm_tf32": (200, 70, _gemm("tf32")),
    "gemm_fp32": (200, 70, _gemm("fp32")),
    "gemm_fp8": (350, 130, _gemm("fp8_e4m3")),
    "gemm_int8": (120, 30, _gemm("int8")),
    "batched_gemm": (500, 180, _batched),
    "grouped_gemm": (120, 40, _grouped),
    "attention_fwd": (550, 200, _attention("fwd")),
    "attention_bwd": (350, 120, _attention("bwd")),
    "attention_decode": (450, 200, _decode),
    "conv2d_fwd": (550, 120, _conv("dense", "fwd")),
    "conv2d_dgrad": (280, 60, _conv("dense", "dgrad")),
    "conv2d_wgrad": (280, 60, _conv("dense", "wgrad")),
    "conv2d_grouped": (220, 50, _conv("grouped")),
    "conv2d_depthwise": (220, 50, _conv("depthwise")),
    "conv3d": (40, 8, _conv3d),
    "fft": (60, 20, _fft),
    "spmm": (60, 20, _spmm),
    "rmsnorm": (130, 50, _norm("rmsnorm")),
    "layernorm": (130, 50, _norm("layernorm")),
    "softmax": (130, 50, _norm("softmax")),
    "elementwise": (300, 120, _elementwise),
    "chain": (12, 0, _chain),
    "embedding": (90, 40, _embedding),
    "cross_entropy": (90, 40, _cross_entropy),
    "adamw": (60, 25, _optimizer("adamw")),
    "sgd": (20, 8, _optimizer("sgd")),
    "rope": (60, 20, _rope),
    "routing": (60, 20, _routing),
    "memcpy": (60, 25, _memcpy),
    # Drawn only where they are asked for by name or count.
    "network_fwd": (0, 0, _network_conv("dense", "fwd")),
    "network_dgrad": (0, 0, _network_conv("dense", "dgrad")),
    "network_wgrad": (0, 0, _network_conv("dense", "wgrad")),
    "network_grouped": (0, 0, _network_conv("grouped")),
    "network_depthwise": (0, 0, _network_conv("depthwise")),
    "gemm_odd": (0, 0, _gemm_odd),
    "gemm_thin": (0, 0, _gemm_thin),
    "small_rows": (0, 0, _small_rows),
    "laid_bf16": (0, 0, laid_gemm({"bf16": 1})),
    "laid_other": (0, 0, laid_gemm({"fp16": 3, "tf32": 4, "fp32": 4})),
    "laid_batched": (0, 0, laid_batched),
    "static_chain": (0, 0, static_chain),
    "scatter_add": (0, 0, science.scatter_add),
    "fft_models": (0, 0, science.fft_models),
    "recurrent": (0, 0, science.recurrent),
} | {
    name: (0, 0, draw)
    for name, draw in (layers.DRAWS | plain.DRAWS | thin.DRAWS | stranger.DRAWS).items()
}
