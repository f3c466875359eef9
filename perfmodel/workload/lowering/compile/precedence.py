"""What must run before what: between buffers, and between the kernels that they become."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from perfmodel.workload.lowering.compile.buffers import Buffer


def writers(buffers: Sequence[Buffer], further: Mapping[int, int] | None) -> dict[int, int]:
    """The place of the buffer that makes each value."""
    writer = {buffer.value.number: place for place, buffer in enumerate(buffers)}
    return writer | {out: writer[call] for out, call in (further or {}).items() if call in writer}


def dependences(
    buffers: Sequence[Buffer], further: Mapping[int, int] | None = None
) -> list[set[int]]:
    """For each buffer, the places of those that must run before it.

    A write in place follows everything that read the memory before it.
    """
    needs: list[set[int]] = []
    latest = writers(buffers, further)
    readers: defaultdict[int, set[int]] = defaultdict(set)
    for place, buffer in enumerate(buffers):
        found = {
            latest[read.buffer] for read in buffer.reads if latest.get(read.buffer, place) < place
        }
        for read in buffer.reads:
            readers[read.buffer].add(place)
        if buffer.value.scatter:
            base = buffer.value.inputs[0]
            if latest.get(base, place) < place:
                found.add(latest[base])
            found |= {reader for reader in readers[base] if reader < place}
        needs.append(found - {place})
    return needs


class Above:
    """The groups that come before each group, kept while groups merge.

    A set of groups is the bits of a number. A group is named by a place, at first its own.

    Parameters
    ----------
    needs : sequence of set
        For each place, the places before it (lower numbers).
    """

    def __init__(self, needs: Sequence[set[int]]) -> None:
        self._direct = [sum(1 << need for need in found) for found in needs]
        self._all: dict[int, int] = {}
        for place, found in enumerate(needs):
            bits = self._direct[place]
            for need in found:
                bits |= self._all[need]
            self._all[place] = bits

    def is_between(self, a: int, b: int) -> bool:
        """Whether a third group comes behind one of the two and before the other."""
        both = 1 << a | 1 << b
        direct = (self._direct[a] | self._direct[b]) & ~both
        return any(self._all[name] & both for name in _bits(direct & (self._all[a] | self._all[b])))

    def merge(self, a: int, b: int) -> None:
        """``b`` becomes a part of ``a``."""
        one, two = 1 << a, 1 << b
        both, kept = one | two, ~two
        mine = (self._all[a] | self._all.pop(b)) & ~both
        self._direct[a] = (self._direct[a] | self._direct[b]) & ~both
        self._all[a] = mine
        mine |= one
        for name, bits in self._all.items():
            if bits & both:
                self._all[name] = (bits & kept) | mine
                if self._direct[name] & two:
                    self._direct[name] = (self._direct[name] & kept) | one

    def ordered(self, starts: Mapping[int, int]) -> list[int]:
        """The groups in an order in which they can run, early starts first."""
        done: dict[int, None] = {}
        for start in sorted(starts, key=lambda name: starts[name]):
            stack = [start]
            while stack:
                name = stack[-1]
                waiting = [n for n in _bits(self._direct[name]) if n not in done]
                if name not in done and waiting:
                    stack += waiting
                else:
                    done.setdefault(name)
                    stack.pop()
        return list(done)


def _bits(value: int) -> Iterator[int]:
    """Places of the bits that are set, low ones first."""
    while value:
        low = value & -value
        yield low.bit_length() - 1
        value ^= low
