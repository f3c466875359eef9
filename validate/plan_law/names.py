"""What names of plans tell: engine and choices as words, tiles, clusters, depth-wise kernels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from perfmodel.cost.proposed import PASSES
from validate.bench import plan_rows
from validate.plan_law.table import Floats, Plans, Whole

_OFTEN: Final = 40  # uses of a word of plans that is told apart
_SURE: Final = 0.6  # share of the kernels of a plan that have its tile, or are one a group
_FEW_GROUPS: Final = 4  # fewer kernels than these stand beside a plan's own, to copy and to turn
_SMALLEST_TILE: Final = 16
_NATIVE: Final = {5: 2, 6: 3, 16: 4, 19: 5, 57: 6, 61: 6, 62: 6, 0: 7}
"""Kinds of depth-wise kernels by engine, as :mod:`validate.plan_law.depthwise` counts them."""
_TILED_KIND, _PARTS, _LARGEST_CHOICE = 6, "17", 5


class _Timed(NamedTuple):
    """A plan that was timed: its pass, the operator's groups, its name and its kernels' names."""

    way: str
    groups: int
    name: str
    kernels: list[str]


def plans_of(folder: Path, names: Sequence[str], lists: Whole) -> Plans:
    """What is known of plans.

    Parameters
    ----------
    folder : path
        Measurements, whose steady times name the kernels of plans.
    names : sequence of str
        Of all P plans, empty for none.
    lists : array of int, shape (N, 10)
        The plans of N operators; of words that few of these use there is no column.
    """
    timed = list(_timed(folder))
    return Plans(
        _words(names, lists),
        _tiles(timed, names),
        _clusters(names),
        _loops(timed, names),
        natives(names),
    )


def _timed(folder: Path) -> Iterator[_Timed]:
    for path in sorted(folder.glob("*/search/plan-times*.jsonl.gz")):
        for row in plan_rows.read(path):
            way, groups = row["op"].get("pass") or PASSES[0], row["op"].get("groups", 1)
            for plan in row["plans"]:
                if "us" in plan:
                    yield _Timed(
                        way, groups, plan["name"], [kernel[0] for kernel in plan["kernels"]]
                    )


def _engine(name: str) -> str:
    return name.partition("_")[0]


def _knobs(name: str) -> dict[str, str]:
    return dict(re.findall(r"_k(\d+)=(-?\d+)", name))


def words_of(name: str) -> list[str]:
    """Words of a plan: its engine, and its choices alone and together."""
    engine, knobs = _engine(name), _knobs(name)

    def with_(*which: str) -> str:
        return " ".join(f"{number}={knobs.get(number, '')}" for number in which)

    return [
        engine,
        *(
            f"{engine} {with_(*some)}"
            for some in (
                ("2",), ("2", "5", "14", "13"), ("27",), ("28",), ("13",), ("18",), ("17",),
                ("11",), ("25", "23"), ("3",),
            )
        ),
        f"tile {with_('2')}",
        f"cluster {with_('27', '28')}",
    ]  # fmt: skip


def _words(names: Sequence[str], lists: Whole) -> Floats:
    uses = np.bincount(lists.ravel(), minlength=len(names))
    count: Counter[str] = Counter()
    for name, used in zip(names, uses, strict=True):
        for word in words_of(name) if name else ():
            count[word] += int(used)
    often = {w: at for at, w in enumerate(w for w, c in count.items() if c > _OFTEN)}
    table = np.zeros((len(names), len(often)), np.float32)
    for at, name in enumerate(names):
        for word in words_of(name) if name else ():
            if word in often:
                table[at, often[word]] += 1.0
    return table


def _clusters(names: Sequence[str]) -> Floats:
    each = [[max(int(_knobs(name).get(k, 1)), 1) for k in ("27", "28")] for name in names]
    return np.array(each, np.float32)


_TILE: Final = (
    r"tilesize(\d+)x(\d+)x(\d+)",
    r"nvjet\w+?_(\d+)x(\d+)_(\d+)x",
    r"(?:bf16|f16|s\w*|gemm|fprop|dgrad|wgrad|optimized|analytic)_(?:bf16_|f16_|tf32_|f32_)?"
    r"(\d+)x(\d+)_(\d+)x\d+",
)
_DEPTH: Final = ({"0": 32, "1": 64, "2": 16}, {"4": 64, "3": 32, "2": 16})
"""Steps along the inner side by choices 13 and 5, where no name tells."""
_TILED: Final = {
    *(9, 10, 22, 23, 27, 30, 33, 34, 38, 40, 45, 46, 47, 48, 49, 50, 57, 58, 62, 63, 64, 65),
    *(67, 68, 70, 71, 72, 73, 74, 76),
}
"""Engines of tiles, which name their tile by choice 2."""


def tile_of(kernels: Iterable[str]) -> tuple[int, int, int] | None:
    """Rows, columns and depth that the names of a plan's kernels tell; the last one's."""
    found = None
    for name in kernels:
        for pattern in _TILE:
            if match := re.search(pattern, name):
                rows, cols, depth = map(int, match.groups())
                found = rows, cols, depth
                break
    return found


def _sort(name: str) -> str:
    """A plan by what decides its tile."""
    return _engine(name) + "".join(re.findall(r"_k(?:2|13|5|14|11)=-?\d+", name))


def _tiles(timed: Sequence[_Timed], names: Sequence[str]) -> Floats:
    """Tiles of plans in each pass, by the kernels of those that were timed."""
    met: dict[tuple[str, str], Counter[tuple[int, int, int] | None]] = {}
    for one in timed:
        key = one.way, _sort(one.name)
        met.setdefault(key, Counter())[tile_of(one.kernels)] += 1
    sure: dict[tuple[str, str], tuple[int, int, int]] = {}
    by_choice: dict[str, Counter[tuple[int, int]]] = {}
    for (way, sort), count in met.items():
        tile, times = count.most_common(1)[0]
        if tile is None or times <= _SURE * count.total() or tile[0] < _SMALLEST_TILE:
            continue
        sure[way, sort] = tile
        if match := re.search(r"_k2=(\d+)", sort):
            by_choice.setdefault(match.group(1), Counter())[tile[:2]] += 1
    choice = {number: count.most_common(1)[0][0] for number, count in by_choice.items()}
    found = np.zeros((len(PASSES), len(names), 3), np.float32)
    for at, name in enumerate(names):
        if not name:
            continue
        knobs, engine = _knobs(name), int(_engine(name).removeprefix("eng"))
        told = knobs.get("2") in choice and engine in _TILED and {"13", "5", "18"} & set(knobs)
        for way, direction in enumerate(PASSES):
            tile = sure.get((direction, _sort(name)))
            if tile is None and told:
                depth = _DEPTH[0].get(knobs.get("13", "")) or _DEPTH[1].get(knobs.get("5", ""))
                tile = (*choice[knobs["2"]], depth or (8 if "18" in knobs else 32))
            if tile is not None:
                found[way, at] = tile
    return found


def _loops(timed: Sequence[_Timed], names: Sequence[str]) -> Floats:
    """1 where a plan of an engine launches a kernel for each group, as most that were timed do."""
    met: dict[tuple[str, str], list[bool]] = {}
    for one in timed:
        if one.groups > _FEW_GROUPS:
            looped = len(one.kernels) >= one.groups
            met.setdefault((one.way, _engine(one.name)), []).append(looped)
    most = {key for key, looped in met.items() if np.mean(looped) > _SURE}
    engines = [_engine(name) for name in names]
    return np.array([[(way, e) in most for e in engines] for way in PASSES], np.float32)


def natives(names: Sequence[str]) -> Floats:
    """Kind, choice of a tile and parts of the tiles that each plan's name tells, (P, 3)."""
    table = np.tile(np.array([0, 0, 1], np.float32), (len(names), 1))
    for at, name in enumerate(names):
        if not name:
            continue
        engine, knobs = int(_engine(name).removeprefix("eng")), _knobs(name)
        kind = _NATIVE.get(engine, 0)
        if kind == _TILED_KIND and _PARTS not in knobs:
            kind = 0  # in another pass the engine has matrix tiles
        choice = min(max(int(knobs.get("2", 0)), 0), _LARGEST_CHOICE)
        table[at] = kind, choice, max(int(knobs.get(_PARTS, 1)), 1)
    return table
