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
from perfmodel.hardware import load_accelerator
from validate.bench import chosen, ops, store
from validate.bench.names import read as read_names

MAKERS: Final = ("nvjet", "xmma", "cutlass_wmma", "cutlass", "cutlass_simt", "few", "vector",
                 "magma", "other")  # fmt: skip
DEPTH: Final = 36
"""Questions at most; deeper leaves are not righter."""
MEASUREMENTS: Final = Path("validate/measurements")
_NVJET = re.compile(r"nvjet_sm90_\w+?_(\d+)x(\d+)_(\d+)x(\d+)_(\d+)x(\d+)_[hv]_bz_(\w*)")
_XMMA = re.compile(
    r"xmma_gemm\w*?tilesize(\d+)x(\d+)x(\d+)_(?:cgasize(\d+)x(\d+)x\d+_)?(?:stage(\d+)_)?(\w*)"
)
_CUTLASS = re.compile(r"cutlass_\d+_(\w+?)_(\d+)x(\d+)(?:_(\d+)x(\d+))?_[nt][nt]_align(\d)")
Kernel = tuple[float, ...]


def kernel_of(
    launches: Sequence[tuple[str, tuple[int, ...]]],
) -> tuple[Kernel, tuple[int, ...]]:
    """The columns :data:`KERNEL` of the first kernel of a call, and its grid."""
    reduced = any("splitKreduce" in name or "split_k_kernel" in name for name, _ in launches)
    for name, grid in launches:
        if name.startswith("memset") or "splitKreduce" in name or "split_k_kernel" in name:
            continue
        return (*_parsed(name)[:8], float(reduced), _parsed(name)[8]), grid
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
    maker = "few" if "gemmSN" in name else "vector" if "gemv" in name else "other"
    maker = "magma" if "magma" in name else maker
    return (float(MAKERS.index(maker)), *[0.0] * 8)


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
    gathered: dict[str, dict[str, list[Any]]] = {}
    for path, chip in lists:
        rate = device_of(load_accelerator(chip), "bf16", matrix=True).bandwidth
        seen: set[str] = set()
        for op, launches in chosen.read(path):
            key = ops.key(op)
            if op["dtype"] not in CLASSES or key in seen or (key in known) != inside:
                continue
            seen.add(key)
            kernel, grid = kernel_of(launches)
            trans = op.get("trans") or ops.usual_trans(op)
            held = gathered.setdefault(
                kind_of(op["dtype"], is_odd(op, trans)),
                {"sizes": [], "of": [], "kernel": [], "on": []},
            )
            held["sizes"].append(
                (op["m"], op["n"], op["k"], op.get("batch", 1), LAYOUTS.index(trans))
            )
            held["of"].append((rate, op["dtype"]))
            held["kernel"].append(kernel)
            held["on"].append(parts_of(kernel, grid, op))
    found = {}
    for kind, held in gathered.items():
        sizes = np.array(held["sizes"], dtype=np.float64)
        groups: dict[tuple[float, str], list[int]] = {}
        for at, group in enumerate(held["of"]):
            groups.setdefault(group, []).append(at)
        columns = []
        for (rate, dtype), rows in groups.items():
            m, n, k, batch, layout = sizes[rows].T
            odd = kind.endswith(ODD)
            columns.append(asked_columns(m, n, k, batch, layout, rate, dtype, odd))
        order = [at for rows in groups.values() for at in rows]
        found[kind] = Table(
            np.concatenate(columns),
            [held["kernel"][at] for at in order],
            np.array(held["on"])[order],
        )
    return found


def is_odd(op: ops.Op, trans: str) -> bool:
    """Whether a factor's or the result's rows start beside 16 bytes."""
    step = 16 // ops.DTYPE_BYTES[op["dtype"]]
    right = op["k"] if trans[0] == "t" else op["n"]
    left = op["m"] if trans[1] == "t" else op["k"]
    return any(row % step > 0 and row > 1 for row in (op["n"], right, left))


def grown(table: Table, least: int) -> dict[str, Any]:
    """Arrays of a :class:`~perfmodel.cost.choice.Rule` for the answers of a class, by name.

    Splits are those after which the kernels' numbers, and the parts, differ least: a library has
    too many kernels to count each at every split.
    """
    trees = importlib.import_module("sklearn.tree")
    names = sorted(set(table.kernels))
    place = {kernel: at for at, kernel in enumerate(names)}
    labels = np.array([place[kernel] for kernel in table.kernels])
    numbers = np.array(names)
    numbers[:, 1:4] = np.log2(1.0 + numbers[:, 1:4])
    numbers[:, 4:7] = np.log2(1.0 + numbers[:, 4:7]) / 2.0
    numbers[:, 9] = np.log2(1.0 + numbers[:, 9]) / 2.0
    wanted = np.column_stack([numbers[labels], np.log2(table.parts)])
    tree = trees.DecisionTreeRegressor(
        min_samples_leaf=least, max_depth=DEPTH, max_features=0.5, random_state=0
    )
    tree.fit(table.columns, wanted)
    arrays, at = flat(tree.tree_)
    place_of = at[tree.apply(table.columns)]
    kernel = most(place_of, labels, len(at), len(names))
    return arrays | {
        "kernel": kernel.astype(np.int16),
        "parts": _parts(table, labels, kernel, place_of, len(at)),
        "kernels": numbers_of(names),
    }


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
    """``asked``, ``limits``, ``below`` and ``depth`` of a tree that scikit-learn grew, and places.

    Those are the arrays that :func:`perfmodel.cost.walk.tree_of` takes, with children side by
    side, so that the larger's place is one behind the smaller's; places, shape (P,), are where
    scikit-learn's nodes stand then.
    """
    order = beside_each_other(tree.children_left, tree.children_right)
    at = np.empty(len(order), dtype=np.int64)
    at[order] = np.arange(len(order))
    leaf = tree.children_left[order] < 0
    arrays = {
        "asked": np.where(leaf, 0, tree.feature[order]).astype(np.int16),
        "limits": np.where(leaf, np.inf, tree.threshold[order]).astype(np.float32),
        "below": np.where(leaf, np.arange(len(order)), at[tree.children_left[order]]).astype(
            np.int32
        ),
        "depth": np.int64(tree.max_depth),
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
            for name, value in grown(table, args.least).items()
        }
        store.write_arrays(args.out, arrays)
    if args.check:
        check(tables(args.lists, known, inside=True))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
