"""Layers that no coefficient has seen: other networks, sizes and draws than :mod:`cases`."""

from __future__ import annotations

import numpy as np

from perfmodel.optimize.grouped.problem import Group, GroupedConv, contiguous_groups
from validate.grouped_conv.cases import Case, equal_case, layer_cases, pruned_resnext


def _learned(
    name: str, batch: int, side: int, channels: int, groups: int, made: int, seed: int
) -> Case:
    """CondenseNet's learned 1 x 1: each group keeps one part in ``groups`` of the channels."""
    rng = np.random.default_rng(seed)
    kept = max(1, channels // groups)
    picked = tuple(
        Group(tuple(sorted(int(c) for c in rng.permutation(channels)[:kept])), made)
        for _ in range(groups)
    )
    conv = GroupedConv(batch, side, side, channels, picked, 1, 1, 0, name=f"{name}-b{batch}")
    return Case("condensenet-learned", conv)


def _unequal(seed: int, batch: int, side: int, groups: int, kind: str) -> Case:
    """Widths from a gamma distribution: other groups, sides and shapes than the first layers."""
    rng = np.random.default_rng(seed)
    unit = 8 if kind == "multiple-of-8" else 1
    widths, outputs = (np.clip(rng.gamma(2.0, mean / 2, groups), unit, 192) for mean in (30, 36))
    wide = (np.ceil(widths / unit) * unit).astype(int).tolist()
    made = (np.ceil(outputs / unit) * unit).astype(int).tolist()
    name = f"fresh-unequal-{kind}-g{groups}-{side}x{side}-b{batch}-s{seed}"
    if kind == "learned":
        pool = max(-(-sum(wide) // 24) * 8, *wide)
        picked = tuple(
            Group(tuple(sorted(int(c) for c in rng.permutation(pool)[:w])), int(o))
            for w, o in zip(wide, made, strict=True)
        )
        return Case("unequal-learned", GroupedConv(batch, side, side, pool, picked, name=name))
    conv = GroupedConv(batch, side, side, sum(wide), contiguous_groups(wide, made), name=name)
    return Case(f"unequal-{'any' if unit == 1 else '8'}", conv)


LOST = frozenset(
    case.conv.name
    for case in layer_cases()
    if case.family in ("condensenet-learned", "pruned-resnext")
)
"""Layers of the first run on which it lost; run again in other forms."""
FIRST = 75


def fresh_cases() -> list[Case]:  # noqa: PLR0912
    """New layers, families interleaved; after the first of them, :data:`LOST`."""
    families: list[list[Case]] = [[] for _ in range(6)]
    for batch, place in ((1, 0), (16, 1), (64, 2)):
        # CondenseNet-86 for 32 x 32 images: stages 14-14-14, growth 8-16-32, four groups
        channels = 16
        for stage, (growth, side) in enumerate(zip((8, 16, 32), (32, 16, 8), strict=True)):
            for unit in (1 + place, 12):
                width = channels + unit * growth
                families[0].append(
                    _learned(f"condensenet86-s{stage}u{unit}-1x1", batch, side, width, 4, growth,
                             86 + unit)
                )  # fmt: skip
            families[1].append(
                equal_case("condensenet", f"condensenet86-s{stage}-3x3", batch, side, 4 * growth,
                       growth, 4)
            )  # fmt: skip
            channels += 14 * growth
    for batch in (1, 8):
        for per, groups, base in ((4, 64, 256), (8, 32, 256), (4, 32, 128)):
            for stage, side in enumerate((48, 24, 12)):
                families[2].append(
                    equal_case("resnext", f"fresh-resnext-{groups}x{per}d-{side}", batch, side,
                           base << stage, base << stage, groups)
                )  # fmt: skip
    regnet = {
        "x-1.6gf": (24, (72, 168, 408, 912)), "y-400mf": (8, (48, 104, 208, 440)),
        "y-3.2gf": (24, (72, 216, 576, 1512)), "x-200mf": (8, (24, 56, 152, 368)),
    }  # fmt: skip
    for place, (name, (width, stages)) in enumerate(regnet.items()):
        for stage, (side, channels) in enumerate(zip((56, 28, 14, 7), stages, strict=True)):
            batch = (1, 4)[(place + stage) % 2]
            families[3].append(
                equal_case("regnet", f"regnet{name}-{side}", batch, side, channels, channels,
                       channels // width)
            )  # fmt: skip
    for groups, stages in {3: (120, 240, 480), 4: (136, 272, 544), 8: (192, 384, 768)}.items():
        for side, width in zip((28, 14, 7), stages, strict=True):
            wide = 3 * width // 2
            if wide % (4 * groups) == 0:
                for batch in (1, 16):
                    families[4].append(
                        equal_case("shufflenet", f"shufflenet1.5-g{groups}-{side}-expand", batch,
                                   side, wide // 4, wide, groups, 1)
                    )  # fmt: skip
    seed = 1000
    for batch in (1, 2, 6):
        for side, groups in ((10, 48), (20, 24), (36, 12)):
            for kind in ("multiple-of-8", "learned", "any-width"):
                seed += 1
                families[5].append(_unequal(seed, batch, side, groups, kind))
            width = (4, 8, 16)[seed % 3]
            families[5].append(
                pruned_resnext(batch, side, width, 32, seed, least=0.3, suffix=f"-s{seed}")
            )
    order = [
        (index / len(family), number, case)
        for number, family in enumerate(families)
        for index, case in enumerate(_shuffled(family))
    ]
    fresh = [case for _, _, case in sorted(order, key=lambda item: item[:2])]
    lost = [case for case in layer_cases() if case.conv.name in LOST]
    return [*fresh[:FIRST], *lost, *fresh[FIRST:]]


def _shuffled(family: list[Case]) -> list[Case]:
    order = np.random.default_rng(7 * len(family)).permutation(len(family))
    return [family[index] for index in order]
