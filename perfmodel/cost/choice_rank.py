r"""Which tile a library takes in half precision: scores by waves and a small network.

cuBLAS has 270 tiles for half-precision products and compares them by what they would cost, which
trees of sizes follow badly. Here each of them has a score

.. math::

    c_i = N_i(x) + (u_1(x) + v_{1i}) \ln \lceil w_i \rceil
        + 4 (u_2(x) + v_{2i}) \ln \frac{w_i a_i U}{m n b} + (u_3(x) + v_{3i}) [w_i \le 1], \quad
    w_i = \lceil n / r_i \rceil \lceil m / s_i \rceil \frac{b}{U}

for a tile of :math:`a_i = r_i s_i` on :math:`U` units, with a network of two layers that gives
:math:`N` and :math:`u` from sizes, evenness, layout, chip and dtype :math:`x`; the best score wins.
Kernels without tiles have :math:`N` alone. The parts that ``k`` is cut into fill the units a whole
number of times, which a decision tree follows that knows the tiles: it is right for nine of ten
products that are cut. Another tells the blocks that work together along each side, one of eight
pairs, by how many tiles the sides have: right for 97 of 100 where the tile is. Taught by
``validate/bench/product_ranks.py`` with answers to drawn products.

References
----------
Osama, Merrill, Cecka, Garland and Owens, "Stream-K: work-centric parallel decomposition for dense
matrix-matrix multiplication on the GPU", PPoPP 2023: what the last wave of tiles wastes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfmodel.cost.answers import UNITS, answers_of
from perfmodel.cost.arrays import Arrays
from perfmodel.cost.parts import Floats
from perfmodel.cost.walk import Tree, tree_of

Singles = NDArray[np.float32]
FILE: Final = "products/cublas13-hopper-half.npz"
TILES: Final = ((64, 8), (64, 32), (192, 192), (256, 128), (128, 64), (128, 128), (320, 128),
                (64, 64))  # fmt: skip
"""Whose waves the network is shown."""
DEPTH: Final = 30
"""Questions about parts, and about blocks, at most."""
_CHUNK: Final = 256
ARRAYS: Final = (
    "mean", "scale", "first", "first_bias", "second", "second_bias", "last", "last_bias",
    "shared", "shared_bias", "own", "kernels", "cut", "asked", "limits", "below", "logs",
    "blocks_asked", "blocks_limits", "blocks_below", "blocks_sides",
)  # fmt: skip


def shown(
    m: Floats,
    n: Floats,
    k: Floats,
    batch: Floats,
    layout: Floats,
    newer: ArrayLike,
    fp16: ArrayLike,
) -> Singles:
    """What the network sees, shape (N, F).

    ``m``, ``n``, ``k`` and ``batch`` are sizes in elements, arrays of shape (N,); ``layout`` counts
    :data:`perfmodel.cost.choice.LAYOUTS`; ``newer`` is 1 for an H200, 0 for an H100; ``fp16`` tells
    that from bf16.
    """
    whole = [np.clip(size, 1.0, 2.0**40).astype(np.int64) for size in (m, n, k)]
    even = [np.log2(np.minimum(size & -size, 64)) for size in whole]
    log_m, log_n, log_k, log_batch = (np.log2(size) for size in (m, n, k, batch))
    columns = [
        log_m, log_n, log_k, log_batch, log_m + log_n + log_batch, log_m - log_n,
        log_k - (log_m + log_n) / 2.0, *even,
        *(np.minimum(size, 256.0) / 64.0 for size in (m, n, k)),
        np.full_like(m, newer), np.full_like(m, fp16), batch > 1.0, layout == 0.0, layout == 1.0,
    ]  # fmt: skip
    columns += [(size & (step - 1)) == 0 for step in (2, 8) for size in whole]
    for rows, cols in TILES:
        waves = np.ceil(n / rows) * np.ceil(m / cols) * batch / UNITS
        turns = np.ceil(waves)
        columns += [waves / turns, np.minimum(turns, 8.0)]
    return np.stack(columns, dtype=np.float32, casting="unsafe").T


def asked_of_parts(
    kernels: NDArray[Any],
    sizes: tuple[Floats, Floats, Floats, Floats],
    layout: Floats,
    newer: ArrayLike,
    fp16: ArrayLike,
) -> Singles:
    """What the tree of parts asks about, shape (N, F).

    ``kernels`` are rows of :data:`perfmodel.cost.choice.KERNEL` (N, 10), ``sizes`` m, n, k and
    batch, the rest as for :func:`shown`.
    """
    m, n, k, batch = sizes
    maker, rows, cols, step = kernels.T[:4]
    tiles = np.ceil(n / np.maximum(rows, 1.0)) * np.ceil(m / np.maximum(cols, 1.0)) * batch
    columns = (
        maker, rows, cols, step, kernels[:, 8], kernels[:, 9], m, n, k, layout,
        np.full_like(m, newer), np.full_like(m, fp16), tiles, k / tiles,
        tiles * rows * cols / (m * n * batch), np.floor(UNITS / tiles),
        np.floor(2.0 * UNITS / tiles), k / 64.0,
    )  # fmt: skip
    return np.stack(columns, axis=1, dtype=np.float32, casting="unsafe")


def asked_of_blocks(
    kernels: NDArray[Any],
    parts: Floats,
    sizes: tuple[Floats, Floats, Floats, Floats],
    layout: Floats,
    newer: ArrayLike,
    fp16: ArrayLike,
) -> Singles:
    """What the tree of blocks asks about, shape (N, F).

    ``parts`` (N,) are those of ``k``, the rest as for :func:`asked_of_parts`.
    """
    m, n, _, batch = sizes
    high = np.ceil(n / np.maximum(kernels[:, 1], 1.0))
    wide = np.ceil(m / np.maximum(kernels[:, 2], 1.0))
    waves = high * wide * batch * parts / UNITS
    columns = (
        batch, parts, high, wide, high % 2.0, wide % 2.0, high % 4.0, wide % 4.0, high / wide,
        waves, waves / np.ceil(waves),
    )  # fmt: skip
    more = np.stack(columns, axis=1, dtype=np.float32, casting="unsafe")
    return np.hstack([asked_of_parts(kernels, sizes, layout, newer, fp16), more])


@dataclass(frozen=True, slots=True)
class Ranks:
    """The network and its kernels, those with tiles first, as they are asked fastest.

    Parameters
    ----------
    held : dict of array
        :data:`ARRAYS`.
    rows, cols : array, shape (R, 1), (C, 1)
        Sides that tiles have.
    row_of, col_of : array of int, shape (T,)
        Which of them every tile has.
    first : array, shape (H, F + 1)
        The first matrix for columns as they are, with its bias.
    last : array, shape (K, H + 1)
        The last matrix with its bias, and twice what a tile of one wave has more.
    slopes : array, shape (3, T, 2)
        Times (1, :math:`u_j`) it is :math:`u_j + v_{ji}`, of the third less: as a product of
        matrices three times as fast as a sum.
    cut : array of bool, shape (K,)
        Whose ``k`` is ever cut into parts.
    tree : Tree
        Of what :func:`asked_of_parts` gives; its leaves say the parts' base-2 logarithm, ``logs``.
    blocks : Tree
        Of what :func:`asked_of_blocks` gives; its leaves say the blocks along and across that work
        together, ``blocks_sides`` (P, 2).
    """

    held: dict[str, Singles]
    rows: Singles
    cols: Singles
    row_of: NDArray[np.intp]
    col_of: NDArray[np.intp]
    first: Singles
    last: Singles
    slopes: Singles
    cut: NDArray[np.bool_]
    tree: Tree
    blocks: Tree

    def __call__(self, columns: Singles, m: Floats, n: Floats, batch: Floats) -> NDArray[np.intp]:
        """Place of the best kernel of every product, shape (N,).

        ``columns`` (N, F) are :func:`shown`'s of products of sizes ``m``, ``n`` and ``batch``, of
        shape (N,), in elements.
        """
        best = np.empty(len(m), dtype=np.intp)
        room = np.empty((4, len(self.last), min(_CHUNK, len(m))), dtype=np.float32)
        sides = [side.astype(np.float32) for side in (m, n, batch / UNITS)]
        for start in range(0, len(m), _CHUNK):
            here = slice(start, start + _CHUNK)
            wide, high, per = (side[here] for side in sides)
            some = room[..., : len(high)]
            best[here] = self._some(columns[here].T, wide, high, per, some)
        return best

    def parts(
        self,
        best: NDArray[np.intp],
        sizes: tuple[Floats, Floats, Floats, Floats],
        layout: Floats,
        newer: float,
        fp16: float,
    ) -> Floats:
        """Parts that the best kernels (N,) cut ``k`` into; arguments of :func:`asked_of_parts`."""
        parts = np.ones(len(best))
        some = np.flatnonzero(self.cut[best])
        if some.size:
            kernels = self.held["kernels"].astype(np.float64)[best[some]]
            m, n, k, batch = (size[some] for size in sizes)
            asked = asked_of_parts(kernels, (m, n, k, batch), layout[some], newer, fp16)
            logs = self.held["logs"][self.tree(asked)].astype(np.float64)
            parts[some] = np.maximum(1.0, np.rint(2.0**logs))
        return parts

    def together(
        self,
        kernels: Floats,
        parts: Floats,
        sizes: tuple[Floats, Floats, Floats, Floats],
        layout: Floats,
        newer: float,
        fp16: float,
    ) -> Floats:
        """Blocks along and across that work together, (N, 2); as :func:`asked_of_blocks`."""
        asked = asked_of_blocks(kernels, parts, sizes, layout, newer, fp16)
        return self.held["blocks_sides"][self.blocks(asked)].astype(np.float64)

    def _some(
        self, columns: Singles, m: Singles, n: Singles, per: Singles, room: Singles
    ) -> NDArray[np.intp]:
        """The same of a few, shown as (F, N), in memory that is used again; ``per`` is b/U."""
        held, count, tiles = self.held, len(m), len(self.row_of)
        scores, (first, second, third) = room[0], room[1:, :tiles]
        inner = self.first[:, :-1] @ columns
        inner += self.first[:, -1:]
        np.maximum(inner, np.float32(0.0), out=inner)
        deep = np.ones((self.last.shape[1], count), dtype=np.float32)
        inner = np.matmul(held["second"], inner, out=deep[:-1])
        inner += held["second_bias"]
        np.maximum(inner, np.float32(0.0), out=inner)
        np.matmul(self.last, deep, out=scores)
        pair = np.ones((3, 2, count), dtype=np.float32)
        pair[:, 1] = held["shared"] @ inner + held["shared_bias"]
        tiled = scores[:tiles]
        across, along = n / self.rows, m / self.cols
        high, wide = np.ceil(across), np.ceil(along)
        high.take(self.row_of, axis=0, out=first, mode="wrap")
        (wide * per).take(self.col_of, axis=0, out=second, mode="wrap")
        first *= second
        np.ceil(first, out=first)
        np.minimum(first, np.float32(2.0), out=second)  # 1 of one wave, 2 of more
        np.matmul(self.slopes[2], pair[2], out=third)
        second *= third
        tiled += second
        np.log(first, out=first)
        np.matmul(self.slopes[0], pair[0], out=third)
        first *= third
        tiled += first
        # How much larger tiles are than the result, along each side.
        high /= across
        wide /= along
        np.log(high, out=high).take(self.row_of, axis=0, out=first, mode="wrap")
        np.log(wide, out=wide).take(self.col_of, axis=0, out=second, mode="wrap")
        first += second
        np.matmul(self.slopes[1], pair[1], out=third)
        first *= third
        tiled += first
        return _first(scores)


def _first(scores: Singles) -> NDArray[np.intp]:
    """Row of the first highest number of every column, in half the time of ``argmax``."""
    count = scores.shape[1]
    places = np.flatnonzero(scores == scores.max(axis=0))[::-1]
    best = np.zeros(count, dtype=np.intp)
    best[places % count] = places // count  # the lowest row is written last
    return best


def ranks_of(held: dict[str, Singles]) -> Ranks:
    """Ranks of the arrays :data:`ARRAYS`.

    Raises
    ------
    ValueError
        If a kernel without a tile stands before one that has one.
    """
    tiled = held["kernels"][:, 1] > 0.0
    count = int(tiled.sum())
    if not tiled[:count].all():
        raise ValueError("kernels with tiles come first")
    sides = held["kernels"][:count, 1:3]
    rows, row_of = np.unique(sides[:, 0], return_inverse=True)
    cols, col_of = np.unique(sides[:, 1], return_inverse=True)
    own = held["own"].reshape(3, count)
    slopes = np.stack([own, np.ones_like(own)], axis=-1)
    slopes[2] *= -1.0
    first = held["first"] * held["scale"].astype(np.float64)
    first = np.hstack([first, held["first_bias"] - (first @ held["mean"])[:, None]])
    last = np.hstack([held["last"], held["last_bias"]]).astype(np.float64)
    last[:count, :-1] += 2.0 * held["shared"][2]
    last[:count, -1] += 2.0 * (own[2] + held["shared_bias"][2])
    single = np.float32
    return Ranks(
        held, rows[:, None], cols[:, None], row_of, col_of,
        first.astype(single), last.astype(single), slopes, held["cut"] > 0.0,
        tree_of(held, depth=DEPTH), tree_of(held, "blocks_", DEPTH),
    )  # fmt: skip


@lru_cache(maxsize=2)
def ranks(path: Path | None = None) -> Ranks:
    """The ranks of half precision.

    Raises
    ------
    CalibrationError
        If the file is damaged.
    """
    return answers_of(FILE, "ranks of kernels", _ranks, path)


def _ranks(held: Arrays) -> Ranks:
    return ranks_of({name: held[name].astype(np.float32) for name in ARRAYS})
