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


@pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="no scikit-learn")
def test_a_tree_says_what_it_was_grown_from(monkeypatch):
    trees = importlib.import_module("sklearn.tree")
    kept = []
    grower = trees.DecisionTreeRegressor

    def remembered(**words):
        kept.append(grower(**words))
        return kept[-1]

    monkeypatch.setattr(trees, "DecisionTreeRegressor", remembered)
    drawn = _drawn()
    ((_, some, columns),) = convolutions.cells(drawn)
    found = convolutions.grown(some, columns, np.eye(3), 2)
    leaf = tree_of(found)(columns)
    assert found["plans"][found["list"][leaf]].tolist() == some.lists.tolist()
    same = np.unique(np.column_stack([leaf, kept[0].apply(columns)]), axis=0)
    assert len(same) == len(np.unique(leaf)) == len(np.unique(same[:, 1]))
