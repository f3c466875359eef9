"""Reuse distances against a plain least-recently-used walk."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.cost.program.residency import FAR, held_share, reuse

MIB = 2**20


def test_what_was_just_written_is_near_and_what_streamed_past_is_far():
    reads = [((0, 10),), ((1, 5),), ((0, 10), (2, 100))]
    writes = [((1, 5),), ((2, 100),), ((3, 1),)]
    found = reuse(reads, writes, {}, horizon=1e9)
    assert found.kernel.tolist() == [0, 1, 2, 2]
    # In the second step: storage 0 behind 3 and 2; 1 just written; 0 behind 1
    # and 2; 2 just written (what one kernel reads, it reads at once).
    assert found.distance.tolist() == [10 + 1 + 100, 5, 10 + 100 + 5, 100]


def test_dead_memory_is_overwritten():
    # A weight, then a chain through fresh tensors: with frees the chain reuses its memory.
    size, length = 8, 30
    reads = [((0, 4),), *(((k, size),) for k in range(1, length))]
    writes = [((k + 1, size),) for k in range(length)]
    kept = reuse(reads, writes, {}, horizon=1e9)
    freed = reuse(reads, writes, {k: (k,) for k in range(1, length)}, horizon=1e9)
    assert kept.distance[0] == 4 + length * size
    assert freed.distance[0] <= 4 + 3 * size


def test_a_row_that_is_written_does_not_bring_back_the_rest():
    cache, row, rest = 1000, 10, 5000
    reads = [(), ((0, cache),), ((1, rest),)]
    writes = [((0, row),), (), ()]
    found = reuse(reads, writes, {}, horizon=1e9)
    assert found.distance[found.kernel == 1].tolist() == [rest + cache]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=2, max_size=60))
def test_distance_is_that_of_a_stack(storages):
    sizes = [3, 5, 7, 11, 13, 17, 19]
    found = reuse([((s, sizes[s]),) for s in storages], [()] * len(storages), {}, horizon=1e9)
    stack = list(dict.fromkeys(reversed(storages)))
    for place, storage in enumerate(storages):
        above = stack[: stack.index(storage)]
        assert found.distance[place] == sum(sizes[s] for s in above) + sizes[storage]
        stack.remove(storage)
        stack.insert(0, storage)


def test_share_falls_with_distance_and_rises_with_capacity():
    distance = np.geomspace(1e3, 1e12, 50)
    share = held_share(distance, 30 * MIB)
    assert (np.diff(share) <= 0).all()
    assert share[0] == pytest.approx(1.0)
    assert share[-1] < 1e-9
    assert (held_share(distance, 50 * MIB) >= share).all()
    assert held_share(np.array([FAR]), 50 * MIB)[0] < 1e-12
    assert held_share(np.array([1.0]), 0.0)[0] == 0.0
