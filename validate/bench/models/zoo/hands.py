"""Decoders whose blocks and caches are unlike those of every other run, one token at a time.

Each differs from the usual decoder in what a step calls: a parallel block with a part of each head
rotated, one key head for all, norms behind as well as before, attention written out over a bias,
experts gathered by index, keys and values kept in a latent space, and two with a state in place of
a cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from validate.bench.models.zoo.entry import of_tokens
from validate.bench.models.zoo.llama import rope_table, rotate


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model, and the kind of its blocks."""

    kind: str
    layers: int
    hidden: int
    heads: int
    ffn: int
    vocab: int = 32000
    positions: int = 2048

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads


class Parallel(nn.Module):
    """Attention and feed-forward side by side behind one norm; half of each head is rotated."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s, half = s, s.head_dim // 2
        self.ln = nn.LayerNorm(s.hidden)
        self.q, self.k, self.v = (nn.Linear(s.hidden, s.hidden, bias=False) for _ in range(3))
        self.o = nn.Linear(s.hidden, s.hidden, bias=False)
        self.fc_in, self.fc_out = nn.Linear(s.hidden, s.ffn), nn.Linear(s.ffn, s.hidden)
        cos, sin = rope_table(s.positions, half, torch.get_default_dtype())
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def turned(self, x: Any, at: Any) -> Any:
        """The first half of each head rotated."""
        half = self.s.head_dim // 2
        first, rest = x[..., :half], x[..., half:]
        return torch.cat((rotate(first, self.cos[at], self.sin[at]), rest), dim=-1)

    def forward(self, x: Any, cache: Any, at: Any) -> Any:
        """One layer."""
        s, (b, n, _) = self.s, x.shape
        h = self.ln(x)
        q, k, v = (
            m(h).view(b, n, s.heads, s.head_dim).transpose(1, 2) for m in (self.q, self.k, self.v)
        )
        cache[0][:, :, at] = self.turned(k, at)
        cache[1][:, :, at] = v
        y = F.scaled_dot_product_attention(self.turned(q, at), cache[0], cache[1])
        y = self.o(y.transpose(1, 2).reshape(b, n, s.hidden))
        return x + y + self.fc_out(F.gelu(self.fc_in(h), approximate="tanh"))


class OneKey(nn.Module):
    """All query heads read one head of keys and values; squared ReLU."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.norm1, self.norm2 = nn.RMSNorm(s.hidden), nn.RMSNorm(s.hidden)
        self.qkv = nn.Linear(s.hidden, s.hidden + 2 * s.head_dim)
        self.o = nn.Linear(s.hidden, s.hidden)
        self.up, self.down = nn.Linear(s.hidden, s.ffn), nn.Linear(s.ffn, s.hidden)

    def forward(self, x: Any, cache: Any, at: Any) -> Any:
        """One layer."""
        s, (b, n, _) = self.s, x.shape
        q, k, v = self.qkv(self.norm1(x)).split((s.hidden, s.head_dim, s.head_dim), dim=-1)
        keys = cache[0].index_copy_(1, at, k).unsqueeze(1).expand(b, s.heads, -1, -1)
        values = cache[1].index_copy_(1, at, v).unsqueeze(1).expand(b, s.heads, -1, -1)
        y = F.scaled_dot_product_attention(
            q.view(b, n, s.heads, s.head_dim).transpose(1, 2), keys, values
        )
        x = x + self.o(y.transpose(1, 2).reshape(b, n, s.hidden))
        return x + self.down(F.relu(self.up(self.norm2(x))).square())


class Plus(nn.Module):
    """Root-mean-square norm in fp32, scaled by one plus its weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Any) -> Any:
        """The norm in the type of `x`."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (wide * (1.0 + self.weight.float())).type_as(x)


class Sandwich(nn.Module):
    """Norms before and behind attention and a gated feed-forward, and on queries and keys."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.before, self.behind, self.inner, self.outer = (Plus(s.hidden) for _ in range(4))
        self.q_norm, self.k_norm = Plus(s.head_dim), Plus(s.head_dim)
        self.q = nn.Linear(s.hidden, s.hidden, bias=False)
        self.kv = nn.Linear(s.hidden, s.hidden, bias=False)
        self.o = nn.Linear(s.hidden, s.hidden, bias=False)
        self.gate, self.up = (nn.Linear(s.hidden, s.ffn, bias=False) for _ in range(2))
        self.down = nn.Linear(s.ffn, s.hidden, bias=False)
        cos, sin = rope_table(s.positions, s.head_dim, torch.get_default_dtype())
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, x: Any, cache: Any, at: Any) -> Any:
        """One layer; half as many key heads as query heads."""
        s, (b, n, _) = self.s, x.shape
        h = self.before(x)
        q = self.q_norm(self.q(h).view(b, n, s.heads, s.head_dim)).transpose(1, 2)
        k, v = self.kv(h).view(b, n, s.heads, s.head_dim).chunk(2, dim=2)
        k, v = self.k_norm(k).transpose(1, 2), v.transpose(1, 2)
        cos, sin = self.cos[at], self.sin[at]
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        keys, values = cache[0].index_copy_(2, at, k), cache[1].index_copy_(2, at, v)
        y = F.scaled_dot_product_attention(q, keys, values, enable_gqa=True)
        x = x + self.behind(self.o(y.transpose(1, 2).reshape(b, n, s.hidden)))
        h = self.inner(x)
        return x + self.outer(self.down(F.gelu(self.gate(h), approximate="tanh") * self.up(h)))


class Written(nn.Module):
    """Attention as two products around a softmax in fp32, with a bias of distances."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.ln_1, self.ln_2 = nn.LayerNorm(s.hidden), nn.LayerNorm(s.hidden)
        self.query_key_value = nn.Linear(s.hidden, 3 * s.hidden)
        self.dense = nn.Linear(s.hidden, s.hidden)
        self.h_to_4h, self.back = nn.Linear(s.hidden, s.ffn), nn.Linear(s.ffn, s.hidden)
        slopes = torch.tensor([2.0 ** (-8.0 * (i + 1) / s.heads) for i in range(s.heads)])
        self.register_buffer("slopes", slopes.view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Any, cache: Any, at: Any) -> Any:
        """One layer."""
        s, (b, n, _) = self.s, x.shape
        fused = self.query_key_value(self.ln_1(x)).view(b, n, s.heads, 3, s.head_dim)
        q, k, v = (fused[..., i, :].permute(0, 2, 1, 3) for i in range(3))
        cache[0].index_copy_(2, at, k)
        cache[1].index_copy_(2, at, v)
        scores = torch.matmul(q, cache[0].transpose(-1, -2)) / s.head_dim**0.5
        places = torch.arange(cache[0].shape[2], device=x.device)
        scores = scores + self.slopes * (places - at).view(1, 1, 1, -1)
        scores = scores.masked_fill((places > at).view(1, 1, 1, -1), -1e4)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(v.dtype)
        y = torch.matmul(weights, cache[1]).permute(0, 2, 1, 3).reshape(b, n, s.hidden)
        x = x + self.dense(y)
        return x + self.back(F.gelu(self.h_to_4h(self.ln_2(x))))


class Experts(nn.Module):
    """Two of eight gated experts for each token, their weights gathered by index."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.norm1, self.norm2 = nn.RMSNorm(s.hidden), nn.RMSNorm(s.hidden)
        self.qkv = nn.Linear(s.hidden, 3 * s.hidden, bias=False)
        self.o = nn.Linear(s.hidden, s.hidden, bias=False)
        self.gate = nn.Linear(s.hidden, 8, bias=False)
        self.w1, self.w3 = (nn.Parameter(torch.zeros(8, s.ffn, s.hidden)) for _ in range(2))
        self.w2 = nn.Parameter(torch.zeros(8, s.hidden, s.ffn))

    def feed(self, x: Any) -> Any:
        """(tokens, hidden) to the same."""
        share, index = torch.topk(F.softmax(self.gate(x), dim=-1), 2, dim=-1)
        share = share / share.sum(dim=-1, keepdim=True)
        first = F.silu(torch.einsum("ti,taoi->tao", x, self.w1[index]))
        third = torch.einsum("ti,taoi->tao", x, self.w3[index])
        out = torch.einsum("tao,taio->tai", first * third, self.w2[index])
        return torch.einsum("tai,ta->ti", out, share)

    def forward(self, x: Any, cache: Any, at: Any) -> Any:
        """One layer."""
        s, (b, n, _) = self.s, x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, s.heads, s.head_dim).unbind(2)
        keys = cache[0].index_copy_(2, at, k.transpose(1, 2))
        values = cache[1].index_copy_(2, at, v.transpose(1, 2))
        y = F.scaled_dot_product_attention(q.transpose(1, 2), keys, values)
        x = x + self.o(y.transpose(1, 2).reshape(b, n, s.hidden))
        return x + self.feed(self.norm2(x).view(b * n, s.hidden)).view(b, n, s.hidden)


class Latent(nn.Module):
    """Keys and values as one narrow vector a token, which queries and results are taken to."""

    RANK = 256

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.norm1, self.norm2 = nn.RMSNorm(s.hidden), nn.RMSNorm(s.hidden)
        self.q = nn.Linear(s.hidden, s.hidden, bias=False)
        self.down_kv, self.kv_norm = nn.Linear(s.hidden, self.RANK), nn.RMSNorm(self.RANK)
        self.up_k = nn.Parameter(torch.zeros(s.heads, s.head_dim, self.RANK))
        self.up_v = nn.Parameter(torch.zeros(s.heads, self.RANK, s.head_dim))
        self.o = nn.Linear(s.hidden, s.hidden, bias=False)
        self.gate_up = nn.Linear(s.hidden, 2 * s.ffn, bias=False)
        self.down = nn.Linear(s.ffn, s.hidden, bias=False)

    def forward(self, x: Any, cache: Any, at: Any) -> Any:
        """One layer."""
        s, (b, n, _) = self.s, x.shape
        h = self.norm1(x)
        kept = cache[0].index_copy_(1, at, self.kv_norm(self.down_kv(h)))
        q = self.q(h).view(b, n, s.heads, s.head_dim)
        q = torch.einsum("bnhd,hdr->bnhr", q, self.up_k)
        scores = torch.einsum("bnhr,btr->bhnt", q, kept) * s.head_dim**-0.5
        weights = scores.softmax(dim=-1)
        y = torch.einsum("bhnt,btr->bnhr", weights, kept)
        y = torch.einsum("bnhr,hrd->bnhd", y, self.up_v).reshape(b, n, s.hidden)
        x = x + self.o(y)
        gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Gated(nn.Module):
    """Linear attention: a state of keys by values a head, which decays by a gate."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.norm1, self.norm2 = nn.LayerNorm(s.hidden), nn.LayerNorm(s.hidden)
        self.q, self.k, self.v, self.g = (
            nn.Linear(s.hidden, s.hidden, bias=False) for _ in range(4)
        )
        self.decay = nn.Linear(s.hidden, s.heads)
        self.group = nn.GroupNorm(s.heads, s.hidden)
        self.o = nn.Linear(s.hidden, s.hidden, bias=False)
        self.up, self.down = nn.Linear(s.hidden, s.ffn), nn.Linear(s.ffn, s.hidden)

    def forward(self, x: Any, cache: Any, at: Any) -> Any:
        """One layer; positions play no part."""
        del at
        s, (b, n, _) = self.s, x.shape
        h = self.norm1(x)
        q, k, v = (m(h).view(b, s.heads, s.head_dim) for m in (self.q, self.k, self.v))
        keep = torch.sigmoid(self.decay(h)).view(b, s.heads, 1, 1)
        state = cache[0].mul_(keep).add_(k.unsqueeze(-1) * v.unsqueeze(-2))
        y = torch.matmul(q.unsqueeze(-2), state).reshape(b, s.hidden)
        y = self.group(y).view(b, n, s.hidden) * F.silu(self.g(h))
        x = x + self.o(y)
        return x + self.down(F.silu(self.up(self.norm2(x))))


class Selective(nn.Module):
    """A state-space step: a window of inputs, a short convolution and a state of 16 a channel."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s, wide, self.rank = s, 2 * s.hidden, max(1, s.hidden // 16)
        self.norm = nn.RMSNorm(s.hidden)
        self.in_proj = nn.Linear(s.hidden, 2 * wide, bias=False)
        self.window, self.bias = nn.Parameter(torch.zeros(wide, 4)), nn.Parameter(torch.zeros(wide))
        self.x_proj = nn.Linear(wide, self.rank + 32, bias=False)
        self.dt_proj = nn.Linear(self.rank, wide)
        self.a_log, self.d = nn.Parameter(torch.zeros(wide, 16)), nn.Parameter(torch.ones(wide))
        self.out_proj = nn.Linear(wide, s.hidden, bias=False)

    def forward(self, x: Any, cache: Any, at: Any) -> Any:
        """One layer; positions play no part."""
        del at
        inner, gate = self.in_proj(self.norm(x).squeeze(1)).chunk(2, dim=-1)
        seen, state = cache
        seen.copy_(torch.roll(seen, shifts=-1, dims=-1))
        seen[:, :, -1] = inner
        inner = F.silu(torch.sum(seen * self.window, dim=-1) + self.bias)
        dt, b, c = self.x_proj(inner).split((self.rank, 16, 16), dim=-1)
        dt = F.softplus(self.dt_proj(dt))
        grown = torch.exp(torch.einsum("bd,dn->bdn", dt, -torch.exp(self.a_log)))
        state.copy_(state * grown + inner.unsqueeze(-1) * torch.einsum("bd,bn->bdn", dt, b))
        y = torch.einsum("bdn,bn->bd", state, c) + self.d * inner
        return x + self.out_proj(y * F.silu(gate)).unsqueeze(1)


BLOCKS: dict[str, Callable[[Shape], Any]] = {
    "parallel": Parallel, "one_key": OneKey, "sandwich": Sandwich, "written": Written,
    "experts": Experts, "latent": Latent, "gated": Gated, "selective": Selective,
}  # fmt: skip


def cache_shapes(s: Shape, batch: int, length: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of what one layer keeps between tokens."""
    heads = (batch, s.heads, length, s.head_dim)
    half = (batch, s.heads // 2, length, s.head_dim)
    wide = 2 * s.hidden
    return {
        "one_key": ((batch, length, s.head_dim),) * 2,
        "sandwich": (half, half),
        "latent": ((batch, length, Latent.RANK),),
        "gated": ((batch, s.heads, s.head_dim, s.head_dim),),
        "selective": ((batch, wide, 4), (batch, wide, 16)),
    }.get(s.kind, (heads, heads))


class Decoder(nn.Module):
    """Embedding, blocks of one kind, norm and head."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.embed = nn.Embedding(s.vocab, s.hidden)
        self.blocks = nn.ModuleList(BLOCKS[s.kind](s) for _ in range(s.layers))
        self.norm = nn.LayerNorm(s.hidden)
        self.head = nn.Linear(s.hidden, s.vocab, bias=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: Any, cache: Any, at: Any) -> Any:
        """Logits of the token at `at`."""
        x = self.embed(ids)
        for block, kept in zip(self.blocks, cache, strict=True):
            x = block(x, kept, at)
        return self.head(self.norm(x))

    def new_cache(self, batch: int, length: int, dtype: Any) -> list[Any]:
        """What each layer keeps."""
        shapes = cache_shapes(self.s, batch, length)
        return [tuple(torch.randn(one, dtype=dtype) for one in shapes) for _ in self.blocks]


SHAPES = {
    "hand_parallel": Shape("parallel", 10, 1024, 16, 4096, 50400),
    "hand_one_key": Shape("one_key", 10, 1024, 16, 4096, 49152),
    "hand_sandwich": Shape("sandwich", 8, 1152, 8, 3456, 65536),
    "hand_written": Shape("written", 10, 1024, 16, 4096, 65024),
    "hand_experts": Shape("experts", 8, 768, 12, 1536),
    "hand_latent": Shape("latent", 10, 1024, 8, 2816, 50304),
    "hand_gated": Shape("gated", 12, 1024, 8, 2816),
    "hand_selective": Shape("selective", 12, 768, 12, 1536, 50280),
}
TINY = {name: Shape(s.kind, 2, 128, 4, 256, 1000, 64) for name, s in SHAPES.items()}
ENTRIES = {name: of_tokens({name: s}, TINY[name], Decoder)[name] for name, s in SHAPES.items()}
