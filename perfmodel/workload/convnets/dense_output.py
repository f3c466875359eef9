"""Networks that answer with an image: U-Net in two and three dimensions, ESPCN.

References
----------
Ronneberger et al., 2015; Cicek et al., 2016; Isensee et al., "nnU-Net", 2021 (instance norm, leaky
ReLU, strided convolutions down, transposed ones up); Shi et al., "ESPCN", 2016 (sub-pixel
convolution).
"""

from __future__ import annotations

from perfmodel.workload.convnets.build import Builder


def unet(
    b: Builder,
    x: int,
    *,
    widths: tuple[int, ...],
    classes: int = 2,
    norm: str = "",
    strided: bool = False,
) -> int:
    """Encoder and decoder joined at every level; padded convolutions keep the sides.

    ``strided`` halves by the first convolution of a level instead of by pooling; without ``norm``
    convolutions have biases.
    """

    def block(y: int, width: int, stride: int = 1) -> int:
        for place in range(2):
            y = b.conv(y, width, 3, stride if place == 0 else 1, bias=not norm)
            y = b.act(b.norm(y, norm) if norm else y)
        return y

    skips = []
    for level, width in enumerate(widths):
        if level > 0 and not strided:
            x = b.pool(x, 2, 2)
        x = block(x, width, 2 if level > 0 and strided else 1)
        skips.append(x)
    for width, skip in zip(reversed(widths[:-1]), reversed(skips[:-1]), strict=True):
        x = block(b.concat(skip, b.up(x, width, bias=not strided)), width)
    return b.conv(x, classes, 1, bias=True)


def espcn(b: Builder, x: int, *, factor: int = 3) -> int:
    """Three convolutions in low resolution, then the pixel shuffle."""
    colours = b.channels(x)
    x = b.act(b.conv(x, 64, 5, bias=True), "tanh")
    x = b.act(b.conv(x, 32, 3, bias=True), "tanh")
    return b.pixel_shuffle(b.conv(x, colours * factor**2, 3, bias=True), factor)
