"""Operator descriptions: their keys, identity, arithmetic and compulsory traffic.

An operator is a flat dictionary of scalars with an ``op`` entry, as it stands on one JSON line.
Sizes are in elements unless the key is ``bytes``.
"""

from __future__ import annotations

import json
from typing import Any

Op = dict[str, Any]

DTYPE_BYTES = {
    "fp64": 8,
    "fp32": 4,
    "tf32": 4,
    "bf16": 2,
    "fp16": 2,
    "fp8_e4m3": 1,
    "int8": 1,
}

#: Every key an operator may carry, in the order of the CSV columns.
OP_KEYS = (
    "op", "kind", "dtype", "pass", "layout", "trans", "m", "n", "k", "batch", "groups",
    "c_in", "depth", "h", "w", "c_out", "kernel", "stride", "padding",
    "q_heads", "kv_heads", "q_len", "kv_len", "head_dim", "causal",
    "rows", "cols", "numel", "tokens", "vocab", "dim", "heads", "experts", "top_k",
    "density", "bytes", "pinned", "nodes", "targets", "steps", "width", "hidden", "layers", "ways",
)  # fmt: skip

#: Values that are left out of an operator's identity when they hold the default.
DEFAULTS: dict[str, Any] = {"batch": 1, "layout": "nhwc", "pass": "fwd"}
_DEFAULTED = {"gemm": ("batch",), "conv2d": ("layout", "pass"), "attention": ("pass",)}

REQUIRED = {
    "gemm": ("m", "n", "k", "dtype"),
    "grouped_gemm": ("groups", "m", "n", "k", "dtype"),
    "conv2d": ("n", "c_in", "h", "w", "c_out", "kernel", "stride", "padding", "groups", "dtype"),
    "conv3d": ("n", "c_in", "depth", "h", "w", "c_out", "kernel", "stride", "padding", "dtype"),
    "attention": (
        "batch", "q_heads", "kv_heads", "q_len", "kv_len", "head_dim", "causal", "dtype",
    ),
    "rmsnorm": ("rows", "cols", "dtype"),
    "layernorm": ("rows", "cols", "dtype"),
    "softmax": ("rows", "cols", "dtype"),
    "elementwise": ("kind", "numel", "dtype"),
    "chain": ("kind", "rows", "cols", "dtype"),
    "embedding": ("tokens", "vocab", "dim", "dtype"),
    "cross_entropy": ("tokens", "vocab", "dtype"),
    "adamw": ("numel",),
    "sgd": ("numel",),
    "rope": ("tokens", "heads", "head_dim", "dtype"),
    "topk": ("tokens", "experts", "top_k", "dtype"),
    "permute": ("tokens", "dim", "top_k", "dtype"),
    "scatter_add": ("kind", "rows", "cols", "targets", "dtype"),
    "fft": ("kind", "batch", "n"),
    "recurrent": ("kind", "steps", "batch", "width", "hidden", "layers", "ways", "pass", "dtype"),
    "spmm": ("kind", "m", "n", "k", "density", "dtype"),
    "memcpy": ("kind", "bytes"),
    "host": ("kind",),
}  # fmt: skip

#: How the two factors of a GEMM lie in memory, in BLAS words: the first letter is the right factor
#: (t: stored n x k, as F.linear's weight; n: k x n), the second the left one (n: m x k; t: k x m).
TRANS = ("tn", "nn", "nt", "tt")


#: Gates of the cells of recurrent layers. Their pass is fwd (inference), train or bwd.
RECURRENT_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1}

ELEMENTWISE_KINDS = ("add", "mul", "gelu", "silu", "relu", "copy")


def check(op: Op) -> None:
    """Refuse an operator that lacks a key, holds an unknown one or a size below 1.

    Raises
    ------
    ValueError
        Naming the key and what is accepted.
    """
    name = op.get("op")
    if name not in REQUIRED:
        raise ValueError(f"op {name!r} is not known; accepted: {', '.join(sorted(REQUIRED))}")
    missing = [k for k in REQUIRED[name] if k not in op]
    if missing:
        raise ValueError(f"{name}: missing {', '.join(missing)}")
    for key, value in op.items():
        if key not in OP_KEYS:
            raise ValueError(f"{name}: unknown key {key!r}")
        if key in {"padding", "causal", "pinned"} or not isinstance(value, (int, float)):
            continue
        if value <= 0:
            raise ValueError(f"{name}: {key}={value} must be above zero")
    if op.get("trans", "tn") not in TRANS:
        raise ValueError(f"{name}: trans {op['trans']!r} is not one of {', '.join(TRANS)}")
    dtype = op.get("dtype", "fp32")
    if dtype not in DTYPE_BYTES:
        raise ValueError(f"{name}: dtype {dtype!r} is not one of {', '.join(DTYPE_BYTES)}")


def key(op: Op) -> str:
    """Identity of an operator: sorted JSON, defaults dropped, booleans as booleans."""
    drop = _DEFAULTED.get(op["op"], ())
    kept = {k: v for k, v in op.items() if not (k in drop and v == DEFAULTS[k])}
    if "trans" in kept and kept["trans"] == usual_trans(op):
        del kept["trans"]
    for flag in ("causal", "pinned"):
        if flag in kept:
            kept[flag] = bool(kept[flag])
    return json.dumps(kept, sort_keys=True)


def usual_trans(op: Op) -> str:
    """The layout of a product that names none: F.linear's, or torch.bmm's of two plain operands."""
    return "tn" if op.get("batch", 1) == 1 else "nn"


def family(op: Op) -> str:
    """Name of the table (one CSV) that the operator's rows go to."""
    name = str(op["op"])
    if name == "gemm" and op.get("batch", 1) > 1:
        return "batched_gemm"
    if name == "attention":
        if op.get("pass", "fwd") == "bwd":
            return "attention_bwd"
        return "attention_decode" if op["q_len"] == 1 else "attention_fwd"
    if name == "conv2d":
        if op["groups"] == 1:
            return "conv2d_" + str(op.get("pass", "fwd"))
        return "conv2d_depthwise" if op["groups"] == op["c_in"] else "conv2d_grouped"
    return name


def strata(op: Op) -> str:
    """Finer class than the family: what one failing kernel path has in common."""
    parts = [family(op)]
    parts += [str(op[k]) for k in ("kind", "dtype", "pass", "layout", "trans", "pinned") if k in op]
    return "/".join(parts)


def conv_out(size: int, kernel: int, stride: int, padding: int) -> int:
    """Output extent of a convolution along one axis."""
    return (size + 2 * padding - kernel) // stride + 1


def flops(op: Op) -> float:  # noqa: PLR0911
    """Multiply-adds counted as two; 0 for operators that only move bytes."""
    name = op["op"]
    if name == "gemm":
        return 2.0 * op["m"] * op["n"] * op["k"] * op.get("batch", 1)
    if name == "grouped_gemm":
        return 2.0 * op["groups"] * op["m"] * op["n"] * op["k"]
    if name == "spmm":
        return 2.0 * op["m"] * op["n"] * op["k"] * op["density"]
    if name == "attention":
        pairs = op["q_len"] * op["kv_len"]
        if op["causal"]:
            short = min(op["q_len"], op["kv_len"])  # mask aligned to the top left
            pairs = short * (short + 1) / 2 + max(0, op["q_len"] - op["kv_len"]) * op["kv_len"]
        products = 5.0 if op.get("pass", "fwd") == "bwd" else 2.0
        return 2.0 * products * op["batch"] * op["q_heads"] * pairs * op["head_dim"]
    if name == "recurrent":
        each = sum(op["hidden"] + read for read in _read_by(op)) * op["hidden"]
        forward = 2.0 * op["steps"] * op["batch"] * op["ways"] * RECURRENT_GATES[op["kind"]] * each
        return forward * (2.0 if op["pass"] == "bwd" else 1.0)
    if name in {"conv2d", "conv3d"}:
        spatial = [op["h"], op["w"]] + ([op["depth"]] if name == "conv3d" else [])
        out = 1.0
        for s in spatial:
            out *= conv_out(s, op["kernel"], op["stride"], op["padding"])
        taps = op["kernel"] ** len(spatial) * op["c_in"] / op.get("groups", 1)
        return 2.0 * op["n"] * op["c_out"] * out * taps
    return 0.0


def _read_by(op: Op) -> list[int]:
    """Width of what each layer of a recurrent stack reads."""
    return [op["width"], *[op["ways"] * op["hidden"]] * (op["layers"] - 1)]


def _seen(op: Op) -> int:
    """Keys that some query sees: a causal mask begins at the first key."""
    return min(op["q_len"], op["kv_len"]) if op["causal"] else int(op["kv_len"])


def traffic(op: Op) -> tuple[float, float]:  # noqa: PLR0911, PLR0912, PLR0915
    """Compulsory (input bytes, output bytes): each operand read once, each result written once."""
    name, size = op["op"], DTYPE_BYTES[op.get("dtype", "fp32")]
    if name == "gemm":
        b, m, n, k = op.get("batch", 1), op["m"], op["n"], op["k"]
        out = {"fp8_e4m3": 2, "int8": 4}.get(op["dtype"], size)
        return float(b * (m * k + k * n) * size), float(b * m * n * out)
    if name == "grouped_gemm":
        g, m, n, k = op["groups"], op["m"], op["n"], op["k"]
        return float(g * (m * k + k * n) * size), float(g * m * n * size)
    if name == "spmm":
        m, n, k, dens = op["m"], op["n"], op["k"], op["density"]
        index = 4 * m * k * dens + 4 * m if op["kind"] == "csr" else m * k / 8
        return m * k * dens * size + index + k * n * size, float(m * n * size)
    if name == "attention":
        b, d = op["batch"], op["head_dim"]
        q = b * op["q_heads"] * op["q_len"] * d * size
        kv, seen = (2 * b * op["kv_heads"] * keys * d * size for keys in (op["kv_len"], _seen(op)))
        if op.get("pass", "fwd") == "bwd":
            return float(3 * q + seen), float(q + kv)
        return float(q + seen), float(q)
    if name in {"conv2d", "conv3d"}:
        dims = ["h", "w"] + (["depth"] if name == "conv3d" else [])
        x, y = op["n"] * op["c_in"], op["n"] * op["c_out"]
        for d in dims:
            x *= op[d]
            y *= conv_out(op[d], op["kernel"], op["stride"], op["padding"])
        wt = op["c_out"] * op["c_in"] // op.get("groups", 1) * op["kernel"] ** len(dims)
        parts = {"fwd": (x + wt, y), "dgrad": (y + wt, x), "wgrad": (x + y, wt)}
        reads, writes = parts[op.get("pass", "fwd")]
        return float(reads * size), float(writes * size)
    if name in {"rmsnorm", "layernorm", "softmax"}:
        return float(op["rows"] * op["cols"] * size), float(op["rows"] * op["cols"] * size)
    if name == "elementwise":
        reads = 2 if op["kind"] in {"add", "mul"} else 1
        return float(reads * op["numel"] * size), float(op["numel"] * size)
    if name == "chain":
        added = 1 if op["kind"] == "bias_gelu" else op["rows"]  # a bias is one row for all
        return float((op["rows"] + added) * op["cols"] * size), float(
            op["rows"] * op["cols"] * size
        )
    if name == "embedding":
        rows = min(op["tokens"], op["vocab"])
        return float(rows * op["dim"] * size + 8 * op["tokens"]), float(
            op["tokens"] * op["dim"] * size
        )
    if name == "cross_entropy":
        return float(op["tokens"] * op["vocab"] * size), 4.0
    if name == "adamw":
        return 16.0 * op["numel"], 12.0 * op["numel"]
    if name == "sgd":
        return 12.0 * op["numel"], 8.0 * op["numel"]
    if name == "rope":
        both = float(op["tokens"] * op["heads"] * op["head_dim"] * size)
        return both, both
    if name == "topk":
        return float(op["tokens"] * op["experts"] * size), float(
            op["tokens"] * op["top_k"] * (size + 8)
        )
    if name == "permute":
        out = float(op["tokens"] * op["top_k"] * op["dim"] * size)
        return (out / op["top_k"], out) if op["kind"] == "gather" else (out, out / op["top_k"])
    if name == "scatter_add":
        touched = min(op["rows"], op["targets"]) * op["cols"] * size
        return float(op["rows"] * (op["cols"] * size + 8) + touched), float(touched)
    if name == "fft":
        lines = op["batch"] * op.get("rows", 1)
        real, half = 4.0 * lines * op["n"], 8.0 * lines * (op["n"] // 2 + 1)
        if op["kind"] in {"fft", "fft2"}:
            return 2.0 * real, 2.0 * real
        return (half, real) if op["kind"].startswith("irfft") else (real, half)
    if name == "recurrent":
        weights = op["ways"] * RECURRENT_GATES[op["kind"]] * op["hidden"]
        weights *= sum(op["hidden"] + read + 2 for read in _read_by(op))
        rows = op["steps"] * op["batch"]
        x, y = rows * op["width"], rows * op["ways"] * op["hidden"]
        reads, writes = (
            (x + 2 * y + weights, x + weights) if op["pass"] == "bwd" else (x + weights, y)
        )
        return float(reads * size), float(writes * size)
    if name == "memcpy":
        return float(op["bytes"]), float(op["bytes"])
    return 0.0, 0.0
