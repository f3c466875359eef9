"""Prices of collectives at the level of a datasheet."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.errors import NetworkError
from perfmodel.hardware import load
from perfmodel.network import collective_seconds
from perfmodel.network.algorithms import OPS


@lru_cache
def dgx():
    return load("dgx-h100", nodes=64)


def cluster(factor=1.0):
    base = dgx()
    tiers = tuple(replace(tier, bandwidth=tier.bandwidth * factor) for tier in base.tiers)
    return replace(base, tiers=tiers)


@pytest.mark.parametrize("op", OPS)
def test_one_rank_costs_exactly_nothing(op):
    got = collective_seconds(op, [0, 1, 1 << 30], 1, cluster(), ranks_per_node=1)
    assert np.array_equal(got, np.zeros(3))


@pytest.mark.parametrize("op", OPS)
@settings(deadline=None)
@given(
    size=st.floats(0, 1e11),
    factor=st.floats(1, 50),
    world=st.integers(2, 512),
    local=st.sampled_from([1, 2, 3, 4, 5, 8]),
)
def test_more_bandwidth_is_never_slower_and_more_bytes_never_faster(op, size, factor, world, local):
    slow = collective_seconds(op, size, world, cluster(), ranks_per_node=local)
    quick = collective_seconds(op, size, world, cluster(factor), ranks_per_node=local)
    more = collective_seconds(op, size * factor, world, cluster(), ranks_per_node=local)
    assert 0 < quick <= slow <= more


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (("all_redcue", 1, 2), "op"),
        (("all_reduce", -1, 2), "size_bytes"),
        (("all_reduce", float("nan"), 2), "size_bytes"),
        (("all_reduce", 1, 0), "world"),
        (("all_reduce", 1, 2.5), "world"),
        (("all_reduce", 1, 1024), "world"),
    ],
)
def test_bad_input_says_where(arguments, where):
    with pytest.raises(NetworkError) as caught:
        collective_seconds(*arguments, cluster(), ranks_per_node=1)
    assert where in caught.value.where
    assert caught.value.repair


def test_too_many_local_members_is_an_error():
    with pytest.raises(NetworkError, match="ranks_per_node"):
        collective_seconds("all_reduce", 1, 16, cluster(), ranks_per_node=16)
