"""Prices of collectives at the level of a datasheet."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.errors import NetworkError
from perfmodel.network import collective_seconds
from perfmodel.network.algorithms import OPS


@dataclass(frozen=True)
class FakeTier:
    name: str
    span: int
    bandwidth: float
    latency: float
    topology: str = "switch"
    efficiency_key: str | None = None
    oversubscription: float = 1.0
    nics_per_node: int = 8


@dataclass(frozen=True)
class FakeCluster:
    tiers: tuple
    devices_per_node: int = 8
    devices: int = 512


def cluster(inner=450e9, outer=50e9):
    return FakeCluster(
        (FakeTier("nvlink4", 8, inner, 1e-6), FakeTier("ndr400", 512, outer, 3e-6, "fat-tree"))
    )


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
    quick = collective_seconds(
        op, size, world, cluster(450e9 * factor, 50e9 * factor), ranks_per_node=local
    )
    more = collective_seconds(op, size * factor, world, cluster(), ranks_per_node=local)
    assert 0 < quick <= slow <= more


def test_large_ring_reaches_the_wire():
    size = 64 * 2.0**30
    got = collective_seconds(
        "all_reduce", size, 8, cluster(), ranks_per_node=8, algorithm="ring", protocol="simple"
    )
    assert got == pytest.approx(2 * 7 / 8 * size / 450e9, rel=1e-3)


def test_groups_with_fewer_local_members_share_the_cards():
    size = 16 * 2.0**30
    whole = collective_seconds("all_gather", size, 16, cluster(), ranks_per_node=8)
    alone = collective_seconds("all_gather", size, 2, cluster(), ranks_per_node=1)
    assert whole == pytest.approx(15 / 16 * size / 400e9, rel=1e-2)
    assert alone == pytest.approx(1 / 2 * size / 50e9, rel=1e-2)


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
