"""Decision trees of the kernels that cuBLAS takes, from lists of its answers.

``python3 -m validate.products CHIP=LIST.csv.gz... --out FILE.npz`` grows them (scikit-learn is
needed for that alone), from products that no table of measurements holds: what the trees say of a
measured product is then what they say of any. ``--check`` tells how often they are right on
measured ones. The lists are those of :mod:`validate.bench.chosen`.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost.choice import (
    CLASSES,
    KERNEL,
    KINDS,
    LAYOUTS,
    ODD,
    asked_columns,
    kind_of,
    rules,
)
from perfmodel.cost.device import device_of
from perfmodel.cost.tasks import odd_rows
from perfmodel.hardware import load_accelerator
from validate.bench import chosen, ops, store
from validate.bench.names import read as read_names

MAKERS: Final = ("nvjet", "xmma", "cutlass_wmma", "cutlass", "cutlass_simt", "few", "vector",
                 "magma", "other")  # fmt: skip
DEPTH: Final = 36
"""Questions at most; deeper leaves are not righter."""
_LOOKED_AT: Final = {False: 0.5, True: 1.0}
"""Share of the columns that a question is the best of, of even and of odd products. Odd ones, in a
third more time, come out right for two of a hundred more so."""
_BATCH, _SINGLE = 3, 1.5  # column of the batch that trees ask, and what no batch is above
MEASUREMENTS: Final = Path("validate/measurements")
_NVJET = re.compile(r"nvjet_sm90_\w+?_(\d+)x(\d+)_(\d+)x(\d+)_(\d+)x(\d+)_[hv]_bz_(\w*)")
_XMMA = re.compile(
    r"xmma_gemm\w*?tilesize(\d+)x(\d+)x(\d+)_(?:cgasize(\d+)x(\d+)x\d+_)?(?:stage(\d+)_)?(\w*)"
)
_OF_VECTORS: Final = ("gemvx", "gemv2T", "gemv2N", "gemvNSP", "gemmk1")
_THREADS = re.compile(r" (\d+) (\d+) \d+$")  # of a block, and the bytes that they share
_WORDS = re.compile(r"L[ib](\d+)E")
_FEW = re.compile(r"gemmSN_([NT])N_kernel")
_VECTOR = re.compile("|".join(_OF_VECTORS))
_ADDERS: Final = ("splitKreduce", "split_k_kernel")
_BEFORE: Final = ("memset", "scal_kernel", "scal_64addr_kernel")  # what a call starts with, if so
_CUTLASS = re.compile(r"cutlass_\d+_(\w+?)_(\d+)x(\d+)(?:_(\d+)x(\d+))?_[nt][nt]_align(\d)")
Kernel = tuple[float, ...]


def kernel_of(
    launches: Sequence[tuple[str, tuple[int, ...]]], op: ops.Op
) -> tuple[Kernel, tuple[int, ...]]:
    """The columns :data:`KERNEL` of the first kernel of a product's call, and its grid."""
    reduced = any(adder in name for name, _ in launches for adder in _ADDERS)
    for name, grid in launches:
        if any(other in name for other in (*_ADDERS, *_BEFORE)):
            continue
        maker, rows, *more, mark = _parsed(name)
        if rows < 0.0:
            rows = _along(max(op["m"], op["n"]), grid[0])
        return (maker, rows, *more, float(reduced), mark), grid
    return (float(MAKERS.index("other")), *[0.0] * 9), (1, 1, 1)


@cache
def _parsed(name: str) -> Kernel:
    """Maker, tile, step, stages, cluster, warp groups and a mark of the instruction."""
    if found := _NVJET.search(name):
        rows, cols, step, stages, along, across = (float(x) for x in found.groups()[:6])
        words = found[7]
        together = 1.0 if "coopA" in words else 2.0 if "coopB" in words else 0.0
        return 0.0, rows, cols, step, stages, along, across, together, float("splitK" in words)
    if found := _XMMA.search(name):
        rows, cols, step = (float(x) for x in found.groups()[:3])
        along, across = float(found[4] or 1), float(found[5] or 1)
        words = found[7]
        mark = 1.0 * ("warpgroup" in words) + 2.0 * ("segment_k_on" in words)
        mark += 4.0 * ("tensor" in words)
        return 1.0, rows, cols, step, float(found[6] or 0), along, across, 0.0, mark
    if found := _CUTLASS.search(name):
        words, even = found[1], float(found[6])
        maker = "cutlass_wmma" if "wmma" in words else "cutlass"
        maker = "cutlass_simt" if "simt" in words else maker
        sizes = [float(x or 0) for x in found.groups()[1:5]]
        mark = 1.0 * ("s1688" in words) + 2.0 * ("s161616" in words) + 4.0 * ("s16816" in words)
        return (float(MAKERS.index(maker)), *sizes, 1.0, 1.0, 0.0, mark + 8.0 * even)
    return _plain(name)


def _plain(name: str) -> Kernel:
    """The same of kernels for few rows and for vectors, which are named by numbers alone.

    In place of a tile stands what a block computes, in place of stages its warps; a product by a
    vector has its results along ``rows``, whichever side they lie on. Where the name tells it, the
    grids of 8,800 answers come out to the block.
    """
    found = _THREADS.search(name)
    threads, shared = (int(found[1]), int(found[2])) if found else (128, 0)
    numbers = [int(number) for number in _WORDS.findall(name.split(maxsplit=1)[0])]
    maker, rows, cols, step, mark = "other", 0.0, 0.0, 0.0, 0.0
    if few := _FEW.search(name):
        plain = few[1] == "N"
        maker, rows, cols = "few", 64.0 if plain else 8.0, float(numbers[4])
        mark = 1.0 * plain + 2.0 * (len(numbers) > 6 and numbers[6] == 1)
    elif vector := _VECTOR.search(name):
        maker, mark = "vector", float(1 + _OF_VECTORS.index(vector[0]))
        rows, cols = _results(vector[0], numbers, threads, shared)
        if vector[0] == "gemvx":
            mark += 8.0 * numbers[0] + 16.0 * numbers[2]
    elif "gemv" in name or "dot_kernel" in name:
        maker = "vector"
    elif "magma" in name:
        maker, rows, cols, step = "magma", *(2.0 ** numbers[at] for at in (2, 4, 3))
        mark = 1.0 * numbers[0] + 2.0 * numbers[1]
    elif "sgemm_largek" in name:
        rows, cols, mark = 64.0, 8.0, 1.0
    return float(MAKERS.index(maker)), rows, cols, step, threads / 32.0, 1.0, 1.0, 0.0, mark


def _along(results: int, blocks: int) -> float:
    """The power of two that as many blocks share so many results by."""
    return float(max(16.0, 2.0 ** np.ceil(np.log2(results / blocks))))


def _results(kind: str, numbers: Sequence[int], threads: int, shared: int) -> tuple[float, float]:
    """Results of a block of a product by a vector, or of a single step of ``k``, along each side.

    Where threads of ``gemvx`` lie along ``k``, they share four bytes each and four for a result;
    where they do not, the name does not tell (-1).
    """
    if kind == "gemmk1":
        return 32.0, 32.0
    if kind == "gemv2N":
        return threads / numbers[1], 1.0
    if kind == "gemv2T":
        return 8.0, 1.0
    if kind == "gemvNSP":
        return threads / 32.0 if numbers[1] == 32 else 32.0, 1.0
    return -1.0 if numbers[0] else shared / 4.0 - threads, 1.0


def parts_of(kernel: Kernel, grid: tuple[int, ...], op: ops.Op) -> float:
    """Parts of ``k``: blocks along the third side of the grid, or of nvjet beyond its tiles."""
    batch = op.get("batch", 1)
    if kernel[1] <= 0.0:
        return 1.0
    if kernel[0] > 0.0:
        return grid[2] / batch if grid[2] % batch == 0 else 1.0
    if not kernel[9]:  # which has its blocks take turns
        return 1.0
    lines = np.ceil(op["m"] / (kernel[2] * kernel[6])) * kernel[6]
    columns = np.ceil(op["n"] / (kernel[1] * kernel[5])) * kernel[5]
    return float(max(1.0, np.prod(grid) / (columns * lines * batch)))


@dataclass(slots=True)
class Table:
    """Answers of one class of arithmetic: what a tree asks (N, F), kernels and parts (N,)."""

    columns: NDArray[np.float32]
    kernels: list[Kernel]
    parts: NDArray[np.float64]


def measured() -> set[str]:
    """Identities of all products in tables of measurements, cheap ones included."""
    found: set[str] = set()
    for chip in MEASUREMENTS.iterdir():
        tables = [*chip.glob("*gemm*.csv"), *chip.glob("again/*gemm*.csv")]
        for path in [*tables, *chip.glob("quick/*.csv.gz")]:
            found |= {ops.key(store.op_of(row)) for row in store.read_any(path)}
        for path in chip.glob("kernels/*.csv.gz"):
            found |= {ops.key(op) for op, _ in read_names(path)}
    return found


def tables(lists: Sequence[tuple[Path, str]], known: set[str], *, inside: bool) -> dict[str, Table]:
    """Answers by class of :func:`~perfmodel.cost.choice.kind_of`, to what is ``known`` or not."""
    gathered: dict[str, list[Table]] = {}
    for path, chip in lists:
        rate = device_of(load_accelerator(chip), "bf16", matrix=True).bandwidth
        alike: dict[tuple[str, str], list[tuple[tuple[float, ...], Kernel]]] = {}
        seen: set[str] = set()
        for op, launches in chosen.read(path):
            key = ops.key(op)
            if op["dtype"] not in CLASSES or key in seen or (key in known) != inside:
                continue
            seen.add(key)
            kernel, grid = kernel_of(launches, op)
            trans = op.get("trans") or ops.usual_trans(op)
            sizes = (op["m"], op["n"], op["k"], op.get("batch", 1), parts_of(kernel, grid, op))
            alike.setdefault((op["dtype"], trans), []).append((sizes, kernel))
        for (dtype, trans), answers in sorted(alike.items()):
            m, n, k, batch, parts = np.array([sizes for sizes, _ in answers], dtype=np.float64).T
            beside = odd_rows({"m": m, "n": n, "k": k, "batch": batch}, {"trans": trans}, dtype)
            layout = np.full_like(m, LAYOUTS.index(trans))
            for odd in (False, True):
                here = np.flatnonzero(beside == odd)
                of = (x[here] for x in (m, n, k, batch, layout))
                columns = asked_columns(*of, rate, dtype, odd)
                table = Table(columns, [answers[at][1] for at in here], parts[here])
                gathered.setdefault(kind_of(dtype, odd), []).append(table)
    return {
        kind: Table(
            np.concatenate([table.columns for table in some]),
            [kernel for table in some for kernel in table.kernels],
            np.concatenate([table.parts for table in some]),
        )
        for kind, some in gathered.items()
        if any(table.kernels for table in some)
    }


def grown(table: Table, least: int, share: float = _LOOKED_AT[False]) -> dict[str, Any]:
    """Arrays of a :class:`~perfmodel.cost.choice.Rule` for the answers of a class, by name.

    Splits are those after which the kernels' numbers, and the parts, differ least: a library has
    too many kernels to count each at every split. Batches are asked for first: their rules differ.
    """
    names = sorted(set(table.kernels))
    place = {kernel: at for at, kernel in enumerate(names)}
    labels = np.array([place[kernel] for kernel in table.kernels])
    numbers = np.array(names)
    numbers[:, 1:4] = np.log2(1.0 + numbers[:, 1:4])
    numbers[:, 4:7] = np.log2(1.0 + numbers[:, 4:7]) / 2.0
    numbers[:, 9] = np.log2(1.0 + numbers[:, 9]) / 2.0
    wanted = np.column_stack([numbers[labels], np.log2(table.parts)])
    single = table.columns[:, _BATCH] <= _SINGLE
    if single.all() or not single.any():
        arrays, place_of = _tree(table.columns, wanted, least, share)
    else:
        some = [
            _tree(table.columns[rows], wanted[rows], least, share) for rows in (single, ~single)
        ]
        arrays, places = joined(some[0][0], some[1][0], _BATCH, _SINGLE)
        place_of = np.empty(len(labels), dtype=np.int64)
        for rows, to, (_, found) in zip((single, ~single), places, some, strict=True):
            place_of[rows] = to[found]
    count = len(arrays["asked"])
    kernel = most(place_of, labels, count, len(names))
    return arrays | {
        "kernel": kernel.astype(np.int16),
        "parts": _parts(table, labels, kernel, place_of, count),
        "kernels": numbers_of(names),
    }


def _tree(
    columns: NDArray[np.float32], wanted: NDArray[Any], least: int, share: float
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Arrays of a tree for what is wanted (N, W), and the leaf of every row (N,)."""
    tree = fitted(columns, wanted, least, DEPTH, share)
    arrays, at = flat(tree.tree_)
    return arrays, at[tree.apply(columns)]


def fitted(
    columns: NDArray[np.float32],
    wanted: NDArray[Any],
    least: int,
    depth: int,
    share: float | None,
    seed: int = 0,
) -> Any:
    """A tree of scikit-learn's that tells what is wanted (N, W) from the columns (N, F).

    Leaves hold ``least`` rows or more; a question is the best of a ``share`` of the columns, drawn
    anew each time, or of all.
    """
    trees = importlib.import_module("sklearn.tree")
    tree = trees.DecisionTreeRegressor(
        min_samples_leaf=least, max_depth=depth, max_features=share, random_state=seed
    )
    return tree.fit(columns, wanted)


def joined(
    smaller: dict[str, Any], larger: dict[str, Any], column: int, limit: float
) -> tuple[dict[str, Any], tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """One tree of two of :func:`flat`, and where the places of each stand in it.

    Rows whose ``column`` is at most ``limit`` go to the ``smaller`` one.
    """
    counts = [len(tree["asked"]) for tree in (smaller, larger)]
    # Both roots stand side by side, all others behind as they were.
    behind = [np.arange(counts[0]) + 2, np.arange(counts[1]) + counts[0] + 1]
    places = tuple(
        np.concatenate([[root], rest[1:]]) for root, rest in zip((1, 2), behind, strict=True)
    )
    below = np.ones(sum(counts) + 1, dtype=np.int32)
    asked = np.full(len(below), column, dtype=np.int16)
    limits = np.full(len(below), limit, dtype=np.float32)
    for tree, at in zip((smaller, larger), places, strict=True):
        asked[at], limits[at], below[at] = tree["asked"], tree["limits"], at[tree["below"]]
    depth = np.int64(max(tree["depth"] for tree in (smaller, larger)) + 1)
    arrays = {"asked": asked, "limits": limits, "below": below, "depth": depth}
    return arrays, (places[0], places[1])


def numbers_of(names: Sequence[Kernel]) -> NDArray[np.float32]:
    """Kernels as rows of :data:`KERNEL`."""
    return np.array(names, dtype=np.float32).reshape(-1, len(KERNEL))


def most(leaf: NDArray[Any], labels: NDArray[Any], leaves: int, kinds: int) -> NDArray[np.int64]:
    """The label that most answers of each leaf have, shape (leaves,); 0 where there is none."""
    pairs, counts = np.unique(leaf * kinds + labels, return_counts=True)
    order = np.argsort(counts, kind="stable")
    found = np.zeros(leaves, dtype=np.int64)
    found[pairs[order] // kinds] = pairs[order] % kinds  # the most frequent is written last
    return found


def flat(tree: Any) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Arrays of a tree that scikit-learn grew, as :func:`laid_out` makes them, and places."""
    left, right = tree.children_left, tree.children_right
    return laid_out(tree.feature, tree.threshold, left, right, tree.max_depth)


def laid_out(
    asked: NDArray[Any],
    limits: NDArray[Any],
    left: NDArray[Any],
    right: NDArray[Any],
    depth: int,
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """``asked``, ``limits``, ``below`` and ``depth`` of a tree of such nodes, (P,), and places.

    Those are the arrays that :func:`perfmodel.cost.walk.tree_of` takes, with children side by
    side, so that the larger's place is one behind the smaller's; a leaf has -1 for ``left``.
    Places, shape (P,), are where the nodes stand then, -1 those that nothing leads to.
    """
    order = beside_each_other(left, right)
    at = np.full(len(left), -1, dtype=np.int64)
    at[order] = np.arange(len(order))
    leaf = left[order] < 0
    arrays = {
        "asked": np.where(leaf, 0, asked[order]).astype(np.int16),
        "limits": np.where(leaf, np.inf, limits[order]).astype(np.float32),
        "below": np.where(leaf, np.arange(len(order)), at[left[order]]).astype(np.int32),
        "depth": np.int64(depth),
    }
    return arrays, at


def beside_each_other(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.int64]:
    """Nodes in an order in which every pair of children stands side by side."""
    order, queue = [0], [0]
    while queue:
        node = queue.pop()
        if left[node] >= 0:
            order += [left[node], right[node]]
            queue += [left[node], right[node]]
    return np.array(order)


def _parts(
    table: Table, labels: NDArray[Any], kernel: NDArray[Any], leaf: NDArray[Any], count: int
) -> NDArray[np.float32]:
    """Mean logarithm of the parts of a leaf's answers that name its kernel."""
    same = labels == kernel[leaf]
    total = np.bincount(leaf[same], np.log2(table.parts[same]), minlength=count)
    number = np.bincount(leaf[same], minlength=count)
    return np.asarray(total / np.maximum(number, 1), dtype=np.float32)


def check(found: dict[str, Table]) -> None:
    """Tell how often the shipped trees are right."""
    for kind, table in found.items():
        if kind not in KINDS:
            continue
        said, parts = rules()[kind](table.columns)
        true = np.array(table.kernels)
        tile = np.all(said[:, :3] == true[:, :3], axis=1)
        whole = np.all(said == true, axis=1)
        near = np.abs(parts - table.parts) < 0.5
        sys.stdout.write(
            f"{kind}: {len(true)} products, tile right in {tile.mean():.1%}, "
            f"the kernel in {whole.mean():.1%}, its parts in {(whole & near).mean():.1%}\n"
        )


def arguments(about: str | None) -> argparse.ArgumentParser:
    """What every command takes that learns from lists: those, where to write, whether to check."""
    parser = argparse.ArgumentParser(description=(about or "").split("\n")[0])
    parser.add_argument(
        "lists", nargs="+", type=_listed, help="CHIP=LIST.csv.gz, as h200-sxm-141gb=a.csv.gz"
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--check", action="store_true")
    return parser


def _listed(text: str) -> tuple[Path, str]:
    chip, _, path = text.partition("=")
    if not chip or not path:
        raise argparse.ArgumentTypeError(f"{text!r} names no chip and list, CHIP=LIST.csv.gz")
    return Path(path), chip


def main(argv: Sequence[str] | None = None) -> int:
    """Grow trees, or check those that are shipped."""
    parser = arguments(__doc__)
    parser.add_argument("--least", type=int, default=1, help="answers of a leaf")
    args = parser.parse_args(argv)
    known = measured()
    if args.out is not None:
        arrays = {
            f"{kind}_{name}": value
            for kind, table in tables(args.lists, known, inside=False).items()
            if kind in KINDS
            for name, value in grown(table, args.least, _LOOKED_AT[kind.endswith(ODD)]).items()
        }
        store.write_arrays(args.out, arrays)
    if args.check:
        check(tables(args.lists, known, inside=True))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
