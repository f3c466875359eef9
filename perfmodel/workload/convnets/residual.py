"""ResNet, ResNeXt, wide ResNet, squeeze-and-excitation ResNeXt, RegNet and ConvNeXt.

References
----------
He et al., 2016 (with the stride in the 3 x 3, "v1.5"); Xie et al., 2017; Zagoruyko and Komodakis,
2016; Hu et al., 2018; Radosavovic et al., 2020; Liu et al., 2022.
"""

from __future__ import annotations

from perfmodel.workload.convnets.build import Builder

DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
# depths, widths, group width
REGNETS = {
    "x_400mf": ((1, 2, 7, 12), (32, 64, 160, 400), 16),
    "x_800mf": ((1, 3, 7, 5), (64, 128, 288, 672), 16),
    "x_1_6gf": ((2, 4, 10, 2), (72, 168, 408, 912), 24),
    "x_3_2gf": ((2, 6, 15, 2), (96, 192, 432, 1008), 48),
    "x_8gf": ((2, 5, 15, 1), (80, 240, 720, 1920), 120),
    "y_400mf": ((1, 3, 6, 6), (48, 104, 208, 440), 8),
    "y_800mf": ((1, 3, 8, 2), (64, 144, 320, 784), 16),
    "y_1_6gf": ((2, 6, 17, 2), (48, 120, 336, 888), 24),
    "y_3_2gf": ((2, 5, 13, 1), (72, 216, 576, 1512), 24),
    "y_4gf": ((2, 6, 12, 2), (128, 192, 512, 1088), 64),
    "y_8gf": ((2, 4, 10, 1), (224, 448, 896, 2016), 56),
}
CONVNEXTS = {
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "large": ((3, 3, 27, 3), (192, 384, 768, 1536)),
}


def resnet(
    b: Builder,
    x: int,
    *,
    depth: int,
    groups: int = 1,
    width: int = 64,
    squeeze: int = 0,
    classes: int = 1000,
) -> int:
    """Residual network; ``squeeze`` divides the channels inside squeeze-and-excitation, 0 is none.

    ``width`` is the base width of a bottleneck: channels a group at the first stage.
    """
    x = b.pool(b.conv_norm(x, 64, 7, 2), 3, 2, 1)
    bottleneck = depth >= 50
    for stage, count in enumerate(DEPTHS[depth]):
        planes = 64 * 2**stage
        for place in range(count):
            stride = 2 if stage > 0 and place == 0 else 1
            if bottleneck:
                inner = planes * width // 64 * groups
                outer = 4 * planes
                y = b.conv_norm(b.conv_norm(x, inner, 1), inner, 3, stride, groups=groups)
                y = b.conv_norm(y, outer, 1, act="")
                if squeeze:
                    y = b.squeeze_excite(y, outer // squeeze)
            else:
                outer = planes
                y = b.conv_norm(b.conv_norm(x, planes, 3, stride), planes, 3, act="")
            if place == 0 and (stride > 1 or b.channels(x) != outer):
                x = b.conv_norm(x, outer, 1, stride, act="")
            x = b.act(b.add(x, y))
    return b.linear(b.global_pool(x), classes)


def regnet(b: Builder, x: int, *, kind: str, classes: int = 1000) -> int:
    """Stages of group-convolution bottlenecks of ratio 1; Y adds squeeze-and-excitation."""
    depths, widths, group = REGNETS[kind]
    x = b.conv_norm(x, 32, 3, 2)
    for count, width in zip(depths, widths, strict=True):
        for place in range(count):
            stride = 2 if place == 0 else 1
            squeeze = round(0.25 * b.channels(x))
            y = b.conv_norm(x, width, 1)
            y = b.conv_norm(y, width, 3, stride, groups=width // min(group, width))
            if kind.startswith("y"):
                y = b.squeeze_excite(y, squeeze)
            y = b.conv_norm(y, width, 1, act="")
            if place == 0:
                x = b.conv_norm(x, width, 1, stride, act="")
            x = b.act(b.add(x, y))
    return b.linear(b.global_pool(x), classes)


def convnext(b: Builder, x: int, *, kind: str, classes: int = 1000) -> int:
    """Depth-wise 7 x 7, layer norm, and two pointwise layers with GELU between them."""
    depths, widths = CONVNEXTS[kind]
    for stage, (count, width) in enumerate(zip(depths, widths, strict=True)):
        if stage == 0:
            x = b.norm(b.conv(x, width, 4, 4, 0, bias=True), "layer")
        else:
            x = b.conv(b.norm(x, "layer"), width, 2, 2, 0, bias=True)
        for _ in range(count):
            y = b.norm(b.conv(x, width, 7, groups=width, bias=True), "layer")
            y = b.act(b.conv(y, 4 * width, 1, bias=True, word="linear"), "gelu")
            x = b.add(x, b.scale(b.conv(y, width, 1, bias=True, word="linear")))
    return b.linear(b.norm(b.global_pool(x), "layer"), classes)
