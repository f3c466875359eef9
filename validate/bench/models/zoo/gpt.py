"""A GPT-2-like decoder with a static key-value cache, in plain PyTorch."""

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
    vocab: int = 50304
    positions: int = 4096


SHAPES = {
    "gpt_124m": Shape(12, 768, 12),
    "gpt_355m": Shape(24, 1024, 16),
    "gpt_774m": Shape(36, 1280, 20),
    "gpt_1558m": Shape(48, 1600, 25),
    "gpt_wide": Shape(10, 2048, 16),
    "gpt_80m": Shape(8, 640, 10),
    "gpt_27b": Shape(32, 2560, 32),
    "gpt_210m": Shape(16, 896, 14),
    "gpt_160m": Shape(12, 960, 15),
    "gpt_700m": Shape(28, 1344, 21),
}
TINY = Shape(2, 128, 4, 1000, 64)


class Block(nn.Module):
    """Attention and a feed-forward, each behind a layer norm."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.heads = s.heads
        self.ln_1, self.ln_2 = nn.LayerNorm(s.hidden), nn.LayerNorm(s.hidden)
        self.qkv, self.out = nn.Linear(s.hidden, 3 * s.hidden), nn.Linear(s.hidden, s.hidden)
        self.up, self.down = nn.Linear(s.hidden, 4 * s.hidden), nn.Linear(4 * s.hidden, s.hidden)

    def forward(self, x: Any, cache: Any = None, at: Any = None) -> Any:
        """One layer; with `cache` (keys, values), its rows `at` are replaced and all are read."""
        b, n, wide = x.shape
        q, k, v = (
            one.view(b, n, self.heads, wide // self.heads).transpose(1, 2)
            for one in self.qkv(self.ln_1(x)).chunk(3, dim=-1)
        )
        if cache is not None:
            k, v = cache[0].index_copy_(2, at, k), cache[1].index_copy_(2, at, v)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=cache is None or n > 1)
        x = x + self.out(y.transpose(1, 2).reshape(b, n, wide))
        return x + self.down(F.gelu(self.up(self.ln_2(x)), approximate="tanh"))


class Gpt(nn.Module):
    """Decoder with learned positions and a head that shares the embedding's weights."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s, self.recompute = s, False
        self.wte, self.wpe = nn.Embedding(s.vocab, s.hidden), nn.Embedding(s.positions, s.hidden)
        self.blocks = nn.ModuleList(Block(s) for _ in range(s.layers))
        self.norm = nn.LayerNorm(s.hidden)
        self.head = nn.Linear(s.hidden, s.vocab, bias=False)
        self.head.weight = self.wte.weight
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def gradient_checkpointing_enable(self) -> None:
        """Recompute every block in the backward pass."""
        self.recompute = True

    def forward(self, ids: Any, cache: Any = None, at: Any = None, last: bool = False) -> Any:
        """Logits; `at` (length,) are the positions of `ids` (0.. when None)."""
        if at is None:
            at = torch.arange(ids.shape[1], device=ids.device)
        x = self.wte(ids) + self.wpe(at)
        for i, block in enumerate(self.blocks):
            if self.recompute and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x, None if cache is None else cache[i], at)
        return self.head(self.norm(x[:, -1:] if last else x))

    def new_cache(self, batch: int, length: int, dtype: Any) -> list[Any]:
        """Keys and values of each layer, (batch, heads, length, width of a head)."""
        shape = (batch, self.s.heads, length, self.s.hidden // self.s.heads)
        return [(torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype))
                for _ in range(self.s.layers)]  # fmt: skip


ENTRIES = of_tokens(SHAPES, TINY, Gpt)
