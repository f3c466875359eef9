"""Drawn convolutions, words of plans, and the decision trees that are grown from them."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from perfmodel.cost.walk import tree_of
from validate import convolutions
from validate.convolutions import Drawn


def test_a_plan_tells_engine_tile_and_cluster():
    plan = "eng65_k2=5_k13=1_k18=1_k25=0_k27=2_k28=3"
    assert convolutions.words(plan) == ("eng65", "eng65_5", "eng65_5_1_", "cluster2x3")
    assert convolutions.cluster(plan) == (2, 3)
    assert convolutions.words("") == ()


def _drawn(count=400):
    rng = np.random.default_rng(0)
    sizes = np.ones((count, 10), np.int64)
    sizes[:, 1:5] = rng.integers(1, 300, (count, 4))
    sizes[:, 5] = 0
    lists = np.zeros((count, 10), np.int64)
    lists[:, 0] = 1 + (sizes[:, 1] > 100)
    plans = ["", "eng1_k2=4", "eng2_k2=8"]
    return Drawn(sizes, np.zeros(count, np.int64), lists, plans, np.zeros((3, 3, 3), np.int64))


def test_sizes_of_a_volume_and_of_a_map():
    rows = np.array([[2, 3, 4, 9, 7, 0, 3, 2, 1, 1], [2, 3, 4, 9, 7, 5, 3, 2, 1, 0]])
    found = convolutions.columns_of(rows)
    assert found["outputs"].tolist() == [20.0, 60.0]
    assert found["taps"].tolist() == [9.0, 27.0]
    assert found["inputs"].tolist() == [63.0, 315.0]
    assert found["groups"].tolist() == [1.0, 1.0]


def test_words_that_tell_the_same_are_chosen_once():
    names, held = convolutions.telling(_drawn(), 10)
    assert len(names) == 1
    assert held.shape == (3, 1)


def test_a_measured_convolution_is_known():
    drawn = convolutions.read(convolutions.DRAWN)
    assert len(drawn.sizes) == len(drawn.cells) == len(drawn.lists)
    assert drawn.lists.max() < len(drawn.plans) == drawn.tiles.shape[1]
    assert (drawn.lists[:, 0] > 0).all()


def test_further_lists_are_those_whose_plans_are_known(tmp_path):
    drawn = _drawn(3)
    names = np.array(["", "eng2_k2=8_k18=4", "eng1_k2=4", "eng9_k2=1"])
    sizes = np.full((3, 10), 7)
    plans = np.zeros((3, 10), np.int64)
    plans[:, :2] = [[2, 1], [2, 3], [1, 0]]
    path = tmp_path / "drawn-plans.npz"
    np.savez(path, sizes=sizes, cell=np.arange(3), plans=plans, names=names)
    found = convolutions.with_listed(drawn, [path])
    assert found.lists[3:, :3].tolist() == [[2, 1, 0], [2, 0, 0]]
    assert found.cells[3:].tolist() == [0, 2]
    assert found.sizes[3:].tolist() == sizes[:2].tolist()
    assert convolutions.known(found, {(*sizes[0].tolist(), 2)}).tolist() == [False] * 4 + [True]


def test_words_that_fits_name_are_counted_again():
    plans = [*_drawn().plans, "eng1_k2=4_k27=2_k28=1"]
    drawn = replace(_drawn(), plans=plans)
    found = convolutions.counted(drawn, ["eng1", "cluster2x1", "eng1_4"])
    assert found.tolist() == [[0, 0, 0], [1, 0, 1], [0, 0, 0], [1, 1, 1]]


without_trees = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None, reason="no scikit-learn"
)


@without_trees
def test_a_tree_says_what_it_was_grown_from():
    drawn = _drawn()
    ((_, some, columns),) = convolutions.cells(drawn)
    found = convolutions.grown(some, columns, np.eye(3), 2)
    leaf = tree_of(found)(columns)
    assert found["plans"][found["list"][leaf]].tolist() == some.lists.tolist()
    assert len(np.unique(leaf)) == 2  # no split but the one that tells two lists apart


def _asked(value, side):
    """A tree's places: two splits, the second of which tells nothing apart."""
    return {
        "asked": np.array([0, 1, 0, 0, 0], np.uint8),
        "limits": np.array([value, side, np.inf, np.inf, np.inf], np.float32),
        "below": np.array([1, 3, 2, 3, 4], np.int32),
        "depth": np.int64(2),
    }


def test_splits_that_tell_nothing_apart_are_left_out():
    before, columns = _asked(0.5, 0.25), np.random.default_rng(0).random((50, 2), np.float32)
    for named, places in (([0, 0, 5, 7, 7], 3), ([0, 0, 7, 7, 7], 1), ([0, 0, 5, 7, 6], 5)):
        found, said = convolutions.merged(before, np.array(named))
        assert len(said) == len(found["below"]) == places
        assert found["depth"] == (places - 1) // 2
        expected = np.array(named)[tree_of(before)(columns)]
        assert said[tree_of(found)(columns)].tolist() == expected.tolist()


def test_a_vote_tells_what_most_trees_name_alike():
    drawn = _drawn(4)
    drawn = replace(drawn, lists=np.array([[1], [1], [2], [3]]) * np.eye(1, 10, dtype=int))
    fresh = convolutions.Fresh(
        np.full((3, 10), 9), np.full(3, 2), np.arange(3, dtype=np.float32)[:, None]
    )
    votes = np.array([[0, 1, 2], [0, 2, 2], [1, 0, 2], [0, 2, 1], [2, 1, 1]])
    more, columns = convolutions.voted(drawn, np.zeros((4, 1), np.float32), fresh, votes)
    assert more.lists[4:, 0].tolist() == [1, 3]  # of the second no three say the same
    assert columns[4:, 0].tolist() == [0.0, 2.0]
    assert more.cells[4:].tolist() == [2, 2]


def test_fresh_convolutions_are_of_one_tree():
    found = convolutions.fresh("wgrad_nchw_half", 60, 3)
    assert len(found.sizes) == len(found.cells) == len(found.columns) >= 60
    assert set(found.cells // 4) == {5}
    assert set(found.cells % 4) <= {0, 1, 2}
    ((_, _, columns),) = convolutions.cells(
        replace(
            _drawn(),
            sizes=found.sizes,
            cells=found.cells,
            lists=np.zeros((len(found.cells), 10), int),
        )
    )
    assert np.sort(columns, axis=0).tolist() == np.sort(found.columns, axis=0).tolist()


@without_trees
def test_most_trees_of_a_vote_are_right():
    drawn = _drawn()
    ((_, some, columns),) = convolutions.cells(drawn)
    votes = [convolutions.vote(some, columns, np.eye(3), 2, columns, seed) for seed in range(3)]
    lists = np.unique(some.lists, axis=0)
    assert lists[votes[0]].tolist() == some.lists.tolist()
    assert np.mean(np.array(votes) == votes[0]) > 0.9
