"""Operators that were measured twice: told apart from the rest, and summed up."""

from validate.accuracy_ops import repeat_table, repeats


def test_table_counts_what_lies_within_three_percent():
    lines = repeat_table([("conv_fwd_nhwc", 1.02), ("conv_fwd_nchw", 1.5)]).splitlines()
    assert lines[2] == "| all | 2 | 26.0 | 26.0 | 50 | 50 % |"
    assert lines[3].startswith("| conv_fwd | 2 |")


def test_repeats_pair_a_later_run_with_the_first():
    pairs = repeats("h100-sxm5-80gb")
    assert len(pairs) >= 60
    assert all(0.1 < ratio < 10.0 for _, ratio in pairs)
    assert repeats("h200-sxm-141gb") == []
