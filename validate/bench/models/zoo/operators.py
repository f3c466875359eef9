"""Networks of Fourier transforms and of message passing, written by hand."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class Spectral(nn.Module):
    """A linear layer on the lowest modes of a 2-D field."""

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        self.low = nn.Parameter(torch.randn(width, width, modes, modes, 2) / width)
        self.high = nn.Parameter(torch.randn(width, width, modes, modes, 2) / width)

    def forward(self, x: Any) -> Any:
        """The same shape, mixed over places."""
        b, c, h, w = x.shape
        m = self.modes
        found = torch.fft.rfft2(x.float())
        out = torch.zeros(b, c, h, w // 2 + 1, dtype=torch.complex64, device=x.device)
        low = torch.view_as_complex(self.low.float())
        high = torch.view_as_complex(self.high.float())
        out[:, :, :m, :m] = torch.einsum("bixy,ioxy->boxy", found[:, :, :m, :m], low)
        out[:, :, -m:, :m] = torch.einsum("bixy,ioxy->boxy", found[:, :, -m:, :m], high)
        return torch.fft.irfft2(out, s=(h, w)).to(x.dtype)


class Fno2d(nn.Module):
    """Fourier neural operator, four layers of width 32 and 12 modes (Li et al. 2021)."""

    def __init__(self, tiny: bool) -> None:
        super().__init__()
        width, modes = (8, 4) if tiny else (32, 12)
        self.into = nn.Linear(3, width)
        self.spectral = nn.ModuleList(Spectral(width, modes) for _ in range(4))
        self.local = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(4))
        self.out = nn.Sequential(nn.Linear(width, 128), nn.GELU(), nn.Linear(128, 1))

    def forward(self, x: Any) -> Any:
        """The same shape, mixed over places."""
        x = self.into(x).permute(0, 3, 1, 2)
        for spectral, local in zip(self.spectral, self.local, strict=True):
            x = F.gelu(spectral(x) + local(x))
        return self.out(x.permute(0, 2, 3, 1))


class HyenaMixer(nn.Module):
    """Three projections, a short convolution, a long one by Fourier transforms, and gates."""

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.short = nn.Conv1d(3 * width, 3 * width, 3, padding=2, groups=3 * width)
        self.place = nn.Parameter(torch.randn(length, 33))
        self.filter = nn.Sequential(
            nn.Linear(33, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, width)
        )
        self.bias = nn.Parameter(torch.randn(width))

    def forward(self, x: Any) -> Any:
        """The same shape, mixed over places."""
        length = x.shape[1]
        y = self.short(self.into(x).transpose(1, 2))[..., :length]
        gate, k, v = y.chunk(3, 1)
        u = k * v
        h = self.filter(self.place[:length]).t().float()
        n = 2 * length
        spectrum = torch.fft.rfft(u.float(), n=n) * torch.fft.rfft(h, n=n)
        mixed = torch.fft.irfft(spectrum, n=n)[..., :length].to(x.dtype)
        return self.out((gate * (mixed + u * self.bias[:, None])).transpose(1, 2))


class Hyena(nn.Module):
    """A language model of long convolutions, 12 layers of width 768 (after Poli et al. 2023)."""

    def __init__(self, tiny: bool) -> None:
        super().__init__()
        width, depth, length = (32, 2, 2048) if tiny else (768, 12, 2048)
        self.embed = nn.Embedding(50257, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * depth + 1))
        self.mix = nn.ModuleList(HyenaMixer(width, length) for _ in range(depth))
        self.feed = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for _ in range(depth)
        )
        self.head = nn.Linear(width, 50257, bias=False)

    def forward(self, ids: Any) -> Any:
        """Logits of tokens."""
        x = self.embed(ids)
        for i, (mix, feed) in enumerate(zip(self.mix, self.feed, strict=True)):
            x = x + mix(self.norms[2 * i](x))
            x = x + feed(self.norms[2 * i + 1](x))
        return self.head(self.norms[-1](x))


class Gat(nn.Module):
    """Graph attention by gathers and scatters, three layers of 8 heads by 32 (Velickovic 2018)."""

    def __init__(self, tiny: bool) -> None:
        super().__init__()
        self.heads, self.width = (2, 8) if tiny else (8, 32)
        wide = self.heads * self.width
        self.into, self.out = nn.Linear(128, wide), nn.Linear(wide, 40)
        self.own = nn.ModuleList(nn.Linear(wide, wide) for _ in range(3))
        self.scores = nn.ParameterList(
            nn.Parameter(torch.randn(2, self.heads, self.width)) for _ in range(3)
        )

    def forward(self, x: Any, source: Any, target: Any) -> Any:
        """Class scores of the nodes."""
        n = x.shape[0]
        x = F.elu(self.into(x))
        for own, score in zip(self.own, self.scores, strict=True):
            h = own(x).view(n, self.heads, self.width)
            a = (h * score[0]).sum(-1)[source] + (h * score[1]).sum(-1)[target]
            a = F.leaky_relu(a, 0.2).float()
            top = torch.full((n, self.heads), -1e9, device=x.device)
            top = top.scatter_reduce(0, target[:, None].expand(-1, self.heads), a, "amax")
            a = (a - top[target]).exp()
            total = torch.zeros(n, self.heads, device=x.device).index_add_(0, target, a)
            a = (a / total[target]).to(x.dtype)
            sent = h[source] * a[:, :, None]
            got = torch.zeros(n, self.heads, self.width, dtype=sent.dtype, device=x.device)
            x = x + F.elu(got.index_add_(0, target, sent).flatten(1))
        return self.out(x)
