"""Networks without a torchvision or timm builder, in plain PyTorch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def _double(conv: Any, norm: Any, c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(
        conv(c_in, c_out, 3, padding=1, bias=False), norm(c_out), nn.ReLU(inplace=True),
        conv(c_out, c_out, 3, padding=1, bias=False), norm(c_out), nn.ReLU(inplace=True),
    )  # fmt: skip


class _UNet(nn.Module):
    """Encoder and decoder with skip connections (Ronneberger et al. 2015, with batch norm)."""

    def __init__(self, dims: int, c_in: int, classes: int, widths: list[int]) -> None:
        super().__init__()
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
        up = nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose3d
        self.pool = nn.MaxPool2d(2) if dims == 2 else nn.MaxPool3d(2)
        pairs = list(zip([c_in, *widths], widths, strict=False))
        self.down = nn.ModuleList(_double(conv, norm, a, b) for a, b in pairs)
        rising = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(up(a, b, 2, stride=2) for a, b in rising)
        self.merge = nn.ModuleList(_double(conv, norm, 2 * b, b) for _, b in rising)
        self.head = conv(widths[0], classes, 1)

    def forward(self, x: Any) -> Any:
        """Outputs of a batch."""
        skips = []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else self.pool(x))
            skips.append(x)
        skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], dim=1))
        return self.head(x)


class UNet2d(_UNet):
    """64 to 1024 channels."""

    def __init__(self, tiny: bool) -> None:
        super().__init__(2, 3, 2, [8, 16] if tiny else [64, 128, 256, 512, 1024])


class UNet3d(_UNet):
    """32 to 256 channels over volumes."""

    def __init__(self, tiny: bool) -> None:
        super().__init__(3, 1, 2, [8, 16] if tiny else [32, 64, 128, 256])


class Espcn(nn.Module):
    """Super-resolution by sub-pixel convolution (Shi et al. 2016), factor 3."""

    def __init__(self, tiny: bool) -> None:
        super().__init__()
        del tiny
        self.a = nn.Conv2d(1, 64, 5, padding=2)
        self.b = nn.Conv2d(64, 32, 3, padding=1)
        self.c = nn.Conv2d(32, 9, 3, padding=1)
        self.shuffle = nn.PixelShuffle(3)

    def forward(self, x: Any) -> Any:
        """Outputs of a batch."""
        return self.shuffle(self.c(torch.tanh(self.b(torch.tanh(self.a(x))))))


class DetrSmall(nn.Module):
    """ResNet-50 trunk, 3 + 3 transformer layers, 100 queries (after Carion et al. 2020)."""

    def __init__(self, tiny: bool) -> None:
        super().__init__()
        from torchvision.models import resnet18, resnet50

        trunk = (resnet18 if tiny else resnet50)(weights=None)
        self.trunk = nn.Sequential(*list(trunk.children())[:-2])
        self.project = nn.Conv2d(512 if tiny else 2048, 256, 1)
        self.transformer = nn.Transformer(256, 8, 3, 3, 2048, 0.1, batch_first=True)
        self.queries = nn.Parameter(torch.randn(100, 256))
        self.classes, self.boxes = nn.Linear(256, 92), nn.Linear(256, 4)

    def forward(self, x: Any) -> Any:
        """Outputs of a batch."""
        h = self.project(self.trunk(x)).flatten(2).transpose(1, 2)
        q = self.queries.unsqueeze(0).expand(h.shape[0], -1, -1)
        h = self.transformer(h, q)
        return self.classes(h), self.boxes(h).sigmoid()


def shuffle(x: Any, groups: int) -> Any:
    """Channel shuffle."""
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class _ShuffleUnit(nn.Module):
    def __init__(self, c_in: int, c_out: int, groups: int, stride: int) -> None:
        super().__init__()
        self.groups, self.stride = groups, stride
        out = c_out - c_in if stride == 2 else c_out
        mid = c_out // 4 // groups * groups
        self.a = nn.Conv2d(c_in, mid, 1, groups=1 if c_in == 24 else groups, bias=False)
        self.b = nn.Conv2d(mid, mid, 3, stride=stride, padding=1, groups=mid, bias=False)
        self.c = nn.Conv2d(mid, out, 1, groups=groups, bias=False)
        self.na, self.nb, self.nc = nn.BatchNorm2d(mid), nn.BatchNorm2d(mid), nn.BatchNorm2d(out)

    def forward(self, x: Any) -> Any:
        """Outputs of a batch."""
        h = shuffle(F.relu(self.na(self.a(x))), self.groups)
        h = self.nc(self.c(self.nb(self.b(h))))
        if self.stride == 2:
            return F.relu(torch.cat([F.avg_pool2d(x, 3, 2, 1), h], 1))
        return F.relu(x + h)


class ShuffleNetV1(nn.Module):
    """ShuffleNet 1x with 3 groups (Zhang et al. 2018)."""

    def __init__(self, tiny: bool) -> None:
        super().__init__()
        del tiny
        self.stem = nn.Sequential(
            nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )  # fmt: skip
        units, c_in = [], 24
        for c_out, repeat in ((240, 4), (480, 8), (960, 4)):
            for i in range(repeat):
                units.append(_ShuffleUnit(c_in, c_out, 3, 2 if i == 0 else 1))
                c_in = c_out
        self.units = nn.Sequential(*units)
        self.head = nn.Linear(960, 1000)

    def forward(self, x: Any) -> Any:
        """Outputs of a batch."""
        return self.head(self.units(self.stem(x)).mean((2, 3)))


class _CondenseLayer(nn.Module):
    """A learned group convolution as it stands at inference: index, then grouped 1x1 and 3x3."""

    def __init__(self, c_in: int, growth: int, groups: int = 4) -> None:
        super().__init__()
        self.groups = groups
        self.register_buffer("index", torch.arange(c_in).flip(0))
        self.na, self.nb = nn.BatchNorm2d(c_in), nn.BatchNorm2d(4 * growth)
        self.a = nn.Conv2d(c_in, 4 * growth, 1, groups=groups, bias=False)
        self.b = nn.Conv2d(4 * growth, growth, 3, padding=1, groups=groups, bias=False)

    def forward(self, x: Any) -> Any:
        """Outputs of a batch."""
        h = self.a(F.relu(self.na(torch.index_select(x, 1, self.index))))
        h = self.b(F.relu(self.nb(shuffle(h, self.groups))))
        return torch.cat([x, h], 1)


class CondenseNet(nn.Module):
    """CondenseNet, stages of growth 8-16-32-64-128 (Huang et al. 2018).

    `repeats` are the layers of the stages: 4-6-8-10-8 in CondenseNet-74, 14-14-14 in -86 for CIFAR,
    whose images are small (`small`: ten classes, a stem that keeps every pixel).
    """

    def __init__(self, repeats: tuple[int, ...], tiny: bool, *, small: bool = False) -> None:
        super().__init__()
        stages = tuple(zip(repeats, (8, 16, 32, 64, 128), strict=False))
        stages = stages[:2] if tiny else stages
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1 if small else 2, 1, bias=False)]
        c_in = 16
        for i, (repeat, growth) in enumerate(stages):
            for _ in range(repeat):
                layers.append(_CondenseLayer(c_in, growth))
                c_in += growth
            if i + 1 < len(stages):
                layers.append(nn.AvgPool2d(2))
        self.layers = nn.Sequential(*layers)
        self.norm, self.head = nn.BatchNorm2d(c_in), nn.Linear(c_in, 10 if small else 1000)

    def forward(self, x: Any) -> Any:
        """Outputs of a batch."""
        return self.head(F.relu(self.norm(self.layers(x))).mean((2, 3)))
