"""What single calls take on the host as a model makes them: one kind after another, never a loop.

``python3 -m validate.bench.host_calls --out FILE.json --seconds 15``, PyTorch alone. In a loop of
one call the processor's caches and predictors hold nothing else, and it takes half of what it takes
between others. Here all kinds run in turns, in a new order each round, each timed by itself; blocks
of the probe (:mod:`validate.bench.host_probe`) run between, so that what a call takes can be told
in blocks. Everything is small, so that the device never holds the host up.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from validate.bench.host_probe import block

Calls = dict[str, Callable[[], Any]]
PROBES = 12
"""Blocks of the probe in a round."""
ROUND_WAIT = 4
"""Times a round that the device is waited for."""


class _Empty(nn.Module):
    def forward(self, x: Any) -> Any:
        return x


class _Deep(nn.Module):
    """Reads what it holds, and calls what it is given by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.inner = nn.Parameter(torch.zeros(1)), _Empty()

    def forward(self, x: Any, *, mask: Any = None, **options: Any) -> Any:
        if mask is not None:
            x = mask
        weight = self.weight
        return self.inner(x), weight, options


def _nothing() -> None:
    return None


def calls(device: str) -> Calls:
    """Name -> what is called."""
    half: dict[str, Any] = {"device": device, "dtype": torch.bfloat16}
    x = torch.randn(8, 16, 64, **half)
    w, b = torch.randn(64, 64, **half), torch.randn(64, **half)
    one, wide = torch.randn(8, 1, 64, **half), torch.randn(8, 16, 192, **half)
    q = torch.randn(2, 8, 128, 64, **half)
    few, token = torch.randn(2, 2, 128, 64, **half), torch.randn(2, 8, 1, 64, **half)
    image = torch.randn(2, 16, 16, 16, **half).contiguous(memory_format=torch.channels_last)
    taps = torch.randn(16, 16, 3, 3, **half).contiguous(memory_format=torch.channels_last)
    groups = torch.randn(16, 4, 3, 3, **half).contiguous(memory_format=torch.channels_last)
    depth = torch.randn(16, 1, 3, 3, **half).contiguous(memory_format=torch.channels_last)
    point = torch.randn(16, 16, 1, 1, **half).contiguous(memory_format=torch.channels_last)
    mean, spread = torch.zeros(16, device=device), torch.ones(16, device=device)
    scale, low = torch.ones(16, **half), torch.zeros(16, **half)
    gain = torch.ones(16, device=device)
    ids = torch.zeros(8, 16, dtype=torch.int64, device=device)
    table = torch.randn(1000, 64, **half)
    keys = torch.randn(2, 8, 128, 64, **half)
    at = torch.zeros(1, dtype=torch.int64, device=device)
    mask = torch.ones(1, 1, 1, 128, dtype=torch.bool, device=device)
    a, c = torch.randn(4, 16, 64, **half), torch.randn(4, 64, 16, **half)
    linear = nn.Linear(64, 64, **half)
    norm = nn.LayerNorm(64, **half)
    conv = nn.Conv2d(16, 16, 3, padding=1, bias=False, **half)
    batch = nn.BatchNorm2d(16, **half).eval()
    net = nn.Sequential(nn.Linear(64, 64, **half), nn.GELU())
    empty, deep, drop = _Empty(), _Deep().to(device), nn.Dropout(0.1).eval()
    return {
        "python function": _nothing,
        "module": lambda: empty(x),
        "module with keywords": lambda: deep(x, mask=None, other=1),
        "module linear": lambda: linear(x),
        "module layer norm": lambda: norm(x),
        "module conv": lambda: conv(image),
        "module batch norm": lambda: batch(image),
        "module dropout": lambda: drop(x),
        "sequential": lambda: net(x),
        "linear bias": lambda: F.linear(x, w, b),
        "linear": lambda: F.linear(x, w),
        "linear token": lambda: F.linear(one, w),
        "linear bias token": lambda: F.linear(one, w, b),
        "matmul": lambda: torch.matmul(q, q.transpose(-1, -2)),
        "bmm": lambda: torch.bmm(a, c),
        "sdpa causal": lambda: F.scaled_dot_product_attention(q, q, q, is_causal=True),
        "sdpa": lambda: F.scaled_dot_product_attention(q, q, q),
        "sdpa gqa": lambda: F.scaled_dot_product_attention(
            q, few, few, is_causal=True, enable_gqa=True
        ),
        "sdpa mask": lambda: F.scaled_dot_product_attention(q, q, q, attn_mask=mask),
        "sdpa token": lambda: F.scaled_dot_product_attention(token, q, q),
        "sdpa token gqa": lambda: F.scaled_dot_product_attention(token, few, few, enable_gqa=True),
        "layer norm": lambda: F.layer_norm(x, (64,), b, b),
        "rms norm": lambda: F.rms_norm(x, (64,), b),
        "group norm": lambda: F.group_norm(image, 4, scale, scale),
        "batch norm": lambda: F.batch_norm(image, low, scale, scale, scale),
        "batch norm trained": lambda: F.batch_norm(image, mean, spread, gain, gain, True),
        "gelu": lambda: F.gelu(x),
        "gelu tanh": lambda: F.gelu(x, approximate="tanh"),
        "relu": lambda: F.relu(x),
        "relu inplace": lambda: F.relu_(x),
        "silu": lambda: F.silu(x),
        "add": lambda: x + one,
        "add inplace": lambda: x.add_(one),
        "mul": lambda: x * one,
        "mul number": lambda: x * 0.5,
        "pow": lambda: x.pow(2),
        "neg": lambda: -x,
        "tanh": lambda: torch.tanh(x),
        "rsqrt": lambda: torch.rsqrt(mean),
        "mean": lambda: x.mean(-1, keepdim=True),
        "sum": lambda: x.sum(-1),
        "softmax": lambda: F.softmax(x, dim=-1),
        "cat": lambda: torch.cat([x, x], dim=1),
        "stack": lambda: torch.stack([x, x], -1),
        "chunk": lambda: wide.chunk(3, dim=-1),
        "split": lambda: wide.split(64, dim=-1),
        "view": lambda: x.view(8, 16, 4, 16),
        "transpose": lambda: q.transpose(1, 2),
        "permute": lambda: q.permute(0, 2, 1, 3),
        "t": w.t,
        "expand": lambda: one.expand(8, 16, 64),
        "unsqueeze": lambda: x.unsqueeze(1),
        "slice": lambda: x[:, -1:],
        "slice ellipsis": lambda: x[..., :32],
        "select": lambda: x[:, 0],
        "reshape copy": lambda: q.transpose(1, 2).reshape(2, 128, 512),
        "contiguous": lambda: q.transpose(1, 2).contiguous(),
        "to float": x.float,
        "to same": lambda: x.to(torch.bfloat16),
        "clone": x.clone,
        "index copy": lambda: keys.index_copy_(2, at, token),
        "index put": lambda: keys.__setitem__((slice(None), slice(None), at), token),
        "embedding": lambda: F.embedding(ids, table),
        "arange": lambda: torch.arange(16, device=device),
        "empty": lambda: torch.empty(8, 16, 64, **half),
        "zeros": lambda: torch.zeros(8, 16, 64, **half),
        "dropout eval": lambda: F.dropout(x, 0.1, training=False),
        "dropout": lambda: F.dropout(x, 0.1),
        "conv": lambda: F.conv2d(image, taps, padding=1),
        "conv point": lambda: F.conv2d(image, point),
        "conv bias": lambda: F.conv2d(image, point, scale),
        "conv grouped": lambda: F.conv2d(image, groups, padding=1, groups=4),
        "conv depthwise": lambda: F.conv2d(image, depth, padding=1, groups=16),
        "max pool": lambda: F.max_pool2d(image, 2),
        "mean pool": lambda: F.adaptive_avg_pool2d(image, 1),
        "resize": lambda: F.interpolate(image, scale_factor=2, mode="bilinear"),
        "pad": lambda: F.pad(image, [1, 1, 1, 1]),
        "masked fill": lambda: x.masked_fill(x > 0, 0.0),
        "where": lambda: torch.where(x > 0, x, one),
        "compare": lambda: x > 0,
        **_further(device),
    }


def _further(device: str) -> Calls:
    """Kinds that models in other hands hold: norms of vectors, states, routes, bounds."""
    half: dict[str, Any] = {"device": device, "dtype": torch.bfloat16}
    x, one = torch.randn(8, 16, 64, **half), torch.randn(8, 1, 64, **half)
    flat, wide = torch.randn(8, 64, **half), torch.randn(8, 16, 64, device=device)
    a, c, bias = (
        torch.randn(4, 16, 64, **half), torch.randn(4, 64, 16, **half),
        torch.randn(4, 16, 16, **half),
    )  # fmt: skip
    w, b = torch.randn(64, 64, **half), torch.randn(64, **half)
    q, vector = torch.randn(2, 8, 128, 64, **half), torch.randn(2, 8, 64, **half)
    state, short = torch.randn(2, 8, 64, 64, **half), torch.randn(2, 8, 1, 64, **half)
    places = torch.zeros(8, 4, dtype=torch.int64, device=device)
    at = torch.zeros(1, dtype=torch.int64, device=device)
    table, scale = torch.randn(100, 64, **half), torch.ones(64, **half)
    added = torch.randn(1, 8, 1, 128, **half)
    return {
        "vector norm": lambda: torch.linalg.vector_norm(x, dim=-1, keepdim=True),
        "normalize": lambda: F.normalize(x, dim=-1),
        "clamp": lambda: x.clamp(-1.0, 1.0),
        "clamp min": lambda: x.clamp_min(1e-6),
        "maximum": lambda: torch.maximum(x, one),
        "exp": lambda: torch.exp(x),
        "exp fp32": lambda: torch.exp(wide),
        "sigmoid": lambda: torch.sigmoid(x),
        "log sigmoid": lambda: F.logsigmoid(x),
        "softplus": lambda: F.softplus(x),
        "lerp": lambda: torch.lerp(x, one, b),
        "square": x.square,
        "abs": x.abs,
        "sqrt": lambda: torch.sqrt(wide),
        "sin": lambda: torch.sin(wide),
        "round": lambda: torch.round(x),
        "div": lambda: x / one,
        "div number": lambda: x / 2.0,
        "add number": lambda: x + 1.0,
        "number less": lambda: 1.0 - x,
        "mul inplace": lambda: x.mul_(scale),
        "mul mixed": lambda: wide * one,
        "addcmul": lambda: torch.addcmul(x, one, one),
        "copy into": lambda: x.copy_(one),
        "copy into cast": lambda: x.copy_(wide),
        "narrow": lambda: wide.to(torch.bfloat16),
        "type as": lambda: wide.type_as(x),
        "amax": lambda: x.amax(dim=-1, keepdim=True),
        "argmax": lambda: x.argmax(dim=-1),
        "sum fp32": lambda: wide.sum(dim=-1),
        "mean fp32": lambda: wide.mean(-1, keepdim=True),
        "mean of last": lambda: x.mean(dim=1),
        "var": lambda: wide.var(-1, keepdim=True),
        "std": lambda: wide.std(-1, keepdim=True),
        "cumsum": lambda: x.cumsum(-1),
        "softmax fp32": lambda: F.softmax(x, dim=-1, dtype=torch.float32),
        "softmax method": lambda: x.softmax(dim=-1),
        "log softmax": lambda: F.log_softmax(x, dim=-1),
        "topk": lambda: flat.topk(4, dim=-1),
        "gather": lambda: flat.gather(1, places),
        "scatter": lambda: flat.scatter(1, places, 1.0),
        "rows of a table": lambda: table[places],
        "row by place": lambda: table[at],
        "rows by place": lambda: q[:, :, at],
        "embedding": lambda: F.embedding(places, table),
        "zeros like": lambda: torch.zeros_like(x),
        "fill": lambda: x.fill_(0.0),
        "masked fill inplace": lambda: x.masked_fill_(x > 3.0, 0.0),
        "einsum outer": lambda: torch.einsum("bhk,bhv->bhkv", vector, vector),
        "einsum": lambda: torch.einsum("bhk,bhkv->bhv", vector, state),
        "matmul states": lambda: torch.matmul(short, state),
        "baddbmm": lambda: torch.baddbmm(bias, a, c),
        "addmm": lambda: torch.addmm(b, flat, w),
        "mm": lambda: flat @ w,
        "sdpa added token": lambda: F.scaled_dot_product_attention(short, q, q, attn_mask=added),
        "sdpa scale token": lambda: F.scaled_dot_product_attention(short, q, q, scale=0.1),
        "rms norm without": lambda: F.rms_norm(x, (64,)),
        "layer norm without": lambda: F.layer_norm(x, (64,)),
        "group norm flat": lambda: F.group_norm(flat, 4, scale, scale),
        "roll": lambda: torch.roll(x, -1, -1),
        "flip": lambda: flat.flip(0),
        "repeat": lambda: one.repeat(1, 4, 1),
        "repeat interleave": lambda: one.repeat_interleave(4, dim=1),
        "expand reshape": lambda: one.unsqueeze(2).expand(-1, -1, 4, -1).reshape(8, 4, 64),
        "cat last": lambda: torch.cat((x, x), dim=-1),
        "pad constant": lambda: F.pad(flat, (0, 8)),
        "unbind": lambda: x.view(8, 16, 2, 32).unbind(2),
        "unflatten": lambda: x.unflatten(-1, (4, 16)),
        "flatten": lambda: x.flatten(1),
        "squeeze": lambda: one.squeeze(1),
        "matrix transposed": lambda: flat.mT,
        "size": lambda: x.shape[2],
        "arange fp32": lambda: torch.arange(16, device=device, dtype=torch.float32),
        "neg half": lambda: -x[..., 32:],
    }


def measure(device: str, seconds: float, *, training: bool = False) -> dict[str, Any]:
    """Medians [us] of each call and of the probe's block, and how many rounds there were."""
    wait = torch.cuda.synchronize if device == "cuda" else _nothing
    torch.backends.cudnn.benchmark = True
    known, probe = calls(device), block(device)
    left_out: dict[str, str] = {}
    shuffled = random.Random(3)
    spent: dict[str, list[float]] = {name: [] for name in known}
    blocks: list[float] = []
    rounds = 0
    with torch.set_grad_enabled(training):
        for name, call in list(known.items()):
            try:
                for _ in range(3):
                    call()
                wait()
            except Exception as error:
                left_out[name] = " ".join(str(error).split())[:120]
                del known[name]
        begin = time.perf_counter()  # first calls of all kinds may take longer than the rest
        while time.perf_counter() - begin < seconds or rounds < 2:
            order = [*known] + [""] * PROBES
            shuffled.shuffle(order)
            wait()
            for k, name in enumerate(order):
                call = known[name] if name else probe
                start = time.perf_counter()
                found = call()
                end = time.perf_counter()
                del found
                (spent[name] if name else blocks).append(end - start)
                if k % (len(order) // ROUND_WAIT) == 0:
                    wait()
            rounds += 1
    table = {
        name: [round(1e6 * statistics.median(values), 3), round(1e6 * min(values), 3)]
        for name, values in spent.items()
        if values
    }
    shown = [round(1e6 * one, 3) for one in (statistics.median(blocks), min(blocks))]
    return {"training": training, "rounds": rounds, "block_us": shown, "calls_us": table,
            "left_out": left_out}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Write medians and least times of calls that are and are not recorded for a gradient."""
    parser = argparse.ArgumentParser(prog="python3 -m validate.bench.host_calls")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=15.0)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    found = [measure(options.device, options.seconds / 2.0, training=way) for way in (False, True)]
    facts = {"torch": str(torch.__version__), "device": options.device, "runs": found}
    options.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
