"""Max-min fairness: the definition itself, incremental against from scratch, known cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.errors import NetworkError
from perfmodel.network import FlowNetwork, max_min_rates

LINKS = 6


@st.composite
def flows(draw):
    capacity = draw(st.lists(st.floats(1.0, 100.0), min_size=LINKS, max_size=LINKS))
    usage = draw(
        st.lists(
            st.dictionaries(
                st.integers(0, LINKS - 1), st.sampled_from([0.5, 1.0, 2.0]), min_size=1, max_size=4
            ),
            min_size=1,
            max_size=9,
        )
    )
    caps = draw(
        st.lists(
            st.one_of(st.just(float("inf")), st.floats(0.5, 50.0)),
            min_size=len(usage),
            max_size=len(usage),
        )
    )
    return usage, np.array(capacity), np.array(caps)


@given(flows())
@settings(deadline=None, max_examples=200)
def test_rates_meet_the_definition(case):
    """Nothing is overfull, and every flow is at its cap or largest on some full link."""
    usage, capacity, caps = case
    rates = max_min_rates(usage, capacity, caps)
    load = np.zeros(LINKS)
    for rate, links in zip(rates, usage, strict=True):
        for link, weight in links.items():
            load[link] += rate * weight
    assert (load <= capacity * (1 + 1e-6)).all()
    assert (rates <= caps * (1 + 1e-9)).all()
    for flow, links in enumerate(usage):
        full = [
            link
            for link in links
            if load[link] >= capacity[link] * (1 - 1e-6)
            and all(
                rates[other] <= rates[flow] * (1 + 1e-6)
                for other, theirs in enumerate(usage)
                if link in theirs
            )
        ]
        assert full or rates[flow] >= caps[flow] * (1 - 1e-6)


def test_textbook_example():
    """Three flows on a line of two links, one of them on both (Bertsekas and Gallager, 6.5.2)."""
    rates = max_min_rates([{0: 1, 1: 1}, {0: 1}, {1: 1}], [10.0, 16.0])
    assert rates == pytest.approx([5.0, 5.0, 11.0])


@given(flows(), st.data())
@settings(deadline=None, max_examples=60)
def test_incremental_equals_from_scratch(case, data):
    usage, capacity, _ = case
    network = FlowNetwork(capacity)
    alive = {}
    for links in usage:
        alive[network.add(links, 100.0)] = links
        if len(alive) > 1 and data.draw(st.booleans()):
            gone = data.draw(st.sampled_from(sorted(alive)))
            network.remove(gone)
            del alive[gone]
        want = max_min_rates(list(alive.values()), capacity)
        got = [network.rate(flow) for flow in alive]
        assert got == pytest.approx(list(want))


def test_a_change_touches_only_what_is_connected():
    network = FlowNetwork([10.0] * 100)
    for link in range(100):
        network.add({link: 1.0}, 1e3)
    network.next_finish()
    before = network.solved
    network.add({7: 1.0}, 1e3)
    network.next_finish()
    assert network.solved - before == 2


def test_flows_end_when_their_bytes_are_through():
    network = FlowNetwork([10.0])
    first, second = network.add({0: 1.0}, 100.0), network.add({0: 1.0}, 50.0)
    ends = network.finish_all()
    assert ends[second] == pytest.approx(10.0)
    assert ends[first] == pytest.approx(15.0)


def test_work_is_conserved_among_many_flows():
    rng = np.random.default_rng(1)
    network = FlowNetwork([5.0])
    sizes = rng.uniform(1, 100, 500)
    for size in sizes:
        network.add({0: 1.0}, float(size))
    assert max(network.finish_all().values()) == pytest.approx(sizes.sum() / 5.0)


@pytest.mark.parametrize(
    ("usage", "capacity"),
    [([{3: 1.0}], [1.0]), ([{0: -1.0}], [1.0]), ([{0: 1.0}], [0.0]), ([{}], [1])],
)
def test_bad_flows_are_refused(usage, capacity):
    with pytest.raises(NetworkError):
        max_min_rates(usage, capacity)


def test_bad_sizes_are_refused():
    with pytest.raises(NetworkError):
        FlowNetwork([1.0]).add({0: 1.0}, float("nan"))
