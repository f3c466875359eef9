"""The order in which a compiled graph's kernels run: the one of least peak memory that is found.

Three greedy orders are tried beside the one that fusion left; the first with the lowest estimate is
taken. The estimate counts every value that a kernel makes until its last reader has run, values
inside a fused kernel included, and of what the graph is given only what it may free.

References
----------
torch/_inductor/memory.py: ``reorder_for_peak_memory``, ``topological_sort_lpmf``,
``topological_sort_bfs``, ``topological_sort_dfs``, ``estimate_peak_memory``.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel or library call of a graph.

    Parameters
    ----------
    makes : mapping
        Buffer -> bytes, of everything that is computed in it [B].
    reads : frozenset of int
        Buffers that other steps made, or that the graph was given and may free.
    after : frozenset of int
        Places of the steps that must have run.
    """

    makes: Mapping[int, int]
    reads: frozenset[int]
    after: frozenset[int]

    @property
    def bytes(self) -> int:
        """What it makes [B]."""
        return sum(self.makes.values())


def memory_at_steps(
    steps: Sequence[Step], order: Sequence[int], given: Mapping[int, int], lasting: Iterable[int]
) -> list[int]:
    """Estimated bytes while each step of an order runs [B]."""
    kept = set(lasting)
    last: dict[int, int] = {}
    for place, number in enumerate(order):
        last.update(dict.fromkeys((*steps[number].makes, *steps[number].reads), place))
    now, found = sum(given.values()), []
    freed: list[int] = [0] * (len(order) + 1)
    sizes = dict(given)
    for number in order:
        sizes.update(steps[number].makes)
    for buffer, place in last.items():
        if buffer not in kept:
            freed[place + 1] += sizes.get(buffer, 0)
    for place, number in enumerate(order):
        now += steps[number].bytes - freed[place]
        found.append(now)
    return found


def peak_order(
    steps: Sequence[Step], given: Mapping[int, int], lasting: Iterable[int]
) -> list[int]:
    """Places of the steps in the order of least estimated peak.

    Parameters
    ----------
    steps : sequence of Step
        In an order in which they can run.
    given : mapping
        Buffer -> bytes, of what the graph is given and may free [B].
    lasting : iterable of int
        Buffers that outlive the graph.
    """
    kept = set(lasting)
    baseline = list(range(len(steps)))
    tried = [baseline, _least_first(steps, given, kept), _breadth_first(steps), _small_first(steps)]
    if not steps:
        return baseline
    return min(tried, key=lambda order: max(memory_at_steps(steps, order, given, kept)))


def _followers(steps: Sequence[Step]) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in steps]
    for place, step in enumerate(steps):
        for before in step.after:
            found[before].append(place)
    return found


def _least_first(steps: Sequence[Step], given: Mapping[int, int], kept: set[int]) -> list[int]:
    """The step that leaves least behind among those that stay below the peak so far."""
    sizes = dict(given)
    for step in steps:
        sizes.update(step.makes)
    readers: dict[int, list[int]] = {buffer: [] for buffer in sizes}
    for place, step in enumerate(steps):
        for buffer in step.reads:
            readers[buffer].append(place)
    left = {buffer: len(found) + (buffer in kept) for buffer, found in readers.items()}
    waits = [len(step.after) for step in steps]
    size = [step.bytes for step in steps]
    frees = [
        sum(sizes[buffer] for buffer in step.reads if left[buffer] == 1)
        + sum(each for buffer, each in step.makes.items() if left[buffer] == 0)
        for step in steps
    ]
    followers = _followers(steps)
    now = sum(given.values())
    highest = max(now, sum(sizes.get(buffer, 0) for buffer in kept))
    ready = {place for place, count in enumerate(waits) if count == 0}
    order: list[int] = []
    while ready:
        gap = highest - now
        chosen = min(
            ready,
            key=lambda p: (size[p] if size[p] > gap else 0, size[p] - frees[p], p),
        )
        ready.remove(chosen)
        order.append(chosen)
        now += size[chosen]
        highest = max(highest, now)
        now -= frees[chosen]
        for follower in followers[chosen]:
            waits[follower] -= 1
            if waits[follower] == 0:
                ready.add(follower)
        for buffer in steps[chosen].reads:
            left[buffer] -= 1
            if left[buffer] == 1:
                for reader in readers[buffer]:
                    frees[reader] += sizes[buffer]
    return order


def _breadth_first(steps: Sequence[Step]) -> list[int]:
    """Steps whose predecessors ran earliest first."""
    followers, waits = _followers(steps), [len(step.after) for step in steps]
    heap: list[tuple[list[int], int]] = [
        ([], place) for place, count in enumerate(waits) if count == 0
    ]
    at: dict[int, int] = {}
    while heap:
        _, chosen = heapq.heappop(heap)
        at[chosen] = len(at)
        for follower in followers[chosen]:
            waits[follower] -= 1
            if waits[follower] == 0:
                before = sorted(at[place] for place in steps[follower].after)
                heapq.heappush(heap, (before, follower))
    return list(at)


def _small_first(steps: Sequence[Step]) -> list[int]:
    """Steps that touch least first, each behind what it needs."""
    sizes: dict[int, int] = {}
    for step in steps:
        sizes.update(step.makes)
    touched = [step.bytes + sum(sizes.get(b, 0) for b in step.reads) for step in steps]
    ranked = sorted(range(len(steps)), key=lambda place: (touched[place], place))
    rank = {place: order for order, place in enumerate(ranked)}
    done: dict[int, None] = {}
    for start in ranked:
        stack = [start]
        while stack:
            place = stack[-1]
            waiting = [p for p in steps[place].after if p not in done] if place not in done else []
            if waiting:
                stack.append(min(waiting, key=rank.__getitem__))
            else:
                stack.pop()
                done[place] = None
    return list(done)
