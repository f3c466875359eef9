from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.errors import PlanError
from perfmodel.parallel.plan import RECOMPUTE, Plan, check, plan_from_dict

degree = st.sampled_from([1, 2, 4, 8])


@given(
    tp=degree,
    pp=degree,
    dp=degree,
    cp=degree,
    zero=st.integers(0, 3),
    recompute=st.sampled_from(RECOMPUTE),
)
def test_a_plan_is_its_dictionary(tp, pp, dp, cp, zero, recompute):
    plan = Plan(tp=tp, pp=pp, dp=dp, cp=cp, zero=zero, recompute=recompute, offload=("optimizer",))
    assert plan_from_dict(plan.to_dict()) == plan
    assert plan.world == tp * pp * dp * cp


@pytest.mark.parametrize(
    ("fields", "where", "accepted"),
    [
        ({"tp": 0}, "tp", "at least 1"),
        ({"tp": -2}, "tp", "at least 1"),
        ({"dp": 2.0}, "dp", "whole number"),
        ({"pp": True}, "pp", "whole number"),
        ({"micro_batch_size": float("nan")}, "micro_batch_size", "whole number"),
        ({"zero": 4}, "zero", "0, 1, 2 or 3"),
        ({"schedule": "1f1"}, "schedule", "1f1b"),
        ({"recompute": "ful"}, "recompute", "full"),
        ({"precision": "bf61"}, "precision", "bf16"),
        ({"cp_method": "rings"}, "cp_method", "ring"),
        ({"offload": ("weight",)}, "offload", "weights"),
        ({"sequence_parallel": 1}, "sequence_parallel", "true or false"),
        ({"virtual_stages": 2}, "virtual_stages", "1 where there is no pipeline"),
        ({"pp": 2, "virtual_stages": 2, "schedule": "gpipe"}, "virtual_stages", "1f1b"),
        ({"ep": 8, "dp": 4}, "ep", "divisor of tp x cp x dp"),
        ({"dp": 8, "zero_group": 3}, "zero_group", "divisor of dp x cp = 8"),
        ({"pp": 2, "layers_per_stage": (3, 3, 3)}, "layers_per_stage", "2 numbers"),
    ],
)
def test_a_plan_checks_itself(fields, where, accepted):
    with pytest.raises(PlanError) as error:
        Plan(**fields)
    assert where in error.value.where
    assert accepted in error.value.accepted


def test_misspelt_words_get_the_nearest():
    with pytest.raises(PlanError) as error:
        Plan(schedule="1f1")
    assert error.value.nearest == "1f1b"
    with pytest.raises(PlanError) as error:
        plan_from_dict({"microbatch_size": 2})
    assert error.value.nearest == "micro_batch_size"


@pytest.mark.parametrize(
    ("fields", "batch", "where", "both"),
    [
        # a data parallel degree above the batch was once accepted by a well-known tool
        ({"tp": 1, "dp": 64}, 32, "dp", ("dp=64", "32")),
        ({"tp": 8, "dp": 8, "micro_batch_size": 3}, 64, "micro_batch_size", ("24", "64")),
        ({"tp": 8, "dp": 4}, 64, "world size", ("32", "64 devices")),
        ({"tp": 64}, 64, "gpt3-175b", ("tp=64", "96 heads")),
        ({"tp": 8, "pp": 8, "virtual_stages": 13}, 64, "pp", ("104", "96 layers")),
        (
            {"tp": 8, "pp": 8, "virtual_stages": 3, "micro_batch_size": 16},
            64,
            "virtual_stages",
            ("4 micro-batches", "pp=8"),
        ),
        ({"dp": 64, "sequence_parallel": True}, 64, "sequence_parallel", ("tp=1", "")),
        ({"dp": 32, "ep": 2, "tp": 2}, 64, "gpt3-175b", ("ep=2", "experts")),
        (
            {"tp": 8, "pp": 8, "layers_per_stage": (12,) * 7 + (11,)},
            64,
            "layers_per_stage",
            ("95 in all", "96 layers"),
        ),
    ],
)
def test_both_sides_of_a_contradiction_are_named(gpt, selene, fields, batch, where, both):
    with pytest.raises(PlanError) as error:
        check(Plan(**fields), gpt, selene, batch, 2048)
    assert where in error.value.where
    assert both[0] in error.value.got
    assert both[1] in error.value.accepted
    assert error.value.repair


def test_sequence_must_divide(gpt, selene):
    with pytest.raises(PlanError, match="cp must divide"):
        check(Plan(tp=8, cp=8), gpt, selene, 8, 2050)


def test_repr_shows_what_differs():
    assert repr(Plan(tp=8, pp=4)) == "Plan(tp=8, pp=4)"
