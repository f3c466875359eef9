"""Decision trees of the plans that cuDNN proposes for a convolution, from its answers.

``python3 -m validate.convolutions --out FILE.npz`` grows them (scikit-learn is needed for that
alone) from drawn convolutions and from those that networks of plans are asked about, less those
that tables of measurements hold: what the trees say of a measured convolution is then what they say
of any. The words that are counted stay those of the shipped file, since fits name them (``--anew``
chooses others). ``--check`` tells how often they are right on the measured ones among the drawn.
Plans that differ in how they cut the sum alone count as one. ``python3 -m validate.drawn_lists``
adds answers to those that are drawn.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from perfmodel.calibrate.measurements import load_measurements
from perfmodel.calibrate.taught import SIZES
from perfmodel.cost.proposed import (
    DTYPES,
    LAYOUTS,
    PASSES,
    Proposals,
    asked_columns,
    key_of,
    proposals,
)
from validate.bench import conv_draws, store
from validate.products import fitted, flat, laid_out, most

MEASUREMENTS: Final = Path("validate/measurements")
DRAWN: Final = MEASUREMENTS / "h100-sxm5-80gb" / "search" / "drawn.npz"
LISTED: Final = sorted((MEASUREMENTS / "h200-sxm-141gb" / "search").glob("drawn-plans*.npz"))
"""Lists of whole plans, in the order proposed (:mod:`validate.plan_law.listed`)."""
DEPTH: Final = 45
WORDS: Final = 56
"""Words that are counted, of some 250: those that tell most of the others."""
VOTERS: Final = 5
PARTS: Final = 5
"""In which fresh convolutions are drawn, each of a seed of its own."""
_DIRECTIONS: Final = 12
"""Along which lists differ; more did not lead to better splits."""
_SAMPLE: Final = 40000
_KNOB = re.compile(r"_k(\d+)=(-?\d+)")
Numbers = NDArray[np.float64]
Identity = tuple[int, ...]
"""Sizes and cell of an operator."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """Convolutions of one key of which nobody asked: sizes, cells (:class:`Drawn`) and columns."""

    sizes: NDArray[np.int64]
    cells: NDArray[np.int64]
    columns: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Drawn:
    """Convolutions and what was proposed.

    Parameters
    ----------
    sizes : array of int, shape (N, 10)
        ``n c_in c_out h w d kernel stride padding groups``; ``d`` is 0 in two dimensions.
    cells : array of int, shape (N,)
        ``8 pass + 4 layout + dtype``, as :mod:`perfmodel.cost.proposed` numbers them.
    lists : array of int, shape (N, 10)
        Rows of ``plans``, in falling order; 0 is none.
    plans : list of str
        Sorts of plans, the first empty.
    tiles : array of int, shape (3, P, 3)
        Rows, columns and step of every plan's tile in every pass, 0 where it has none.
    """

    sizes: NDArray[np.int64]
    cells: NDArray[np.int64]
    lists: NDArray[np.int64]
    plans: list[str]
    tiles: NDArray[np.int64]

    def of(self, mask: NDArray[Any]) -> Drawn:
        """Some of them."""
        some = (self.sizes[mask], self.cells[mask], self.lists[mask])
        return Drawn(*some, self.plans, self.tiles)


Rows = tuple[Drawn, NDArray[np.float32]]
"""Convolutions of one tree, and what is asked of them."""


def read(path: Path) -> Drawn:
    """What :data:`DRAWN` holds."""
    with np.load(path, allow_pickle=False) as held:
        which = held["list_low"] + 256 * held["list_high"].astype(np.int64)
        return Drawn(
            held["sizes"].astype(np.int64),
            held["cells"].astype(np.int64),
            held["lists"].astype(np.int64)[which],
            [name.decode() for name in held["plans"].tolist()],
            held["tiles"].astype(np.int64),
        )


def with_listed(drawn: Drawn, paths: Sequence[Path]) -> Drawn:
    """With the lists of further files, but for those that hold a plan which is none of these."""
    place = {words(plan): at for at, plan in enumerate(drawn.plans)}
    for path in paths:
        with np.load(path, allow_pickle=False) as held:
            numbers = np.array([place.get(words(name), -1) for name in held["names"].tolist()])
            lists = numbers[held["plans"].astype(np.int64)]
            known = (lists >= 0).all(axis=1)
            drawn = replace(
                drawn,
                sizes=np.concatenate([drawn.sizes, held["sizes"].astype(np.int64)[known]]),
                cells=np.concatenate([drawn.cells, held["cell"].astype(np.int64)[known]]),
                lists=np.concatenate([drawn.lists, -np.sort(-lists[known], axis=1)]),
            )
    return drawn


@cache
def words(plan: str) -> tuple[str, ...]:
    """Engine, engine and tile, these with the stages, and the cluster of a plan."""
    engine = re.match(r"eng\d+", plan)
    knobs = dict(_KNOB.findall(plan))
    if engine is None:
        return ()
    first = f"{engine[0]}_{knobs.get('2', '')}"
    return (
        engine[0],
        first,
        f"{first}_{knobs.get('13', '')}_{knobs.get('5', '')}",
        f"cluster{knobs.get('27', '')}x{knobs.get('28', '')}",
    )


def cluster(plan: str) -> tuple[int, int]:
    """Blocks along rows and columns that work together."""
    knobs = dict(_KNOB.findall(plan))
    return max(int(knobs.get("27", 1)), 1), max(int(knobs.get("28", 1)), 1)


def columns_of(sizes: NDArray[np.int64]) -> dict[str, Numbers]:
    """Sizes as the trees' questions name them, from rows of a :class:`Drawn`."""
    n, c_in, c_out, h, w, d, side, step, pad, groups = sizes.T.astype(np.float64)
    deep = np.maximum(d, 1.0)

    def outputs(length: Numbers) -> Numbers:
        return np.maximum((length + 2.0 * pad - side) // step + 1.0, 1.0)

    return {
        "n": n, "c_in": c_in, "c_out": c_out, "h": h, "w": w, "inputs": h * w * deep,
        "outputs": outputs(h) * outputs(w) * np.where(d > 0.0, outputs(deep), 1.0),
        "taps": side ** np.where(d > 0.0, 3.0, 2.0), "side": side, "step": step, "pad": pad,
        "groups": np.maximum(groups, 1.0),
    }  # fmt: skip


def measured() -> set[Identity]:
    """Sizes and cells of all convolutions in tables of measurements."""
    found: set[Identity] = set()
    for chip in MEASUREMENTS.iterdir():
        rows: list[dict[str, str]] = []
        for path in [*chip.glob("conv*.csv"), *chip.glob("again/conv*.csv")]:
            rows += store.read_any(path)
        for path in [*chip.glob("plans/*.csv.gz"), *chip.glob("quick/*.csv.gz")]:
            rows += [row for row in store.read_any(path) if row["op"].startswith("conv")]
        for op in map(store.op_of, rows):
            if op.get("pass", "fwd") in PASSES and op.get("dtype") in DTYPES:
                found.add(identity(op))
    return found


def identity(op: Mapping[str, Any]) -> Identity:
    """Sizes and cell of a convolution, whether a table spells it or a record.

    Raises
    ------
    KeyError, ValueError
        If it lacks its dtype, or names a pass, layout or dtype that no cell has.
    """
    depth = int(op.get("d") or op.get("depth") or 0)
    sizes = [int(op.get(name) or 0) for name in SIZES]
    sizes[SIZES.index("d")] = depth
    sizes[SIZES.index("stride")] = max(1, sizes[SIZES.index("stride")])
    sizes[SIZES.index("groups")] = 1 if depth else max(1, sizes[SIZES.index("groups")])
    cell = PASSES.index(op.get("pass") or PASSES[0]) * len(LAYOUTS) * len(DTYPES)
    cell += LAYOUTS.index(op.get("layout") or LAYOUTS[0]) * len(DTYPES)
    return (*sizes, cell + DTYPES.index(op["dtype"]))


def judged(folder: Path) -> set[Identity]:
    """Convolutions that are measured to judge, and never learned from."""
    found: set[Identity] = set()
    for draw in sorted(
        {path.parent for path in (folder.parent / "held_out").glob("*/*/conv*.csv")}
    ):
        for row in load_measurements(draw, draw.name).rows:
            if str(row.record["op"]).startswith("conv"):
                found.add(identity(row.record))
    return found


def known(drawn: Drawn, held: set[Identity] | None = None) -> NDArray[np.bool_]:
    """Which of them are among the ``held``; among those that were measured unless others are."""
    held = measured() if held is None else held
    sizes = drawn.sizes.copy()
    sizes[:, 9] = np.maximum(sizes[:, 9], 1)
    rows = np.column_stack([sizes, drawn.cells]).tolist()
    return np.array([tuple(row) in held for row in rows])


def cells(drawn: Drawn) -> Iterator[tuple[str, Drawn, NDArray[np.float32]]]:
    """Name, convolutions and what is asked of them, of every tree."""
    dtypes, others = drawn.cells % 4, drawn.cells // 4
    for number in range(len(PASSES) * len(LAYOUTS)):
        direction, layout = PASSES[number // 2], LAYOUTS[number % 2]
        for plain in (False, True):
            some = [
                np.flatnonzero((others == number) & (dtypes == place))
                for place, dtype in enumerate(DTYPES)
                if (dtype == "fp32") == plain
            ]
            here = np.concatenate(some)
            asked = [
                asked_columns(columns_of(drawn.sizes[rows]), direction, DTYPES[place])
                for place, rows in zip((3,) if plain else (0, 1, 2), some, strict=True)
            ]
            if here.size:
                key = key_of(direction, layout, "fp32" if plain else "bf16")
                yield key, drawn.of(here), np.ascontiguousarray(np.concatenate(asked))


def grown(
    drawn: Drawn, columns: NDArray[np.float32], worded: Numbers, least: int
) -> dict[str, Any]:
    """A tree's arrays.

    Splits are those after which the lists differ least along random directions of what is in
    them: a library has too many lists to count each at every split.
    """
    lists, which, along = _along(drawn, worded, 0)
    arrays, named = merged(
        *_named(fitted(columns, along[which], least, DEPTH, None), columns, which)
    )
    leaf = np.isinf(arrays["limits"])
    used, listed = np.unique(named[leaf], return_inverse=True)
    list_at = np.zeros(len(named), dtype=np.uint16)
    list_at[leaf] = listed
    return arrays | {
        "asked": arrays["asked"].astype(np.uint8),
        "list": list_at,
        "plans": lists[used].astype(np.uint16),
    }


def voted(
    drawn: Drawn, columns: NDArray[np.float32], fresh: Fresh, votes: NDArray[np.int64]
) -> tuple[Drawn, NDArray[np.float32]]:
    """With those fresh convolutions whose lists most trees name alike, by their :func:`vote`.

    ``votes`` are of shape (:data:`VOTERS`, N). Together the trees are right more often than any of
    them, but too slow for a price: they tell one tree more than the library was asked.
    """
    alike = (votes[:, None] == votes).sum(axis=1)
    sure = 2 * alike.max(axis=0) > len(votes)
    said = votes[alike.argmax(axis=0), np.arange(votes.shape[1])][sure]
    more = replace(
        drawn,
        sizes=np.concatenate([drawn.sizes, fresh.sizes[sure]]),
        cells=np.concatenate([drawn.cells, fresh.cells[sure]]),
        lists=np.concatenate([drawn.lists, np.unique(drawn.lists, axis=0)[said]]),
    )
    return more, np.concatenate([columns, fresh.columns[sure]])


def fresh(key: str, count: int, seed: int) -> Fresh:
    """About ``count`` convolutions that one tree is asked of, drawn as measurements are."""
    direction, layout, sort = key.split("_")
    types = {name for name in DTYPES if (name == "fp32") == (sort == "fp32")}
    strata = tuple(
        one._replace(dtypes=tuple(name for name in one.dtypes if name in types))
        for one in conv_draws.EVERY
        if (one.which, one.layout) == (direction, layout) and types & set(one.dtypes)
    )
    drawn = np.array([identity(op) for op in conv_draws.build(count, seed, strata)], np.int64)
    drawn = drawn[np.argsort(drawn[:, -1] % len(DTYPES), kind="stable")]
    sizes, cells = drawn[:, :-1], drawn[:, -1]
    asked = [
        asked_columns(columns_of(sizes[cells % len(DTYPES) == place]), direction, name)
        for place, name in enumerate(DTYPES)
        if name in types
    ]
    return Fresh(sizes, cells, np.concatenate(asked))


def merged(
    arrays: Mapping[str, Any], named: NDArray[np.int64]
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """The same answers by fewer places: without splits whose two sides name the same.

    ``arrays`` are :func:`~validate.products.flat`'s, ``named`` (P,) what each leaf names.
    """
    below, said = arrays["below"].tolist(), named.tolist()
    leaf = np.isinf(arrays["limits"]).tolist()
    deep = [0] * len(below)
    for place in reversed(range(len(below))):  # children stand behind their parents
        if leaf[place]:
            continue
        one, other = below[place], below[place] + 1
        if leaf[one] and leaf[other] and said[one] == said[other]:
            leaf[place], said[place] = True, said[one]
        else:
            deep[place] = 1 + max(deep[one], deep[other])
    left = np.where(leaf, -1, below)
    found, at = laid_out(arrays["asked"], arrays["limits"], left, left + 1, deep[0])
    names = np.empty(len(found["below"]), dtype=np.int64)
    names[at[at >= 0]] = np.array(said)[at >= 0]
    return found, names


def joined(parts: Sequence[Fresh]) -> Fresh:
    """All of several."""
    every = ([getattr(one, name) for one in parts] for name in ("sizes", "cells", "columns"))
    return Fresh(*map(np.concatenate, every))


def vote(
    drawn: Drawn,
    columns: NDArray[np.float32],
    worded: Numbers,
    least: int,
    fresh: NDArray[np.float32],
    seed: int,
) -> NDArray[np.int64]:
    """What one tree says of fresh convolutions: places among the different lists, (N,).

    Each tree but the first asks about half of the columns, drawn at every split, and measures lists
    along directions of its own.
    """
    _, which, along = _along(drawn, worded, seed)
    tree = fitted(columns, along[which], least, DEPTH, 0.5 if seed else None, seed)
    _, named = _named(tree, columns, which)
    _, at = flat(tree.tree_)
    return named[at[tree.apply(fresh)]]


def _along(
    drawn: Drawn, worded: Numbers, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """The different lists, which of them each convolution has, and where they are."""
    lists, which = np.unique(drawn.lists, axis=0, return_inverse=True)
    which = which.reshape(-1)
    content = _content(lists, len(drawn.plans))
    content = np.column_stack([0.5 * content @ worded, content])
    content -= np.bincount(which) @ content / which.size
    along = np.random.default_rng(seed).standard_normal((content.shape[1], _DIRECTIONS))
    return lists, which, (content @ along).astype(np.float32)


def _named(
    tree: Any, columns: NDArray[np.float32], which: NDArray[np.int64]
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """A tree's arrays, and the list that most answers have at each of its places."""
    arrays, at = flat(tree.tree_)
    return arrays, most(at[tree.apply(columns)], which, len(at), int(which.max()) + 1)


def _content(lists: NDArray[np.int64], plans: int) -> Numbers:
    """How often each plan is in each list."""
    found = np.zeros((len(lists), plans))
    np.add.at(found, (np.arange(len(lists))[:, None], lists), 1.0)
    found[:, 0] = 0.0
    return found


def telling(drawn: Drawn, count: int) -> tuple[list[str], Numbers]:
    """Words from which the counts of the others are told best, and those (P, W) of every plan.

    One after another, that which leaves least of what those before do not tell.
    """
    names = sorted({word for plan in drawn.plans for word in words(plan)})
    held = np.zeros((len(drawn.plans), len(names)))
    for row, plan in enumerate(drawn.plans):
        for word in words(plan):
            held[row, names.index(word)] += 1.0
    rows = np.random.default_rng(0).permutation(len(drawn.lists))[:_SAMPLE]
    left = _content(drawn.lists[rows], len(drawn.plans)) @ held
    left -= left.mean(axis=0)
    same = left.T @ left
    chosen: list[int] = []
    for _ in range(min(count, len(names))):
        power = np.diagonal(same)
        told = np.where(power > 1e-6, (same**2).sum(axis=1) / np.maximum(power, 1e-6), 0.0)
        best = int(told.argmax())
        if told[best] <= 0.0:
            break
        chosen.append(best)
        same = same - np.outer(same[:, best], same[best]) / same[best, best]
    return [names[place] for place in chosen], held[:, chosen]


def counted(drawn: Drawn, names: Sequence[str]) -> Numbers:
    """How often each word is in each plan, (P, W)."""
    return np.array([[words(plan).count(name) for name in names] for plan in drawn.plans], float)


def written(
    drawn: Drawn, least: int, names: Sequence[str] = (), more: int = 0, jobs: int = 1
) -> dict[str, Any]:
    """Arrays of the file of trees; words are counted that tell most, unless they have ``names``.

    Trees of half precision are told ``more`` convolutions each, by a vote.
    """
    names = names or telling(drawn, WORDS)[0]
    held = counted(drawn, names)
    _, worded = telling(drawn, len(drawn.plans))
    found: dict[str, Any] = {
        "words": np.array(names),
        "counts": held.astype(np.uint8),
        "tiles": drawn.tiles.astype(np.uint16),
        "clusters": np.array([cluster(plan) for plan in drawn.plans], dtype=np.uint8),
        "names": np.array(drawn.plans),
    }
    spread = Parallel(jobs, verbose=10)
    rows = {key: (some, columns) for key, some, columns in cells(drawn)}
    if more:
        half = {key: one for key, one in rows.items() if key.endswith("half")}
        rows |= _told_more(half, worded, least, more, spread)
    trees = spread(delayed(grown)(*one, worded, least) for one in rows.values())
    for (key, (_, columns)), tree in zip(rows.items(), trees, strict=True):
        sys.stdout.write(f"{key}: {len(columns)} rows, {len(tree['below']) // 2 + 1} leaves\n")
        found |= {f"{key}_{name}": value for name, value in tree.items()}
    return found | {"keys": np.array(list(rows))}


def _told_more(
    rows: Mapping[str, Rows], worded: Numbers, least: int, more: int, spread: Parallel
) -> dict[str, Rows]:
    """With ``more`` fresh convolutions of each key, drawn and voted on in calls of their own."""
    drawn_of = [(key, more // PARTS, part) for key in rows for part in range(PARTS)]
    parts = spread(delayed(fresh)(*one) for one in drawn_of)
    unasked = [joined(parts[at : at + PARTS]) for at in range(0, len(parts), PARTS)]
    votes = spread(
        delayed(vote)(*known, worded, least, one.columns, seed)
        for known, one in zip(rows.values(), unasked, strict=True)
        for seed in range(VOTERS)
    )
    said = (np.stack(votes[at : at + VOTERS]) for at in range(0, len(votes), VOTERS))
    return {
        key: voted(*known, one, named)
        for (key, known), one, named in zip(rows.items(), unasked, said, strict=True)
    }


def right(tree: Proposals, drawn: Drawn, columns: NDArray[np.float32]) -> tuple[float, float]:
    """Shares of lists, and of plans, that are foretold."""
    said = tree.plans[tree(columns)].astype(np.int64)
    true = np.sort(drawn.lists, axis=1)[:, ::-1]
    whole = float(np.mean(np.all(np.sort(said, axis=1)[:, ::-1] == true, axis=1)))
    count = len(drawn.plans)
    common = np.minimum(_content(said, count), _content(true, count)).sum(axis=1)
    return whole, float(np.mean(common / np.maximum((true > 0).sum(axis=1), 1)))


def main(argv: Sequence[str] | None = None) -> int:
    """Grow trees, or check those that are shipped."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--drawn", type=Path, default=DRAWN)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--least", type=int, default=2, help="answers of a leaf")
    parser.add_argument("--voted", type=int, default=0, metavar="N", help="so many more by a vote")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--anew", action="store_true", help="choose the words that are counted")
    args = parser.parse_args(argv)
    drawn = read(args.drawn)
    met = known(drawn)
    if args.out is not None:
        more = with_listed(drawn, LISTED)
        more = more.of(~known(more, measured() | judged(MEASUREMENTS)))
        names = [] if args.anew else [name.partition("_")[2] for name in proposals()[0][1:]]
        store.write_arrays(args.out, written(more, args.least, names, args.voted, args.jobs))
    if args.check:
        for key, some, columns in cells(drawn.of(met)):
            whole, plans = right(proposals()[1][key], some, columns)
            sys.stdout.write(
                f"{key}: {len(columns)} measured, lists {whole:.1%}, plans {plans:.1%}\n"
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
