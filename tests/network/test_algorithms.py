"""Steps and bytes of algorithms against messages sent one by one, and the textbook's formulas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.errors import NetworkError
from perfmodel.network import algbw, bus_factor, busbw, traffic
from perfmodel.network.algorithms import ALGORITHMS, OPS

RANKS = st.integers(2, 600)
SIZES = st.floats(1.0, 1e12)


def play_ring(ranks, turns):
    """Send blocks around a ring; returns messages in a row and blocks sent by each rank."""
    sent, steps = np.zeros(ranks), 0
    for _ in range(turns):
        for _ in range(ranks - 1):
            sent += 1
            steps += 1
    return steps, sent


def play_all_gather_ring(ranks):
    have = [{rank} for rank in range(ranks)]
    steps = 0
    while any(len(each) < ranks for each in have):
        moving = [(rank - steps) % ranks for rank in range(ranks)]
        for rank in range(ranks):
            assert moving[rank] in have[rank]
        for rank in range(ranks):
            have[(rank + 1) % ranks].add(moving[rank])
        steps += 1
    return steps


def play_bruck(ranks):
    """Blocks held after each round of Bruck's all-gather; returns rounds and blocks sent."""
    held, rounds, sent = 1, 0, 0
    while held < ranks:
        take = min(held, ranks - held)
        sent += take
        held += take
        rounds += 1
    return rounds, sent


@pytest.mark.parametrize("ranks", [2, 3, 5, 8, 13])
def test_ring_matches_messages_sent_one_by_one(ranks):
    steps, sent = play_ring(ranks, 1)
    assert play_all_gather_ring(ranks) == steps
    got = traffic("all_gather", "ring", 1000.0 * ranks, ranks)
    assert got.steps == steps
    assert got.wire == pytest.approx(sent[0] * 1000.0)
    both = traffic("all_reduce", "ring", 1000.0 * ranks, ranks)
    assert both.steps == 2 * steps


@pytest.mark.parametrize("ranks", [2, 3, 5, 8, 13, 64, 100])
def test_bruck_matches_messages_sent_one_by_one(ranks):
    rounds, sent = play_bruck(ranks)
    got = traffic("all_gather", "bruck", 10.0 * ranks, ranks)
    assert got.steps == rounds
    assert got.wire == pytest.approx(sent * 10.0)


@given(size=SIZES, ranks=RANKS, alpha=st.floats(0, 1e-3), beta=st.floats(0, 1e-8))
@settings(deadline=None)
def test_all_reduce_is_reduce_scatter_and_all_gather(size, ranks, alpha, beta):
    whole = traffic("all_reduce", "ring", size, ranks)
    parts = traffic("reduce_scatter", "ring", size, ranks) + traffic(
        "all_gather", "ring", size, ranks
    )
    assert whole.steps == parts.steps
    assert whole.wire == parts.wire
    assert whole.reduced == parts.reduced
    assert whole.seconds(alpha, beta) == parts.seconds(alpha, beta)


@given(size=SIZES, ranks=RANKS)
@settings(deadline=None)
def test_bytes_on_the_wire_are_conserved(size, ranks):
    """Every rank must end up with what it lacked: sent in all = received in all."""
    lacking = ranks * size * (ranks - 1) / ranks
    for op in ("all_gather", "reduce_scatter"):
        assert ranks * traffic(op, "ring", size, ranks).wire == pytest.approx(lacking)
    assert ranks * traffic("all_to_all", "direct", size, ranks).wire == pytest.approx(lacking)
    gathered = traffic("scatter", "direct", size, ranks).wire
    assert gathered == pytest.approx(size - size / ranks)


@given(size=SIZES, ranks=RANKS)
@settings(deadline=None)
def test_no_algorithm_sends_less_than_the_least(size, ranks):
    for op in ("all_reduce", "all_gather", "reduce_scatter"):
        least = (2.0 if op == "all_reduce" else 1.0) * (ranks - 1) / ranks * size
        for algorithm in ALGORITHMS[op]:
            if algorithm == "in_network":
                continue
            got = traffic(op, algorithm, size, ranks)
            if not (algorithm == "tree" and ranks == 2):
                assert got.wire >= least * (1 - 1e-9)
            assert got.steps >= 1


def test_powers_of_two_are_exact_and_others_fold_once():
    eight = traffic("all_reduce", "halving_doubling", 800.0, 8)
    assert (eight.steps, eight.wire) == (6.0, 1400.0)
    nine = traffic("all_reduce", "halving_doubling", 800.0, 9)
    assert nine.steps == eight.steps + 2
    assert nine.wire == eight.wire + 800.0
    doubling = traffic("all_reduce", "recursive_doubling", 800.0, 8)
    assert (doubling.steps, doubling.wire) == (3.0, 2400.0)
    assert traffic("all_reduce", "tree", 800.0, 9).steps == 8.0


def test_a_broadcast_by_scatter_and_gather_sends_what_both_do():
    both = traffic("broadcast", "scatter_gather", 1e6, 8)
    parts = traffic("scatter", "binomial", 1e6, 8) + traffic("all_gather", "ring", 1e6, 8)
    assert (float(both.steps), float(both.wire)) == (float(parts.steps), float(parts.wire))


@pytest.mark.parametrize("op", OPS)
def test_one_rank_sends_nothing(op):
    for algorithm in ALGORITHMS[op]:
        got = traffic(op, algorithm, [0.0, 1e9], 1)
        for part in (got.steps, got.wire, got.reduced):
            assert np.array_equal(part, np.zeros(2))


def test_bus_bandwidth_by_nccl_tests_definition():
    # B200, 4 GiB over 32 GPUs in 22.05 ms: 377 GB/s (stas00/ml-engineering).
    assert busbw("all_reduce", 2.0**32, 32, 22.053e-3) == pytest.approx(377.3e9, rel=1e-3)
    assert bus_factor("all_reduce", 8) == 1.75
    assert bus_factor("all_gather", 8) == 0.875
    assert bus_factor("broadcast", 8) == 1.0
    assert algbw(100.0, 4.0) == 25.0


def test_unknown_names_come_with_the_nearest():
    with pytest.raises(NetworkError) as caught:
        traffic("all_reduce", "rign", 1.0, 2)
    assert caught.value.nearest == "ring"
    with pytest.raises(NetworkError) as caught:
        traffic("all_gathr", "ring", 1.0, 2)
    assert caught.value.nearest == "all_gather"
