"""Shapes of well-known models, as their public configurations give them."""

from __future__ import annotations

import csv
import functools
from pathlib import Path
from typing import NamedTuple


class Transformer(NamedTuple):
    """The sizes that decide a transformer's operators."""

    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    gated: bool
    experts: int = 0
    top_k: int = 0


# Beside the models that perfmodel bundles.
_OTHERS = {
    "gpt-3-175b": Transformer(12288, 49152, 96, 96, 128, 50304, False),
    "gpt-2-xl": Transformer(1600, 6400, 25, 25, 64, 50304, False),
    "vit-l": Transformer(1024, 4096, 16, 16, 64, 1000, False),
    "vit-h": Transformer(1280, 5120, 16, 16, 80, 1000, False),
    "gemma-2b": Transformer(2048, 16384, 8, 1, 256, 256000, True),
    "falcon-7b": Transformer(4544, 18176, 71, 1, 64, 65024, False),
    "dbrx": Transformer(6144, 10752, 48, 8, 128, 100352, True, 16, 4),
}


def _bundled() -> dict[str, Transformer]:
    """Every transformer that perfmodel bundles (``transformers.csv``)."""
    with Path(__file__).with_name("transformers.csv").open(encoding="utf-8", newline="") as handle:
        return {row["name"]: _transformer(row) for row in csv.DictReader(handle)}


def _transformer(row: dict[str, str]) -> Transformer:
    counts = {name: int(row[name]) for name in Transformer._fields if name != "gated"}
    return Transformer(**counts, gated=row["gated"] == "true")


TRANSFORMERS = _bundled() | _OTHERS

TOKENS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096, 8192, 16384)


def linear_shapes() -> list[tuple[int, int]]:
    """Distinct (n, k) of every model's linear layers at TP 1, 2, 4 and 8."""
    shapes: set[tuple[int, int]] = set()
    for t in TRANSFORMERS.values():
        for tp in (1, 2, 4, 8):
            if t.heads % tp:
                continue
            q = t.heads * t.head_dim // tp
            kv = max(1, t.kv_heads // tp) * t.head_dim
            up = t.ffn // tp * (2 if t.gated else 1)
            shapes |= {(q + 2 * kv, t.hidden), (t.hidden, q), (up, t.hidden)}
            shapes |= {(t.hidden, t.ffn // tp), (t.vocab // tp, t.hidden)}
    # low-rank projections of multi-head latent attention (DeepSeek-V3)
    shapes |= {(1536, 7168), (576, 7168), (24576, 1536), (32768, 512), (7168, 16384)}
    return sorted(s for s in shapes if min(s) >= 32)


# (c_in, c_out, size at the input, kernel, stride, groups)
Layer = tuple[int, int, int, int, int, int]


def _resnet() -> list[Layer]:
    out: list[Layer] = [(3, 64, 224, 7, 2, 1)]
    c_in = 64
    for width, size in ((64, 56), (128, 28), (256, 14), (512, 7)):
        wide = width * 4
        out += [(c_in, width, size, 1, 1, 1), (width, width, size, 3, 1, 1)]
        out += [(width, wide, size, 1, 1, 1), (wide, width, size, 1, 1, 1)]
        if size < 56:
            out += [(width, width, size * 2, 3, 2, 1), (c_in, wide, size * 2, 1, 2, 1)]
        c_in = wide
    return out


def _resnext() -> list[Layer]:
    out: list[Layer] = []
    for width, size in ((128, 56), (256, 28), (512, 14), (1024, 7)):
        out += [(width, width, size, 3, 1, 32), (width, 2 * width, size, 1, 1, 1)]
        if size > 7:
            out.append((2 * width, 2 * width, size, 3, 2, 32))
    return out


def _mobile() -> list[Layer]:
    out: list[Layer] = [(3, 32, 224, 3, 2, 1)]
    for c, size in ((96, 112), (144, 56), (192, 28), (384, 14), (576, 14), (960, 7)):
        out += [(c, c, size, 3, 1, c), (c, c, size, 3, 2, c), (c, c // 6, size, 1, 1, 1)]
        out.append((c // 6, c, size, 1, 1, 1))
    for c, size in ((240, 28), (480, 14), (672, 14), (1152, 7)):  # EfficientNet-B0
        out += [(c, c, size, 5, 1, c), (c, c // 6, size, 1, 1, 1)]
    return out


def _convnext() -> list[Layer]:
    out: list[Layer] = [(3, 96, 224, 4, 4, 1), (3, 768, 224, 16, 16, 1)]
    for c, size in ((96, 56), (192, 28), (384, 14), (768, 7)):
        out += [(c, c, size, 7, 1, c), (c, 4 * c, size, 1, 1, 1), (4 * c, c, size, 1, 1, 1)]
        if size > 7:
            out.append((c, 2 * c, size, 2, 2, 1))
    return out


def _unet() -> list[Layer]:
    out: list[Layer] = [(4, 320, 64, 3, 1, 1), (320, 4, 64, 3, 1, 1)]
    for c, size in ((320, 64), (640, 32), (1280, 16), (1280, 8)):
        out += [(c, c, size, 3, 1, 1), (2 * c, c, size, 3, 1, 1), (c, c, size, 3, 2, 1)]
        out.append((2 * c, c, size, 1, 1, 1))
    for c, size in ((64, 256), (128, 128), (256, 64), (512, 32)):
        out += [(c, c, size, 3, 1, 1), (c // 2, c, size, 3, 1, 1)]
    return out


def conv_layers() -> list[Layer]:
    """Distinct convolution layers of ResNet, ResNeXt, MobileNet, EfficientNet, ConvNeXt, U-Net."""
    return sorted(set(_resnet() + _resnext() + _mobile() + _convnext() + _unet()))


class NetworkLayer(NamedTuple):
    """A convolution of a bundled network, and the number of networks that have it."""

    c_in: int
    c_out: int
    h: int
    w: int
    kernel: int
    stride: int
    padding: int
    groups: int
    networks: int


@functools.cache
def network_layers() -> tuple[NetworkLayer, ...]:
    """Distinct convolutions of every network that perfmodel bundles (``convnet_layers.csv``)."""
    path = Path(__file__).with_name("convnet_layers.csv")
    with path.open(encoding="utf-8", newline="") as handle:
        return tuple(
            NetworkLayer(*(int(row[name]) for name in NetworkLayer._fields))
            for row in csv.DictReader(handle)
        )
