r"""Which plans a library's search tries for a convolution, and what their tiles cost.

PyTorch times the first ten plans that cuDNN's heuristics propose and keeps the fastest: what is
not proposed is not taken. The proposals to some hundred thousand convolutions, none of them
measured, were recorded without running them; decision trees, one for each pass, layout and sort of
arithmetic, give them again (``validate/convolutions.py``). The corrections are shown how often
words of plans (engine, tile, cluster) stand in the list, and of its tiles
:math:`t_m \times t_n \times t_k` in clusters of :math:`c_m \times c_n`, on :math:`U` units,

.. math::

    w = g \Big\lceil \frac{\lceil M / t_m \rceil}{c_m} \Big\rceil c_m
          \Big\lceil \frac{\lceil N / t_n \rceil}{c_n} \Big\rceil c_n / U, \quad
    \log \Big( o \Big\lceil \frac{w}{o} \Big\rceil t_m t_n t_k r \Big\lceil \frac{K}{t_k}
    \Big\rceil \Big)

with :math:`o` blocks a unit and :math:`r` taps, against the mechanism's time: the least, how far
the next is, and the shape of the tile that has it.

References
----------
PyTorch, ``torch.backends.cudnn.benchmark_limit``: how many plans are tried, ten by default. NVIDIA,
cuDNN developer guide, heuristics of the backend: they rank the plans of an operation unmeasured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.answers import UNITS, answers_of
from perfmodel.cost.arrays import Arrays
from perfmodel.cost.parts import Floats
from perfmodel.cost.walk import Tree, tree_of

FILE: Final = "convolutions/cudnn9-hopper.npz"
PASSES: Final = ("fwd", "dgrad", "wgrad")
LAYOUTS: Final = ("nhwc", "nchw")
DTYPES: Final = ("bf16", "fp16", "tf32", "fp32")
SORTS: Final = ("half", "fp32")
SIZES: Final = ("n", "c_in", "c_out", "h", "w", "inputs", "outputs", "taps", "side", "step", "pad",
                "groups")  # fmt: skip
KEPT: Final = ((256, 128), (128, 256), (128, 128), (256, 64), (128, 64), (64, 64), (128, 32),
               (64, 32))  # fmt: skip
_TOGETHER: Final = (1.0, 2.0)
_ASKED_TILES: Final = ((128, 128), (256, 128), (128, 256), (64, 64), (128, 64), (64, 32),
                       (256, 64), (128, 32), (128, 16), (32, 32), (64, 128), (192, 128),
                       (256, 192))  # fmt: skip
_ABSENT: Final = 3.0
"""Doublings beyond which a tile that is listed is no better than one that is not."""
_OF_BEST: Final = ("work", "next", "fill", "waves", "rows", "cols", "rows_filled", "cols_filled")
COSTS: Final = tuple(
    f"proposed_{name}_{int(each)}" for each in _TOGETHER for name in _OF_BEST
) + tuple(f"proposed_{rows}x{cols}" for rows, cols in KEPT)
Singles = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Proposals:
    """The lists of one pass, layout and sort of arithmetic, by a tree of :func:`asked_columns`.

    Parameters
    ----------
    tree : Tree
        With P places.
    list_at : array of int, shape (P,)
        Row of the other tables that a place names.
    plans : array of int, shape (L, 10)
        Sorts of plans in each list; 0 where there are fewer.
    counts : array, shape (W, L)
        Plans in the list, and those of every word.
    tiles : array, shape (T, 5, L)
        Different tiles of a list: rows, columns, step, cluster along rows and columns; zeros.
    kept : array, shape (8, L)
        Elements of ``k`` in a step of each tile of :data:`KEPT`, 0 where it is not listed.
    """

    tree: Tree
    list_at: NDArray[np.int32]
    plans: NDArray[np.int16]
    counts: Singles
    tiles: Singles
    kept: Singles

    def __call__(self, columns: Singles) -> NDArray[np.int32]:
        """The list of every row of ``columns`` (N, F), shape (N,)."""
        return np.asarray(self.list_at[self.tree(columns)])


def key_of(direction: str, layout: str, dtype: str) -> str:
    """Name of the tree that answers: of pass, layout, and half precision (TF32 too) or not."""
    return f"{direction}_{layout}_{SORTS[dtype == 'fp32']}"


def product(
    sizes: Mapping[str, Floats], direction: str
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Rows, columns, depth within a tap, taps and groups of the product that a plan works on.

    Outputs by filters over the channels of each tap; for gradients of the inputs the inputs by
    their channels, of whose taps a stride leaves a share; for those of the filters the filters by
    taps over the outputs. ``sizes`` are :data:`SIZES`, arrays of shape (N,), as are the answers.
    """
    s, groups = sizes, sizes["groups"]
    places, outputs = s["n"] * s["inputs"], s["n"] * s["outputs"]
    wide, deep = s["c_out"] / groups, s["c_in"] / groups
    if direction == "fwd":
        return outputs, wide, deep, s["taps"], groups
    if direction == "dgrad":
        return places, deep, wide, s["taps"] / s["step"] ** 2, groups
    return wide, deep * s["taps"], outputs, np.ones_like(outputs), groups


def asked_columns(sizes: Mapping[str, Floats], direction: str, dtype: str) -> Singles:
    """What the trees ask about, shape (N, F): sizes :data:`SIZES`, evenness, waves of tiles.

    ``sizes`` are arrays of shape (N,), in elements; ``direction`` is one of :data:`PASSES`,
    ``dtype`` of :data:`DTYPES`. What a column counts is what it counted when the trees were grown.
    """
    s = sizes
    n, c_in, c_out, h, w, inputs, outputs, taps, side, step, pad, groups = (s[x] for x in SIZES)
    rows, cols, depth, _, _ = product(s, direction)
    deep, wide = c_in / groups, c_out / groups
    high = np.maximum(np.floor((h + 2.0 * pad - side) / step) + 1.0, 1.0)
    across = np.maximum(np.floor((w + 2.0 * pad - side) / step) + 1.0, 1.0)
    made, seen = n * outputs, n * inputs
    area = rows * cols
    columns: list[Any] = [
        n, c_in, c_out, h, w, inputs / (h * w), side, step, pad, groups, deep, wide, high, across,
        made, seen, deep * taps, wide * taps, _even(deep), _even(wide), _even(c_in), _even(c_out),
        c_in == groups, c_out == groups, made * c_out, seen * c_in, _even(h * w),
        _even(high * across), rows, cols, depth, area * groups, area * depth * groups * taps,
        made / np.maximum(wide, 1.0), depth / np.sqrt(area), rows / cols, n * high, n * across,
        high * across, h * w, outputs / (high * across), seen * c_in / (made * c_out), c_in % 8.0,
        c_out % 8.0, deep % 8.0, wide % 8.0,
    ]  # fmt: skip
    high_in = {tile: np.ceil(rows / tile) for tile in {tall for tall, _ in _ASKED_TILES}}
    wide_in = {tile: np.ceil(cols / tile) for tile in {broad for _, broad in _ASKED_TILES} | {96}}
    columns += [wide_in[tile] * tile / cols for tile in (32, 64, 96, 128, 256)]
    for tall, broad in _ASKED_TILES:
        waves = high_in[tall] * wide_in[broad] * groups / UNITS
        columns += [waves, waves / np.ceil(waves)]
    found = np.empty((len(columns) + 1, n.size), np.float32)
    found[-1] = DTYPES.index(dtype)
    for place, column in enumerate(columns):
        found[place] = column
    return found.T


def _even(value: Floats) -> Floats:
    """The largest power of two, up to 128, that divides each."""
    whole = np.clip(value, 0.0, 2.0**40).astype(np.int64)
    return np.asarray(np.minimum(whole & -whole, 128).astype(np.float64))


@lru_cache(maxsize=2)
def proposals(path: Path | None = None) -> tuple[tuple[str, ...], Mapping[str, Proposals]]:
    """Names of the counted words, and the trees by :func:`key_of`.

    Raises
    ------
    CalibrationError
        If the file is damaged.
    """
    return answers_of(FILE, "decision trees of convolutions", _proposals, path)


def _proposals(held: Arrays) -> tuple[tuple[str, ...], dict[str, Proposals]]:
    words = tuple(str(word) for word in held["words"])
    return ("proposed_plans", *(f"proposed_{word}" for word in words)), {
        str(key): _read(held, str(key)) for key in held["keys"]
    }


def _read(held: Arrays, key: str) -> Proposals:
    plans = held[f"{key}_plans"].astype(np.int16)
    counts = held["counts"].astype(np.float32)[plans].sum(axis=1)
    count = (plans > 0).sum(axis=1, dtype=np.float32)
    direction = PASSES.index(key.partition("_")[0])
    tiles = np.column_stack([held["tiles"][direction], held["clusters"]]).astype(np.float32)
    return Proposals(
        tree_of(held, f"{key}_"),
        held[f"{key}_list"].astype(np.int32),
        plans,
        np.vstack([count, counts.T]),
        _different(plans, tiles),
        _kept(plans, tiles),
    )


def _different(plans: NDArray[np.int16], tiles: Singles) -> Singles:
    """The tiles of every list, each once, shape (T, 5, L)."""
    _, sort = np.unique(tiles, axis=0, return_inverse=True)
    first = np.zeros(sort.max() + 1, np.intp)
    first[sort[::-1]] = np.arange(sort.size)[::-1]
    sort = np.where(tiles[:, 0] > 0.0, sort.reshape(-1) + 1, 0)
    placed = np.sort(sort[plans], axis=1)[:, ::-1]
    placed[:, 1:][placed[:, 1:] == placed[:, :-1]] = 0
    placed = np.sort(placed, axis=1)[:, ::-1]
    placed = placed[:, : max(1, int((placed > 0).sum(axis=1).max()))]
    found = tiles[first[np.maximum(placed - 1, 0)]] * (placed > 0)[..., None]
    return np.ascontiguousarray(found.transpose(1, 2, 0))


def _kept(plans: NDArray[np.int16], tiles: Singles) -> Singles:
    found = []
    for rows, cols in KEPT:
        step = np.where((tiles[:, 0] == rows) & (tiles[:, 1] == cols), tiles[:, 2], 0.0)
        found.append(step[plans].max(axis=1))
    return np.stack(found).astype(np.float32)


def proposed_columns(
    sizes: Mapping[str, Floats], direction: str, layout: str, dtype: str, seconds: Floats
) -> tuple[tuple[str, ...], list[Any]]:
    """Names and values (N,) of what a correction sees of the plans that are proposed.

    ``sizes`` are :data:`SIZES`, arrays of shape (N,), in elements; ``seconds`` the mechanism's time
    [s]. Counts of words, then logarithms of base 2 and shares. Zeros where no proposals are known.

    Raises
    ------
    CalibrationError
        If the file of trees is damaged.
    """
    words, trees = proposals()
    names = (*words, *COSTS)
    key = key_of(direction, layout, dtype)
    if key not in trees or dtype not in DTYPES:
        return names, [np.zeros(seconds.shape, np.float32)] * len(names)
    tree = trees[key]
    at = tree(asked_columns(sizes, direction, dtype))
    counts = list(tree.counts.take(at, axis=1))
    return names, counts + _costs(tree, at, sizes, direction, seconds)


def _costs(
    tree: Proposals,
    at: NDArray[np.int32],
    sizes: Mapping[str, Floats],
    direction: str,
    seconds: Floats,
) -> list[Singles]:
    """Work of the best listed tiles against the time, shapes (N,); in single precision."""
    rows, cols, depth, taps, groups = (
        np.asarray(x, dtype=np.float32) for x in product(sizes, direction)
    )
    per = groups / np.float32(UNITS)
    scale = -np.log2(seconds).astype(np.float32)
    none = np.float32(np.inf)
    best = [np.full(at.size, none) for _ in _TOGETHER]
    second = [np.full(at.size, none) for _ in _TOGETHER]
    which = [np.zeros(at.size, np.intp) for _ in _TOGETHER]
    for place, tiles in enumerate(tree.tiles):
        tile = tiles.take(at, axis=1)
        has = tile[0] > 0.0
        np.maximum(tile, 1.0, out=tile)
        waves, _, _ = _waves(tile, rows, cols, per)
        steps = np.ceil(depth / tile[2]) * tile[2] * tile[0] * tile[1]
        steps[~has] = none
        for number, each in enumerate(_TOGETHER):
            cost = np.ceil(waves / np.float32(each)) * np.float32(each) * steps
            less = cost < best[number]
            second[number] = np.minimum(second[number], np.maximum(cost, best[number]))
            best[number] = np.minimum(cost, best[number])
            which[number][less] = place
    found: list[Singles] = []
    for number in range(len(_TOGETHER)):
        some = np.isfinite(best[number])
        tile = np.maximum(tree.tiles[which[number], :, at].T, 1.0)
        waves, high, wide = _waves(tile, rows, cols, per)
        work = np.log2(np.where(some, best[number] * taps, 1.0)) + scale
        with np.errstate(invalid="ignore"):
            behind = np.where(some, second[number] / best[number], none)
        values = (
            work, np.log2(np.clip(behind, 1.0, 2.0**_ABSENT)), waves / np.ceil(waves),
            np.log2(np.minimum(waves, 64.0) + 1e-3), np.log2(tile[0]), np.log2(tile[1]),
            rows / (high * tile[0]), cols / (wide * tile[1]),
        )  # fmt: skip
        found += [np.where(some, value, np.float32(0.0)) for value in values]
    first = found[0]
    for (tall, broad), kept in zip(KEPT, tree.kept, strict=True):
        step = kept[at]
        has = step > 0.0
        step = np.maximum(step, 1.0)
        waves = np.ceil(rows / tall) * np.ceil(cols / broad) * per
        work = np.ceil(waves) * (np.ceil(depth / step) * step * taps) * np.float32(tall * broad)
        apart = np.clip(np.log2(work) + scale - first, -1.0, _ABSENT)
        found.append(np.where(has, apart, np.float32(_ABSENT)))
    return found


def _waves(
    tile: Singles, rows: Singles, cols: Singles, per: Singles
) -> tuple[Singles, Singles, Singles]:
    """Waves of a tile (5, N) in whole clusters, and its blocks along rows and columns."""
    high = np.ceil(np.ceil(rows / tile[0]) / tile[3]) * tile[3]
    wide = np.ceil(np.ceil(cols / tile[1]) / tile[4]) * tile[4]
    return high * wide * per, high, wide
