import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.estimate import BOUNDS, Estimate, EstimateError, from_dict, leaf, overlap, total

seconds = st.floats(min_value=0, max_value=1e4, allow_nan=False)


@st.composite
def leaves(draw):
    prediction = draw(seconds)
    low = prediction * draw(st.floats(0, 1))
    return leaf(
        draw(st.sampled_from("abcde")),
        prediction,
        bound=draw(st.sampled_from(BOUNDS)),
        lower=low * draw(st.floats(0, 1)),
        low=low,
        high=prediction * draw(st.floats(1, 3)),
        calibrated=draw(st.booleans()),
        citations=draw(st.sets(st.sampled_from(["x", "y"]))),
    )


@given(leaves(), leaves(), leaves())
def test_sum_is_associative_and_adds_every_number(a, b, c):
    left, right = (a + b) + c, a + (b + c)
    for field in ("seconds", "lower", "low", "high"):
        assert math.isclose(getattr(left, field), getattr(right, field), rel_tol=1e-12)
        assert math.isclose(
            getattr(left, field), sum(getattr(x, field) for x in (a, b, c)), rel_tol=1e-9
        )
    assert len(left.parts) == len(right.parts) == 3
    assert left.calibrated == (a.calibrated and b.calibrated and c.calibrated)


@given(leaves(), leaves())
def test_overlap_lies_between_the_longest_and_the_sum(a, b):
    both = overlap(a, b)
    assert both.seconds == max(a.seconds, b.seconds) <= (a + b).seconds * (1 + 1e-12)
    assert both.lower <= both.seconds <= both.high
    assert both.seconds == overlap(b, a).seconds


@pytest.mark.parametrize("times", [-1, math.nan, math.inf, "2", None, [2.0]])
def test_a_factor_that_is_no_number_of_repetitions_is_told(times):
    with pytest.raises(EstimateError, match="scale") as told:
        leaf("a", 1.0, bound="memory").scale(times)
    assert all((told.value.accepted, told.value.repair))


@given(leaves(), st.integers(0, 50))
def test_scale_is_repeated_addition(a, times):
    assert math.isclose(
        a.scale(times).seconds, math.fsum([a.seconds] * times), rel_tol=1e-12, abs_tol=0
    )


@given(leaves(), leaves())
def test_dictionary_round_trip(a, b):
    tree = overlap(a + b, b.scale(2), name="both")
    assert from_dict(tree.to_dict()) == tree


def test_explain_shows_parts_shares_and_sources():
    tree = total(
        "step",
        [
            leaf("gemm", 3e-3, bound="compute", citations=["paper-a"]),
            leaf("norm", 1e-3, bound="memory", calibrated=True),
        ],
    )
    text = tree.explain()
    assert "gemm: 3 ms 75.0% (compute, uncalibrated)" in text
    assert "norm: 1 ms 25.0% (memory)" in text
    assert text.endswith("sources: paper-a")
    assert tree.bound == "compute"


def test_small_parts_are_counted_when_left_out():
    tree = total("step", [leaf("big", 1.0, bound="compute"), leaf("tiny", 1e-4, bound="memory")])
    assert "1 smaller parts: 100 us" in tree.explain(smallest=0.01)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_impossible_times_are_refused(bad):
    with pytest.raises(EstimateError):
        leaf("x", bad, bound="compute")


def test_interval_out_of_order_is_refused():
    with pytest.raises(EstimateError, match="lower <= low"):
        Estimate("x", seconds=1.0, lower=2.0, low=2.0, high=3.0)


def test_unknown_bound_names_the_nearest():
    with pytest.raises(EstimateError, match="compute"):
        leaf("x", 1.0, bound="computer")


def test_nothing_overlapped_takes_no_time():
    assert overlap().seconds == 0.0
    assert total("nothing", []).seconds == 0.0
