"""A further draw of decoders unlike every other run's, and small networks of other fields to train.

Decoders: a window that wraps round, a cache of eight bits, two softmaxes against each other, reads
of a memory beside the own cache, all experts at once under a mask, a state that forgets along its
keys, a blend of each token with the last one, and cells whose gates are exponentials.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from validate.bench.models.zoo.entry import Entry, image, of_tokens


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a decoder, and the kind of its blocks."""

    kind: str
    layers: int
    hidden: int
    heads: int
    ffn: int
    vocab: int = 32000
    memory: int = 384

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads


class Gelu(nn.Module):
    """A plain feed-forward part behind a norm."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(s.hidden)
        self.up, self.down = nn.Linear(s.hidden, s.ffn), nn.Linear(s.ffn, s.hidden)

    def forward(self, x: Any) -> Any:
        """The sum with its input."""
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Ring(nn.Module):
    """A window of positions that wraps round; scores are capped by a tangent."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.norm = nn.RMSNorm(s.hidden)
        self.qkv = nn.Linear(s.hidden, 3 * s.hidden, bias=False)
        self.scale = nn.Parameter(torch.ones(s.heads, 1, s.head_dim))
        self.o = nn.Linear(s.hidden, s.hidden, bias=False)
        self.feed = Gelu(s)

    def forward(self, x: Any, cache: Any, at: Any) -> Any:
        """One layer."""
        s, (b, n, _) = self.s, x.shape
        length = cache[0].shape[2]
        place = at % length
        q, k, v = (
            part.view(b, n, s.heads, s.head_dim).transpose(1, 2)
            for part in self.qkv(self.norm(x)).chunk(3, dim=-1)
        )
        q = F.normalize(q, dim=-1) * self.scale
        cache[0].index_copy_(2, place, F.normalize(k, dim=-1))
        cache[1].index_copy_(2, place, v)
        scores = 30.0 * torch.tanh(torch.matmul(q, cache[0].transpose(-1, -2)) / 30.0)
        old = torch.arange(length, device=x.device) > at
        weights = scores.masked_fill(old, float("-inf")).softmax(dim=-1)
        y = torch.matmul(weights, cache[1]).transpose(1, 2).reshape(b, n, s.hidden)
        return self.feed(x + self.o(y))


class Eight(nn.Module):
    """Keys and values kept in eight bits, each row with a scale of its own."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.norm = nn.LayerNorm(s.hidden)
        self.q, self.k, self.v, self.o = (nn.Linear(s.hidden, s.hidden) for _ in range(4))
        self.feed = Gelu(s)

    def kept(self, x: Any, codes: Any, scales: Any, at: Any) -> Any:
        """Write a row, and read all as they were."""
        scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-4) / 127.0
        codes.index_copy_(2, at, torch.round(x / scale))
        scales.index_copy_(2, at, scale)
        return codes * scales

    def forward(self, x: Any, cache: Any, at: Any) -> Any:
        """One layer."""
        s, (b, n, _) = self.s, x.shape
        h = self.norm(x)
        q, k, v = (
            m(h).view(b, n, s.heads, s.head_dim).transpose(1, 2) for m in (self.q, self.k, self.v)
        )
        keys, values = self.kept(k, cache[0], cache[1], at), self.kept(v, cache[2], cache[3], at)
        y = F.scaled_dot_product_attention(q, keys, values)
        return self.feed(x + self.o(y.transpose(1, 2).reshape(b, n, s.hidden)))


class Against(nn.Module):
    """Two attentions, the second taken from the first; each head is normed behind."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.norm, self.behind = nn.RMSNorm(s.hidden), nn.RMSNorm(s.head_dim)
        self.q, self.k = (nn.Linear(s.hidden, 2 * s.hidden, bias=False) for _ in range(2))
        self.v, self.o = (nn.Linear(s.hidden, s.hidden, bias=False) for _ in range(2))
        self.turn = nn.Parameter(torch.zeros(4, s.head_dim))
        self.gate, self.up = (nn.Linear(s.hidden, s.ffn, bias=False) for _ in range(2))
        self.last, self.down = nn.RMSNorm(s.hidden), nn.Linear(s.ffn, s.hidden, bias=False)

    def forward(self, x: Any, cache: Any, at: Any) -> Any:
        """One layer."""
        s, (b, n, _) = self.s, x.shape
        h = self.norm(x)
        q = self.q(h).view(b, n, 2 * s.heads, s.head_dim).transpose(1, 2)
        k = self.k(h).view(b, n, 2 * s.heads, s.head_dim).transpose(1, 2)
        v = self.v(h).view(b, n, s.heads, s.head_dim).transpose(1, 2)
        cache[0][:, :, at] = k
        cache[1][:, :, at] = v
        scores = torch.matmul(q, cache[0].transpose(-1, -2)) * s.head_dim**-0.5
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(v.dtype)
        first, second = weights.view(b, s.heads, 2, n, -1).unbind(2)
        share = torch.exp(torch.sum(self.turn[0] * self.turn[1], dim=-1).float())
        share = share - torch.exp(torch.sum(self.turn[2] * self.turn[3], dim=-1).float()) + 0.8
        y = torch.matmul(first - share.to(v.dtype) * second, cache[1])
        y = (self.behind(y) * 0.2).transpose(1, 2).reshape(b, n, s.hidden)
        x = x + self.o(y)
        h = self.last(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Beside(nn.Module):
    """Self-attention, then a read of a memory whose keys and values are kept."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.first, self.second = nn.LayerNorm(s.hidden), nn.LayerNorm(s.hidden)
        self.qkv = nn.Linear(s.hidden, 3 * s.hidden)
        self.q, self.o, self.o2 = (nn.Linear(s.hidden, s.hidden) for _ in range(3))
        self.near = nn.Parameter(torch.zeros(s.heads, 32))
        self.feed = Gelu(s)

    def forward(self, x: Any, cache: Any, at: Any) -> Any:
        """One layer."""
        s, (b, n, _) = self.s, x.shape
        length = cache[0].shape[2]
        qkv = self.qkv(self.first(x)).view(b, n, 3, s.heads, s.head_dim).permute(2, 0, 3, 1, 4)
        keys = cache[0].index_copy_(2, at, qkv[1])
        values = cache[1].index_copy_(2, at, qkv[2])
        far = (at - torch.arange(length, device=x.device)).clamp(0, 31)
        bias = self.near[:, far].unsqueeze(1)
        y = F.scaled_dot_product_attention(qkv[0], keys, values, attn_mask=bias)
        x = x + self.o(y.transpose(1, 2).reshape(b, n, s.hidden))
        q = self.q(self.second(x)).view(b, n, s.heads, s.head_dim).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, cache[2], cache[3])
        return self.feed(x + self.o2(y.transpose(1, 2).reshape(b, n, s.hidden)))


class Masked(nn.Module):
    """Every expert computes every token, and a mask keeps two; one more serves all."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.norm1, self.norm2 = nn.LayerNorm(s.hidden), nn.LayerNorm(s.hidden)
        self.q, self.k, self.v = (nn.Linear(s.hidden, s.hidden, bias=False) for _ in range(3))
        self.o, self.route = nn.Linear(s.hidden, s.hidden), nn.Linear(s.hidden, 4)
        self.w_in = nn.Parameter(torch.zeros(4, s.hidden, s.ffn))
        self.w_out = nn.Parameter(torch.zeros(4, s.ffn, s.hidden))
        self.up, self.down = nn.Linear(s.hidden, s.ffn), nn.Linear(s.ffn, s.hidden)

    def forward(self, x: Any, cache: Any, at: Any) -> Any:
        """One layer."""
        s, (b, n, _) = self.s, x.shape
        h = self.norm1(x)
        q, k, v = (
            m(h).view(b, n, s.heads, s.head_dim).transpose(1, 2) for m in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(
            q, cache[0].index_copy_(2, at, k), cache[1].index_copy_(2, at, v)
        )
        x = x + self.o(y.transpose(1, 2).reshape(b, n, s.hidden))
        h = self.norm2(x).view(b * n, s.hidden)
        share = torch.softmax(self.route(h).float(), dim=-1)
        top = torch.topk(share, 2, dim=-1).indices
        kept = share * torch.zeros_like(share).scatter_(1, top, 1.0)
        kept = (kept / kept.sum(dim=-1, keepdim=True)).to(x.dtype)
        inner = F.relu(torch.bmm(h.expand(4, -1, -1), self.w_in))
        outer = torch.bmm(inner, self.w_out) * kept.t().unsqueeze(-1)
        h = outer.sum(dim=0) + self.down(F.relu(self.up(h)))
        return x + h.view(b, n, s.hidden)


class Delta(nn.Module):
    """A state that forgets what it holds under a key before it learns the key's new value."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.norm, self.out = nn.RMSNorm(s.hidden), nn.RMSNorm(s.head_dim)
        self.qkv = nn.Linear(s.hidden, 3 * s.hidden, bias=False)
        self.taps = nn.Parameter(torch.zeros(3 * s.hidden, 4))
        self.rates, self.gate = nn.Linear(s.hidden, 2 * s.heads), nn.Linear(s.hidden, s.hidden)
        self.o, self.feed = nn.Linear(s.hidden, s.hidden, bias=False), Gelu(s)

    def forward(self, x: Any, cache: Any, at: Any) -> Any:
        """One layer; positions play no part."""
        del at
        s, b = self.s, x.shape[0]
        h = self.norm(x).squeeze(1)
        window, state = cache
        window.copy_(torch.cat((window[:, :, 1:], self.qkv(h).unsqueeze(-1)), dim=-1))
        mixed = F.silu((window * self.taps).sum(dim=-1)).view(b, 3, s.heads, s.head_dim)
        q, k, v = F.normalize(mixed[:, 0], dim=-1), F.normalize(mixed[:, 1], dim=-1), mixed[:, 2]
        learn, keep = torch.sigmoid(self.rates(h)).view(b, 2, s.heads, 1).unbind(1)
        state.mul_(keep.unsqueeze(-1))
        held = torch.matmul(k.unsqueeze(-2), state).squeeze(-2)
        state.add_(k.unsqueeze(-1) * ((v - held) * learn).unsqueeze(-2))
        y = self.out(torch.matmul(q.unsqueeze(-2), state).squeeze(-2)).reshape(b, s.hidden)
        return self.feed(x + self.o(y * torch.sigmoid(self.gate(h))).unsqueeze(1))


class Blend(nn.Module):
    """Each token is blended with the last one; sums decay in fp32, each channel at its rate."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.ln1, self.ln2 = nn.LayerNorm(s.hidden), nn.LayerNorm(s.hidden)
        self.mix = nn.Parameter(torch.zeros(5, s.hidden))
        self.first, self.decay = (nn.Parameter(torch.zeros(s.hidden)) for _ in range(2))
        self.r, self.k, self.v, self.o, self.r2 = (
            nn.Linear(s.hidden, s.hidden, bias=False) for _ in range(5)
        )
        self.up, self.down = nn.Linear(s.hidden, s.ffn, False), nn.Linear(s.ffn, s.hidden, False)

    def forward(self, x: Any, cache: Any, at: Any) -> Any:
        """One layer; positions play no part."""
        del at
        last, top, low, most, last2 = cache
        h = self.ln1(x).squeeze(1)
        k, v, r = (
            m(torch.lerp(last, h, self.mix[i])) for i, m in enumerate((self.k, self.v, self.r))
        )
        last.copy_(h)
        k, v = k.float(), v.float()
        best = torch.maximum(most.float(), k + self.first.float())
        old, new = torch.exp(most.float() - best), torch.exp(k + self.first.float() - best)
        y = (old * top.float() + new * v) / (old * low.float() + new)
        faded = most.float() - torch.exp(self.decay.float())
        best = torch.maximum(faded, k)
        old, new = torch.exp(faded - best), torch.exp(k - best)
        top.copy_(old * top.float() + new * v)
        low.copy_(old * low.float() + new)
        most.copy_(best)
        x = x + self.o(torch.sigmoid(r) * y.to(x.dtype)).unsqueeze(1)
        h = self.ln2(x).squeeze(1)
        k, r = torch.lerp(last2, h, self.mix[3]), torch.lerp(last2, h, self.mix[4])
        last2.copy_(h)
        return x + (torch.sigmoid(self.r2(r)) * self.down(F.relu(self.up(k)).square())).unsqueeze(1)


class Cell(nn.Module):
    """A recurrent cell of four heads whose gates are exponentials, held in by their maximum."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.norm, self.group = nn.LayerNorm(s.hidden), nn.GroupNorm(s.heads, s.hidden)
        self.seen = nn.Linear(s.hidden, 4 * s.hidden)
        self.held = nn.Parameter(torch.zeros(s.heads, s.head_dim, 4 * s.head_dim))
        self.feed = Gelu(s)

    def forward(self, x: Any, cache: Any, at: Any) -> Any:
        """One layer; positions play no part."""
        del at
        s, b = self.s, x.shape[0]
        h, c, n, m = cache
        own = torch.einsum("bhd,hde->bhe", h.view(b, s.heads, s.head_dim), self.held)
        gates = self.seen(self.norm(x).squeeze(1)) + own.reshape(b, 4 * s.hidden)
        i, f, z, o = gates.chunk(4, dim=-1)
        f = F.logsigmoid(f) + m
        best = torch.maximum(f, i)
        i, f = torch.exp(i - best), torch.exp(f - best)
        c.copy_(f * c + i * torch.tanh(z))
        n.copy_(f * n + i)
        m.copy_(best)
        h.copy_(torch.sigmoid(o) * c / n.clamp(min=1.0))
        return self.feed(x + self.group(h).unsqueeze(1))


BLOCKS: dict[str, Callable[[Shape], Any]] = {
    "ring": Ring, "eight": Eight, "against": Against, "beside": Beside,
    "masked": Masked, "delta": Delta, "blend": Blend, "cell": Cell,
}  # fmt: skip


def cache_shapes(s: Shape, batch: int, length: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of what one layer keeps between tokens."""
    heads = (batch, s.heads, length, s.head_dim)
    memory, scale = (batch, s.heads, s.memory, s.head_dim), (batch, s.heads, length, 1)
    flat = (batch, s.hidden)
    return {
        "eight": (heads, scale, heads, scale),
        "against": ((batch, 2 * s.heads, length, s.head_dim), heads),
        "beside": (heads, heads, memory, memory),
        "delta": ((batch, 3 * s.hidden, 4), (batch, s.heads, s.head_dim, s.head_dim)),
        "blend": (flat,) * 5,
        "cell": (flat,) * 4,
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
        """What each layer keeps; codes of eight bits are whole numbers."""
        shapes = cache_shapes(self.s, batch, length)
        return [tuple(torch.randn(one, dtype=dtype) for one in shapes) for _ in self.blocks]


class Points(nn.Module):
    """Clouds of points: layers that all points share, the maximum over them, a few layers more."""

    def __init__(self, width: int = 64, classes: int = 40) -> None:
        super().__init__()
        sizes = (3, width, width, width, 2 * width, 16 * width)
        self.shared = nn.ModuleList(nn.Conv1d(a, b, 1) for a, b in itertools.pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm1d(b) for b in sizes[1:])
        self.head = nn.Sequential(
            nn.Linear(16 * width, 8 * width), nn.BatchNorm1d(8 * width), nn.ReLU(),
            nn.Dropout(0.3), nn.Linear(8 * width, classes),
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        """Logits of a cloud (batch, 3, points)."""
        for layer, norm in zip(self.shared, self.norms, strict=True):
            x = F.relu(norm(layer(x)))
        return self.head(x.amax(dim=-1))


class Columns(nn.Module):
    """A table's row: each column a token, attention over them, gated feed-forward parts."""

    def __init__(self, columns: int = 96, width: int = 256, layers: int = 8) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(columns, width))
        self.shift = nn.Parameter(torch.zeros(columns, width))
        self.first = nn.Parameter(torch.zeros(1, 1, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(layers))
        self.o = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.up = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(layers))
        self.down = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(layers))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Any) -> Any:
        """Logits of rows (batch, columns)."""
        x = x.unsqueeze(-1) * self.scale + self.shift
        x = torch.cat((self.first.expand(x.shape[0], -1, -1), x), dim=1)
        for i, qkv in enumerate(self.qkv):
            h = self.norms[2 * i](x)
            q, k, v = qkv(h).unflatten(-1, (3, 8, -1)).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v)
            x = x + F.dropout(self.o[i](y.transpose(1, 2).flatten(2)), 0.1, self.training)
            a, g = self.up[i](self.norms[2 * i + 1](x)).chunk(2, dim=-1)
            x = x + self.down[i](a * F.relu(g))
        return self.head(x[:, 0])


class Codes(nn.Module):
    """Images to a book of codes and back: the nearest code stands for each place."""

    def __init__(self, width: int = 128, codes: int = 512) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(3, width // 2, 4, 2, 1), nn.ReLU(), nn.Conv2d(width // 2, width, 4, 2, 1),
        )  # fmt: skip
        self.left, self.right = (
            nn.ModuleList(
                nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1),
                              nn.ReLU(), nn.Conv2d(width, width, 1))
                for _ in range(3)
            )
            for _ in range(2)
        )  # fmt: skip
        self.book = nn.Embedding(codes, width)
        self.up = nn.Sequential(
            nn.ConvTranspose2d(width, width // 2, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(width // 2, 3, 4, 2, 1),
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        """The image again."""
        z = self.down(x)
        for block in self.left:
            z = z + block(z)
        flat = z.permute(0, 2, 3, 1)
        rows = flat.reshape(-1, flat.shape[-1])
        far = rows.pow(2).sum(1, keepdim=True) - 2.0 * rows @ self.book.weight.t()
        far = far + self.book.weight.pow(2).sum(1)
        near = self.book(far.argmin(dim=1)).view(flat.shape)
        z = (flat + (near - flat).detach()).permute(0, 3, 1, 2)
        for block in self.right:
            z = z + block(z)
        return self.up(z)


class Latents(nn.Module):
    """A few latent vectors read a long input, then attend to themselves, in turn."""

    def __init__(self, count: int = 128, width: int = 384, inner: int = 192) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.zeros(1, count, width))
        self.read = nn.ModuleList(
            nn.MultiheadAttention(width, 6, kdim=inner, vdim=inner, batch_first=True)
            for _ in range(3)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.inner = nn.Linear(48, inner)
        self.turns = nn.ModuleList(
            nn.TransformerEncoder(
                nn.TransformerEncoderLayer(
                    width, 6, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
                ),
                2,
                enable_nested_tensor=False,
            )
            for _ in range(3)
        )
        self.head = nn.Linear(width, 100)

    def forward(self, x: Any) -> Any:
        """Logits of rows (batch, length, 48)."""
        x = self.inner(x)
        z = self.latents.expand(x.shape[0], -1, -1)
        for read, norm, turn in zip(self.read, self.norms, self.turns, strict=True):
            z = turn(z + read(norm(z), x, x, need_weights=False)[0])
        return self.head(z.mean(dim=1))


def _rows(
    shape: tuple[int, ...], batch: int, seq: int, dtype: Any, tiny: bool
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Random values, (batch, *shape)."""
    del seq, tiny
    return (torch.randn(batch, *shape).to(dtype),), {}


def _made(module: Callable[[], Any], tiny: bool) -> Any:
    """A network that is small as it is."""
    del tiny
    return module()


SHAPES = {
    "hand_ring": Shape("ring", 10, 1024, 16, 4096, 50304),
    "hand_eight": Shape("eight", 10, 896, 14, 3584, 50304),
    "hand_against": Shape("against", 10, 1024, 8, 2816),
    "hand_beside": Shape("beside", 12, 768, 12, 3072, 51865),
    "hand_masked": Shape("masked", 8, 768, 12, 1536),
    "hand_delta": Shape("delta", 12, 1024, 8, 2816, 65536),
    "hand_blend": Shape("blend", 14, 1024, 1, 4096, 50277),
    "hand_cell": Shape("cell", 14, 1024, 4, 2752, 50304),
}
TINY = {name: Shape(s.kind, 2, 128, 4, 256, 1000, 32) for name, s in SHAPES.items()}
_NETS: dict[str, tuple[Callable[[], Any], Callable[..., Any]]] = {
    "hand_points": (Points, functools.partial(_rows, (3, 1024))),
    "hand_columns": (Columns, functools.partial(_rows, (96,))),
    "hand_codes": (Codes, functools.partial(image, 128)),
    "hand_latents": (Latents, functools.partial(_rows, (1024, 48))),
}
ENTRIES = {name: of_tokens({name: s}, TINY[name], Decoder)[name] for name, s in SHAPES.items()} | {
    name: Entry(functools.partial(_made, net), rows) for name, (net, rows) in _NETS.items()
}
