"""Intervals of steps: quantiles over models and machines that a fit did not see."""

import numpy as np
import pytest

from perfmodel.calibrate.programs.interval import _folds, _kin, _Miss, _quantile


def test_sizes_of_a_design_are_kin():
    assert _kin("llama_03b") == _kin("Llama_8b") == "llama"
    assert _kin("gpt2_small") == _kin("gpt_124m") != _kin("bert_base")


def test_parts_hold_whole_groups_and_about_as_many_rows():
    found = _folds(["a"] * 9 + ["b"] * 5 + ["c"] * 4 + ["d"] * 3 + ["e"] * 2)
    assert found == {"a": 0, "b": 1, "c": 2, "d": 3, "e": 3}
    assert _folds(["a", "a"]) == {"a": 0}


def test_a_machine_with_many_rows_counts_as_much_as_one_with_few():
    rng = np.random.default_rng(3)
    quiet = [_Miss(float(x), 0, "quiet") for x in abs(rng.normal(0.0, 0.02, 900))]
    loud = [_Miss(float(x), 0, "loud") for x in abs(rng.normal(0.0, 0.10, 90))]
    every = [one.ratio for one in quiet + loud]
    assert _quantile(quiet, 0.9) == pytest.approx(
        np.quantile([x.ratio for x in quiet], 0.9), rel=0.02
    )
    assert _quantile(quiet + loud, 0.9) > 1.5 * np.quantile(every, 0.9)
    assert _quantile(loud[:1], 0.9) == loud[0].ratio
