"""The inner programme: the fastest way to run layers i..j on one stage, exactly, for every i, j.

For one stage kind and one number of micro-batches in flight, choosing a strategy per layer under
the memory cap is a knapsack along a chain. It is solved by dynamic programming over (memory cell,
strategy of the last layer). Memory is cut into cells twice: sizes rounded up give a plan that
certainly fits (an upper bound of the time), sizes rounded down a time that no plan can beat (a
lower bound); when all sizes are whole multiples of a cell, the two coincide.

Three shortcuts, none of which changes the answer. The fastest choice without any cap is computed
first, for all intervals at once; where it fits, the knapsack is not needed, and where even the
smallest choice does not fit, there is none. Intervals with the same sequence of layers share one
table (a trie of sequences). All in-flight counts and both roundings are one array operation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from perfmodel.optimize.problem import PlanningProblem

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

TRANSIENT_LEVELS = 4


@dataclass(frozen=True, slots=True, eq=False)
class IntervalCosts:
    """``upper[q, f, i, j]`` and ``lower[q, f, i, j]``: bracket of the fastest time [s].

    ``f`` indexes :attr:`counts`, the distinct in-flight counts; ``inf`` means that nothing fits.
    Intervals outside ``wanted`` are ``inf`` in both. ``tables`` counts the programme's tables.
    """

    upper: Floats
    lower: Floats
    counts: tuple[float, ...]
    tables: int


def free_costs(problem: PlanningProblem) -> tuple[Floats, Floats, Floats, Floats]:
    """Fastest times without a memory cap, with the memory those choices take.

    Returns
    -------
    seconds, persistent, activation, transient : (Q, L, L) arrays
        Entry ``[q, i, j]`` is for layers i..j; ``inf`` seconds below the diagonal.
    """
    q, n, k = problem.seconds.shape
    shape = (q, n, n)
    best = np.full(shape, np.inf)
    held, active, peak = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    which = np.arange(q)[:, None, None]
    starts = np.arange(n)[None, :, None]
    time = np.full((q, n, k), np.inf)  # over all starts at once
    parts = [np.zeros((q, n, k)) for _ in range(3)]
    for layer in range(n):
        arrive = time[:, :, :, None] + problem.reshard[:, layer][:, None]
        source = arrive.argmin(axis=2)
        time = np.take_along_axis(arrive, source[:, :, None, :], axis=2)[:, :, 0]
        parts = [part[which, starts, source] for part in parts]
        time[:, layer] = 0.0
        for part in parts:
            part[:, layer] = 0.0
        time = time + problem.seconds[:, None, layer]
        parts[0] = parts[0] + problem.persistent[:, None, layer]
        parts[1] = parts[1] + problem.activation[:, None, layer]
        parts[2] = np.maximum(parts[2], problem.transient[:, None, layer])
        last = time.argmin(axis=2)[:, :, None]
        for target, source_array in zip((best, held, active, peak), (time, *parts), strict=True):
            target[:, :, layer] = np.take_along_axis(source_array, last, axis=2)[:, :, 0]
    return best, held, active, peak


def least_bytes(problem: PlanningProblem, count: float) -> Floats:
    """(Q, L, L): bytes that layers i..j take at least with ``count`` micro-batches in flight."""
    legal = np.isfinite(problem.seconds)
    weight = np.where(legal, problem.persistent + count * problem.activation, np.inf).min(axis=2)
    weight[np.isinf(weight)] = 0.0  # no legal strategy: the free time is already infinite
    peak = np.where(legal, problem.transient, np.inf).min(axis=2)
    peak[np.isinf(peak)] = 0.0
    total = np.concatenate([np.zeros((len(weight), 1)), np.cumsum(weight, axis=1)], axis=1)
    sums = total[:, None, 1:] - total[:, :-1, None]
    n = weight.shape[1]
    peaks = np.repeat(peak[:, None, :], n, axis=1)
    peaks = np.where(np.tri(n, n, -1, dtype=bool)[None], 0.0, peaks)
    return np.asarray(np.maximum(sums, 0.0) + np.maximum.accumulate(peaks, axis=2))


def interval_costs(
    problem: PlanningProblem, *, wanted: Mask | None = None, cells: int = 1024
) -> IntervalCosts:
    """Bracket the fastest time of every wanted interval.

    Parameters
    ----------
    problem : PlanningProblem
        The arrays.
    wanted : (Q, F, L, L) bool array, optional
        Which intervals are asked for; all with i <= j if left out.
    cells : int
        Memory cells of a stage's capacity.
    """
    counts = tuple(sorted(set(problem.in_flight)))
    q_count, n, _ = problem.seconds.shape
    free, held, active, peak = free_costs(problem)
    ordered = ~np.tri(n, n, -1, dtype=bool)
    if wanted is None:
        wanted = np.ones((q_count, len(counts), n, n), dtype=bool)
    wanted = wanted & ordered & np.isfinite(free)[:, None]
    shape = (q_count, len(counts), n, n)
    upper, lower = np.full(shape, np.inf), np.full(shape, np.inf)
    undecided = np.zeros(shape, dtype=bool)
    for f, count in enumerate(counts):
        capacity = np.array([kind.capacity for kind in problem.kinds])[:, None, None]
        fits = held + count * active + peak <= capacity
        hopeless = least_bytes(problem, count) > capacity * (1 + 1e-9)
        settled = wanted[:, f] & fits
        upper[:, f][settled] = free[settled]
        lower[:, f][settled] = free[settled]
        undecided[:, f] = wanted[:, f] & ~fits & ~hopeless
    tables = 0
    for q in range(q_count):
        asked = undecided[q].any(axis=(1, 2))
        if asked.any():
            tables += _fill(problem, q, counts, undecided[q], upper[q], lower[q], cells)
    return IntervalCosts(upper, lower, counts, tables)


@dataclass(slots=True, eq=False)
class _Node:
    """A sequence of layers, and where it occurs: (first, last) pairs."""

    layer: int
    places: list[tuple[int, int]] = field(default_factory=list)
    children: dict[int, _Node] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """Weights in cells for a batch of (rounding, in-flight count, transient level)."""

    weights: Integers  # (B, L, K); too heavy or illegal ones exceed every room
    room: Integers  # (B,) cells available
    is_upper: Mask  # (B,)
    count_index: Integers  # (B,)
    exact: bool


def _grid(
    problem: PlanningProblem, q: int, counts: tuple[float, ...], asked: list[int], cells: int
) -> _Grid:
    capacity = problem.kinds[q].capacity
    legal = np.isfinite(problem.seconds[q])
    transient = problem.transient[q]
    levels = np.unique(transient[legal])
    coarse = len(levels) > TRANSIENT_LEVELS
    if coarse:
        levels = levels[np.linspace(0, len(levels) - 1, TRANSIENT_LEVELS).round().astype(int)]
    up = np.searchsorted(levels, transient, side="left").clip(0, len(levels) - 1)
    down = (np.searchsorted(levels, transient, side="right") - 1).clip(0)
    sizes = [problem.persistent[q] + counts[f] * problem.activation[q] for f in asked]
    whole = all(np.array_equal(size[legal], np.round(size[legal])) for size in sizes)
    whole = whole and np.array_equal(levels, np.round(levels))
    whole = whole and float(capacity).is_integer() and capacity <= cells
    unit = 1.0 if whole else capacity / cells
    exact = whole and not coarse
    weights, room, is_upper, index = [], [], [], []
    for rounding in (True,) if exact else (True, False):
        for f, size in zip(asked, sizes, strict=True):
            scaled = size / unit
            cell = np.ceil(scaled - 1e-9) if rounding else np.floor(scaled + 1e-9)
            for level, value in enumerate(levels):
                if value > capacity:
                    continue
                allowed = legal & ((up if rounding else down) <= level)
                weights.append(np.where(allowed, np.minimum(cell, 2 * cells + 2), 2 * cells + 2))
                room.append(np.floor((capacity - value) / unit + 1e-9))
                is_upper.append(rounding)
                index.append(f)
    n, k = legal.shape
    return _Grid(
        np.array(weights, dtype=np.int64).reshape(-1, n, k),
        np.array(room, dtype=np.int64),
        np.array(is_upper, dtype=bool),
        np.array(index, dtype=np.int64),
        exact,
    )


def _first(problem: PlanningProblem, q: int, grid: _Grid, layer: int, cells: int) -> Floats:
    """Table (K, B, cells + 1): fastest time of one layer within so many cells."""
    k, batch = len(problem.strategies), len(grid.room)
    table = np.full((k, batch, cells + 1), np.inf)
    for a in range(k):
        for b in range(batch):
            weight = grid.weights[b, layer, a]
            if weight <= cells:
                table[a, b, weight:] = problem.seconds[q, layer, a]
    return table


def _extended(problem: PlanningProblem, q: int, grid: _Grid, layer: int, table: Floats) -> Floats:
    """The table after one more layer."""
    arrived, column_of = _arrived(problem.reshard[q, layer], table)
    result = np.full_like(table, np.inf)
    size = table.shape[2]
    for a, c in enumerate(column_of):
        seconds = problem.seconds[q, layer, a]
        if not np.isfinite(seconds):
            continue
        for b, weight in enumerate(grid.weights[:, layer, a]):
            if weight < size:
                np.add(arrived[c][b, : size - weight], seconds, out=result[a, b, weight:])
    return result


def _arrived(cost: Floats, table: Floats) -> tuple[list[Floats], list[int]]:
    """Fastest times on arrival at the next layer, and which of them each strategy sees."""
    if not cost.any():
        return [table.min(axis=0)], [0] * len(cost)
    # Strategies that reshard alike are merged before the all-pairs minimum.
    rows, row_of = np.unique(cost, axis=0, return_inverse=True)
    merged = [table[row_of.reshape(-1) == r].min(axis=0) for r in range(len(rows))]
    columns, column_of = np.unique(rows, axis=1, return_inverse=True)
    arrived = []
    for c in range(columns.shape[1]):
        best = merged[0] + columns[0, c]
        for r in range(1, len(merged)):
            np.minimum(best, merged[r] + columns[r, c], out=best)
        arrived.append(best)
    return arrived, column_of.reshape(-1).tolist()


def _classes(problem: PlanningProblem, q: int) -> tuple[Integers, Integers]:
    """Layers that are alike as the first of an interval, and alike inside one."""
    n = len(problem.layers)
    own = [
        a[q].reshape(n, -1)
        for a in (problem.seconds, problem.persistent, problem.activation, problem.transient)
    ]
    first = np.concatenate(own, axis=1)
    inside = np.concatenate([first, problem.reshard[q].reshape(n, -1)], axis=1)
    alike = [np.unique(a, axis=0, return_inverse=True)[1].reshape(-1) for a in (first, inside)]
    return alike[0].astype(np.int64), alike[1].astype(np.int64)


def _fill(
    problem: PlanningProblem,
    q: int,
    counts: tuple[float, ...],
    undecided: Mask,
    upper: Floats,
    lower: Floats,
    cells: int,
) -> int:
    """Run the tables that settle the undecided intervals of one kind; returns how many."""
    first_class, inside_class = _classes(problem, q)
    distinct = len(np.unique(inside_class)) > len(inside_class) // 2
    roots: dict[tuple[int, tuple[int, ...]], _Node] = {}
    for i in np.flatnonzero(undecided.any(axis=(0, 2))).tolist():
        # With few repeats there is nothing to share: keep only the counts that this start needs.
        needs = undecided[:, i].any(axis=1) if distinct else undecided.any(axis=(1, 2))
        key = (int(first_class[i]), tuple(np.flatnonzero(needs).tolist()))
        node = roots.setdefault(key, _Node(i))
        node.places.append((i, i))
        for j in range(i + 1, int(np.flatnonzero(undecided[:, i].any(axis=0))[-1]) + 1):
            node = node.children.setdefault(int(inside_class[j]), _Node(j))
            node.places.append((i, j))
    tables = 0
    for (_, asked), root in roots.items():
        grid = _grid(problem, q, counts, list(asked), cells)
        size = int(grid.room.max(initial=0))
        for node, table in _walk(problem, q, grid, root, size):
            tables += 1
            reached = table[:, np.arange(len(grid.room)), grid.room].min(axis=0)
            for f in asked:
                here = grid.count_index == f
                high = reached[here & grid.is_upper].min(initial=np.inf)
                low = high if grid.exact else reached[here & ~grid.is_upper].min(initial=np.inf)
                for i, j in node.places:
                    if undecided[f, i, j]:
                        upper[f, i, j], lower[f, i, j] = high, low
    return tables


def _walk(
    problem: PlanningProblem, q: int, grid: _Grid, root: _Node, cells: int
) -> Iterator[tuple[_Node, Floats]]:
    """Every node below ``root`` with its table; a table lives until its last child is done."""
    stack = [(root, _first(problem, q, grid, root.layer, cells))]
    while stack:
        node, table = stack.pop()
        yield node, table
        for child in node.children.values():
            stack.append((child, _extended(problem, q, grid, child.layer, table)))


def recover(
    problem: PlanningProblem, q: int, count: float, first: int, last: int, *, cells: int = 1024
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Strategies of layers first..last: the choice behind ``lower``, and the one behind ``upper``.

    The first may exceed the cap by the rounding; the second never does, and is ``None`` where
    rounded-up sizes leave no choice.
    """
    free = _free_choice(problem, q, first, last)
    if _held(problem, q, count, first, free) <= problem.kinds[q].capacity:
        return free, free
    grid = _grid(problem, q, (count,), [0], cells)
    tables = [_first(problem, q, grid, first, int(grid.room.max(initial=0)))]
    for layer in range(first + 1, last + 1):
        tables.append(_extended(problem, q, grid, layer, tables[-1]))
    found: dict[bool, tuple[int, ...] | None] = {True: None, False: None}
    best = {True: np.inf, False: np.inf}
    for b, room in enumerate(grid.room):
        side = bool(grid.is_upper[b])
        value = tables[-1][:, b, room].min()
        if value < best[side]:
            best[side] = float(value)
            found[side] = _traced(problem, q, grid, b, first, tables)
    lowest = found[True] if grid.exact else found[False]
    return (lowest if lowest is not None else free), found[True]


def _traced(
    problem: PlanningProblem, q: int, grid: _Grid, b: int, first: int, tables: list[Floats]
) -> tuple[int, ...]:
    cell = int(grid.room[b])
    choice = [int(tables[-1][:, b, cell].argmin())]
    for step in range(len(tables) - 1, 0, -1):
        layer, now = first + step, choice[-1]
        cell -= int(grid.weights[b, layer, now])
        choice.append(
            int((tables[step - 1][:, b, cell] + problem.reshard[q, layer, :, now]).argmin())
        )
    return tuple(reversed(choice))


def _free_choice(problem: PlanningProblem, q: int, first: int, last: int) -> tuple[int, ...]:
    """The fastest strategies without a cap; the same choice as in :func:`free_costs`."""
    time, sources = problem.seconds[q, first].copy(), []
    for layer in range(first + 1, last + 1):
        arrive = time[:, None] + problem.reshard[q, layer]
        sources.append(arrive.argmin(axis=0))
        time = arrive.min(axis=0) + problem.seconds[q, layer]
    choice = [int(time.argmin())]
    for source in reversed(sources):
        choice.append(int(source[choice[-1]]))
    return tuple(reversed(choice))


def _held(
    problem: PlanningProblem, q: int, count: float, first: int, choice: tuple[int, ...]
) -> float:
    layers = np.arange(first, first + len(choice))
    weight = problem.persistent[q, layers, choice] + count * problem.activation[q, layers, choice]
    return float(weight.sum() + problem.transient[q, layers, choice].max())
