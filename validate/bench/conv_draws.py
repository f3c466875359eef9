"""A plan of convolutions only: what convolutional networks run, most of what they run most.

A stratum is a kind, a pass, a layout and the number types. Each takes half of its points from the
layers of the bundled networks and half from quasi-random draws, so that a stratum covers shapes
alike and its share says how often networks run it. :data:`WEAK` shares a plan out by how little is
known of a kind instead.
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any, NamedTuple

from validate.bench import conv_layers, conv_plain, ops, plan, store
from validate.bench.conv_volumes import volume
from validate.bench.draws import FAMILIES, Draw

Entry = dict[str, Any]


class Stratum(NamedTuple):
    """Families that give the shapes, and what is set over what they draw.

    ``change`` names what is done to a drawn shape: see :data:`CHANGES`.
    """

    families: tuple[str, ...]
    which: str
    layout: str
    dtypes: tuple[str, ...]
    share: float
    change: str = ""


_HALF, _FULL = ("bf16", "fp16"), ("tf32", "fp32")
_FWD, _DGRAD, _WGRAD = ((f"conv2d_{name}", f"network_{name}") for name in ("fwd", "dgrad", "wgrad"))
_DEPTHWISE, _GROUPED = ((f"conv2d_{name}", f"network_{name}") for name in ("depthwise", "grouped"))

STRATA = (
    Stratum(_FWD, "fwd", "nhwc", _HALF, 620),
    Stratum(_FWD, "fwd", "nchw", _HALF, 170),
    Stratum(_FWD, "fwd", "nhwc", _FULL, 90),
    Stratum(_FWD, "fwd", "nchw", _FULL, 90),
    Stratum(_DGRAD, "dgrad", "nhwc", _HALF, 260),
    Stratum(_DGRAD, "dgrad", "nchw", _HALF, 60),
    Stratum(_DGRAD, "dgrad", "nhwc", _FULL, 40),
    Stratum(_DGRAD, "dgrad", "nchw", _FULL, 40),
    Stratum(_WGRAD, "wgrad", "nhwc", _HALF, 260),
    Stratum(_WGRAD, "wgrad", "nchw", _HALF, 60),
    Stratum(_WGRAD, "wgrad", "nhwc", _FULL, 40),
    Stratum(_WGRAD, "wgrad", "nchw", _FULL, 40),
    Stratum(_DEPTHWISE, "fwd", "nhwc", _HALF, 150),
    Stratum(_DEPTHWISE, "dgrad", "nhwc", _HALF, 60),
    Stratum(_DEPTHWISE, "wgrad", "nhwc", _HALF, 60),
    Stratum(_DEPTHWISE, "fwd", "nchw", _HALF, 45),
    Stratum(_DEPTHWISE, "fwd", "nhwc", _FULL, 30),
    Stratum(_DEPTHWISE, "fwd", "nchw", _FULL, 20),
    Stratum(_DEPTHWISE, "dgrad", "nchw", _HALF + _FULL, 25),
    Stratum(_DEPTHWISE, "wgrad", "nchw", _HALF + _FULL, 25),
    Stratum(_GROUPED, "fwd", "nhwc", _HALF, 90),
    Stratum(_GROUPED, "dgrad", "nhwc", _HALF, 35),
    Stratum(_GROUPED, "wgrad", "nhwc", _HALF, 35),
    Stratum(_GROUPED, "fwd", "nchw", _HALF + _FULL, 40),
    Stratum(_GROUPED, "dgrad", "nchw", _HALF + _FULL, 20),
    Stratum(_GROUPED, "wgrad", "nchw", _HALF + _FULL, 20),
    Stratum(_GROUPED, "fwd", "nhwc", _HALF, 75, "uneven"),
    Stratum(_GROUPED, "dgrad", "nhwc", _HALF, 30, "uneven"),
    Stratum(_GROUPED, "wgrad", "nhwc", _HALF, 30, "uneven"),
    Stratum(("conv3d",), "fwd", "", (), 110),
)  # fmt: skip


def _weak() -> tuple[Stratum, ...]:
    dense = zip(("fwd", "dgrad", "wgrad"), (_FWD, _DGRAD, _WGRAD), strict=True)
    strata = [
        Stratum(families, which, layout, _FULL, 90 if layout == "nhwc" else 75)
        for which, families in dense
        for layout in ("nhwc", "nchw")
    ]
    for which, families in (("fwd", _FWD), ("dgrad", _DGRAD), ("wgrad", _WGRAD)):
        strata += [
            Stratum(families, which, "nchw", _HALF, 25, "point"),
            Stratum(families, which, "nhwc", _HALF, 50, "odd"),
            Stratum(families, which, "nchw", _HALF, 15, "odd"),
            Stratum(_DEPTHWISE, which, "nhwc", _FULL, 30),
            Stratum(_DEPTHWISE, which, "nhwc", _HALF, 25),
            Stratum(_DEPTHWISE, which, "nchw", ("fp16", "bf16"), 15),
            Stratum(_GROUPED, which, "nhwc", _FULL, 25),
            Stratum(_GROUPED, which, "nchw", _FULL, 15),
            Stratum(_GROUPED, which, "nhwc", _HALF, 20),
            Stratum(_GROUPED, which, "nchw", _HALF, 15),
            Stratum(("volume",), which, "nchw", ("fp16", "bf16", "tf32", "fp32"), 40),
            Stratum(("volume",), which, "nhwc", ("bf16", "fp16", "tf32"), 25),
        ]
    return tuple(strata)


WEAK = _weak()
"""By how few rows of a kind were measured, and how far off they are."""


_KINDS = {
    "dense": ("conv2d_{}", "network_{}", "wide_dense"),
    "depthwise": ("conv2d_depthwise", "network_depthwise", "wide_depthwise"),
    "grouped": ("conv2d_grouped", "network_grouped", "wide_grouped"),
    "volume": ("volume",),
    "plain_dense": ("plain_dense", "conv2d_{}", "plain_dense", "wide_dense"),
    "plain_depthwise": ("plain_depthwise", "conv2d_depthwise", "plain_depthwise", "wide_depthwise"),
    "plain_grouped": ("plain_grouped", "conv2d_grouped", "plain_grouped", "wide_grouped"),
    "plain_volume": ("volume", "conv3d"),
}
_CELLS = (("nhwc", _HALF), ("nhwc", _FULL), ("nchw", _HALF), ("nchw", _FULL))
# Shares of the cells, and what is done to a shape.
_Shares = tuple[tuple[str, str, tuple[float, float, float, float]], ...]


def _by_cell(which: str, shares: _Shares, part: float = 1.0) -> list[Stratum]:
    return [
        Stratum(
            tuple(f.format(which) for f in _KINDS[kind]), which, layout, types, part * share, change
        )
        for kind, change, row in shares
        for (layout, types), share in zip(_CELLS, row, strict=True)
    ]


def _by_pass(rows: dict[str, _Shares], rest: _Shares) -> list[Stratum]:
    """Strata of each pass: its own, and those that all passes have alike."""
    return [s for which, row in rows.items() for s in _by_cell(which, (*row, *rest))]


def _wide() -> tuple[Stratum, ...]:
    shares: _Shares = (
        ("dense", "", (200, 110, 65, 65)),
        ("dense", "odd", (40, 20, 12, 10)),
        ("dense", "point", (30, 15, 15, 10)),
        ("depthwise", "", (50, 30, 25, 15)),
        ("grouped", "", (60, 30, 22, 16)),
        ("grouped", "uneven", (15, 8, 5, 4)),
        ("volume", "", (25, 20, 35, 25)),
    )
    parts = {"fwd": 1.0, "dgrad": 0.45, "wgrad": 0.45}
    return tuple(s for which, part in parts.items() for s in _by_cell(which, shares, part))


WIDE = _wide()
"""Every kind in both layouts and all number types, two thirds of them layers of networks."""


def _split() -> tuple[Stratum, ...]:
    same: _Shares = (
        ("depthwise", "", (0, 0, 30, 40)),
        ("grouped", "", (0, 0, 50, 40)),
        ("grouped", "uneven", (20, 10, 5, 5)),
        ("dense", "point", (30, 15, 20, 20)),
        ("volume", "", (20, 20, 30, 40)),
    )
    own: dict[str, _Shares] = {
        "fwd": (
            ("depthwise", "", (280, 220, 0, 0)),
            ("grouped", "", (110, 90, 0, 0)),
            ("dense", "", (130, 120, 70, 90)),
            ("dense", "odd", (30, 15, 10, 8)),
        ),
        "dgrad": (
            ("depthwise", "", (220, 180, 0, 0)),
            ("grouped", "", (80, 70, 0, 0)),
            ("dense", "", (130, 90, 50, 70)),
            ("dense", "odd", (30, 15, 10, 8)),
        ),
        "wgrad": (
            ("depthwise", "", (220, 180, 0, 0)),
            ("grouped", "", (100, 80, 0, 0)),
            ("dense", "", (110, 100, 50, 80)),
            ("dense", "odd", (60, 30, 15, 12)),
        ),
    }
    strata = _by_pass(own, same)
    families = _KINDS["depthwise"]
    strata += [Stratum(families, which, "nchw", ("fp16",), 110) for which in own]
    return tuple(s for s in strata if s.share)


SPLIT = _split()
"""Those most whose channels are split into groups: where more rows lower the error most."""


def _likely() -> tuple[Stratum, ...]:
    rows: dict[str, _Shares] = {
        "fwd": (
            ("plain_dense", "", (150, 110, 110, 110)),
            ("plain_depthwise", "", (25, 22, 18, 14)),
            ("plain_grouped", "", (32, 28, 22, 22)),
        ),
        "dgrad": (
            ("plain_dense", "", (100, 75, 75, 75)),
            ("plain_depthwise", "", (22, 18, 14, 10)),
            ("plain_grouped", "", (26, 24, 18, 18)),
        ),
        "wgrad": (
            ("plain_dense", "", (110, 90, 90, 95)),
            ("plain_depthwise", "", (24, 22, 18, 12)),
            ("plain_grouped", "", (28, 28, 20, 20)),
        ),
    }
    rest: _Shares = (
        ("dense", "odd", (12, 9, 8, 6)),
        ("grouped", "uneven", (6, 5, 3, 3)),
        ("plain_volume", "", (16, 16, 16, 16)),
    )
    return tuple(_by_pass(rows, rest))


LIKELY = _likely()
"""As a stranger would draw: sizes free of any network and networks' layers alike, every kind in
both layouts and all number types; those most that are priced with the largest errors."""


def _aimed() -> tuple[Stratum, ...]:
    rows: dict[str, _Shares] = {
        "fwd": (
            ("plain_dense", "point", (70, 60, 20, 20)),
            ("plain_dense", "", (60, 30, 50, 50)),
            ("plain_dense", "stem", (35, 20, 25, 15)),
            ("plain_depthwise", "", (60, 30, 15, 10)),
            ("plain_grouped", "", (110, 50, 40, 40)),
        ),
        "dgrad": (
            ("plain_dense", "point", (60, 40, 20, 20)),
            ("plain_dense", "", (70, 50, 40, 70)),
            ("plain_depthwise", "", (50, 35, 15, 10)),
            ("plain_grouped", "", (80, 60, 60, 60)),
        ),
        "wgrad": (
            ("plain_dense", "point", (50, 35, 80, 55)),
            ("plain_dense", "", (50, 70, 50, 80)),
            ("plain_dense", "stem", (20, 15, 15, 15)),
            ("plain_depthwise", "", (80, 70, 30, 15)),
            ("plain_grouped", "", (80, 80, 50, 60)),
        ),
    }
    rest: _Shares = (
        ("dense", "odd", (40, 15, 14, 10)),
        ("plain_grouped", "point", (14, 12, 9, 9)),
        ("plain_volume", "", (30, 20, 25, 20)),
    )
    return tuple(_by_pass(rows, rest))


AIMED = _aimed()
"""Sizes free of any network, as in :data:`LIKELY`, shared out by what a cell then lost above 8 %,
and the first layers of networks."""


def _even() -> tuple[Stratum, ...]:
    kinds = (
        ("plain_dense", "", 54),
        ("dense", "odd", 6),
        ("plain_grouped", "", 13),
        ("grouped", "uneven", 2),
        ("plain_depthwise", "", 15),
        ("plain_volume", "", 10),
    )
    cells, depthwise = (4.0, 2.2, 2.0, 2.4), (6.0, 4.0, 1.0, 1.0)
    return tuple(
        s
        for kind, change, share in kinds
        for which, part in (("fwd", 0.42), ("dgrad", 0.28), ("wgrad", 0.30))
        for s in _by_cell(
            which,
            ((kind, change, depthwise if kind == "plain_depthwise" else cells),),
            share * part,
        )
    )


EVEN = _even()
"""As a stranger would draw who asks for 60 % dense, 15 % grouped, 15 % depth-wise ones, 10 %
volumes, whatever they are priced at."""

_SETS = (STRATA, WEAK, WIDE, SPLIT, LIKELY, AIMED, EVEN)
EVERY = tuple(
    one._replace(share=one.share / sum(other.share for other in strata))
    for strata in _SETS
    for one in strata
)
"""All of these, each as often: what is to be known of any convolution."""

_WIDTHS = (3, 6, 12, 20, 24, 28, 36, 40, 48, 56, 60, 72, 80, 84, 100, 112, 116, 128)
_GROUPS = (2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 32)


def _uneven(op: Entry, rng: random.Random) -> Entry:
    groups, width = rng.choice(_GROUPS), rng.choice(_WIDTHS)
    out = width if rng.random() < 0.7 else rng.choice(_WIDTHS)
    return op | {"groups": groups, "c_in": groups * width, "c_out": groups * out}


def _odd(op: Entry, rng: random.Random) -> Entry:
    """Channels of which one count or both are no multiple of 8."""
    pick, shift = rng.random(), rng.choice((1, 2, 3, 4, 4, 4, 5, 6, 7))
    names = ("c_in",) if pick < 0.4 else ("c_out",) if pick < 0.7 else ("c_in", "c_out")
    few = {"c_in": rng.choice((1, 2, 3, 3, 4, 6))} if rng.random() < 0.25 else {}
    return op | {name: max(op[name] // 8 * 8, 8) + shift for name in names} | few


def _point(op: Entry, _: random.Random) -> Entry:
    """A plain product: one tap, one step, no padding."""
    return op | {"kernel": 1, "stride": 1, "padding": 0}


# (kernel, stride, padding) of first layers, and the sides of images.
_STEMS = ((3, 1, 1), (3, 2, 1), (3, 2, 1), (7, 2, 3), (7, 2, 3), (5, 1, 2), (4, 4, 0), (2, 2, 0),
          (8, 8, 0), (14, 14, 0), (16, 16, 0), (16, 16, 0), (32, 32, 0))  # fmt: skip
_IMAGES = (28, 32, 32, 64, 96, 112, 128, 160, 192, 224, 224, 224, 240, 256, 256, 288, 299, 300,
           320, 336, 384, 448, 512)  # fmt: skip


def _stem(op: Entry, rng: random.Random) -> Entry:
    """The first layer of a network: few channels of an image, by patches or a small filter."""
    kernel, stride, padding = rng.choice(_STEMS)
    side, wide = rng.choice(_IMAGES), rng.choice((16, 24, 32, 32, 40, 48, 64, 64, 80, 96, 128))
    deep = rng.choice((96, 128, 192, 384, 512, 768, 768, 1024, 1280))
    changed = {"kernel": kernel, "stride": stride, "padding": padding, "h": side, "w": side}
    c_out = deep if kernel > 7 else wide
    return op | changed | {"c_in": rng.choice((1, 3, 3, 3, 3, 4)), "c_out": c_out}


CHANGES = {"uneven": _uneven, "odd": _odd, "point": _point, "stem": _stem}
"""Groups and channels of a group that no kernel is made for, which a library has to emulate
(RegNetX, CondenseNet, ShuffleNet); uneven channels of dense layers; plain products; first
layers."""
_DRAWS: dict[str, Draw] = {name: draw for name, (_, _, draw) in FAMILIES.items()}
_DRAWS["volume"] = volume
_DRAWS |= {f"wide_{name}": conv_layers.draw(name) for name in ("dense", "depthwise", "grouped")}
_DRAWS |= {f"plain_{name}": conv_plain.draw(name) for name in ("dense", "depthwise", "grouped")}


def _stream(stratum: Stratum, count: int, seed: str) -> list[Entry]:
    """`count` distinct operators of a stratum, its families in turn."""
    if not stratum.layout:  # drawn as they come
        return plan.sample(stratum.families[0], count, random.Random(seed).randrange(1 << 30))
    rng = random.Random(seed)
    draws = [_DRAWS[name] for name in stratum.families]
    sources = [plan.points(4, rng.randrange(1 << 30)) for _ in draws]
    out: list[Entry] = []
    seen: set[str] = set()
    for turn in range(60 * count):
        if len(out) >= count:
            break
        at = turn % len(draws)
        op = draws[at](next(sources[at]), rng) | {
            "pass": stratum.which,
            "layout": stratum.layout,
            "dtype": stratum.dtypes[len(out) % len(stratum.dtypes)],
        }
        if stratum.change:
            op = CHANGES[stratum.change](op, rng)
        if plan.valid(op) and ops.key(op) not in seen:
            seen.add(ops.key(op))
            out.append(op)
    return out


def build(count: int, seed: int, strata: tuple[Stratum, ...] = STRATA) -> list[Entry]:
    """About `count` convolutions, interleaved so that every prefix covers the strata alike."""
    scale = count / sum(s.share for s in strata)
    streams = [_stream(s, math.ceil(s.share * scale), f"{i}/{seed}") for i, s in enumerate(strata)]
    return plan.merge(plan.distinct(streams))


def repeats(folder: Path, count: int, seed: int) -> list[Entry]:
    """Convolutions that ``folder`` holds already, of every kind as many, to see how runs differ."""
    rng = random.Random(f"repeats/{seed}")
    kinds: dict[str, list[Entry]] = {}
    known = [store.op_of(r) for p in sorted(folder.glob("conv*.csv")) for r in store.read_any(p)]
    for op in plan.without(known, folder / "again"):
        kinds.setdefault(ops.strata(op), []).append(op)
    for members in kinds.values():
        rng.shuffle(members)
    order = sorted(kinds)
    rng.shuffle(order)
    out: list[Entry] = []
    while len(out) < count and any(kinds.values()):
        out += [kinds[name].pop() for name in order if kinds[name]]
    return out[:count]
