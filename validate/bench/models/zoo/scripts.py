"""Networks to train, in the code of well-known small scripts and teaching texts.

A character model with its own attention and mask, a decoder with split rotary tables, an encoder
whose norms and attention are written out, a residual network for small images with shortcuts by
slices, a segmentation network of double convolutions, and a vision transformer without a class
token.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from validate.bench.models.zoo.entry import Entry, image, tokens


class NewGelu(nn.Module):
    """GELU by its formula with a tangent."""

    def forward(self, x: Any) -> Any:
        """The same, element by element."""
        inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))
        return 0.5 * x * (1.0 + torch.tanh(inner))


class CausalAttention(nn.Module):
    """Attention with a mask that is kept, and dropout of its weights."""

    def __init__(self, hidden: int, heads: int, length: int) -> None:
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.attn_dropout, self.resid_dropout = nn.Dropout(0.1), nn.Dropout(0.1)
        mask = torch.tril(torch.ones(length, length)).view(1, 1, length, length)
        self.register_buffer("bias", mask)
        self.n_head, self.n_embd = heads, hidden

    def forward(self, x: Any) -> Any:
        """(batch, length, hidden) to the same."""
        b, t, c = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        k = k.view(b, t, self.n_head, c // self.n_head).transpose(1, 2)
        q = q.view(b, t, self.n_head, c // self.n_head).transpose(1, 2)
        v = v.view(b, t, self.n_head, c // self.n_head).transpose(1, 2)
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.bias[:, :, :t, :t] == 0, float("-inf"))
        y = self.attn_dropout(F.softmax(att, dim=-1)) @ v
        y = y.transpose(1, 2).contiguous().view(b, t, c)
        return self.resid_dropout(self.c_proj(y))


class MiniBlock(nn.Module):
    """Attention and a feed-forward part, each behind a norm."""

    def __init__(self, hidden: int, heads: int, length: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.attn = CausalAttention(hidden, heads, length)
        self.mlp = nn.ModuleDict({
            "c_fc": nn.Linear(hidden, 4 * hidden), "c_proj": nn.Linear(4 * hidden, hidden),
            "act": NewGelu(), "dropout": nn.Dropout(0.1),
        })  # fmt: skip

    def forward(self, x: Any) -> Any:
        """(batch, length, hidden) to the same."""
        x = x + self.attn(self.ln_1(x))
        m = self.mlp
        return x + m.dropout(m.c_proj(m.act(m.c_fc(self.ln_2(x)))))


class MiniGpt(nn.Module):
    """A small decoder as in teaching scripts."""

    def __init__(self, layers: int, hidden: int, heads: int, vocab: int, length: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, hidden), nn.Embedding(length, hidden)
        self.drop = nn.Dropout(0.1)
        self.h = nn.ModuleList(MiniBlock(hidden, heads, length) for _ in range(layers))
        self.ln_f, self.lm_head = nn.LayerNorm(hidden), nn.Linear(hidden, vocab, bias=False)

    def forward(self, idx: Any) -> Any:
        """Logits of every position."""
        at = torch.arange(0, idx.size(1), dtype=torch.long, device=idx.device).unsqueeze(0)
        x = self.drop(self.wte(idx) + self.wpe(at))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


class PlainRms(nn.Module):
    """Root-mean-square norm with a function of its own."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.eps, self.weight = 1e-5, nn.Parameter(torch.ones(hidden))

    def _norm(self, x: Any) -> Any:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)

    def forward(self, x: Any) -> Any:
        """The norm in fp32."""
        return self._norm(x.float()).type_as(x) * self.weight


def _rotated(x: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
    real, other = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
    shape = [1, x.shape[1], 1, real.shape[-1]]
    cos, sin = cos.view(shape), sin.view(shape)
    return real * cos - other * sin, real * sin + other * cos


class SplitAttention(nn.Module):
    """Rotary positions of real and imaginary parts apart; dropout after the output."""

    def __init__(self, hidden: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width = heads, kv_heads, hidden // heads
        self.wq, self.wo = (nn.Linear(hidden, hidden, bias=False) for _ in range(2))
        self.wk, self.wv = (nn.Linear(hidden, kv_heads * self.width, bias=False) for _ in range(2))
        self.resid_dropout = nn.Dropout(0.0)

    def _repeat(self, x: Any) -> Any:
        b, t, heads, width = x.shape
        times = self.heads // self.kv_heads
        wide = x[:, :, :, None, :].expand(b, t, heads, times, width)
        return wide.reshape(b, t, heads * times, width)

    def forward(self, x: Any, cos: Any, sin: Any) -> Any:
        """(batch, length, hidden) to the same."""
        b, t, _ = x.shape
        q = self.wq(x).view(b, t, self.heads, self.width)
        k = self.wk(x).view(b, t, self.kv_heads, self.width)
        v = self.wv(x).view(b, t, self.kv_heads, self.width)
        q, k = (
            torch.stack(_rotated(one, cos, sin), dim=-1).flatten(3).type_as(one) for one in (q, k)
        )
        k, v = self._repeat(k), self._repeat(v)
        q, k, v = (one.transpose(1, 2) for one in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=True)
        return self.resid_dropout(self.wo(y.transpose(1, 2).contiguous().view(b, t, -1)))


class SmallLlama(nn.Module):
    """A decoder for stories, a few million parameters."""

    def __init__(
        self, layers: int, hidden: int, heads: int, kv_heads: int, vocab: int, length: int
    ) -> None:
        super().__init__()
        self.tok_embeddings, self.dropout = nn.Embedding(vocab, hidden), nn.Dropout(0.0)
        inner = 32 * ((int(2 * 4 * hidden / 3) + 31) // 32)
        self.attention = nn.ModuleList(
            SplitAttention(hidden, heads, kv_heads) for _ in range(layers)
        )
        self.w1, self.w3 = (
            nn.ModuleList(nn.Linear(hidden, inner, bias=False) for _ in range(layers))
            for _ in range(2)
        )
        self.w2 = nn.ModuleList(nn.Linear(inner, hidden, bias=False) for _ in range(layers))
        self.norms = nn.ModuleList(PlainRms(hidden) for _ in range(2 * layers + 1))
        self.output = nn.Linear(hidden, vocab, bias=False)
        self.tok_embeddings.weight = self.output.weight
        width = hidden // heads
        rate = 1.0 / (10000.0 ** (torch.arange(0, width, 2)[: width // 2].float() / width))
        angle = torch.outer(torch.arange(length).float(), rate)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids: Any) -> Any:
        """Logits of every position."""
        h = self.dropout(self.tok_embeddings(ids))
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for i, attention in enumerate(self.attention):
            h = h + attention(self.norms[2 * i](h), cos, sin)
            x = self.norms[2 * i + 1](h)
            h = h + self.w2[i](F.silu(self.w1[i](x)) * self.w3[i](x))
        return self.output(self.norms[-1](h))


def clones(module: Any, count: int) -> Any:
    """Copies of a module."""
    return nn.ModuleList([copy.deepcopy(module) for _ in range(count)])


class OwnNorm(nn.Module):
    """A layer norm by mean and standard deviation."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.a_2, self.b_2 = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))

    def forward(self, x: Any) -> Any:
        """The norm over the last axis."""
        mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        return self.a_2 * (x - mean) / (std + 1e-6) + self.b_2


class Encoding(nn.Module):
    """One layer of an encoder: attention and a feed-forward part in residual wrappers."""

    def __init__(self, hidden: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.h, self.d_k = heads, hidden // heads
        self.linears, self.norms = clones(nn.Linear(hidden, hidden), 4), clones(OwnNorm(hidden), 2)
        self.w_1, self.w_2 = nn.Linear(hidden, ffn), nn.Linear(ffn, hidden)
        self.drops = clones(nn.Dropout(0.1), 4)

    def _attended(self, x: Any, mask: Any) -> Any:
        b = x.size(0)
        q, k, v = (
            linear(x).view(b, -1, self.h, self.d_k).transpose(1, 2)
            for linear, x in zip(self.linears, (x, x, x), strict=False)
        )
        scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(self.d_k)
        scores = scores.masked_fill(mask == 0, -1e4)
        y = torch.matmul(self.drops[0](scores.softmax(dim=-1)), v)
        return self.linears[-1](y.transpose(1, 2).contiguous().view(b, -1, self.h * self.d_k))

    def forward(self, x: Any, mask: Any) -> Any:
        """(batch, length, hidden) to the same."""
        x = x + self.drops[1](self._attended(self.norms[0](x), mask))
        inner = self.w_2(self.drops[2](self.w_1(self.norms[1](x)).relu()))
        return x + self.drops[3](inner)


class OwnEncoder(nn.Module):
    """An encoder with sines for positions and a mask of padding."""

    def __init__(self, layers: int, hidden: int, heads: int, ffn: int, vocab: int) -> None:
        super().__init__()
        self.lut, self.hidden = nn.Embedding(vocab, hidden), hidden
        at = torch.arange(0, 1024).unsqueeze(1)
        rate = torch.exp(torch.arange(0, hidden, 2) * -(math.log(10000.0) / hidden))
        pe = torch.stack((torch.sin(at * rate), torch.cos(at * rate)), dim=-1).flatten(1)
        self.register_buffer("pe", pe.unsqueeze(0), persistent=False)
        self.dropout = nn.Dropout(0.1)
        self.layers, self.norm = clones(Encoding(hidden, heads, ffn), layers), OwnNorm(hidden)
        self.proj = nn.Linear(hidden, vocab)

    def forward(self, ids: Any) -> Any:
        """Logarithms of probabilities of every position."""
        mask = (ids != 0).unsqueeze(-2).unsqueeze(1)
        x = self.lut(ids) * math.sqrt(self.hidden)
        x = self.dropout(x + self.pe[:, : x.size(1)].requires_grad_(False))
        for layer in self.layers:
            x = layer(x, mask)
        return F.log_softmax(self.proj(self.norm(x)), dim=-1)


class Basic(nn.Module):
    """Two convolutions; a shortcut by every second pixel and channels of zeros."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(c_out), nn.BatchNorm2d(c_out)
        self.narrow = stride != 1 or c_in != c_out
        self.more = (c_out - c_in) // 2

    def forward(self, x: Any) -> Any:
        """Maps of the next block."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.narrow:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more, self.more), "constant", 0)
        return F.relu(out + x)


class SmallResNet(nn.Module):
    """A residual network for images of 32 pixels."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths = [16, *(16,) * blocks, *(32,) * blocks, *(64,) * blocks]
        self.layers = nn.Sequential(
            *(Basic(a, b, 1 + (a != b)) for a, b in itertools.pairwise(widths))
        )
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Any) -> Any:
        """Class scores."""
        out = self.layers(F.relu(self.bn1(self.conv1(x))))
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))


class Double(nn.Module):
    """Two convolutions with biases, batch norms behind."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.LeakyReLU(0.1),
            nn.Conv2d(c_out, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.LeakyReLU(0.1),
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        """Maps of the same size."""
        return self.block(x)


class Segments(nn.Module):
    """Down by pooling, up by transposed convolutions, joined with what was on the way."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [width, 2 * width, 4 * width, 8 * width]
        self.down = nn.ModuleList(Double(a, b) for a, b in zip([3, *sizes], sizes, strict=False))
        self.middle = Double(sizes[-1], 2 * sizes[-1])
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in sizes[::-1])
        self.join = nn.ModuleList(Double(2 * w, w) for w in sizes[::-1])
        self.last = nn.Conv2d(width, 5, 1)

    def forward(self, x: Any) -> Any:
        """Class scores of every pixel."""
        kept = []
        for step in self.down:
            x = step(x)
            kept.append(x)
            x = F.max_pool2d(x, 2)
        x = self.middle(x)
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat((kept.pop(), up(x)), dim=1))
        return self.last(x)


class SimpleVit(nn.Module):
    """A vision transformer of means, with sines for positions."""

    def __init__(self, layers: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.patch, dim = 16, 768
        self.embed = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.LayerNorm(hidden))
        y, x = (g.flatten()[:, None] for g in torch.meshgrid(
            torch.arange(14), torch.arange(14), indexing="ij"))  # fmt: skip
        rate = 1.0 / (10000.0 ** (torch.arange(hidden // 4) / (hidden // 4 - 1)))
        waves = [wave(at * rate) for at in (x, y) for wave in (torch.sin, torch.cos)]
        table = torch.cat(waves, 1)
        self.register_buffer("position", table.float(), persistent=False)
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(layers))
        self.qkv = nn.ModuleList(nn.Linear(hidden, 3 * hidden, bias=False) for _ in range(layers))
        self.out = nn.ModuleList(nn.Linear(hidden, hidden, bias=False) for _ in range(layers))
        self.feed = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, 4 * hidden), nn.GELU(),
                          nn.Linear(4 * hidden, hidden))
            for _ in range(layers)
        )  # fmt: skip
        self.norm, self.head = nn.LayerNorm(hidden), nn.Linear(hidden, 1000)

    def forward(self, images: Any) -> Any:
        """Class scores of (batch, 3, 224, 224)."""
        b, c, high, wide = images.shape
        p = self.patch
        cut = images.reshape(b, c, high // p, p, wide // p, p).permute(0, 2, 4, 3, 5, 1)
        x = self.embed(cut.reshape(b, (high // p) * (wide // p), p * p * c))
        x = x + self.position.to(x.dtype)
        for norm, qkv, out, feed in zip(self.norms, self.qkv, self.out, self.feed, strict=True):
            q, k, v = (
                one.unflatten(-1, (self.heads, -1)).transpose(1, 2)
                for one in qkv(norm(x)).chunk(3, dim=-1)
            )
            scores = torch.matmul(q, k.transpose(-1, -2)) * q.shape[-1] ** -0.5
            y = torch.matmul(scores.softmax(dim=-1), v).transpose(1, 2).flatten(2)
            x = out(y) + x
            x = feed(x) + x
        return self.head(self.norm(x.mean(dim=1)))


def _made(big: Callable[[], Any], small: Callable[[], Any], tiny: bool) -> Any:
    return small() if tiny else big()


def _entry(big: Callable[[], Any], small: Callable[[], Any], inputs: Callable[..., Any]) -> Entry:
    return Entry(functools.partial(_made, big, small), inputs)


ENTRIES = {
    "script_mini_gpt": _entry(
        lambda: MiniGpt(8, 512, 8, 10000, 256), lambda: MiniGpt(2, 64, 2, 100, 64),
        functools.partial(tokens, 100),
    ),
    "script_stories": _entry(
        lambda: SmallLlama(8, 512, 8, 4, 32000, 512), lambda: SmallLlama(2, 64, 4, 2, 100, 64),
        functools.partial(tokens, 100),
    ),
    "script_encoder": _entry(
        lambda: OwnEncoder(6, 512, 8, 2048, 12000), lambda: OwnEncoder(2, 64, 2, 128, 100),
        functools.partial(tokens, 100),
    ),
    "script_resnet56": _entry(
        lambda: SmallResNet(9), lambda: SmallResNet(1), functools.partial(image, 32)
    ),
    "script_segments": _entry(
        lambda: Segments(32), lambda: Segments(4), functools.partial(image, 128)
    ),
    "script_simple_vit": _entry(
        lambda: SimpleVit(10, 512, 8), lambda: SimpleVit(2, 64, 2), functools.partial(image, 224)
    ),
}  # fmt: skip
