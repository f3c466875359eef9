"""DenseNet and CondenseNet.

References
----------
Huang et al., 2017; Huang et al., "CondenseNet", 2018 (learned groups: the deployed network gathers
its inputs by an index and convolves in plain groups).
"""

from __future__ import annotations

from perfmodel.workload.convnets.build import Builder

DENSENETS = {
    121: (6, 12, 24, 16),
    169: (6, 12, 32, 32),
    201: (6, 12, 48, 32),
}


def densenet(
    b: Builder,
    x: int,
    *,
    depth: int,
    growth: int = 32,
    start: int = 64,
    bottleneck: bool = True,
    classes: int = 1000,
) -> int:
    """Dense blocks: every layer reads all maps of its block.

    Without a ``bottleneck`` a layer is one 3 x 3 convolution, the first of 2017's variants, and a
    block's first layer reads its input as it is.
    """
    x = b.pool(b.conv_norm(x, start, 7, 2), 3, 2, 1)
    blocks = DENSENETS[depth]
    for block, layers in enumerate(blocks):
        maps = [x]
        for _ in range(layers):
            y = b.concat(*maps) if bottleneck or len(maps) > 1 else x
            if bottleneck:
                y = b.conv(b.act(b.norm(y)), 4 * growth, 1)
            maps.append(b.conv(b.act(b.norm(y)), growth, 3))
        x = b.concat(*maps)
        if block < len(blocks) - 1:
            x = b.conv(b.act(b.norm(x)), b.channels(x) // 2, 1)
            x = b.pool(x, 2, 2, kind="avg_pool")
    return b.linear(b.global_pool(b.act(b.norm(x))), classes)


def condensenet(
    b: Builder,
    x: int,
    *,
    layers: tuple[int, ...],
    growths: tuple[int, ...],
    groups: int = 4,
    condense: int = 4,
    cifar: bool = False,
    whole_head: bool = False,
    classes: int = 1000,
) -> int:
    """The deployed network: index, norm, grouped 1 x 1, shuffle, norm, grouped 3 x 3 at each layer.

    A learned group convolution keeps ``1 / condense`` of each group's inputs: after the index it is
    a convolution with ``groups`` groups over as many channels as it has inputs times
    ``groups / condense``. The classifier keeps half of its inputs unless
    it is a ``whole_head``.
    """
    x = b.conv(x, 2 * growths[0], 3, 1 if cifar else 2)
    for stage, (count, growth) in enumerate(zip(layers, growths, strict=True)):
        for _ in range(count):
            kept = b.channels(x) * groups // condense
            y = b.act(b.norm(b.gather(x, kept)))
            y = b.shuffle(b.conv(y, 4 * growth, 1, groups=groups))
            y = b.conv(b.act(b.norm(y)), growth, 3, groups=groups)
            x = b.concat(x, y)
        if stage < len(layers) - 1:
            x = b.pool(x, 2, 2, kind="avg_pool")
    x = b.global_pool(b.act(b.norm(x)))
    if not (cifar or whole_head):
        x = b.gather(x, b.channels(x) // 2)
    return b.linear(x, classes)
