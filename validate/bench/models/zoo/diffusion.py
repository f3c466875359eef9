"""Denoisers written by hand: a latent-diffusion U-Net and a diffusion transformer."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def time_features(t: Any, width: int) -> Any:
    """Sines and cosines (batch, width) of times (batch)."""
    half = width // 2
    rates = torch.exp(-math.log(1e4) * torch.arange(half, device=t.device) / half)
    angles = t[:, None].float() * rates
    return torch.cat([angles.cos(), angles.sin()], -1)


class Residual(nn.Module):
    """Two group-normalised convolutions with the time added between."""

    def __init__(self, c_in: int, c_out: int, time: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(32, c_in), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time = nn.Linear(time, c_out)
        self.norm2, self.conv2 = nn.GroupNorm(32, c_out), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Any, t: Any) -> Any:
        """Channels in, channels out, at a time."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time(F.silu(t))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class Attend(nn.Module):
    """Multi-head attention over tokens, to themselves or to a text."""

    def __init__(self, width: int, text: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.k, self.v = nn.Linear(text, width, bias=False), nn.Linear(text, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Any, text: Any) -> Any:
        """The same shape, with the text seen."""
        b, n, c = x.shape
        parts = [
            f(y).view(b, -1, self.heads, c // self.heads).transpose(1, 2)
            for f, y in ((self.q, x), (self.k, text), (self.v, text))
        ]
        y = F.scaled_dot_product_attention(*parts)
        return self.out(y.transpose(1, 2).reshape(b, n, c))


class Spatial(nn.Module):
    """A transformer block over the pixels: self, cross, gated feed-forward."""

    def __init__(self, width: int, text: int, heads: int) -> None:
        super().__init__()
        self.norm, self.into = nn.GroupNorm(32, width), nn.Conv2d(width, width, 1)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.own, self.cross = Attend(width, width, heads), Attend(width, text, heads)
        self.up, self.down = nn.Linear(width, width * 8), nn.Linear(width * 4, width)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Any, text: Any) -> Any:
        """The same shape, with the text seen."""
        b, c, h, w = x.shape
        y = self.into(self.norm(x)).flatten(2).transpose(1, 2)
        z = self.norms[0](y)
        y = y + self.own(z, z)
        y = y + self.cross(self.norms[1](y), text)
        value, gate = self.up(self.norms[2](y)).chunk(2, -1)
        y = y + self.down(value * F.gelu(gate))
        return x + self.out(y.transpose(1, 2).reshape(b, c, h, w))


class LatentUNet(nn.Module):
    """A text-conditioned U-Net over latents (after Rombach et al. 2022), 320 to 1280 channels."""

    def __init__(self, tiny: bool) -> None:
        super().__init__()
        widths = [32, 64] if tiny else [320, 640, 1280]
        text, heads, time = (32, 4, 64) if tiny else (768, 8, 1280)
        self.base = widths[0]
        self.time = nn.Sequential(
            nn.Linear(widths[0], time), nn.SiLU(), nn.Linear(time, time)
        )  # fmt: skip
        self.into = nn.Conv2d(4, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, c = [widths[0]], widths[0]
        for i, w in enumerate(widths):
            for _ in range(2):
                self.down.append(nn.ModuleList([Residual(c, w, time), Spatial(w, text, heads)]))
                c = w
                skips.append(c)
            if i < len(widths) - 1:
                self.down.append(nn.ModuleList([nn.Conv2d(c, c, 3, stride=2, padding=1)]))
                skips.append(c)
        self.middle = nn.ModuleList(
            [Residual(c, c, time), Spatial(c, text, heads), Residual(c, c, time)]
        )
        for i, w in reversed(list(enumerate(widths))):
            for j in range(3):
                parts: list[Any] = [Residual(c + skips.pop(), w, time), Spatial(w, text, heads)]
                c = w
                if i and j == 2:
                    parts.append(nn.Conv2d(c, c, 3, padding=1))
                self.up.append(nn.ModuleList(parts))
        self.norm, self.out = nn.GroupNorm(32, c), nn.Conv2d(c, 4, 3, padding=1)

    def forward(self, x: Any, t: Any, text: Any) -> Any:
        """The noise of latents (batch, 4, height, width)."""
        t = self.time(time_features(t, self.base).to(x.dtype))
        x = self.into(x)
        kept = [x]
        for block in self.down:
            parts = list(block)  # type: ignore[call-overload]
            x = parts[0](x) if len(parts) == 1 else parts[1](parts[0](x, t), text)
            kept.append(x)
        first, attend, last = self.middle
        x = last(attend(first(x, t), text), t)
        for block in self.up:
            parts = list(block)  # type: ignore[call-overload]
            x = parts[1](parts[0](torch.cat([x, kept.pop()], 1), t), text)
            if len(parts) == 3:
                x = parts[2](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.out(F.silu(self.norm(x)))


class DiTBlock(nn.Module):
    """Attention and feed-forward, modulated by the condition."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width)
        )
        self.modulate = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Any, c: Any) -> Any:
        """Tokens of the same shape."""
        s1, a1, g1, s2, a2, g2 = (m[:, None] for m in self.modulate(c).chunk(6, -1))
        b, n, w = x.shape
        y = self.norm1(x) * (1 + a1) + s1
        q, k, v = self.qkv(y).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, w)
        x = x + g1 * self.out(y)
        return x + g2 * self.feed(self.norm2(x) * (1 + a2) + s2)


class DiT(nn.Module):
    """Diffusion transformer over latents of 32 x 32 in patches of 2 (Peebles and Xie 2023)."""

    def __init__(self, tiny: bool) -> None:
        super().__init__()
        self.width, depth, heads = (64, 2, 4) if tiny else (768, 12, 12)
        self.patch = nn.Conv2d(4, self.width, 2, stride=2)
        self.place = nn.Parameter(torch.randn(1, 256, self.width))
        self.time = nn.Sequential(
            nn.Linear(256, self.width), nn.SiLU(), nn.Linear(self.width, self.width)
        )
        self.label = nn.Embedding(1001, self.width)
        self.blocks = nn.ModuleList(DiTBlock(self.width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(self.width, eps=1e-6, elementwise_affine=False)
        self.out = nn.Linear(self.width, 32)

    def forward(self, x: Any, t: Any, label: Any) -> Any:
        """Noise and variance (batch, 8, 32, 32)."""
        y = self.patch(x).flatten(2).transpose(1, 2) + self.place
        c = self.time(time_features(t, 256).to(x.dtype)) + self.label(label)
        for block in self.blocks:
            y = block(y, c)
        y = self.out(self.norm(y)).view(x.shape[0], 16, 16, 8, 2, 2)
        return y.permute(0, 3, 1, 4, 2, 5).reshape(x.shape[0], 8, 32, 32)
