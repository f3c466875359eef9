"""The int32 tables that drive the kernel: each slot's tiles, in the order it computes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perfmodel.optimize.grouped.knapsack import Kinds
from perfmodel.optimize.grouped.problem import GroupedConv, Integers
from perfmodel.optimize.grouped.tiles import Variant

Ints32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """``tiles`` (tiles, 4): group, row block, column block, shape; ``first`` (slots + 1,): where a
    slot's tiles begin.
    """

    first: Ints32
    tiles: Ints32


def tables(
    conv: GroupedConv, variant: Variant, pick: Integers, kinds: Kinds, counts: Integers
) -> Tables:
    """Hand the tiles of each kind to the slots that have room for them.

    Row blocks are dealt in order, so that slots working at one time read neighbouring pixels; a
    slot walks its tiles longest kind first.
    """
    lists = []
    for group, shape in enumerate(pick):
        tile = variant.tiles[shape]
        blocks = -(-conv.rows // tile.bm), -(-conv.groups[group].outputs // tile.bn)
        row, column = np.divmod(np.arange(blocks[0] * blocks[1]), blocks[1])
        one = np.empty((len(row), 4), dtype=np.int64)
        one[:, 0], one[:, 1], one[:, 2], one[:, 3] = group, row, column, shape
        lists.append(one)
    every = np.concatenate(lists)
    kind = kinds.of[every[:, 0]]
    position = every[:, 1] * np.array([variant.tiles[s].bm for s in pick])[every[:, 0]]
    slots = len(counts)
    slot = np.empty(len(every), dtype=np.int64)
    for k in range(len(kinds.number)):
        mine = np.flatnonzero(kind == k)
        mine = mine[np.lexsort((every[mine, 2], every[mine, 0], position[mine]))]
        # deal one tile to every slot before the second: neighbours run at the same time
        share = counts[:, k]
        owner = np.repeat(np.arange(slots), share)
        turn = np.arange(len(owner)) - np.repeat(np.cumsum(share) - share, share)
        slot[mine] = owner[np.lexsort((owner, turn))]
    longest = -kinds.seconds[kind]
    order = np.lexsort((every[:, 2], every[:, 0], position, longest, slot))
    first = np.searchsorted(slot[order], np.arange(slots + 1))
    return Tables(first.astype(np.int32), every[order].astype(np.int32))


def tables_in_order(conv: GroupedConv, variant: Variant, pick: Integers, slots: int) -> Tables:
    """Tiles as a grouped GEMM kernel takes them: in the order of the groups, round-robin."""
    lists = []
    for group, shape in enumerate(pick):
        tile = variant.tiles[shape]
        blocks = -(-conv.rows // tile.bm), -(-conv.groups[group].outputs // tile.bn)
        row, column = np.divmod(np.arange(blocks[0] * blocks[1]), blocks[1])
        lists.append(
            np.stack([np.full_like(row, group), row, column, np.full_like(row, shape)], axis=1)
        )
    every = np.concatenate(lists)
    slot = np.arange(len(every)) % slots
    order = np.argsort(slot, kind="stable")
    first = np.searchsorted(slot[order], np.arange(slots + 1))
    return Tables(first.astype(np.int32), every[order].astype(np.int32))
