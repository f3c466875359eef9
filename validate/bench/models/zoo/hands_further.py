"""A third draw of decoders, each with blocks and a cache that no other run has.

Distances as a bias of written-out attention, repeated heads with everything in fp32 around them, a
state that decays by heads, values blended with those of the first layer, low-rank adapters beside
every product, a memory of picked values, a window of the last positions behind a few first ones,
and stored filters over what was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from validate.bench.models.zoo.entry import of_tokens


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a decoder, and the kind of its blocks."""

    kind: str
    layers: int
    hidden: int
    heads: int
    ffn: int
    vocab: int = 32000
    kv_heads: int = 4
    window: int = 256

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads


class Wide(nn.Module):
    """Root-mean-square norm in fp32, written out; the weight counts from one."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(hidden))

    def forward(self, x: Any) -> Any:
        """The norm, in the type of `x`."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (wide * (1.0 + self.weight.float())).type_as(x)


class Gated(nn.Module):
    """A gated feed-forward part behind a norm; one product makes both halves."""

    def __init__(self, s: Shape, norm: Callable[[int], Any] = nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm(s.hidden)
        self.inner = nn.Linear(s.hidden, 2 * s.ffn, bias=False)
        self.outer = nn.Linear(s.ffn, s.hidden, bias=False)

    def forward(self, x: Any) -> Any:
        """The sum with its input."""
        gate, value = self.inner(self.norm(x)).chunk(2, dim=-1)
        return x + self.outer(F.gelu(gate, approximate="tanh") * value)


def heads_of(x: Any, heads: int) -> Any:
    """(batch, 1, hidden) to (batch, heads, 1, width)."""
    b, n, wide = x.shape
    return x.view(b, n, heads, wide // heads).transpose(1, 2)


class Distant(nn.Module):
    """Scores lose by the distance, each head at its slope; products with an addend make them."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.norm, self.after = nn.LayerNorm(s.hidden), nn.LayerNorm(s.hidden)
        self.qkv, self.dense = nn.Linear(s.hidden, 3 * s.hidden), nn.Linear(s.hidden, s.hidden)
        self.up, self.down = nn.Linear(s.hidden, s.ffn), nn.Linear(s.ffn, s.hidden)
        self.slopes = nn.Parameter(torch.zeros(s.heads, 1, 1))

    def forward(self, x: Any, cache: Any, at: Any, first: Any) -> Any:
        """One layer."""
        s, (b, n, _) = self.s, x.shape
        del first
        mixed = self.qkv(self.norm(x)).view(b, n, s.heads, 3, s.head_dim)
        q, k, v = (mixed[..., i, :].transpose(1, 2) for i in range(3))
        cache[0].index_copy_(2, at, k)
        cache[1].index_copy_(2, at, v)
        length = cache[0].shape[2]
        bias = self.slopes * (torch.arange(length, device=x.device) - at).to(x.dtype)
        scores = torch.baddbmm(
            bias.expand(b, -1, -1, -1).reshape(b * s.heads, 1, length),
            q.reshape(b * s.heads, n, s.head_dim),
            cache[0].view(b * s.heads, length, s.head_dim).transpose(1, 2),
            alpha=s.head_dim**-0.5,
        )
        weights = F.softmax(scores.float(), dim=-1).to(x.dtype)
        y = torch.bmm(weights, cache[1].view(b * s.heads, length, s.head_dim))
        y = y.view(b, s.heads, n, s.head_dim).transpose(1, 2).reshape(b, n, s.hidden)
        x = x + self.dense(y)
        h = self.up(self.after(x))
        h = h * 0.5 * (1.0 + torch.tanh(0.79788456 * h * (1 + 0.044715 * h * h)))
        return x + self.down(h)


def turned(x: Any, cos: Any, sin: Any) -> Any:
    """Rotary positions by halves."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


class Repeated(nn.Module):
    """Few key heads, repeated; queries and keys are normed and turned."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.norm, self.after = Wide(s.hidden), Wide(s.hidden)
        self.q_norm, self.k_norm = Wide(s.head_dim), Wide(s.head_dim)
        narrow = s.kv_heads * s.head_dim
        self.q, self.k, self.v, self.o = (
            nn.Linear(a, b, bias=False)
            for a, b in ((s.hidden, s.hidden), (s.hidden, narrow), (s.hidden, narrow),
                         (s.hidden, s.hidden))
        )  # fmt: skip
        self.gate, self.up = (nn.Linear(s.hidden, s.ffn, bias=False) for _ in range(2))
        self.down = nn.Linear(s.ffn, s.hidden, bias=False)

    def forward(self, x: Any, cache: Any, at: Any, first: Any) -> Any:
        """One layer."""
        s, (b, n, _) = self.s, x.shape
        cos, sin = first
        h = self.norm(x)
        q = self.q_norm(self.q(h).view(b, n, s.heads, -1)).transpose(1, 2)
        k = self.k_norm(self.k(h).view(b, n, s.kv_heads, -1)).transpose(1, 2)
        v = heads_of(self.v(h), s.kv_heads)
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        cache[0].index_copy_(2, at, k)
        cache[1].index_copy_(2, at, v)
        shared = s.heads // s.kv_heads
        keys, values = (
            one[:, :, None].expand(-1, -1, shared, -1, -1).reshape(b, s.heads, -1, s.head_dim)
            for one in cache
        )
        scores = torch.matmul(q, keys.transpose(2, 3)) * s.head_dim**-0.5
        weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        y = torch.matmul(weights, values).transpose(1, 2).contiguous().view(b, n, s.hidden)
        x = x + self.o(y)
        h = self.after(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Retained(nn.Module):
    """A state of keys and values that decays, each head at its rate; a gate behind a norm."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.norm = nn.LayerNorm(s.hidden)
        self.q, self.k, self.v, self.gate, self.o = (
            nn.Linear(s.hidden, s.hidden, bias=False) for _ in range(5)
        )
        self.decay = nn.Parameter(torch.ones(s.heads, 1, 1))
        self.group = nn.GroupNorm(s.heads, s.hidden)
        self.feed = Gated(s)

    def forward(self, x: Any, cache: Any, at: Any, first: Any) -> Any:
        """One layer; positions play no part."""
        del at, first
        s, b = self.s, x.shape[0]
        h = self.norm(x).squeeze(1)
        q, k, v = (m(h).view(b, s.heads, s.head_dim) for m in (self.q, self.k, self.v))
        state = cache[0]
        state.copy_(state * self.decay + torch.einsum("bhk,bhv->bhkv", k * s.head_dim**-0.5, v))
        y = torch.einsum("bhk,bhkv->bhv", q, state).reshape(b, s.hidden)
        y = self.group(y) * F.silu(self.gate(h))
        return self.feed(x + self.o(y).unsqueeze(1))


class Blended(nn.Module):
    """Values are blended with the first layer's; squares of ReLU; queries and keys are normed."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.q, self.k, self.v, self.o = (
            nn.Linear(s.hidden, s.hidden, bias=False) for _ in range(4)
        )
        self.blend, self.skip = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
        self.up = nn.Linear(s.hidden, s.ffn, bias=False)
        self.down = nn.Linear(s.ffn, s.hidden, bias=False)

    def forward(self, x: Any, cache: Any, at: Any, first: Any) -> Any:
        """One layer."""
        s, (b, n, _) = self.s, x.shape
        x = self.skip[0] * x + self.skip[1] * first[0]
        h = F.rms_norm(x, (s.hidden,))
        q, k, v = (heads_of(m(h), s.heads) for m in (self.q, self.k, self.v))
        if len(first) < 2:
            first.append(v)
        v = self.blend[0] * v + self.blend[1] * first[1]
        q, k = F.rms_norm(q, (s.head_dim,)), F.rms_norm(k, (s.head_dim,))
        keys, values = cache[0].index_copy_(2, at, k), cache[1].index_copy_(2, at, v)
        y = F.scaled_dot_product_attention(q, keys, values, scale=0.12)
        x = x + self.o(y.transpose(1, 2).contiguous().view(b, n, s.hidden))
        return x + self.down(F.relu(self.up(F.rms_norm(x, (s.hidden,)))).square())


class Adapted(nn.Module):
    """A product, and beside it two thin ones whose result is scaled and added."""

    def __init__(self, wide_in: int, wide_out: int, rank: int = 16) -> None:
        super().__init__()
        self.base = nn.Linear(wide_in, wide_out)
        self.dropout = nn.Dropout(0.05)
        self.low = nn.Linear(wide_in, rank, bias=False)
        self.high = nn.Linear(rank, wide_out, bias=False)
        self.scaling = 2.0

    def forward(self, x: Any) -> Any:
        """Both, added."""
        return self.base(x) + self.high(self.low(self.dropout(x))) * self.scaling


class Beside(nn.Module):
    """Attention and a feed-forward part of such products."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.norm, self.after = nn.LayerNorm(s.hidden), nn.LayerNorm(s.hidden)
        self.q, self.k, self.v, self.o = (Adapted(s.hidden, s.hidden) for _ in range(4))
        self.up, self.down = Adapted(s.hidden, s.ffn), Adapted(s.ffn, s.hidden)

    def forward(self, x: Any, cache: Any, at: Any, first: Any) -> Any:
        """One layer."""
        del first
        s, (b, n, _) = self.s, x.shape
        h = self.norm(x)
        q, k, v = (heads_of(m(h), s.heads) for m in (self.q, self.k, self.v))
        keys, values = cache[0].index_copy_(2, at, k), cache[1].index_copy_(2, at, v)
        y = F.scaled_dot_product_attention(q, keys, values)
        x = x + self.o(y.transpose(1, 2).reshape(b, n, s.hidden))
        return x + self.down(F.relu(self.up(self.after(x))))


class Picked(nn.Module):
    """The feed-forward part picks the best 16 of 2,304 values by two halves of a query."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s, self.side, self.count = s, 48, 16
        self.norm, self.after = nn.LayerNorm(s.hidden), nn.LayerNorm(s.hidden)
        self.qkv = nn.Linear(s.hidden, 3 * s.hidden, bias=False)
        self.o = nn.Linear(s.hidden, s.hidden, bias=False)
        self.query = nn.Linear(s.hidden, 2 * s.head_dim)
        self.rows = nn.Parameter(torch.zeros(self.side, s.head_dim))
        self.columns = nn.Parameter(torch.zeros(self.side, s.head_dim))
        self.values = nn.Embedding(self.side * self.side, s.hidden)
        self.up, self.down = nn.Linear(s.hidden, s.ffn), nn.Linear(s.ffn, s.hidden)

    def forward(self, x: Any, cache: Any, at: Any, first: Any) -> Any:
        """One layer."""
        del first
        s, (b, n, _) = self.s, x.shape
        parts = self.qkv(self.norm(x)).split(s.hidden, dim=-1)
        q, k, v = (heads_of(one, s.heads) for one in parts)
        keys, values = cache[0].index_copy_(2, at, k), cache[1].index_copy_(2, at, v)
        y = F.scaled_dot_product_attention(q, keys, values)
        x = x + self.o(y.transpose(1, 2).reshape(b, n, s.hidden))
        h = self.after(x).view(b, s.hidden)
        left, right = self.query(h).chunk(2, dim=-1)
        one, i = (left @ self.rows.t()).topk(self.count, dim=-1)
        two, j = (right @ self.columns.t()).topk(self.count, dim=-1)
        every = (one.unsqueeze(2) + two.unsqueeze(1)).flatten(1)
        places = (i.unsqueeze(2) * self.side + j.unsqueeze(1)).flatten(1)
        best, order = every.topk(self.count, dim=-1)
        held = self.values(places.gather(1, order))
        found = (held * best.softmax(dim=-1).unsqueeze(-1)).sum(dim=1)
        return x + (found + self.down(F.gelu(self.up(h)))).view(b, n, s.hidden)


class Local(nn.Module):
    """Reads the last positions and the first four; keys of both lie side by side."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.norm = nn.RMSNorm(s.hidden)
        self.q = nn.Linear(s.hidden, s.hidden, bias=False)
        self.kv = nn.Linear(s.hidden, 2 * s.hidden, bias=False)
        self.o = nn.Linear(s.hidden, s.hidden, bias=False)
        self.sink = nn.Parameter(torch.zeros(s.heads, 1, 1))
        self.feed = Gated(s, nn.RMSNorm)

    def forward(self, x: Any, cache: Any, at: Any, first: Any) -> Any:
        """One layer."""
        del first
        s, (b, n, _) = self.s, x.shape
        h = self.norm(x)
        q = heads_of(self.q(h), s.heads)
        k, v = (heads_of(one, s.heads) for one in self.kv(h).chunk(2, dim=-1))
        cache[0].index_copy_(2, at, k)
        cache[1].index_copy_(2, at, v)
        keys, values = (torch.cat((one[:, :, :4], one[:, :, -s.window :]), dim=2) for one in cache)
        scores = (q * s.head_dim**-0.5) @ keys.transpose(-1, -2)
        scores = torch.cat((scores, self.sink.expand(b, -1, -1, -1)), dim=-1)
        scores = scores - scores.amax(dim=-1, keepdim=True)
        weights = F.softmax(scores, dim=-1)[..., :-1]
        y = (weights @ values).transpose(1, 2).reshape(b, n, s.hidden)
        return self.feed(x + self.o(y))


class Filtered(nn.Module):
    """Sums over all that was, each channel by a filter it stores; gates before and behind."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.norm = nn.LayerNorm(s.hidden)
        self.three, self.o = nn.Linear(s.hidden, 3 * s.hidden), nn.Linear(s.hidden, s.hidden)
        self.short = nn.Parameter(torch.zeros(3, 3 * s.hidden))
        self.filters = nn.Parameter(torch.zeros(2048, s.hidden))
        self.direct = nn.Parameter(torch.zeros(s.hidden))
        self.feed = Gated(s)

    def forward(self, x: Any, cache: Any, at: Any, first: Any) -> Any:
        """One layer."""
        del first
        recent, past = cache
        new = self.three(self.norm(x))
        recent.copy_(torch.cat((recent[:, 1:], new), dim=1))
        a, b, c = (recent * self.short).sum(dim=1).chunk(3, dim=-1)
        past.index_copy_(1, at, (a * b).unsqueeze(1))
        length = past.shape[1]
        held = torch.einsum("bld,ld->bd", past, self.filters[:length].flip(0))
        return self.feed(x + self.o(c * (held + self.direct * a)).unsqueeze(1))


BLOCKS: dict[str, Callable[[Shape], Any]] = {
    "distant": Distant, "repeated": Repeated, "retained": Retained, "blended": Blended,
    "adapted": Beside, "picked": Picked, "local": Local, "filtered": Filtered,
}  # fmt: skip


def cache_shapes(s: Shape, batch: int, length: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of what one layer keeps between tokens."""
    heads = (batch, s.heads, length, s.head_dim)
    few = (batch, s.kv_heads, length, s.head_dim)
    return {
        "repeated": (few, few),
        "retained": ((batch, s.heads, s.head_dim, s.head_dim),),
        "filtered": ((batch, 3, 3 * s.hidden), (batch, length, s.hidden)),
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
        rates = 10000.0 ** (-torch.arange(0, s.head_dim, 2).float() / s.head_dim)
        self.register_buffer("rates", rates.repeat(2), persistent=False)

    def forward(self, ids: Any, cache: Any, at: Any) -> Any:
        """Logits of the token at `at`."""
        x = self.embed(ids)
        first: Any = None
        if self.s.kind == "repeated":
            angle = at.float() * self.rates.float()
            first = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        elif self.s.kind == "blended":
            first = [x]
        for block, kept in zip(self.blocks, cache, strict=True):
            x = block(x, kept, at, first)
        logits = self.head(self.norm(x))
        return 15.0 * torch.tanh(logits / 15.0) if self.s.kind == "blended" else logits

    def new_cache(self, batch: int, length: int, dtype: Any) -> list[Any]:
        """What each layer keeps."""
        shapes = cache_shapes(self.s, batch, length)
        return [tuple(torch.randn(one, dtype=dtype) for one in shapes) for _ in self.blocks]


SHAPES = {
    "hand_distant": Shape("distant", 10, 1024, 16, 4096, 50304),
    "hand_repeated": Shape("repeated", 9, 1024, 16, 3072),
    "hand_retained": Shape("retained", 12, 1024, 8, 2048),
    "hand_blended": Shape("blended", 12, 768, 6, 3072, 50304),
    "hand_adapted": Shape("adapted", 10, 1024, 16, 4096, 50272),
    "hand_picked": Shape("picked", 9, 768, 12, 2048),
    "hand_local": Shape("local", 10, 1152, 9, 3072),
    "hand_filtered": Shape("filtered", 14, 896, 7, 1792, 50304),
}
TINY = {name: Shape(s.kind, 2, 128, 4, 256, 1000, 2, 8) for name, s in SHAPES.items()}
ENTRIES = {name: of_tokens({name: s}, TINY[name], Decoder)[name] for name, s in SHAPES.items()}
