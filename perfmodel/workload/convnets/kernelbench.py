"""Networks as KernelBench writes them, which are not those of the names.

Its AlexNet has the widths of 2012 in one tower, its EfficientNets are plain (B0, B1) or go on from
the pooled gate as if it were the map (B2), its RegNet is a plain chain, and its ShuffleNet never
halves its maps and shuffles behind the depth-wise convolution.

References
----------
Ouyang et al., "KernelBench: Can LLMs Write Efficient GPU Kernels?", 2025 (level 3); Iandola et al.,
"SqueezeNet", 2016.
"""

from __future__ import annotations

from perfmodel.workload.convnets.build import Builder
from perfmodel.workload.convnets.classic import alexnet_maps

# channels, kernel, stride, expansion
_B0 = (
    (16, 3, 1, 1), (24, 3, 2, 6), (24, 3, 1, 6), (40, 5, 2, 6), (40, 5, 1, 6), (80, 3, 2, 6),
    (80, 3, 1, 6), (112, 5, 1, 6), (112, 5, 1, 6), (192, 5, 2, 6), (192, 5, 1, 6), (192, 5, 1, 6),
    (320, 3, 1, 6),
)  # fmt: skip
_B1 = ((16, 1, 1), (24, 2, 6), (40, 2, 6), (80, 2, 6), (112, 1, 6), (192, 2, 6), (320, 1, 6))
_B2 = ((96, 1, 3), (144, 2, 6), (192, 2, 6), (288, 2, 6), (384, 1, 6))
# squeeze, expand
_FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))


def alexnet_one_tower(b: Builder, x: int, *, classes: int = 1000) -> int:
    """AlexNet of 96, 256, 384, 384 and 256 channels without its two groups."""
    x = alexnet_maps(b, x, (96, 256, 384, 384, 256))
    for width in (4096, 4096):
        x = b.act(b.linear(x, width))
    return b.linear(x, classes)


def squeezenet(b: Builder, x: int, *, classes: int = 1000) -> int:
    """SqueezeNet 1.0: a squeezed map, expanded by 1 x 1 and 3 x 3 side by side."""
    x = b.pool(b.act(b.conv(x, 96, 7, 2, 0, bias=True)), 3, 2, ceil=True)
    for place, (squeeze, expand) in enumerate(_FIRES):
        x = b.act(b.conv(x, squeeze, 1, bias=True))
        one = b.act(b.conv(x, expand, 1, bias=True))
        x = b.concat(one, b.act(b.conv(x, expand, 3, bias=True)))
        if place in (2, 6):
            x = b.pool(x, 3, 2, ceil=True)
    return b.global_pool(b.act(b.conv(x, classes, 1, bias=True)))


def efficientnet_plain(b: Builder, x: int, *, classes: int = 1000) -> int:
    """Its B0: ReLU6, no gates, 13 blocks."""
    x = b.conv_norm(x, 32, 3, 2)
    for channels, kernel, stride, ratio in _B0:
        before, hidden = x, b.channels(x) * ratio
        if ratio != 1:
            x = b.conv_norm(x, hidden, 1, act="relu6")
        x = b.conv_norm(x, hidden, kernel, stride, groups=hidden, act="relu6")
        x = b.conv_norm(x, channels, 1, act="")
        if stride == 1 and channels == b.channels(before):
            x = b.add(x, before)
    return b.linear(b.global_pool(b.conv_norm(x, 1280, 1)), classes)


def efficientnet_chain(b: Builder, x: int, *, classes: int = 1000) -> int:
    """Its B1: seven blocks without gates and sums."""
    x = b.conv_norm(x, 32, 3, 2)
    for channels, stride, ratio in _B1:
        hidden = b.channels(x) * ratio
        x = b.conv_norm(x, hidden, 1, act="relu6")
        x = b.conv_norm(x, hidden, 3, stride, groups=hidden, act="relu6")
        x = b.conv_norm(x, channels, 1, act="")
    return b.linear(b.global_pool(b.conv_norm(x, 1280, 1)), classes)


def efficientnet_pooled(b: Builder, x: int, *, classes: int = 1000) -> int:
    """Its B2: five blocks; what follows a gate reads the gate, a map of one pixel."""
    x = b.conv_norm(x, 32, 3, 2)
    for channels, stride, ratio in _B2:
        hidden = b.channels(x) * ratio
        x = b.conv_norm(x, hidden, 1)
        x = b.conv_norm(x, hidden, 3, stride, groups=hidden)
        x = b.act(b.conv(b.global_pool(x, keep=True), hidden // 4, 1))
        x = b.act(b.conv(x, hidden, 1), "sigmoid")
        x = b.conv_norm(x, channels, 1, act="")
    return b.linear(b.global_pool(b.conv_norm(x, 1408, 1)), classes)


def plain_chain(b: Builder, x: int, *, classes: int = 10) -> int:
    """Its RegNet: three stages of two 3 x 3 convolutions."""
    for channels in (64, 128, 256):
        for _ in range(2):
            x = b.act(b.norm(b.conv(x, channels, 3, bias=True)))
        x = b.pool(x, 2, 2)
    return b.linear(b.global_pool(x), classes)


def shufflenet_unhalved(b: Builder, x: int, *, groups: int = 3, classes: int = 1000) -> int:
    """Its ShuffleNet: 3, 7 and 3 units on maps of one size, shuffled after the depth-wise layer."""
    x = b.pool(b.conv_norm(x, 24, 3, 2), 3, 2, 1)
    for channels, units in ((240, 3), (480, 7), (960, 3)):
        for _ in range(units):
            before, mid = x, channels // 4
            x = b.conv_norm(x, mid, 1, groups=groups)
            x = b.conv_norm(x, mid, 3, groups=mid, act="")
            x = b.conv_norm(b.shuffle(x), channels, 1, groups=groups)
            if b.channels(before) != channels:
                before = b.conv_norm(before, channels, 1, act="")
            x = b.add(x, before)
    return b.linear(b.global_pool(b.conv_norm(x, 1024, 1)), classes)
