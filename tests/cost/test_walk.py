"""Walks through decision trees that are held as arrays."""

import numpy as np
import pytest

from perfmodel.cost.walk import Tree, tree_of


def _deep(questions):
    """Is x above 0, above 1, ...: the leaf of the first No, or the last place."""
    count = 2 * questions + 1
    place = np.arange(count)
    asks = place % 2 == 0
    asks[-1] = False
    limits = np.where(asks, place // 2, np.inf).astype(np.float32)
    below = np.where(asks, place + 1, place).astype(np.int32)
    return {"asked": np.zeros(count, np.int16), "limits": limits, "below": below}


@pytest.mark.parametrize("questions", [0, 1, 2, 4, 5, 11])
def test_every_row_comes_to_its_leaf_however_deep(questions):
    values = np.array([-1.0, 0.0, 0.5, 3.0, 3.5, 7.25, 100.0], np.float32)
    tree = tree_of(_deep(questions), depth=questions)
    wanted = []
    for value in values:
        above = int(np.ceil(max(value, 0.0)))  # thresholds 0, 1, ... that lie below
        wanted.append(2 * above + 1 if above < questions else 2 * questions)
    assert tree(values[:, None]).tolist() == wanted
    assert [int(tree(values[at : at + 1, None])[0]) for at in range(len(values))] == wanted


def test_no_rows_have_no_leaves():
    assert tree_of(_deep(3), depth=3)(np.zeros((0, 1), np.float32)).shape == (0,)


def test_arrays_of_a_file_become_a_tree():
    held = {f"half_{name}": value for name, value in _deep(2).items()}
    tree = tree_of({**held, "half_depth": np.int64(2)}, "half_")
    assert isinstance(tree, Tree)
    assert tree.depth == 2
    assert (tree.asked.dtype, tree.limits.dtype, tree.below.dtype) == (
        np.int16,
        np.float32,
        np.int32,
    )
    with pytest.raises(KeyError, match="half_depth"):
        tree_of(held, "half_")


@pytest.mark.parametrize(
    "change",
    [
        {"below": np.array([1, 1, 9, 3, 4])},  # out of the tree
        {"below": np.array([1, 1, 0, 3, 4])},  # back
        {"limits": np.zeros(4)},
        {"asked": np.array([-1, 0, 0, 0, 0])},
    ],
)
def test_a_tree_that_leads_nowhere_is_refused(change):
    with pytest.raises(ValueError, match="a tree"):
        tree_of(_deep(2) | change, depth=2)
