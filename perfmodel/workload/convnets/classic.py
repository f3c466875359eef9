"""AlexNet, VGG and GoogLeNet.

References
----------
Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014 (the AlexNet of
torchvision); Simonyan and Zisserman, 2015; Szegedy et al., 2015 (with batch norm and the 3 x 3
branch in place of 5 x 5, as in torchvision).
"""

from __future__ import annotations

from collections.abc import Sequence

from perfmodel.workload.convnets.build import Builder

VGG = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
# 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection
_INCEPTION = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)


def alexnet(b: Builder, x: int, *, classes: int = 1000) -> int:
    """Five convolutions and three fully connected layers."""
    x = alexnet_maps(b, x, (64, 192, 384, 256, 256))
    x = _adaptive(b, x, 6)
    for width in (4096, 4096):
        x = b.act(b.linear(x, width))
    return b.linear(x, classes)


def alexnet_maps(b: Builder, x: int, channels: Sequence[int]) -> int:
    """The convolutions and poolings of AlexNet, of any five widths."""
    layers = (
        (11, 4, 2, True),
        (5, 1, 2, True),
        (3, 1, 1, False),
        (3, 1, 1, False),
        (3, 1, 1, True),
    )
    for width, (kernel, stride, padding, pool) in zip(channels, layers, strict=True):
        x = b.act(b.conv(x, width, kernel, stride, padding, bias=True))
        if pool:
            x = b.pool(x, 3, 2)
    return x


def vgg(b: Builder, x: int, *, depth: int, classes: int = 1000) -> int:
    """Stages of 3 x 3 convolutions, halved by pooling."""
    for count, channels in zip(VGG[depth], (64, 128, 256, 512, 512), strict=True):
        for _ in range(count):
            x = b.act(b.conv(x, channels, 3, bias=True))
        x = b.pool(x, 2, 2)
    x = _adaptive(b, x, 7)
    for width in (4096, 4096):
        x = b.act(b.linear(x, width))
    return b.linear(x, classes)


def googlenet(
    b: Builder, x: int, *, classes: int = 1000, old: bool = False, linear: bool = False
) -> int:
    """Nine inception modules, without the auxiliary heads.

    ``old`` is the plain network with biases, 5 x 5 kernels and no norms; of a ``linear`` one the
    modules have no activations either.
    """
    inside = False

    def conv(y: int, channels: int, kernel: int, stride: int = 1) -> int:
        if old:
            y = b.conv(y, channels, kernel, stride, bias=True)
            return y if linear and inside else b.act(y)
        return b.conv_norm(y, channels, kernel, stride)

    def pool(y: int, kernel: int, stride: int, padding: int = 0) -> int:
        if old and stride == 2:
            return b.pool(y, 3, 2, 1)
        return b.pool(y, kernel, stride, padding, ceil=True)

    x = pool(conv(x, 64, 7, 2), 3, 2)
    x = pool(conv(conv(x, 64, 1), 192, 3), 3, 2)
    inside = True
    for place, (one, reduce3, three, reduce5, five, project) in enumerate(_INCEPTION):
        x = b.concat(
            conv(x, one, 1),
            conv(conv(x, reduce3, 1), three, 3),
            conv(conv(x, reduce5, 1), five, 5 if old else 3),
            conv(pool(x, 3, 1, 1), project, 1),
        )
        if place == 1:
            x = pool(x, 3, 2)
        elif place == 6:
            x = pool(x, 2, 2)
    return b.linear(b.global_pool(x), classes)


def _adaptive(b: Builder, x: int, side: int) -> int:
    """Average pooling to a fixed side; a kernel also where the map has that side already."""
    now = b.sides(x)[0]
    stride = max(now // side, 1)
    kernel = now - (side - 1) * stride
    return b.pool(x, kernel, stride, kind="avg_pool", word="adaptive") if kernel >= 1 else x
