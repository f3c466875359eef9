r"""Which kernel a library takes for a matrix product, by its own rule, and what that kernel does.

cuBLAS searches nothing: a rule of its own names one kernel, its tile, the thread blocks that work
together and the parts that ``k`` is cut into, from the sizes and the layout alone. Its answers to
nearly four million products, none of them measured, were recorded without running them
(``validate/bench/chosen.py``); decision trees, one for each class of arithmetic and one more where
rows start beside 16 bytes, give them again.
Of a kernel of tiles :math:`t_m \times t_n` in blocks of :math:`c_m \times c_n`, on :math:`U` units,
with ``k`` in ``s`` parts, the corrections are shown

.. math::

    w = s b \frac{\lceil n / t_m c_m \rceil \lceil m / t_n c_n \rceil c_m c_n}{U}, \quad
    \lceil w \rceil k_s t_m t_n, \quad \lceil w \rceil k_s (t_m / c_n + t_n / c_m), \quad
    \lceil w \rceil t_m t_n

against the mechanism's time: the arithmetic, the operands and the results of the unit that works
most. The first side of a tile lies along ``n``, as the library, which counts columns first, has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.answers import UNITS, answers_of
from perfmodel.cost.arrays import Arrays
from perfmodel.cost.choice_rank import ranks, shown
from perfmodel.cost.parts import Floats
from perfmodel.cost.walk import Tree, tree_of

FILE: Final = "products/cublas13-hopper.npz"
CLASSES: Final = {"bf16": "half", "fp16": "half", "tf32": "tf32", "fp32": "fp32"}
LAYOUTS: Final = ("tn", "nn", "nt", "tt")
_NEWER: Final = 4e12
"""Rate of the memory [B/s] between that of an H100 and of an H200."""
ODD: Final = "_odd"
"""Follows the name of a class whose rows start beside 16 bytes: other kernels, and other rules."""
_ODD_TILES: Final = ((16, 16), (32, 32), (64, 64), (128, 64), (64, 128), (128, 128), (256, 64),
                     (256, 128), (128, 256))  # fmt: skip
_TILES: Final = {
    "half": ((64, 8), (64, 16), (64, 32), (64, 64), (128, 64), (128, 128), (192, 192),
             (256, 128), (128, 256), (320, 128)),
    "tf32": ((32, 32), (64, 64), (64, 128), (128, 64), (128, 128), (128, 256)),
    "fp32": ((32, 32), (32, 128), (64, 64), (128, 64), (64, 256), (128, 128), (256, 128)),
    "half_odd": _ODD_TILES, "tf32_odd": _ODD_TILES,
    "fp32_odd": ((32, 32), (32, 64), (32, 128), (64, 64), (128, 32), (128, 64), (64, 256),
                 (128, 128), (256, 128)),
}  # fmt: skip
VECTOR: Final = 6.0
"""The maker of products by a vector, whose results lie along one side."""
KERNEL: Final = (
    "maker", "rows", "cols", "step", "stages", "along", "across", "together", "reduced", "variant",
)  # fmt: skip
"""What is known of a kernel: who wrote it, its tile (0 where it has none), elements of ``k`` in a
step, stages, blocks along and across that work together, warp groups that share a tile, whether a
second kernel adds parts up, and a mark of its instruction. Of kernels for few rows and for vectors,
the tile is what a block computes, and its warps stand for stages."""


_OF_ALL: Final = ("maker", "stages", "reduced", "variant", "k_parts")
NAMES: Final = tuple(
    f"chosen_{name}"
    for name in (
        "maker", "tile_rows", "tile_cols", "tile_step", "stages", "along", "across", "together",
        "reduced", "variant", "k_parts", "tile_area", "tile_waves", "tile_fill", "part_waves",
        "part_fill", "part_depth", "n_filled", "m_filled", "tile_turns", "turn_work",
        "turn_operands", "turn_taken", "all_operands", "turn_results", "turn_steps",
    )
)  # fmt: skip


KINDS: Final = ("tf32", "fp32", "half_odd", "tf32_odd", "fp32_odd")
"""Classes that trees know; even half precision is ranked."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The kernels of one class of arithmetic, by a tree of :func:`asked_columns`.

    Parameters
    ----------
    tree : Tree
        With P places.
    kernel : array of int, shape (P,)
        Row of ``kernels`` that a place names.
    parts : array, shape (P,)
        Base-2 logarithm of the parts of ``k`` there.
    kernels : array, shape (K, 10)
        :data:`KERNEL` of each.
    """

    tree: Tree
    kernel: NDArray[np.int16]
    parts: NDArray[np.float32]
    kernels: Floats

    def __call__(self, columns: NDArray[np.float32]) -> tuple[Floats, Floats]:
        """Kernels (N, 10), and parts of ``k`` (N,), of rows of :func:`asked_columns` (N, F)."""
        leaf = self.tree(columns)
        parts = np.maximum(1.0, np.rint(2.0 ** self.parts[leaf].astype(np.float64)))
        return self.kernels[self.kernel[leaf]], parts


def asked_columns(
    m: Floats,
    n: Floats,
    k: Floats,
    batch: Floats,
    layout: Floats,
    chip: float,
    dtype: str,
    odd: bool = False,
) -> NDArray[np.float32]:
    """What the trees ask about, shape (N, F): sizes, their evenness, and waves of some tiles.

    ``layout`` counts :data:`LAYOUTS`, ``chip`` is the memory's rate [B/s]. In half precision
    the last column tells fp16 from bf16: a sixth of their kernels differ. Of ``odd`` products,
    which both chips run alike, more is asked, and nothing of the chip.
    """
    kind = kind_of(dtype, odd)
    whole = [np.clip(size, 1.0, 2.0**40).astype(np.int64) for size in (m, n, k)]
    even = [np.minimum(size & -size, 64).astype(np.float64) for size in whole]
    area = m * n * batch
    columns = [m, n, k, batch, layout, np.full_like(m, 0.0 if odd else chip), *even, area, area * k,
               m / n, k / np.sqrt(m * n), area / k]  # fmt: skip
    if odd:
        plain, turned = (layout == 1.0) | (layout == 2.0), layout >= 2.0
        rows_even = np.minimum(np.where(plain, even[1], even[2]), np.where(turned, *even[::2]))
        columns += [np.minimum(rows_even, 8.0), m * n, n * k, m * k, np.minimum(m, n)]
        columns += [np.maximum(m, n)]
    for rows, cols in _TILES[kind]:
        waves = np.ceil(n / rows) * np.ceil(m / cols) * batch / UNITS
        columns += [waves, waves / np.ceil(waves)]
        if odd:
            columns.append(k / (waves * UNITS))
    if CLASSES[dtype] == "half":
        columns.append(np.full_like(m, dtype == "fp16"))
    return np.stack(columns, axis=1).astype(np.float32)


def kind_of(dtype: str, odd: bool) -> str:
    """The class whose rule a product follows."""
    return CLASSES[dtype] + ODD * odd


def layout_of(trans: NDArray[np.str_] | str, batch: Floats) -> Floats:
    """Place in :data:`LAYOUTS`, shape (N,)."""
    found = np.zeros(batch.shape)
    for place, name in enumerate(LAYOUTS):
        found = np.where(np.asarray(trans) == name, float(place), found)
    return found


@lru_cache(maxsize=2)
def rules(path: Path | None = None) -> Mapping[str, Rule]:
    """The trees by class of arithmetic.

    Raises
    ------
    CalibrationError
        If the file is damaged.
    """
    return answers_of(FILE, "decision trees of products", _rules, path)


def _rules(held: Arrays) -> dict[str, Rule]:
    return {
        kind: Rule(
            tree_of(held, f"{kind}_"),
            held[f"{kind}_kernel"].astype(np.int16),
            held[f"{kind}_parts"].astype(np.float32),
            held[f"{kind}_kernels"].astype(np.float64),
        )
        for kind in KINDS
    }


def chosen(
    m: Floats,
    n: Floats,
    k: Floats,
    batch: Floats,
    trans: NDArray[np.str_] | str,
    dtype: str,
    chip: float,
    odd: bool = False,
) -> tuple[Floats, Floats]:
    """The kernel of every product, (N, 10), and the parts of ``k``, (N,).

    Sizes in elements, arrays of shape (N,); ``trans`` is the layout, ``chip`` the rate of the
    memory [B/s]. Half-precision products are ranked by :mod:`perfmodel.cost.choice_rank` unless
    they are ``odd``: kernels of rows that start anywhere are few, and trees know them better.
    """
    if CLASSES[dtype] == "half" and not odd:
        sizes, layout = (m, n, k, batch), layout_of(trans, batch)
        newer, fp16 = float(chip > _NEWER), float(dtype == "fp16")
        held = ranks()
        best = held(shown(*sizes, layout, newer, fp16), m, n, batch)
        kernels = held.held["kernels"][best].astype(np.float64)
        parts = held.parts(best, sizes, layout, newer, fp16)
        sides = held.together(kernels, parts, sizes, layout, newer, fp16)
        kernels[:, 5:7] = np.where(kernels[:, 1:2] > 0.0, sides, 0.0)
        return kernels, parts
    columns = asked_columns(m, n, k, batch, layout_of(trans, batch), chip, dtype, odd)
    return rules()[kind_of(dtype, odd)](columns)


def chosen_columns(
    sizes: tuple[Floats, Floats, Floats, Floats],
    trans: NDArray[np.str_] | str,
    dtype: str,
    chip: float,
    seconds: Floats,
    odd: bool = False,
) -> tuple[tuple[str, ...], list[Floats]]:
    """Names and values (N,) of what a correction sees of the kernel.

    ``sizes`` are m, n, k and batch, ``seconds`` the mechanism's time, ``odd`` whether rows
    start beside 16 bytes. Of a kernel without tiles little is told, and nothing of products whose
    rule is not known.
    """
    m, n, k, batch = sizes
    if dtype not in CLASSES:
        return NAMES, [np.zeros(m.shape)] * len(NAMES)
    kernels, parts = chosen(m, n, k, batch, trans, dtype, chip, odd)
    maker, rows, cols, step, stages, along, across, together, reduced, variant = kernels.T
    column = (maker == VECTOR) & (n == 1.0)
    m, n = np.where(column, n, m), np.where(column, m, n)
    tiled = rows > 0.0
    high, wide = np.maximum(rows, 1.0), np.maximum(cols, 1.0)
    along, across = np.maximum(along, 1.0), np.maximum(across, 1.0)
    columns = np.ceil(n / (high * along)) * along
    lines = np.ceil(m / (wide * across)) * across
    tiles = columns * lines * batch
    waves = tiles / UNITS
    turns = np.ceil(waves * parts)
    depth = np.maximum(step, 1.0)
    depth *= np.ceil(k / (parts * depth))
    scale = -np.log(seconds)
    found = {
        "maker": maker, "tile_rows": rows, "tile_cols": cols, "tile_step": step, "stages": stages,
        "along": along, "across": across, "together": together, "reduced": reduced,
        "variant": variant, "k_parts": parts, "tile_area": np.log2(high * wide),
        "tile_waves": np.log2(waves), "tile_fill": waves / np.ceil(waves),
        "part_waves": np.log2(waves * parts), "part_fill": waves * parts / turns,
        "part_depth": np.log2(depth), "n_filled": n / (columns * high),
        "m_filled": m / (lines * wide), "tile_turns": turns,
        "turn_work": np.log(turns * depth * high * wide) + scale,
        "turn_operands": np.log(turns * depth * (high / across + wide / along)) + scale,
        "turn_taken": np.log(turns * depth * (high + wide)) + scale,
        "all_operands": np.log(tiles * parts * depth * (high / across + wide / along)) + scale,
        "turn_results": np.log(turns * high * wide) + scale,
        "turn_steps": np.log(turns * depth) + scale,
    }  # fmt: skip
    return NAMES, [
        value if name in _OF_ALL else np.where(tiled, value, 0.0) for name, value in found.items()
    ]
