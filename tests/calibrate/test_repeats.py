"""Operators that were measured twice: told apart from the rest, and summed up."""

import pytest

from validate.accuracy_ops import repeat_table, repeats


def test_table_counts_what_lies_within_three_percent():
    lines = repeat_table([("conv_fwd_nhwc", 1.02), ("conv_fwd_nchw", 1.5)]).splitlines()
    assert lines[2] == "| all | 2 | 26.0 | 26.0 | 50 | 50 % |"
    assert lines[3].startswith("| conv_fwd | 2 |")


@pytest.mark.parametrize("chip", ["h100-sxm5-80gb", "h200-sxm-141gb"])
def test_repeats_pair_a_later_run_with_the_first(chip):
    pairs = repeats(chip)
    assert len(pairs) >= 60
    assert all(0.1 < ratio < 10.0 for _, ratio in pairs)


def test_a_chip_of_which_nothing_was_measured_twice_has_none():
    assert repeats("a100-sxm4-80gb") == []
