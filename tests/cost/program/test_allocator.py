"""The caching allocator against snapshots of the real one and against its published rules."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.cost.program.allocator import CachingAllocator, rounded_block, segment_size
from perfmodel.errors import Infeasible, WorkloadError

MIB = 2**20


def test_snapshot_of_a_small_product():
    # torch.cuda.memory_snapshot() of W(1000,10), b(10), X(1000), X @ W + b in fp32, printed in the
    # PyTorch forum, thread 178671: one small segment with 45568 B in use in blocks of 40448, 512,
    # 4096, 512; one large segment of 20971520 B with the 8519680 B workspace of cuBLAS in it.
    pool = CachingAllocator()
    for size in (40000, 40, 4000, 40):
        pool.allocate(size)
    assert pool.allocated == 45568
    assert pool.reserved == 2097152
    pool.allocate(8519680)
    assert pool.allocated == 45568 + 8519680
    assert pool.reserved == 2097152 + 20971520


@pytest.mark.parametrize(
    ("sizes", "allocated", "reserved"),
    [
        ((1,), 512, 2 * MIB),
        ((MIB, MIB), 2 * MIB, 2 * MIB),
        ((MIB, MIB, 1), 2 * MIB + 512, 4 * MIB),
        ((MIB + 1,), MIB + 512, 20 * MIB),
        ((10 * MIB - 1, 10 * MIB - 512), 20 * MIB - 512, 30 * MIB),
        ((10 * MIB,), 10 * MIB, 10 * MIB),
        ((11 * MIB,), 11 * MIB, 12 * MIB),
        ((13 * MIB + 1,), 14 * MIB, 14 * MIB),
        ((0,), 0, 0),
    ],
)
def test_rounding_and_segments(sizes, allocated, reserved):
    pool = CachingAllocator()
    for size in sizes:
        pool.allocate(size)
    assert pool.reserved == reserved
    assert pool.allocated == pytest.approx(allocated, abs=MIB)
    assert pool.allocated >= allocated


def test_a_rest_of_a_mebibyte_is_not_split_off_a_large_block():
    pool = CachingAllocator()
    pool.free(pool.allocate(20 * MIB))
    pool.allocate(19 * MIB)
    assert (pool.allocated, pool.reserved) == (20 * MIB, 20 * MIB)
    pool = CachingAllocator()
    pool.free(pool.allocate(20 * MIB))
    pool.allocate(19 * MIB - 512)
    assert (pool.allocated, pool.reserved) == (19 * MIB - 512, 20 * MIB)


def test_best_fit_takes_the_smallest_block_that_is_large_enough():
    pool = CachingAllocator()
    large, small = pool.allocate(40 * MIB), pool.allocate(30 * MIB)
    pool.free(large)
    pool.free(small)
    assert pool.allocate(25 * MIB) == small
    assert pool.allocate(35 * MIB) == large


def test_equal_blocks_are_taken_from_the_lowest_address():
    pool = CachingAllocator()
    addresses = [pool.allocate(30 * MIB) for _ in range(3)]
    for address in reversed(addresses):
        pool.free(address)
    assert pool.allocate(30 * MIB) == addresses[0]


def test_free_neighbours_merge():
    pool = CachingAllocator()
    addresses = [pool.allocate(5 * MIB) for _ in range(4)]
    assert pool.reserved == 20 * MIB
    pool.free(addresses[0])
    pool.free(addresses[2])
    pool.free(addresses[1])
    assert pool.allocate(15 * MIB) == addresses[0]
    assert pool.reserved == 20 * MIB


def test_cached_segments_go_back_before_memory_runs_out():
    pool = CachingAllocator(capacity=100 * MIB)
    for _ in range(2):
        pool.free(pool.allocate(60 * MIB))
    pool.free(pool.allocate(80 * MIB))
    assert pool.retries == 1
    assert pool.reserved == 80 * MIB
    pool.allocate(70 * MIB)
    with pytest.raises(Infeasible, match="device memory"):
        pool.allocate(40 * MIB)


def test_wrong_use_is_told():
    pool = CachingAllocator()
    address = pool.allocate(10)
    pool.free(address)
    with pytest.raises(WorkloadError, match="block in use"):
        pool.free(address)
    with pytest.raises(WorkloadError, match="not negative"):
        pool.allocate(-1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60 * MIB), min_size=1, max_size=60), st.randoms())
def test_nothing_is_lost_and_nothing_overlaps(sizes, random):
    pool = CachingAllocator()
    live: dict[int, int] = {}
    for size in sizes:
        if live and random.random() < 0.45:
            pool.free(_take(live, random))
        address = pool.allocate(size)
        assert address not in live
        live[address] = size
        assert sum(rounded_block(one) for one in live.values()) <= pool.allocated <= pool.reserved
        starts = np.array(sorted(live))
        ends = starts + np.array([rounded_block(live[one]) for one in starts.tolist()])
        assert (ends[:-1] <= starts[1:]).all()
        # Freed memory is never larger than a segment's rest or a cached block.
        assert pool.reserved <= sum(segment_size(rounded_block(one)) for one in sizes)
    for address in list(live):
        pool.free(address)
    assert pool.allocated == 0
    pool.empty_cache()
    assert pool.reserved == 0


def _take(live, random):
    address = random.choice(sorted(live))
    del live[address]
    return address
