"""A plan of convolutions only: what convolutional networks run, most of what they run most.

A stratum is a kind, a pass, a layout and the number types. Each takes half of its points from the
layers of the bundled networks and half from quasi-random draws, so that a stratum covers shapes
alike and its share says how often networks run it.
"""

from __future__ import annotations

import math
import random
from typing import Any, NamedTuple

from validate.bench import ops, plan
from validate.bench.draws import FAMILIES

Entry = dict[str, Any]


class Stratum(NamedTuple):
    """Families that give the shapes, and what is set over what they draw.

    ``uneven`` sets groups and channels of a group to counts that no kernel is made for, which a
    library has to emulate (RegNetX, CondenseNet, ShuffleNet).
    """

    families: tuple[str, ...]
    which: str
    layout: str
    dtypes: tuple[str, ...]
    share: float
    uneven: bool = False


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
    Stratum(_GROUPED, "fwd", "nhwc", _HALF, 75, True),
    Stratum(_GROUPED, "dgrad", "nhwc", _HALF, 30, True),
    Stratum(_GROUPED, "wgrad", "nhwc", _HALF, 30, True),
    Stratum(("conv3d",), "fwd", "", (), 110),
)  # fmt: skip


_WIDTHS = (3, 6, 12, 20, 24, 28, 36, 40, 48, 56, 60, 72, 80, 84, 100, 112, 116, 128)
_GROUPS = (2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 32)


def _uneven(op: Entry, rng: random.Random) -> Entry:
    groups, width = rng.choice(_GROUPS), rng.choice(_WIDTHS)
    out = width if rng.random() < 0.7 else rng.choice(_WIDTHS)
    return op | {"groups": groups, "c_in": groups * width, "c_out": groups * out}


def _stream(stratum: Stratum, count: int, seed: str) -> list[Entry]:
    """`count` distinct operators of a stratum, its families in turn."""
    if not stratum.layout:  # drawn as they come
        return plan.sample(stratum.families[0], count, random.Random(seed).randrange(1 << 30))
    rng = random.Random(seed)
    draws = [FAMILIES[name][2] for name in stratum.families]
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
        if stratum.uneven:
            op = _uneven(op, rng)
        if plan.valid(op) and ops.key(op) not in seen:
            seen.add(ops.key(op))
            out.append(op)
    return out


def build(count: int, seed: int) -> list[Entry]:
    """About `count` convolutions, interleaved so that every prefix covers the strata alike."""
    scale = count / sum(s.share for s in STRATA)
    streams = [_stream(s, math.ceil(s.share * scale), f"{i}/{seed}") for i, s in enumerate(STRATA)]
    return plan.merge(plan.distinct(streams))
