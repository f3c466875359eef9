"""MobileNet v1, v2, v3, EfficientNet and ShuffleNet v1, v2.

References
----------
Howard et al., 2017; Sandler et al., 2018; Howard et al., 2019; Tan and Le, 2019; Zhang et al.,
2018; Ma et al., 2018.
"""

from __future__ import annotations

import math

from perfmodel.workload.convnets.build import Builder

# width factor, depth factor, image side
EFFICIENTNETS = {
    "b0": (1.0, 1.0, 224),
    "b1": (1.0, 1.1, 240),
    "b2": (1.1, 1.2, 260),
    "b3": (1.2, 1.4, 300),
    "b4": (1.4, 1.8, 380),
}
# expansion, kernel, stride, channels, repeats
_EFFICIENT = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_MOBILE_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
              (6, 160, 3, 2), (6, 320, 1, 1))  # fmt: skip
# kernel, expanded, out, squeeze-and-excitation, activation, stride
_MOBILE_V3 = {
    "large": (
        (3, 16, 16, False, "relu", 1),
        (3, 64, 24, False, "relu", 2),
        (3, 72, 24, False, "relu", 1),
        (5, 72, 40, True, "relu", 2),
        (5, 120, 40, True, "relu", 1),
        (5, 120, 40, True, "relu", 1),
        (3, 240, 80, False, "hardswish", 2),
        (3, 200, 80, False, "hardswish", 1),
        (3, 184, 80, False, "hardswish", 1),
        (3, 184, 80, False, "hardswish", 1),
        (3, 480, 112, True, "hardswish", 1),
        (3, 672, 112, True, "hardswish", 1),
        (5, 672, 160, True, "hardswish", 2),
        (5, 960, 160, True, "hardswish", 1),
        (5, 960, 160, True, "hardswish", 1),
    ),
    "small": (
        (3, 16, 16, True, "relu", 2),
        (3, 72, 24, False, "relu", 2),
        (3, 88, 24, False, "relu", 1),
        (5, 96, 40, True, "hardswish", 2),
        (5, 240, 40, True, "hardswish", 1),
        (5, 240, 40, True, "hardswish", 1),
        (5, 120, 48, True, "hardswish", 1),
        (5, 144, 48, True, "hardswish", 1),
        (5, 288, 96, True, "hardswish", 2),
        (5, 576, 96, True, "hardswish", 1),
        (5, 576, 96, True, "hardswish", 1),
    ),
}
SHUFFLE_V1 = {1: (144, 288, 567), 2: (200, 400, 800), 3: (240, 480, 960), 4: (272, 544, 1088),
              8: (384, 768, 1536)}  # fmt: skip
SHUFFLE_V2 = {
    "x0_5": (48, 96, 192, 1024),
    "x1_0": (116, 232, 464, 1024),
    "x1_5": (176, 352, 704, 1024),
    "x2_0": (244, 488, 976, 2048),
}


def divisible(channels: float, step: int = 8) -> int:
    """Nearest multiple of ``step`` that is not more than a tenth below."""
    rounded = max(step, int(channels + step / 2) // step * step)
    return rounded + step if rounded < 0.9 * channels else rounded


def mobilenet_v1(b: Builder, x: int, *, act: str = "relu6", classes: int = 1000) -> int:
    """Depth-wise and pointwise convolutions in turn."""
    x = b.conv_norm(x, 32, 3, 2, act=act)
    for channels, stride in (
        (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2),
        (1024, 1),
    ):  # fmt: skip
        x = b.conv_norm(x, b.channels(x), 3, stride, groups=b.channels(x), act=act)
        x = b.conv_norm(x, channels, 1, act=act)
    return b.linear(b.global_pool(x), classes)


def mobilenet_v2(b: Builder, x: int, *, sums: bool = True, classes: int = 1000) -> int:
    """Inverted residuals; without ``sums`` a chain of the same layers."""
    x = b.conv_norm(x, 32, 3, 2, act="relu6")
    for expansion, channels, repeats, first in _MOBILE_V2:
        for place in range(repeats):
            stride = first if not place else 1
            x = _inverted(
                b, x, expansion * b.channels(x), channels, 3, stride, act="relu6", sums=sums
            )
    return b.linear(b.global_pool(b.conv_norm(x, 1280, 1, act="relu6")), classes)


def mobilenet_v3(b: Builder, x: int, *, kind: str, classes: int = 1000) -> int:
    """Inverted residuals with squeeze-and-excitation and hard activations."""
    x = b.conv_norm(x, 16, 3, 2, act="hardswish")
    for kernel, expanded, channels, squeeze, act, stride in _MOBILE_V3[kind]:
        width = divisible(expanded // 4) if squeeze else 0
        x = _inverted(
            b, x, expanded, channels, kernel, stride, act=act, squeeze=width,
            inner="relu", gate="hardsigmoid",
        )  # fmt: skip
    x = b.conv_norm(x, 6 * b.channels(x), 1, act="hardswish")
    x = b.act(b.linear(b.global_pool(x), 1280 if kind == "large" else 1024), "hardswish")
    return b.linear(x, classes)


def efficientnet(
    b: Builder, x: int, *, kind: str, wide_squeeze: bool = False, classes: int = 1000
) -> int:
    """Mobile inverted bottlenecks, scaled in width and depth.

    The squeezed width is a quarter of the block's input channels; ``wide_squeeze`` takes a quarter
    of the expanded ones (NVIDIA's "widese").
    """
    width, depth, _ = EFFICIENTNETS[kind]
    x = b.conv_norm(x, divisible(32 * width), 3, 2, act="silu")
    for expansion, kernel, first, channels, repeats in _EFFICIENT:
        for place in range(math.ceil(repeats * depth)):
            expanded = expansion * b.channels(x)
            squeeze = max(1, (expanded if wide_squeeze else b.channels(x)) // 4)
            x = _inverted(
                b, x, expanded, divisible(channels * width), kernel, first if not place else 1,
                act="silu", squeeze=squeeze, inner="silu",
            )  # fmt: skip
    x = b.conv_norm(x, divisible(1280 * width), 1, act="silu")
    return b.linear(b.global_pool(x), classes)


def shufflenet_v1(
    b: Builder, x: int, *, groups: int, first_grouped: bool = False, classes: int = 1000
) -> int:
    """Grouped pointwise, shuffle, depth-wise, grouped pointwise."""
    x = b.pool(b.conv_norm(x, 24, 3, 2), 3, 2, 1)
    for stage, (channels, repeats) in enumerate(zip(SHUFFLE_V1[groups], (4, 8, 4), strict=True)):
        for place in range(repeats):
            stride = 2 if place == 0 else 1
            out = channels - b.channels(x) if stride == 2 else channels
            inner = channels // 4
            # the very first pointwise layer has too few inputs to be grouped
            first = 1 if stage == 0 and place == 0 and not first_grouped else groups
            y = b.shuffle(b.conv_norm(x, inner, 1, groups=first))
            y = b.conv_norm(y, inner, 3, stride, groups=inner, act="")
            y = b.conv_norm(y, out, 1, groups=groups, act="")
            if stride == 2:
                x = b.act(b.concat(b.pool(x, 3, 2, 1, kind="avg_pool"), y))
            else:
                x = b.act(b.add(x, y))
    return b.linear(b.global_pool(x), classes)


def shufflenet_v2(b: Builder, x: int, *, kind: str, classes: int = 1000) -> int:
    """Half of the channels pass, the other half are convolved, then shuffled."""
    *stages, last = SHUFFLE_V2[kind]
    x = b.pool(b.conv_norm(x, 24, 3, 2), 3, 2, 1)
    for channels, repeats in zip(stages, (4, 8, 4), strict=True):
        half = channels // 2
        for place in range(repeats):
            if place == 0:
                inner = b.channels(x)
                left = b.conv_norm(x, inner, 3, 2, groups=inner, act="")
                left = b.conv_norm(left, half, 1)
                right, stride = x, 2
            else:
                left, right, stride = b.slice(x, half), b.slice(x, half), 1
            y = b.conv_norm(right, half, 1)
            y = b.conv_norm(y, half, 3, stride, groups=half, act="")
            x = b.shuffle(b.concat(left, b.conv_norm(y, half, 1)))
    return b.linear(b.global_pool(b.conv_norm(x, last, 1)), classes)


def _inverted(
    b: Builder,
    x: int,
    expanded: int,
    channels: int,
    kernel: int,
    stride: int,
    *,
    act: str = "relu",
    squeeze: int = 0,
    inner: str = "relu",
    gate: str = "sigmoid",
    sums: bool = True,
) -> int:
    y = b.conv_norm(x, expanded, 1, act=act) if expanded != b.channels(x) else x
    y = b.conv_norm(y, expanded, kernel, stride, groups=expanded, act=act)
    if squeeze:
        y = b.squeeze_excite(y, squeeze, act=inner, gate=gate)
    y = b.conv_norm(y, channels, 1, act="")
    return b.add(x, y) if sums and stride == 1 and b.channels(x) == channels else y
