"""Which devices a job gets: nodes packed, kept in few racks, or taken anywhere."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Final

import numpy as np

from perfmodel.errors import ScenarioError, nearest_name

PLACEMENTS: Final = ("pack", "rack", "any")
Place = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Pool:
    """The devices that jobs share.

    Parameters
    ----------
    nodes, devices_per_node : int
        Its size.
    nodes_per_rack : int
        Nodes behind one switch; all of them by default.
    placement : str
        ``"pack"``: a job within the fewest nodes, or it waits. ``"rack"``: the same, and in as few
        racks as it can. ``"any"``: fragments of nodes too, the fullest first.
    slowdown : tuple of float
        Factor on run time of a job in one node, in one rack, and across racks.
    """

    nodes: int
    devices_per_node: int = 8
    nodes_per_rack: int = 0
    placement: str = "pack"
    slowdown: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        for what, value, low, high in (
            ("nodes", self.nodes, 1, 2_000_000),
            ("devices_per_node", self.devices_per_node, 1, 1024),
            ("nodes_per_rack", self.nodes_per_rack, 0, 10_000_000),
        ):
            if not low <= value <= high:
                raise ScenarioError(
                    f"pool: {what}", value, f"{low} to {high:,}", repair=f"correct {what}"
                )
        if self.placement not in PLACEMENTS:
            raise ScenarioError(
                "pool: placement",
                self.placement,
                ", ".join(PLACEMENTS),
                nearest=nearest_name(self.placement, PLACEMENTS),
                repair="name one of these",
            )
        if len(self.slowdown) != 3 or not all(1 <= s < float("inf") for s in self.slowdown):
            raise ScenarioError(
                "pool: slowdown",
                self.slowdown,
                "three factors of at least 1: in a node, in a rack, across racks",
                repair="give 1 where there is no slowdown",
            )

    @property
    def devices(self) -> int:
        """Devices in all."""
        return self.nodes * self.devices_per_node


class FreeNodes:
    """Free devices of every node, with the nodes of each free count at hand."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.full = pool.devices_per_node
        self.rack_size = pool.nodes_per_rack or pool.nodes
        self.free = [self.full] * pool.nodes
        self.up = [True] * pool.nodes
        self.level = [0] * (self.full + 1)
        self.level[self.full] = pool.nodes
        # Heaps of node numbers per free count; an entry whose count has changed is skipped.
        self.heaps: list[list[int]] = [[] for _ in range(self.full + 1)]
        self.heaps[self.full] = list(range(pool.nodes))
        self.total = pool.devices

    def fits(self, devices: int) -> bool:
        """Whether a job could be placed now."""
        if devices > self.total:
            return False
        if self.pool.placement == "any":
            return True
        whole, rest = divmod(devices, self.full)
        if self.level[self.full] < whole:
            return False
        if not rest:
            return True
        spare = sum(self.level[rest:]) - whole
        return spare > 0

    def take(self, devices: int) -> Place:
        """Place a job that fits: (node, devices) pairs."""
        if devices > self.full and self.pool.placement == "rack":
            place = self._in_racks(devices // self.full)
        elif self.pool.placement == "any" and not self._packs(devices):
            return self._fragments(devices)
        else:
            place = []
            for _ in range(devices // self.full):
                node = self._pop(self.full)
                self._put(node, 0)
                place.append((node, self.full))
        rest = devices % self.full
        if rest:
            level = next(f for f in range(rest, self.full + 1) if self.level[f])
            node = self._pop(level)
            place.append((node, rest))
            self._put(node, level - rest)
        self.total -= devices
        return place

    def give(self, place: Place) -> None:
        """Take a job's devices back."""
        for node, devices in place:
            before = self.free[node]
            if self.up[node]:
                self.level[before] -= 1
                self._put(node, before + devices)
                self.total += devices
            else:
                self.free[node] = before + devices

    def fail(self, node: int) -> None:
        """Take a node out, jobs on it already removed."""
        self.level[self.free[node]] -= 1
        self.total -= self.free[node]
        self.up[node] = False

    def repair(self, node: int) -> None:
        """Bring a node back."""
        self.up[node] = True
        self.total += self.free[node]
        self._put(node, self.free[node])

    def spans(self, place: Place) -> int:
        """0 in one node, 1 in one rack, 2 across racks."""
        if len(place) == 1:
            return 0
        racks = {node // self.rack_size for node, _ in place}
        return 1 if len(racks) == 1 else 2

    def _packs(self, devices: int) -> bool:
        whole, rest = divmod(devices, self.full)
        enough = self.level[self.full] >= whole
        return enough and (not rest or sum(self.level[rest:]) > whole)

    def _put(self, node: int, free: int) -> None:
        self.free[node] = free
        self.level[free] += 1
        if free:
            heapq.heappush(self.heaps[free], node)

    def _pop(self, level: int) -> int:
        """The lowest node with exactly ``level`` free devices; the caller puts it back."""
        heap = self.heaps[level]
        node = heapq.heappop(heap)
        while not self.up[node] or self.free[node] != level:
            node = heapq.heappop(heap)
        self.level[level] -= 1
        self.free[node] = -1
        return node

    def _in_racks(self, count: int) -> Place:
        """Whole nodes from the rack that they fill best, or from the emptiest racks."""
        free = np.array(self.free)
        whole = np.flatnonzero((free == self.full) & np.array(self.up))
        racks = whole // self.rack_size
        sizes = np.bincount(racks)
        enough = np.flatnonzero(sizes >= count)
        if enough.size:
            rack = enough[np.argmin(sizes[enough])]
            nodes = whole[racks == rack][:count]
        else:
            nodes = whole[np.lexsort((whole, racks, -sizes[racks]))][:count]
        for node in nodes:
            self.level[self.full] -= 1
            self._put(int(node), 0)
        return [(int(node), self.full) for node in nodes]

    def _fragments(self, devices: int) -> Place:
        place: Place = []
        left = devices
        for level in range(self.full, 0, -1):
            while left and self.level[level]:
                node = self._pop(level)
                used = min(level, left)
                self._put(node, level - used)
                place.append((node, used))
                left -= used
        self.total -= devices
        return place
