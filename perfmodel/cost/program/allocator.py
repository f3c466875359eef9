"""PyTorch's caching allocator of device memory, replayed without a device.

A request is rounded up to 512 B. Requests of at most 1 MiB are served from segments of 2 MiB (the
small pool), larger ones from segments of their own (the large pool): 20 MiB below 10 MiB, otherwise
the size rounded up to 2 MiB. A free block is chosen by best fit and split where the rest is worth
keeping: at least 512 B in the small pool, more than 1 MiB in the large one. A block that is given
back merges with its free neighbours in the segment. Segments go back to the driver only when a
request does not fit into the device any more.

``allocated`` counts the sizes of blocks in use, as ``torch.cuda.memory_allocated`` does, and
``reserved`` the segments.

Reference
---------
PyTorch, c10/cuda/CUDACachingAllocator.cpp: ``round_size``, ``get_allocation_size``,
``get_free_block``, ``should_split``, ``try_merge_blocks``, ``release_cached_blocks``.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from dataclasses import dataclass, field
from typing import Final

from perfmodel.errors import Infeasible, WorkloadError

SMALLEST_BLOCK: Final = 512
SMALL_REQUEST: Final = 2**20
SMALL_SEGMENT: Final = 2 * 2**20
LARGE_SEGMENT: Final = 20 * 2**20
OWN_SEGMENT: Final = 10 * 2**20
SEGMENT_STEP: Final = 2 * 2**20


def rounded_block(size: int) -> int:
    """Bytes that a request occupies at least [B].

    Examples
    --------
    >>> [rounded_block(size) for size in (1, 512, 513, 10**6)]
    [512, 512, 1024, 1000448]
    """
    return max(SMALLEST_BLOCK, -(-size // SMALLEST_BLOCK) * SMALLEST_BLOCK)


def segment_size(size: int) -> int:
    """Bytes that the driver is asked for when no block serves a rounded request [B].

    Examples
    --------
    >>> [segment_size(size) // 2**20 for size in (512, 2**20, 2**20 + 512, 10 * 2**20, 21 * 2**20)]
    [2, 2, 20, 10, 22]
    """
    if size <= SMALL_REQUEST:
        return SMALL_SEGMENT
    if size < OWN_SEGMENT:
        return LARGE_SEGMENT
    return -(-size // SEGMENT_STEP) * SEGMENT_STEP


@dataclass(slots=True, eq=False)
class _Block:
    """A piece of a segment; neighbours are linked in order of address."""

    address: int
    size: int
    small: bool
    used: bool = False
    before: _Block | None = None
    after: _Block | None = None


@dataclass(slots=True)
class CachingAllocator:
    """State of the allocator; :meth:`allocate` and :meth:`free` move it.

    Parameters
    ----------
    capacity : float
        Bytes that segments may take together [B].

    Attributes
    ----------
    allocated, reserved : int
        Blocks in use, segments held [B].
    peak_allocated, peak_reserved : int
        The largest values so far [B].
    retries : int
        How often cached segments had to be given back to serve a request.
    """

    capacity: float = math.inf
    allocated: int = 0
    reserved: int = 0
    peak_allocated: int = 0
    peak_reserved: int = 0
    retries: int = 0
    _next: int = 0
    _free: dict[bool, list[tuple[int, int]]] = field(default_factory=lambda: {True: [], False: []})
    _blocks: dict[int, _Block] = field(default_factory=dict)

    def allocate(self, size: int) -> int:
        """Take a block for ``size`` bytes; the answer is its address, 0 bytes take nothing (-1).

        Raises
        ------
        Infeasible
            If no segment fits into the capacity, even after cached ones are given back.
        """
        if size < 0:
            raise WorkloadError(
                "allocator: size", size, "a number of bytes, not negative", repair="correct it"
            )
        if size == 0:
            return -1
        want = rounded_block(size)
        small = want <= SMALL_REQUEST
        block = self._best_fit(want, small)
        if block is None:
            block = self._segment(want, small)
        if self._worth_splitting(block, want):
            rest = _Block(block.address + want, block.size - want, small, False, block, block.after)
            if block.after is not None:
                block.after.before = rest
            block.after = rest
            block.size = want
            self._blocks[rest.address] = rest
            insort(self._free[small], (rest.size, rest.address))
        block.used = True
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block.address

    def free(self, address: int) -> None:
        """Give the block at an address back.

        Raises
        ------
        WorkloadError
            If no block in use begins there.
        """
        if address == -1:
            return
        block = self._blocks.get(address)
        if block is None or not block.used:
            raise WorkloadError(
                "allocator: address",
                address,
                "the address of a block in use",
                repair="free every block once",
            )
        block.used = False
        self.allocated -= block.size
        self._absorb(block, block.after)
        before = block.before
        if before is not None and not before.used:
            self._drop(before)
            self._join(before, block)
            block = before
        insort(self._free[block.small], (block.size, block.address))

    def empty_cache(self) -> None:
        """Give every segment without a block in use back to the driver."""
        for small in (True, False):
            for size, address in tuple(self._free[small]):
                block = self._blocks[address]
                if block.before is None and block.after is None:
                    self._drop(block)
                    del self._blocks[address]
                    self.reserved -= size

    def reset_peaks(self) -> None:
        """Start measuring the peaks from here."""
        self.peak_allocated = self.allocated
        self.peak_reserved = self.reserved

    def _best_fit(self, want: int, small: bool) -> _Block | None:
        pool = self._free[small]
        place = bisect_left(pool, (want, -1))
        if place == len(pool):
            return None
        _, address = pool.pop(place)
        return self._blocks[address]

    def _segment(self, want: int, small: bool) -> _Block:
        size = segment_size(want)
        if self.reserved + size > self.capacity:
            self.retries += 1
            self.empty_cache()
        if self.reserved + size > self.capacity:
            raise Infeasible(
                "device memory",
                f"<{self.allocated / 2**30:.2f} GiB in use, {want / 2**30:.2f} GiB more asked for>",
                f"at most {self.capacity / 2**30:.2f} GiB in segments",
                repair="take a smaller batch, recompute activations, or a device with more memory",
            )
        block = _Block(self._next, size, small)
        self._next += size
        self._blocks[block.address] = block
        self.reserved += size
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return block

    @staticmethod
    def _worth_splitting(block: _Block, want: int) -> bool:
        rest = block.size - want
        return rest >= SMALLEST_BLOCK if block.small else rest > SMALL_REQUEST

    def _drop(self, block: _Block) -> None:
        pool = self._free[block.small]
        del pool[bisect_left(pool, (block.size, block.address))]

    def _absorb(self, block: _Block, after: _Block | None) -> None:
        if after is not None and not after.used:
            self._drop(after)
            self._join(block, after)

    def _join(self, block: _Block, after: _Block) -> None:
        block.size += after.size
        block.after = after.after
        if after.after is not None:
            after.after.before = block
        del self._blocks[after.address]
