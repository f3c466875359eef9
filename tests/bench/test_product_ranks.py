"""Ranks of half-precision kernels are taught from lists of answers."""

import importlib.util

import numpy as np
import pytest

from perfmodel.cost.choice import asked_columns
from perfmodel.cost.choice_rank import ranks_of
from validate.bench import product_ranks
from validate.products import Table

NEEDS_TREES = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None, reason="no scikit-learn"
)
WIDE = (0.0, 128.0, 256.0, 64.0, 4.0, 2.0, 1.0, 0.0, 0.0, 0.0)
OTHER = (*WIDE[:5], 1.0, 2.0, *WIDE[7:])
NONE = (5.0, *[0.0] * 9)


def _table(count):
    """Narrow products take a kernel without tiles, others one of two that are told as one."""
    draw = np.random.default_rng(0)
    m, n, k = (8.0 * draw.integers(1, 200, count) for _ in range(3))
    columns = asked_columns(m, n, k, np.ones(count), np.zeros(count), 3.35e12, "bf16")
    names = [NONE if size < 400 else (WIDE, OTHER)[at % 2] for at, size in enumerate(m)]
    return Table(columns, names, np.ones(count))


def test_kernels_with_tiles_come_first_and_clusters_are_not_told_apart():
    names, rows = product_ranks.kernels_of(_table(1000))
    assert [name[:3] for name in names] == [WIDE[:3], NONE[:3]]
    assert rows[0, 3] == 64.0
    assert rows[0, 5:7].tolist() == [1.0, 1.0]


@NEEDS_TREES
def test_parts_are_learned_from_the_kernels_that_are_cut():
    table = _table(1000)
    k = table.columns[:, 2]
    table.parts = np.where((k > 800) & (table.columns[:, 0] >= 400), 8.0, 1.0)
    _, kernels = product_ranks.kernels_of(table)
    held = product_ranks.taught_trees(table, kernels)
    assert held["cut"].tolist() == [1.0, 0.0]
    assert set(held["logs"][held["below"] == np.arange(len(held["below"]))]) == {0.0, 3.0}


@NEEDS_TREES
def test_blocks_that_work_together_are_learned():
    table = _table(1000)
    tall = table.columns[:, 1] > 800
    table.kernels = [
        name if name == NONE else (WIDE if high else OTHER)
        for name, high in zip(table.kernels, tall, strict=True)
    ]
    _, kernels = product_ranks.kernels_of(table)
    held = product_ranks.taught_trees(table, kernels)
    assert not held["cut"].any()
    leaves = held["blocks_below"] == np.arange(len(held["blocks_below"]))
    assert {tuple(pair) for pair in held["blocks_sides"][leaves]} == {(2.0, 1.0), (1.0, 2.0)}


@pytest.mark.torch
@NEEDS_TREES
def test_ranks_learn_a_plain_rule():
    table = _table(4000)
    held = ranks_of(product_ranks.taught(table, 60.0))
    assert product_ranks.right(held, table).mean() > 0.9
