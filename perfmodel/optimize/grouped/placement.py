"""Which slot computes which tiles: a cutting-stock programme priced by a bounded knapsack.

Slots are identical, so a slot is never named. A *pattern* is how many tiles of each kind one slot
takes; with a deadline T, how few slots are needed is a cutting-stock problem (Gilmore and Gomory
1961) whose columns are found by a bounded knapsack. T can be met if and only if at most ``slots``
are needed. Bisection over T leaves an interval: the upper end is a placement, the lower end is
proven, because the linear relaxation (or Farley's bound of it, 1990, before it has converged)
needs more slots than there are.

Times are put on an integer grid twice: rounded down for the bound, up for the placement.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linprog

from perfmodel.optimize.grouped.heuristics import (
    LADDER,
    longest_first,
    makespan,
    parts,
)
from perfmodel.optimize.grouped.problem import Floats, Integers


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Tiles per slot and kind, and what is proven.

    ``ladder`` holds the makespan of every heuristic [s]; ``proof`` says where the bound comes from.
    """

    counts: Integers
    makespan: float
    bound: float
    ladder: dict[str, float]
    method: str
    proof: str
    seconds: float

    @property
    def gap(self) -> float:
        """(makespan - bound) / bound."""
        return max(0.0, self.makespan / self.bound - 1) if self.bound > 0 else 0.0


def simple_bound(seconds: Floats, number: Integers, slots: int) -> float:
    """Largest of: mean load, longest tile, and the pigeonhole bounds.

    Of the ``k slots + 1`` longest tiles some slot takes ``k + 1``, at least the sum of the shortest
    ``k + 1`` of them.
    """
    best = max(float(seconds @ number) / slots, float(seconds.max(initial=0.0)))
    order = np.argsort(-seconds, kind="stable")
    cumulative = np.cumsum(number[order])
    total = int(cumulative[-1]) if len(cumulative) else 0
    for k in range(1, min(64, (total - 1) // slots if total else 0) + 1):
        top = k * slots + 1
        need, value = k + 1, 0.0
        last = int(np.searchsorted(cumulative, top))
        for place in range(last, -1, -1):
            before = int(cumulative[place - 1]) if place else 0
            have = min(int(cumulative[place]), top) - before
            used = min(need, have)
            value += used * float(seconds[order[place]])
            need -= used
            if need == 0:
                break
        best = max(best, value)
    return best


def place(
    seconds: Floats,
    number: Integers,
    slots: int,
    *,
    time_limit_s: float = 20.0,
    gap: float = 1e-3,
    cells: int = 4096,
) -> Placement:
    """Place ``number`` tiles of each kind, lasting ``seconds``, on ``slots`` identical slots.

    Parameters
    ----------
    seconds : (kinds,) float array
        Time of one tile of each kind [s], positive and distinct (merge equal ones first).
    number : (kinds,) int array
        Tiles of each kind.
    slots : int
        Programs that run at once.
    time_limit_s : float
        Wall-clock limit [s]; the best placement and bound so far come back at it.
    gap : float
        Relative distance of makespan and bound at which to stop.
    cells : int
        Grid of the pricing knapsack.
    """
    began = time.perf_counter()
    ladder: dict[str, float] = {}
    best, value, method = longest_first(seconds, number, slots), np.inf, "lpt"
    bound = simple_bound(seconds, number, slots)
    for name, heuristic in LADDER.items():
        rung = heuristic(seconds, number, slots)
        ladder[name] = makespan(rung, seconds)
        if ladder[name] < value:
            best, value, method = rung, ladder[name], name
    proof = "mean load, longest tile or pigeonhole"

    def left() -> float:
        return time_limit_s - (time.perf_counter() - began)

    low, high = bound, value
    patterns = _start_patterns(best)
    while value > bound * (1 + gap) and left() > 0.05 and high > low * (1 + gap / 4):
        deadline = (low + high) / 2
        # the lower half first: near the mean load most instances are feasible
        master = _Master(seconds, number, slots, deadline, cells, patterns)
        outcome = master.solve(left() / 2)
        counts = master.rounded() if outcome == "fits" else None
        if outcome == "fits" and counts is None:
            # few tiles a slot: the integer programme needs the columns of the true optimum
            outcome = master.solve(left() / 2, to_optimum=True)
        patterns = master.patterns
        if outcome == "infeasible":
            low = bound = max(bound, deadline)
            proof = "cutting-stock relaxation priced by a bounded knapsack"
            continue
        if outcome == "limit":
            break
        if counts is None and left() > 0.05:
            counts = master.integer(min(left(), 6.0))
        if counts is not None:
            reached = makespan(counts, seconds)
            if reached < value:
                best, value, method = counts, reached, "cutting-stock"
            high = min(deadline, value)
        else:
            # the relaxation fits but no placement was found: T is undecided, look above it
            low = deadline
    return Placement(
        best, value, min(bound, value), ladder, method, proof, time.perf_counter() - began
    )


def _start_patterns(counts: Integers) -> Integers:
    return np.unique(counts, axis=0)


@dataclass(slots=True)
class _Master:
    """The relaxed cutting-stock programme at one deadline, grown column by column."""

    seconds: Floats
    number: Integers
    slots: int
    deadline: float
    cells: int
    patterns: Integers
    weights: Floats = field(init=False)
    floor: Integers = field(init=False)

    def __post_init__(self) -> None:
        unit = self.deadline / self.cells
        self.floor = np.floor(self.seconds / unit * (1 + 1e-12) + 1e-9).astype(np.int64)
        fits = self.patterns @ self.seconds <= self.deadline * (1 + 1e-12)
        most = np.floor(self.deadline / self.seconds * (1 + 1e-12)).astype(np.int64)
        alone = np.diag(np.minimum(most, self.number))
        self.patterns = np.unique(np.concatenate([self.patterns[fits], alone]), axis=0)
        self.weights = np.zeros(len(self.patterns))

    def solve(self, time_limit_s: float, *, to_optimum: bool = False) -> str:
        """``"fits"``, ``"infeasible"`` (proven) or ``"limit"``.

        ``to_optimum`` goes on to price columns when the slots already suffice.
        """
        until = time.perf_counter() + time_limit_s
        if float(self.seconds.max()) > self.deadline * (1 + 1e-12):
            return "infeasible"
        while True:
            found = linprog(
                np.ones(len(self.patterns)),
                A_ub=-self.patterns.T.astype(float),
                b_ub=-self.number.astype(float),
                bounds=(0, None),
                method="highs-ds",
            )
            if found.status != 0 or found.fun is None:
                return "limit"
            self.weights = np.asarray(found.x)
            enough = found.fun <= self.slots * (1 + 1e-9)
            if enough and not to_optimum:
                return "fits"
            prices = np.maximum(0.0, -np.asarray(found.ineqlin.marginals))
            worth, column = self._price(prices)
            # Farley: prices / worth are feasible in the dual, so the optimum is at least this
            if float(prices @ self.number) / worth > self.slots * (1 + 1e-7):
                return "infeasible"
            known = (self.patterns == column).all(axis=1).any()
            if float(prices @ column) <= 1 + 1e-7 or known or time.perf_counter() > until:
                return "fits" if enough else "limit"
            self.patterns = np.concatenate([self.patterns, column[None, :]])

    def _price(self, prices: Floats) -> tuple[float, Integers]:
        """Bounded knapsack: an upper bound of a pattern's worth, and a good pattern that fits."""
        relaxed, _ = _knapsack(prices, self.floor, self.number, self.cells)
        unit = self.deadline / self.cells
        ceiled = np.ceil(self.seconds / unit - 1e-9).astype(np.int64)
        _, column = _knapsack(prices, ceiled, self.number, self.cells)
        room = self.deadline * (1 + 1e-12) - float(column @ self.seconds)
        for kind in np.argsort(-prices / self.seconds, kind="stable"):
            more = min(int(self.number[kind] - column[kind]), int(room // self.seconds[kind]))
            if more > 0:
                column[kind] += more
                room -= more * float(self.seconds[kind])
        return relaxed, column

    def integer(self, time_limit_s: float) -> Integers | None:
        """A placement within the deadline by the integer programme over the known patterns."""
        from perfmodel.optimize.milp import Program, solve

        columns, kinds = self.patterns.shape
        rows = np.tile(np.arange(kinds), columns)
        across = np.repeat(np.arange(columns), kinds)
        values = self.patterns.reshape(-1).astype(float)
        used = values != 0
        answer = solve(
            Program(
                np.ones(columns),
                np.zeros(columns),
                np.full(columns, float(self.slots)),
                np.ones(columns, dtype=bool),
                rows[used],
                across[used],
                values[used],
                self.number.astype(float),
                np.full(kinds, np.inf),
            ),
            time_limit_s=time_limit_s,
            gap=1e-6,
        )
        if answer.values is None or answer.objective > self.slots + 0.5:
            return None
        return self._expand(np.round(answer.values).astype(np.int64))

    def rounded(self) -> Integers | None:
        """Round the relaxation down, put what is left on the free slots by LPT."""
        whole = np.floor(self.weights + 1e-9).astype(np.int64)
        counts = self._expand(whole)
        load = counts @ self.seconds
        short = self.number - counts.sum(axis=0)
        for kind in np.argsort(-self.seconds, kind="stable"):
            for _ in range(int(short[kind])):
                slot = int(load.argmin())
                counts[slot, kind] += 1
                load[slot] += self.seconds[kind]
        return counts if load.max() <= self.deadline * (1 + 1e-9) else None

    def _expand(self, uses: Integers) -> Integers:
        """Patterns to slots; tiles beyond the number needed are dropped."""
        counts = np.zeros((self.slots, len(self.number)), dtype=np.int64)
        rows = np.repeat(self.patterns, uses, axis=0)[: self.slots]
        counts[: len(rows)] = rows
        spare = counts.sum(axis=0) - self.number
        for kind in np.flatnonzero(spare > 0):
            for slot in np.argsort(-(counts @ self.seconds)):
                taken = min(int(counts[slot, kind]), int(spare[kind]))
                counts[slot, kind] -= taken
                spare[kind] -= taken
                if spare[kind] == 0:
                    break
        return counts


def _knapsack(
    worth: Floats, size: Integers, number: Integers, cells: int
) -> tuple[float, Integers]:
    """Bounded knapsack of capacity ``cells`` by binary splitting; value and counts."""
    best = np.zeros(cells + 1)
    history: list[tuple[int, int, int, np.ndarray]] = []
    free = 0.0
    counts = np.zeros(len(worth), dtype=np.int64)
    for kind in np.flatnonzero(worth > 0):
        if size[kind] == 0:
            free += float(worth[kind] * number[kind])
            counts[kind] = number[kind]
            continue
        for part in parts(int(min(number[kind], cells // size[kind]))):
            step = part * int(size[kind])
            offered = best[: cells + 1 - step] + part * worth[kind]
            better = offered > best[step:] + 1e-15
            history.append((int(kind), part, step, better))
            best[step:] = np.where(better, offered, best[step:])
    at = cells
    for kind, part, step, better in reversed(history):
        if at >= step and better[at - step]:
            counts[kind] += part
            at -= step
    return float(best[cells]) + free, counts
