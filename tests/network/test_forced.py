"""Forced algorithms and protocols, published figures, arrays of a million points, the docs page."""

import doctest
from pathlib import Path

import numpy as np
import pytest

from perfmodel.errors import NetworkError
from perfmodel.estimate import Estimate
from perfmodel.hardware import load
from perfmodel.network import busbw, collective, collective_seconds, price_collective
from perfmodel.network.algorithms import ALGORITHMS, OPS
from perfmodel.network.sides import STAGED

RANKS = np.array([1, 2, 3, 5, 6, 8, 12, 31, 64, 100])


@pytest.mark.parametrize("op", OPS)
def test_every_algorithm_answers_for_every_number_of_ranks(op):
    cluster = load("dgx-h100", nodes=16)
    names = (*ALGORITHMS[op], *(("hierarchical",) if op in STAGED else ()))
    for name in names:
        got = collective_seconds(
            op, 1e8, RANKS, cluster, ranks_per_node=np.minimum(RANKS, 8), algorithm=name
        )
        assert got[0] == 0
        assert (got[1:] > 0).all()
        assert np.isfinite(got).all()


def test_the_choice_is_the_cheapest_of_what_a_library_has():
    cluster = load("hgx-a100-40gb-roce", nodes=4)  # a fabric without a residual
    size = 2.0 ** np.arange(10, 34)
    chosen = collective_seconds("all_reduce", size, 32, cluster, ranks_per_node=8)
    for algorithm in ("ring", "tree"):
        for protocol in ("ll", "ll128", "simple"):
            forced = collective_seconds(
                "all_reduce", size, 32, cluster,
                ranks_per_node=8, algorithm=algorithm, protocol=protocol,
            )  # fmt: skip
            assert (chosen <= forced * (1 + 1e-12)).all()


def test_small_messages_take_low_latency_and_large_ones_full_rate():
    cluster = load("dgx-a100", nodes=2)
    priced = price_collective("all_gather", [1e3, 1e9], 16, cluster, ranks_per_node=8)
    first, last = (priced.choices[i] for i in priced.choice)
    assert first.endswith("ll")
    assert last.endswith("simple")


def test_nvls_on_and_off_on_eight_h200():
    """473 GB/s with, 365.6 GB/s without in-network reduction (stas00/ml-engineering)."""
    node = load("hgx-h200")
    size = 2.0**33
    on = collective_seconds("all_reduce", size, 8, node, ranks_per_node=8)
    off = collective_seconds("all_reduce", size, 8, node, ranks_per_node=8, algorithm="ring")
    assert busbw("all_reduce", size, 8, on) == pytest.approx(473.1e9, rel=0.05)
    assert busbw("all_reduce", size, 8, off) == pytest.approx(365.6e9, rel=0.05)
    four = price_collective("all_reduce", size, 4, node, ranks_per_node=4)
    assert four.choices[int(four.choice)].startswith("ring")


def test_switches_between_nodes_add_at_the_pace_of_those_inside():
    size = 2.0**34
    found = []
    for nodes in (4, 16, 64):
        cluster = load("dgx-h100", nodes=nodes)
        ring, sharp = (
            float(
                collective_seconds(
                    "all_reduce", size, 8 * nodes, cluster, ranks_per_node=8, algorithm=name
                )
            )
            for name in ("ring", "sharp")
        )
        assert sharp > size / 8 / cluster.tiers[1].bandwidth  # up and down once, both ways at once
        assert ring > 1.4 * sharp
        found.append(sharp)
    assert found == pytest.approx([found[0]] * 3)  # whatever the number of nodes
    one = load("dgx-h100")
    both = [
        float(collective_seconds("all_reduce", size, 8, one, ranks_per_node=8, algorithm=name))
        for name in ("sharp", "in_network")
    ]
    assert both[0] == both[1]
    assert both[0] < found[0] < 1.01 * both[0]


def test_v5e_line_of_four_by_hand():
    """(|X| - 1) hops at one-way speed when the axis does not close (jax-ml/scaling-book)."""
    pod = load("tpu-v4-pod", nodes=16)
    size = 1e9
    got = collective_seconds("all_gather", size, 64, pod, ranks_per_node=64)
    wire = size * 63 / 64 / (6 * 45e9)  # three axes that close, both ways round
    assert got == pytest.approx(wire, rel=0.15)
    pair = collective_seconds("all_gather", size, 2, pod, ranks_per_node=2)
    assert pair > 2.5 * got


def test_bad_forcing_is_refused():
    node = load("dgx-h100")
    with pytest.raises(NetworkError, match="algorithm"):
        collective_seconds("all_reduce", 1, 8, node, ranks_per_node=8, algorithm="rong")
    with pytest.raises(NetworkError, match="protocol"):
        collective_seconds("all_reduce", 1, 8, node, ranks_per_node=8, protocol="ll129")


@pytest.mark.parametrize("op", OPS)
def test_estimates_hold_together(op):
    node = load("hgx-h200", nodes=2)
    for world, local in ((1, 1), (2, 2), (2, 1), (4, 4), (16, 8)):
        if op == "p2p" and world > 2:
            continue
        got = collective(op, 1e6, world, node, ranks_per_node=local)
        assert isinstance(got, Estimate)
        assert got.lower <= got.low <= got.seconds <= got.high
        if world > 1:
            assert got.citations
            assert {"latency", "wire"} <= {part.name for part in got.parts}
    inside = collective("all_reduce", 1e6, 4, node)
    beyond = collective("all_reduce", 1e13, 4, node)
    assert inside.calibrated
    assert not beyond.calibrated
    assert beyond.high / beyond.seconds > inside.high / inside.seconds


def million():
    rng = np.random.default_rng(0)
    world = rng.integers(1, 513, 1_000_000)
    return 2.0 ** rng.uniform(10, 32, world.size), world, np.minimum(world, 8)


def test_a_million_points_at_once():
    size, world, local = million()
    cluster = load("dgx-h100", nodes=64)
    got = collective_seconds("all_reduce", size, world, cluster, ranks_per_node=local)
    assert got.shape == (1_000_000,)
    assert (got[world == 1] == 0).all()
    some = [0, 17, 999_999]
    alone = [
        float(collective_seconds("all_reduce", size[i], world[i], cluster, ranks_per_node=local[i]))
        for i in some
    ]
    assert got[some] == pytest.approx(alone)


def test_speed_of_a_million_points(benchmark):
    size, world, local = million()
    cluster = load("dgx-h100", nodes=64)
    benchmark(collective_seconds, "all_reduce", size, world, cluster, ranks_per_node=local)


def test_the_page_runs_as_written():
    page = Path(__file__).parents[2] / "docs/models/network.md"
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testfile(str(page), module_relative=False, optionflags=options)
    assert result.attempted >= 4
    assert result.failed == 0
