"""A Llama-like decoder with a static key-value cache, in plain PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from validate.bench.models.zoo.entry import of_tokens


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int = 32000

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads


SHAPES = {
    "llama_03b": Shape(16, 1024, 16, 8, 4096),
    "llama_1b": Shape(16, 2048, 32, 8, 8192, 128256),
    "llama_3b": Shape(28, 3072, 24, 8, 8192, 128256),
    "llama_2b": Shape(24, 2304, 18, 6, 6144, 64000),
    "llama_7b": Shape(32, 4096, 32, 32, 11008, 32000),
    "llama_8b": Shape(32, 4096, 32, 8, 14336, 128256),
    "llama_06b": Shape(28, 1024, 16, 8, 3072, 151936),
    "llama_15b": Shape(28, 1536, 12, 2, 8960, 151936),
    "llama_135m": Shape(30, 576, 9, 3, 1536, 49152),
    "llama_27b": Shape(20, 3072, 24, 24, 8192, 50304),
    "llama_05b": Shape(24, 896, 14, 2, 4864, 65536),
    "llama_13b": Shape(24, 2048, 16, 8, 5632, 92544),
    "llama_4b": Shape(34, 2560, 20, 4, 10240, 65536),
    "llama_18b": Shape(22, 2560, 20, 5, 6912, 100352),
    "llama_260m": Shape(18, 1024, 8, 2, 2816, 50304),
    "llama_90m": Shape(14, 640, 10, 5, 1920, 50304),
    "llama_900m": Shape(22, 1792, 14, 7, 4864, 64000),
}
TINY = Shape(2, 128, 4, 2, 256, 1000)


def rope_table(positions: int, head_dim: int, dtype: Any) -> tuple[Any, Any]:
    """Cosines and sines (positions, head_dim)."""
    rate = 500000.0 ** (-torch.arange(0, head_dim, 2).float() / head_dim)
    angle = torch.outer(torch.arange(positions).float(), rate).repeat(1, 2)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Any, cos: Any, sin: Any) -> Any:
    """Rotary embedding of (batch, heads, length, head_dim)."""
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


class Block(nn.Module):
    """Attention and a gated feed-forward, each behind an RMS norm."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        wide = (s.heads + 2 * s.kv_heads) * s.head_dim
        self.norm1, self.norm2 = nn.RMSNorm(s.hidden, 1e-5), nn.RMSNorm(s.hidden, 1e-5)
        self.qkv = nn.Linear(s.hidden, wide, bias=False)
        self.out = nn.Linear(s.hidden, s.hidden, bias=False)
        self.gate = nn.Linear(s.hidden, s.ffn, bias=False)
        self.up = nn.Linear(s.hidden, s.ffn, bias=False)
        self.down = nn.Linear(s.ffn, s.hidden, bias=False)

    def forward(self, x: Any, cos: Any, sin: Any, cache: Any = None, at: Any = None) -> Any:
        """One layer; with `cache` (keys, values), its rows `at` are replaced and all are read."""
        s, (b, n, _) = self.s, x.shape
        heads = self.qkv(self.norm1(x)).view(b, n, s.heads + 2 * s.kv_heads, s.head_dim)
        q, k, v = heads.transpose(1, 2).split((s.heads, s.kv_heads, s.kv_heads), dim=1)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        causal = cache is None or n > 1
        if cache is not None:
            k, v = cache[0].index_copy_(2, at, k), cache[1].index_copy_(2, at, v)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, n, s.hidden))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Llama(nn.Module):
    """Decoder; `positions` bounds the context that the rotary tables hold."""

    def __init__(self, s: Shape, positions: int = 8448) -> None:
        super().__init__()
        self.s, self.recompute = s, False
        self.embed = nn.Embedding(s.vocab, s.hidden)
        self.blocks = nn.ModuleList(Block(s) for _ in range(s.layers))
        self.norm = nn.RMSNorm(s.hidden, 1e-5)
        self.head = nn.Linear(s.hidden, s.vocab, bias=False)
        cos, sin = rope_table(positions, s.head_dim, torch.get_default_dtype())
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def gradient_checkpointing_enable(self) -> None:
        """Recompute every block in the backward pass."""
        self.recompute = True

    def forward(self, ids: Any, cache: Any = None, at: Any = None, last: bool = False) -> Any:
        """Logits; `at` (length,) are the positions of `ids` (0.. when None)."""
        x = self.embed(ids)
        n = ids.shape[1]
        cos, sin = (self.cos[:n], self.sin[:n]) if at is None else (self.cos[at], self.sin[at])
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        for i, block in enumerate(self.blocks):
            pair = None if cache is None else cache[i]
            if self.recompute and self.training:
                x = checkpoint(block, x, cos, sin, use_reentrant=False)
            else:
                x = block(x, cos, sin, pair, at)
        x = self.norm(x[:, -1:] if last else x)
        return self.head(x)

    def new_cache(self, batch: int, length: int, dtype: Any) -> list[Any]:
        """Keys and values of each layer, (batch, kv_heads, length, head_dim)."""
        shape = (batch, self.s.kv_heads, length, self.s.head_dim)
        return [(torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype))
                for _ in range(self.s.layers)]  # fmt: skip


ENTRIES = of_tokens(SHAPES, TINY, Llama)
