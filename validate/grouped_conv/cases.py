"""The layers: shapes to fit tile times on, and shapes to predict."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from perfmodel.optimize.grouped.problem import (
    Group,
    GroupedConv,
    contiguous_groups,
    equal_groups,
)
from perfmodel.optimize.grouped.tiles import Variant


@dataclass(frozen=True)
class Case:
    """A layer and the family it comes from."""

    family: str
    conv: GroupedConv


def solo_cases(variant: Variant, shape: int, slots: int) -> list[GroupedConv]:
    """Equal groups whose outputs are one tile of this shape wide, at several depths and loads.

    Images are 20 x 20 and 24 x 24 pixels, which no layer of :func:`layer_cases` has.
    """
    tile = variant.tiles[shape]
    found = []
    unit = {8: 8, 4: 4, 1: 5}[variant.run]
    # outputs just under the tile's width keep wide stores away from variants that rarely see them
    made = {8: tile.bn, 4: tile.bn - 4, 1: tile.bn - 1}[variant.run]
    for place, width in enumerate((1, 3, 6, 12, 24)):
        for load in (1, 3):
            side, batch = ((20, 1), (24, 2))[(place + load) % 2]
            rows = side * side * batch
            blocks = -(-rows // tile.bm)
            groups = max(1, round(slots * load / blocks))
            channels = unit * width
            if groups * channels * rows > 60_000_000:
                continue
            if variant.mode == "table":
                rng = np.random.default_rng(place)
                pool = groups * channels
                picked = tuple(
                    Group(tuple(int(c) for c in rng.permutation(pool)[:channels]), made)
                    for _ in range(groups)
                )
            else:
                pool = groups * channels
                picked = contiguous_groups([channels] * groups, [made] * groups)
            found.append(
                GroupedConv(
                    batch, side, side, pool, picked, name=f"solo-{side}x{batch}-c{channels}-l{load}"
                )
            )
    return found


def equal_case(
    family: str, name: str, batch: int, side: int, cin: int, cout: int, groups: int,
    kernel: int = 3, stride: int = 1,
) -> Case:  # fmt: skip
    """A layer of equal groups whose map keeps its side at step one."""
    conv = GroupedConv(
        batch, side, side, cin, equal_groups(cin, cout, groups), kernel, stride, kernel // 2,
        name=f"{name}-b{batch}",
    )  # fmt: skip
    return Case(family, conv)


def _condensenet(batch: int) -> list[Case]:
    """CondenseNet-74 (stages 4-6-8-10-8, growth 8-16-32-64-128, G = C = 4, bottleneck 4).

    Each unit: a learned 1x1 grouped convolution (a quarter of the inputs a group, any channels,
    shared between groups) to 4 x growth, then a plain grouped 3x3 to growth.
    """
    found = []
    channels, side = 16, 112
    rng = np.random.default_rng(74)
    for stage, (units, growth) in enumerate(
        zip((4, 6, 8, 10, 8), (8, 16, 32, 64, 128), strict=True)
    ):
        for unit in range(units):
            if unit in (0, units // 2, units - 1):
                kept = max(1, channels // 4)
                groups = tuple(
                    Group(tuple(sorted(int(c) for c in rng.permutation(channels)[:kept])), growth)
                    for _ in range(4)
                )
                learned = GroupedConv(
                    batch,
                    side,
                    side,
                    channels,
                    groups,
                    1,
                    1,
                    0,
                    name=f"condensenet74-s{stage}u{unit}-1x1-b{batch}",
                )
                found.append(Case("condensenet-learned", learned))
                if unit != units // 2:
                    found.append(
                        equal_case(
                            "condensenet",
                            f"condensenet74-s{stage}u{unit}-3x3",
                            batch,
                            side,
                            4 * growth,
                            growth,
                            4,
                        )
                    )
            channels += growth
        side //= 2
    return found


def _unequal(seed: int, batch: int, side: int, groups: int, kind: str) -> Case:
    """Groups of log-normal widths: multiples of 8, any width, or learned (overlapping) channels."""
    rng = np.random.default_rng(seed)
    unit = 8 if kind == "multiple-of-8" else 1
    widths = np.clip(np.exp(rng.normal(math.log(24), 0.7, groups)), unit, 160)
    outputs = np.clip(np.exp(rng.normal(math.log(28), 0.7, groups)), unit, 160)
    widths = (np.ceil(widths / unit) * unit).astype(int)
    outputs = (np.ceil(outputs / unit) * unit).astype(int)
    name = f"unequal-{kind}-g{groups}-{side}x{side}-b{batch}-s{seed}"
    if kind == "learned":
        pool = int(-(-widths.sum() // 16) * 8)  # half: channels are shared
        pool = max(pool, int(widths.max()))
        picked = tuple(
            Group(tuple(sorted(int(c) for c in rng.permutation(pool)[:w])), int(o))
            for w, o in zip(widths, outputs, strict=True)
        )
        return Case("unequal-learned", GroupedConv(batch, side, side, pool, picked, name=name))
    conv = GroupedConv(
        batch, side, side, int(widths.sum()), contiguous_groups(list(widths), list(outputs)),
        name=name,
    )  # fmt: skip
    return Case(f"unequal-{'any' if unit == 1 else '8'}", conv)


def pruned_resnext(
    batch: int, side: int, width: int, groups: int, seed: int, *, least: float = 0.25,
    suffix: str = "",
) -> Case:  # fmt: skip
    """ResNeXt's 3x3 after channel pruning: each group keeps another share, ``least`` or more."""
    rng = np.random.default_rng(seed)
    kept = np.maximum(1, rng.binomial(width, rng.uniform(least, 1.0, groups)))
    made = np.maximum(1, rng.binomial(width, rng.uniform(least, 1.0, groups)))
    conv = GroupedConv(
        batch, side, side, int(kept.sum()),
        contiguous_groups([int(k) for k in kept], [int(m) for m in made]),
        name=f"pruned-resnext-{groups}x{width}-{side}-b{batch}{suffix}",
    )  # fmt: skip
    return Case("pruned-resnext", conv)


def layer_cases() -> list[Case]:  # noqa: PLR0912
    """Every layer to predict, families interleaved so that a cut run still covers all of them."""
    families: list[list[Case]] = [[], [], [], [], []]
    for batch in (1, 8, 32):
        families[0] += _condensenet(batch)[:: 1 if batch == 1 else 2]
    for batch in (1, 8, 32):
        for groups, stages in {
            2: (48, 100, 200, 400), 3: (60, 120, 240, 480), 4: (68, 136, 272, 544),
            8: (96, 192, 384, 768),
        }.items():  # fmt: skip
            for side, width in zip((28, 14, 7), stages[1:], strict=True):
                if width % (4 * groups) == 0 and (batch != 32 or groups in (3, 8)):
                    families[1].append(
                        equal_case(
                            "shufflenet",
                            f"shufflenet-g{groups}-{side}-expand",
                            batch,
                            side,
                            width // 4,
                            width,
                            groups,
                            1,
                        )
                    )
                    if batch == 8:
                        families[1].append(
                            equal_case(
                                "shufflenet",
                                f"shufflenet-g{groups}-{side}-reduce",
                                batch,
                                side,
                                width,
                                width // 4,
                                groups,
                                1,
                            )
                        )
    for batch in (1, 4, 16):
        for per, base in ((4, 128), (8, 256), (16, 512)):
            for stage, side in enumerate((56, 28, 14, 7)):
                families[2].append(
                    equal_case(
                        "resnext",
                        f"resnext-32x{per}d-{side}",
                        batch,
                        side,
                        base << stage,
                        base << stage,
                        32,
                    )
                )
                if stage and batch == 4:
                    families[2].append(
                        equal_case(
                            "resnext",
                            f"resnext-32x{per}d-{side}-s2",
                            batch,
                            2 * side,
                            base << stage,
                            base << stage,
                            32,
                            3,
                            2,
                        )
                    )
    regnet = {
        "x-400mf": (16, (32, 64, 160, 384)), "x-800mf": (16, (64, 128, 288, 672)),
        "x-3.2gf": (48, (96, 192, 432, 1008)), "y-8gf": (56, (224, 448, 896, 2016)),
        "y-1.6gf": (24, (48, 120, 336, 888)),
    }  # fmt: skip
    for batch in (1, 8):
        for name, (width, stages) in regnet.items():
            for side, channels in zip((56, 28, 14, 7), stages, strict=True):
                families[3].append(
                    equal_case(
                        "regnet",
                        f"regnet{name}-{side}",
                        batch,
                        side,
                        channels,
                        channels,
                        channels // width,
                    )
                )
    seed = 0
    for batch in (1, 8, 4):
        for side in (14, 28, 56):
            for groups in (8, 32, 64):
                if batch * side * side * groups > 500_000:
                    continue
                for kind in ("multiple-of-8", "learned", "any-width"):
                    seed += 1
                    families[4].append(_unequal(seed, batch, side, groups, kind))
            families[4].append(pruned_resnext(batch, side, 16, 32, seed))
    longest = max(len(family) for family in families)
    order = [
        (index / len(family), number, case)
        for number, family in enumerate(families)
        for index, case in enumerate(_spread(family))
    ]
    del longest
    return [case for _, _, case in sorted(order, key=lambda item: item[:2])]


def _spread(family: list[Case]) -> list[Case]:
    """A fixed shuffle: any prefix holds every batch and size."""
    order = np.random.default_rng(len(family)).permutation(len(family))
    return [family[index] for index in order]
