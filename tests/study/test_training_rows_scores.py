"""Scores against closed forms and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from perfmodel.study.scores import REPORT, TUNE, groups, half, regret, score, spearman
from perfmodel.study.training_words import recomputation, sharding

TIMES = st.lists(st.floats(0.01, 100), min_size=3, max_size=20)


def test_score_of_known_ratios():
    found = score([2.0, 0.5, 1.0, 1.1], [1.0, 1.0, 1.0, 1.0])
    assert found.count == 4
    assert found.mape == pytest.approx((1.0 + 0.5 + 0.0 + 0.1) / 4)
    assert found.median == pytest.approx(0.3)
    assert found.bias == pytest.approx(1.1 ** (1 / 4) - 1)
    assert found.worst == pytest.approx(1.0)
    assert score([], []) is None


@given(TIMES)
def test_a_perfect_prediction_has_no_error_and_no_regret(times):
    found = score(times, times)
    assert (found.mape, found.bias, found.worst) == (0, 0, 0)
    assert regret(times, times) == 0


@given(TIMES, st.randoms())
def test_order_as_scipy_counts_it(times, random):
    other = list(times)
    random.shuffle(other)
    mine = spearman(times, other)
    if np.ptp(times) == 0:
        assert np.isnan(mine)
    else:
        assert mine == pytest.approx(spearmanr(times, other).statistic, abs=1e-9)


def test_regret_is_what_the_choice_costs():
    assert regret([1.0, 2.0, 3.0], [12.0, 10.0, 11.0]) == pytest.approx(0.2)
    assert regret([3.0, 2.0, 1.0], [12.0, 10.0, 11.0]) == pytest.approx(0.1)


def test_the_halves_are_fixed_and_of_like_size():
    names = [f"T{number:04d}" for number in range(1, 2001)]
    share = np.mean([half(name) == TUNE for name in names])
    assert 0.45 < share < 0.55
    # sha256sum of the names begins with cc, 3e and 49
    assert [half(name) for name in ("T0001", "T0025", "T0031")] == [TUNE, TUNE, REPORT]


def test_groups_keep_order():
    assert groups(["a", "b", "a", "c"]) == {"a": [0, 2], "b": [1], "c": [3]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("none", "selective", "full")),
        ("None", ("none",)),
        ("FULL", ("full",)),
        ("uniform", ("full",)),
        ("yes", ("full",)),
        ("off", ("none",)),
        ("selective(attention core)", ("selective",)),
        ("core_attn", ("selective",)),
        ("something new", ("none", "selective", "full")),
    ],
)
def test_words_for_recomputation(text, words):
    assert recomputation(text).words == words


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("ZeRO-1", (1,)),
        ("zero stage 2", (2,)),
        ("ZeRO-3 (DeepSpeed)", (3,)),
        ("FSDP FULL_SHARD", (3,)),
        ("FSDP SHARD_GRAD_OP", (2,)),
        ("HSDP", (3,)),
        ("DDP", (0,)),
        ("none", (0,)),
        ("DDP + distributed optimizer", (1,)),
        ("2", (2,)),
    ],
)
def test_words_for_sharding(text, stages):
    found = sharding(text)
    assert found.stages == stages
    assert found.known
