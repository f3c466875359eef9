"""Flows that share links: max-min fair rates, kept up to date as flows come and go.

A flow takes some bytes per second of several links at once; a collective is one flow that takes
what all of its messages together take of each link. Rates are max-min fair: no flow can be given
more without taking from one that has no more than it. A change touches only the flows that are
connected with it through shared links.

References
----------
D. Bertsekas, R. Gallager, "Data Networks", 2nd ed., 1992, section 6.5.2 (progressive filling).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfmodel.errors import NetworkError

Floats = NDArray[np.float64]
_SLACK = 1e-9


def max_min_rates(
    usage: Sequence[Mapping[int, float]], capacity: ArrayLike, caps: ArrayLike | None = None
) -> Floats:
    """Max-min fair rates of flows on shared links.

    Parameters
    ----------
    usage : sequence of mapping
        For every flow: link -> bytes on that link per byte of the flow (1 for a plain route).
    capacity : array_like
        Rate of every link [B/s].
    caps : array_like, optional
        Rate that each flow cannot exceed by itself [B/s].

    Returns
    -------
    array
        Rate of every flow [B/s]; a flow that uses no link gets its cap.

    Raises
    ------
    NetworkError
        If a link is unknown or without capacity, a usage is not positive, or a flow is unbounded.
    """
    limit = np.asarray(capacity, dtype=np.float64)
    flows = len(usage)
    cap = np.full(flows, np.inf) if caps is None else np.asarray(caps, dtype=np.float64).copy()
    counts = np.array([len(each) for each in usage], dtype=np.intp)
    link = np.fromiter(
        (number for each in usage for number in each), dtype=np.intp, count=counts.sum()
    )
    weight = np.fromiter(
        (w for each in usage for w in each.values()), dtype=np.float64, count=counts.sum()
    )
    _check(link, weight, limit)
    if np.any((counts == 0) & ~np.isfinite(cap)):
        raise NetworkError(
            "max_min_rates: usage",
            "a flow without links and without a cap",
            "links for every flow, or a finite cap",
            repair="give the route, or leave the flow out",
        )
    return _fill(np.repeat(np.arange(flows), counts), link, weight, limit, cap)


def _check(link: NDArray[np.intp], weight: Floats, limit: Floats) -> None:
    if link.size == 0:
        return
    if link.min() < 0 or link.max() >= limit.size:
        raise NetworkError(
            "max_min_rates: link",
            int(link.max() if link.max() >= limit.size else link.min()),
            f"0 to {limit.size - 1}",
            repair="use the link numbers of the topology",
        )
    if not (limit[link] > 0).all() or not (np.isfinite(weight) & (weight > 0)).all():
        raise NetworkError(
            "max_min_rates: capacity or usage",
            float(min(limit[link].min(), weight.min())),
            "positive rates and usages",
            repair="take links without capacity and flows without usage out",
        )


def _fill(
    flow: NDArray[np.intp], link: NDArray[np.intp], weight: Floats, limit: Floats, cap: Floats
) -> Floats:
    """Progressive filling; links that are the tightest of all their flows' links fill at once."""
    rates = np.zeros(cap.size)
    done = np.zeros(cap.size, dtype=bool)
    bare = np.ones(cap.size, dtype=bool)
    bare[flow] = False
    rates[bare], done[bare] = cap[bare], True
    left = limit.astype(np.float64)
    while flow.size:
        load = np.bincount(link, weight, limit.size)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(load > 0, left / load, np.inf)
        tightest = cap.copy()
        np.minimum.at(tightest, flow, share[link])
        over_link = np.full(limit.size, np.inf)
        np.minimum.at(over_link, link, tightest[flow])
        full = (load > 0) & (share <= over_link * (1 + _SLACK))
        stops = np.zeros(cap.size, dtype=bool)
        stops[flow[full[link]]] = True
        stops |= (cap <= tightest * (1 + _SLACK)) & ~done
        rates[stops] = np.maximum(tightest[stops], 0.0)
        done |= stops
        ended = stops[flow]
        left -= np.bincount(link[ended], weight[ended] * rates[flow[ended]], limit.size)
        np.maximum(left, 0.0, out=left)
        flow, link, weight = flow[~ended], link[~ended], weight[~ended]
    return rates


@dataclass(slots=True)
class _Flow:
    """One flow: what it had left when its rate last changed."""

    usage: dict[int, float]
    cap: float
    left: float
    since: float
    rate: float = 0.0
    change: int = 0

    def left_at(self, now: float) -> float:
        return max(0.0, self.left - self.rate * (now - self.since))


class FlowNetwork:
    """Flows over time on links of fixed rate.

    Parameters
    ----------
    capacity : array_like
        Rate of every link [B/s].

    Examples
    --------
    >>> network = FlowNetwork([10.0])
    >>> first, second = network.add({0: 1.0}, 100.0), network.add({0: 1.0}, 50.0)
    >>> network.rate(first), network.next_finish()
    (5.0, (10.0, 1))
    """

    def __init__(self, capacity: ArrayLike) -> None:
        self._capacity = np.asarray(capacity, dtype=np.float64)
        self._flows: dict[int, _Flow] = {}
        self._on: dict[int, set[int]] = {}
        self._stale: set[int] = set()
        self._ends: list[tuple[float, int, int]] = []  # (time, flow, change); outdated ones stay
        self._now = 0.0
        self._next = 0
        self.solved = 0  # flows whose rates were computed so far: the work done

    def __len__(self) -> int:
        return len(self._flows)

    def add(self, usage: Mapping[int, float], size: float, *, cap: float = math.inf) -> int:
        """Start a flow of ``size`` bytes; returns its number."""
        if not (math.isfinite(size) and size >= 0):
            raise NetworkError(
                "flow: size", size, "a finite number of bytes that is not negative",
                repair="give the bytes that are left to send",
            )  # fmt: skip
        links = np.fromiter(usage, dtype=np.intp, count=len(usage))
        _check(links, np.fromiter(usage.values(), dtype=np.float64), self._capacity)
        number = self._next
        self._next += 1
        self._flows[number] = _Flow(dict(usage), cap, float(size), self._now)
        for link in usage:
            self._on.setdefault(link, set()).add(number)
        self._stale.add(number)
        return number

    def remove(self, flow: int) -> float:
        """End a flow; returns the bytes it had left."""
        gone = self._flows.pop(flow)
        for link in gone.usage:
            others = self._on[link]
            others.discard(flow)
            self._stale.update(others)
        self._stale.discard(flow)
        return gone.left_at(self._now)

    def rate(self, flow: int) -> float:
        """Present rate of a flow [B/s]."""
        self._solve()
        return self._flows[flow].rate

    def advance(self, seconds: float) -> None:
        """Let time pass; flows keep their present rates."""
        self._solve()
        self._now += seconds

    def next_finish(self) -> tuple[float, int] | None:
        """(seconds from now, flow) of whoever ends first; ``None`` without flows."""
        self._solve()
        while self._ends:
            end, number, change = self._ends[0]
            flow = self._flows.get(number)
            if flow is not None and flow.change == change:
                return max(end - self._now, 0.0), number
            heapq.heappop(self._ends)
        return None

    def finish_all(self) -> dict[int, float]:
        """Run until nothing is left; seconds from now at which each flow ended."""
        start = self._now
        ends: dict[int, float] = {}
        while (found := self.next_finish()) is not None:
            after, flow = found
            self.advance(after)
            ends[flow] = self._now - start
            self.remove(flow)
        return ends

    def _solve(self) -> None:
        """New rates for the flows that a change reached, and when they would end."""
        if not self._stale:
            return
        touched = sorted(self._connected(self._stale))
        self._stale.clear()
        flows = [self._flows[number] for number in touched]
        rates = max_min_rates(
            [flow.usage for flow in flows], self._capacity, [flow.cap for flow in flows]
        )
        self.solved += len(touched)
        for number, flow, rate in zip(touched, flows, rates.tolist(), strict=True):
            if flow.change and math.isclose(rate, flow.rate, rel_tol=1e-12):
                continue
            flow.left, flow.since = flow.left_at(self._now), self._now
            flow.rate = rate
            flow.change += 1
            end = self._now + flow.left / rate if rate > 0 else math.inf
            heapq.heappush(self._ends, (end, number, flow.change))

    def _connected(self, start: Iterable[int]) -> set[int]:
        seen, queue, links = set(start), list(start), set()
        while queue:
            for link in self._flows[queue.pop()].usage:
                if link not in links:
                    links.add(link)
                    fresh = self._on[link] - seen
                    seen |= fresh
                    queue.extend(fresh)
        return seen
